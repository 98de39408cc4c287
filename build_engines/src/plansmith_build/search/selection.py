"""From candidates to configurations: the fastest inside the budget for each device, and what else is worth keeping."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plansmith_build.engines.cpu_features import cores
from plansmith_build.errors import BudgetNotMet
from plansmith_build.search.candidates import Candidate, Status
from plansmith_build.search.targets import Device, Precision, Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Selection", "finalists", "require_usable", "select", "without"]

# Two candidates this close are equally fast: the more exact one is chosen.
TIE = 1.05
# A candidate gets a configuration of its own only if it is at least this much faster than FP32 on ONNX Runtime.
WORTH_KEEPING = 1.1
MOST_KEPT = 3
# The fastest in process are measured as they are served.
SERVED = 2

_EXACTNESS = (
    *(Precision.FP32, Precision.BF16, Precision.FP16, Precision.W8A16),
    *(Precision.INT8, Precision.INT8_FP16, Precision.FP8, Precision.W4A16, Precision.W4),
)
# Without a GPU to measure on: what every GPU since 2017 computes at twice the speed, and at little risk.
_UNMEASURED_ORDER = (
    *(Precision.FP16, Precision.BF16, Precision.W8A16, Precision.FP8, Precision.W4A16),
    *(Precision.INT8_FP16, Precision.INT8, Precision.FP32),
)


@dataclass(frozen=True)
class Selection:
    """The chosen candidates.

    Attributes:
        candidates: all of them, with their results.
        named: the candidate behind each configuration, by the configuration's name, such as `cpu`.
    """

    candidates: tuple[Candidate, ...]
    named: dict[str, Candidate]


def require_usable(candidates: Sequence[Candidate]) -> None:
    """End the build if no candidate is inside the budget.

    Raises:
        BudgetNotMet: none is; the message says how close each came.
    """
    if any(candidate.is_usable for candidate in candidates):
        return
    reasons = "; ".join(f"{candidate.pairing}: {candidate.reason}" for candidate in candidates)
    raise BudgetNotMet(
        f"no candidate can be used, so nothing was published: {reasons}. Allow more with --max-drop or "
        "--max-error, give more or better calibration data, or leave --precision and --target to auto"
    )


def finalists(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """What is measured as it is served: the fastest on the CPU in process, and the fastest of them in other layouts.

    The FP32 model on ONNX Runtime is the first of them, where it is a candidate, so that ratios have a base.
    """
    measured = [c for c in candidates if c.is_usable and c.pairing.device is Device.CPU and c.speed is not None]
    usable = [c for c in measured if _is_promising(c)] or measured
    fastest = sorted(usable, key=_ratio, reverse=True)[:SERVED]
    if not fastest:
        return ()
    base = [c for c in usable if _is_base(c)]
    count = cores()
    layouts = sorted({2, count} if count <= 16 else {2}) if count > 1 else []  # noqa: PLR2004
    spread = [replace(fastest[0], instances=instances, threads=max(1, count // instances)) for instances in layouts]
    return (*base, *(c for c in fastest if c not in base), *spread)


def select(candidates: Sequence[Candidate], served: Sequence[Candidate]) -> Selection:
    """Choose.

    Args:
        candidates: all, as they were tried.
        served: the finalists with their speeds as served; a layout that beats the usual one replaces it.
    """
    best_layouts = [_with_best_layout(candidate, served) for candidate in candidates]
    named: dict[str, Candidate] = {}
    for device in Device:
        usable = [c for c in best_layouts if c.is_usable and c.pairing.device is device]
        winner = _fastest(usable) or _likeliest(usable)
        if winner is None:
            continue
        named[device] = winner
        others = [c for c in usable if c is not winner and _gain(c, usable) >= WORTH_KEEPING]
        for other in sorted(others, key=_ratio, reverse=True)[:MOST_KEPT]:
            named[_config_name(other)] = other
    final = []
    for candidate in best_layouts:
        name = next((name for name, chosen in named.items() if chosen is candidate), "")
        final.append(replace(candidate, status=_status(candidate, name)))
        if name:
            named[name] = final[-1]
    return Selection(tuple(final), named)


def without(selection: Selection, refused: Mapping[str, str]) -> Selection:
    """Choose again, without what a server did not serve as it was judged.

    Raises:
        BudgetNotMet: no candidate is left.
    """
    failed = {selection.named[name].pairing: reason for name, reason in refused.items()}
    candidates = tuple(
        replace(candidate, status=Status.FAILED, reason=failed[candidate.pairing])
        if candidate.pairing in failed
        else replace(candidate, status=Status.SLOWER)
        if candidate.status in {Status.CHOSEN, Status.KEPT}
        else candidate
        for candidate in selection.candidates
    )
    require_usable(candidates)
    return select(candidates, ())


def _status(candidate: Candidate, name: str) -> Status:
    """What became of a candidate with this configuration; what was not measured was not chosen for its speed."""
    if not name or candidate.status in {Status.UNMEASURED, Status.COMPILED}:
        return candidate.status
    return Status.CHOSEN if name in set(Device) else Status.KEPT


def _config_name(candidate: Candidate) -> str:
    """`openvino_int8`; with the device where a target has two."""
    pairing = candidate.pairing
    both = pairing.target is Target.ONNXRUNTIME and pairing.device is Device.GPU
    precision = re.sub(r"\W", "_", candidate.precision)
    return f"{pairing.target}_{precision}{'_gpu' if both else ''}".replace("-", "_")


def _with_best_layout(candidate: Candidate, served: Sequence[Candidate]) -> Candidate:
    layouts = [entry for entry in served if entry.pairing == candidate.pairing and entry.served]
    if not layouts:
        return candidate
    usual = min(layouts, key=lambda entry: entry.instances)
    best = max(layouts, key=_ratio)
    return best if _ratio(best) > TIE * _ratio(usual) else usual


def _fastest(usable: Sequence[Candidate]) -> Candidate | None:
    promising = [c for c in usable if _is_promising(c)]
    measured = [c for c in promising if c.served] or promising or [c for c in usable if c.speed is not None]
    if not measured:
        return None
    best = max(map(_ratio, measured))
    tied = [c for c in measured if _ratio(c) * TIE >= best]
    return min(tied, key=lambda c: (_EXACTNESS.index(c.pairing.precision), not _is_base(c), -_ratio(c)))


def _likeliest(usable: Sequence[Candidate]) -> Candidate | None:
    unmeasured = [c for c in usable if c.status in {Status.UNMEASURED, Status.COMPILED}]
    return min(unmeasured, key=lambda c: _UNMEASURED_ORDER.index(c.pairing.precision), default=None)


def _is_promising(candidate: Candidate) -> bool:
    """Whether it is measured, and not slower in process than FP32: what a server adds is the same for all."""
    return candidate.speed is not None and (_is_base(candidate) or candidate.speed.ratio > 1)


def _gain(candidate: Candidate, usable: Sequence[Candidate]) -> float:
    """How many times as fast as the FP32 model on ONNX Runtime, as served where both were."""
    if any(_is_base(c) and c.served for c in usable):
        return _ratio(candidate)
    return candidate.speed.ratio if candidate.speed is not None else 0.0


def _ratio(candidate: Candidate) -> float:
    """The median of the paired ratios, which what else the machine does moves less than rates; as served if it was."""
    speed = candidate.served or candidate.speed
    return speed.ratio if speed is not None else 0.0


def _is_base(candidate: Candidate) -> bool:
    return candidate.pairing.target is Target.ONNXRUNTIME and candidate.pairing.precision is Precision.FP32
