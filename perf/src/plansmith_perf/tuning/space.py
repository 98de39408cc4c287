"""What can be tried: the choices of each parameter, as optuna samples them or all in turn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.tuning.settings import Setting, setting_from_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import optuna

    from plansmith_perf.tuning.variants import Variant

__all__ = ["SearchSpace", "SpaceLimits", "search_space"]

# Microseconds; of these, the ones that leave half of the SLO's limit for everything else.
_DELAYS = (0, 200, 1000, 4000)
_PREFERRED = (4, 16)
_GROWTH = (1, 4)
_OFF = "off"


@dataclass(frozen=True)
class SpaceLimits:
    """The choices that a user names; None leaves them to plansmith.

    Attributes:
        variants: parts of their names, such as "openvino"; a variant with any of them is tried.
        instances: numbers of instances.
        threads: numbers of threads of each instance; 0: an equal share of the cores.
        max_batch_sizes: sizes of batches.
        queue_delays: microseconds; None: no dynamic batching.
        preferred_batch_sizes: sizes; 0: none.
    """

    variants: Sequence[str] | None = None
    instances: Sequence[int] | None = None
    threads: Sequence[int] | None = None
    max_batch_sizes: Sequence[int] | None = None
    queue_delays: Sequence[int | None] | None = None
    preferred_batch_sizes: Sequence[int] | None = None


@dataclass(frozen=True)
class SearchSpace:
    """The choices.

    Attributes:
        variants: by name.
        parallelism: "2x1" is two instances of one thread each; one parameter, because what is a good number of
            threads depends on the number of instances.
        batching: "off", or microseconds of queue delay.
        max_batch_sizes: with batching.
        preferred_batch_sizes: with a delay above 0; without one nothing waits for them.
        own_max_batch_size: without dynamic batching a client can still send as many rows as before.
    """

    variants: dict[str, Variant]
    parallelism: tuple[str, ...]
    batching: tuple[str, ...]
    max_batch_sizes: tuple[int, ...]
    preferred_batch_sizes: tuple[int, ...]
    own_max_batch_size: int

    def sample(self, trial: optuna.Trial) -> Setting:
        """Let optuna choose."""
        params: dict[str, Any] = {
            "variant": trial.suggest_categorical("variant", tuple(self.variants)),
            "parallelism": trial.suggest_categorical("parallelism", self.parallelism),
            "batching": trial.suggest_categorical("batching", self.batching),
        }
        if params["batching"] != _OFF:
            params["max_batch_size"] = trial.suggest_categorical("max_batch_size", self.max_batch_sizes)
        if params["batching"] not in (_OFF, "0"):
            params["preferred"] = trial.suggest_categorical("preferred", self.preferred_batch_sizes)
        return self.setting(params)

    def setting(self, params: dict[str, Any]) -> Setting:
        """What the parameters stand for."""
        instances, threads = params["parallelism"].split("x")
        batching, size = params["batching"], params.get("max_batch_size", self.own_max_batch_size)
        return Setting(
            variant=self.variants[params["variant"]],
            instances=int(instances),
            threads=int(threads),
            max_batch_size=size,
            queue_delay=None if batching == _OFF else int(batching),
            # A larger one than the batch would not load.
            preferred_batch_size=preferred if (preferred := params.get("preferred", 0)) <= size else 0,
        )

    def params(self, setting: Setting) -> dict[str, Any] | None:
        """The parameters that stand for a setting; None where it is outside."""
        delay = _OFF if setting.queue_delay is None else str(setting.queue_delay)
        params: dict[str, Any] = {
            "variant": setting.variant.name,
            "parallelism": f"{setting.instances}x{setting.threads}",
            "batching": delay,
        }
        if delay != _OFF:
            params["max_batch_size"] = setting.max_batch_size
        if delay not in (_OFF, "0"):
            params["preferred"] = setting.preferred_batch_size
        choices = self._choices()
        return params if all(value in choices[name] for name, value in params.items()) else None

    def everything(self) -> list[dict[str, Any]]:
        """The parameters of each different setting."""
        different: dict[Setting, dict[str, Any]] = {}
        for params in self._combinations():
            different.setdefault(self.setting(params), params)
        return list(different.values())

    def _choices(self) -> dict[str, Sequence[Any]]:
        return {
            "variant": tuple(self.variants),
            "parallelism": self.parallelism,
            "batching": self.batching,
            "max_batch_size": self.max_batch_sizes,
            "preferred": self.preferred_batch_sizes,
        }

    def _combinations(self) -> Iterator[dict[str, Any]]:
        for variant, parallelism, batching in itertools.product(self.variants, self.parallelism, self.batching):
            params = {"variant": variant, "parallelism": parallelism, "batching": batching}
            sizes: Sequence[int | None] = self.max_batch_sizes if batching != _OFF else (None,)
            preferred: Sequence[int | None] = self.preferred_batch_sizes if batching not in (_OFF, "0") else (None,)
            for size, rows in itertools.product(sizes, preferred):
                extra = {"max_batch_size": size, "preferred": rows}
                yield params | {name: value for name, value in extra.items() if value is not None}


def search_space(
    variants: Sequence[Variant], *, cores: int, slo_limit: float, batch_size: int, limits: SpaceLimits
) -> SearchSpace:
    """The choices for a model on this machine.

    What the model's configurations say today is among them, unless the limits leave it out. A batch is never made
    smaller than today's unless the limits say so: clients may send as many rows.

    Args:
        variants: the ways to compute the model; the first is the one in use.
        cores: of this machine.
        slo_limit: microseconds.
        batch_size: rows a request of the load.
        limits: what the user names.

    Raises:
        LoadTestMisconfigured: the limits leave nothing, or do not fit the model.
    """
    chosen = {v.name: v for v in variants if limits.variants is None or any(part in v.name for part in limits.variants)}
    if not chosen:
        names = ", ".join(repr(variant.name) for variant in variants)
        raise LoadTestMisconfigured(
            f"--variants: no variant of the model has {limits.variants} in its name; choose from {names}"
        )
    present = [setting_from_config(variant) for variant in chosen.values()]
    own = max(setting.max_batch_size for setting in present)
    if not own and (limits.max_batch_sizes or limits.queue_delays or limits.preferred_batch_sizes):
        raise LoadTestMisconfigured("the model takes no batches: leave --max-batch-sizes, --queue-delays and so on out")
    sizes = limits.max_batch_sizes or tuple(own * factor for factor in _GROWTH)
    if own and min(sizes) < batch_size:
        raise LoadTestMisconfigured(f"--max-batch-sizes {min(sizes)} is less than the --batch-size of the load")
    batches = _joined(sizes, [own] if limits.max_batch_sizes is None else []) if own else (0,)
    largest = max(limits.preferred_batch_sizes or [0])
    if largest > max(batches):
        raise LoadTestMisconfigured(f"--preferred-batch-sizes {largest} is more than the largest batch, {max(batches)}")
    preferred = limits.preferred_batch_sizes or [0, *(n for n in _PREFERRED if batch_size < n < max(sizes))]
    space = SearchSpace(
        variants=chosen,
        parallelism=_parallelism(present, cores, limits),
        batching=_batching(present, slo_limit, limits) if own else (_OFF,),
        max_batch_sizes=batches,
        preferred_batch_sizes=_joined(
            preferred, [s.preferred_batch_size for s in present] if limits.preferred_batch_sizes is None else []
        ),
        own_max_batch_size=own,
    )
    if not space.everything():
        raise LoadTestMisconfigured("the limits leave no setting to try: leave some of them out")
    return space


def _batching(present: Sequence[Setting], slo_limit: float, limits: SpaceLimits) -> tuple[str, ...]:
    if limits.queue_delays is not None:
        return tuple(dict.fromkeys(_OFF if delay is None else str(delay) for delay in limits.queue_delays))
    delays = [delay for delay in _DELAYS if delay <= slo_limit / 2]
    delays += [setting.queue_delay for setting in present if setting.queue_delay is not None]
    return (_OFF, *map(str, _joined(delays)))


def _parallelism(present: Sequence[Setting], cores: int, limits: SpaceLimits) -> tuple[str, ...]:
    """Powers of two up to the cores; together at most twice as many threads as cores, unless the user says so."""
    numbers = sorted({*(1 << bits for bits in range(cores.bit_length())), cores})
    pairs = [
        (instances, threads)
        for instances, threads in itertools.product(limits.instances or numbers, limits.threads or numbers)
        if limits.threads or instances * threads <= 2 * cores or (limits.instances and threads == min(numbers))
    ]
    if limits.instances is None and limits.threads is None:
        own = [(setting.instances, setting.threads) for setting in present]
        # 0 is that share already.
        same = {(instances, max(1, cores // instances)) for instances, threads in own if not threads}
        pairs = [*(pair for pair in pairs if pair not in same), *own]
    return tuple(dict.fromkeys(f"{instances}x{threads}" for instances, threads in pairs))


def _joined(*choices: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(set(itertools.chain(*choices))))
