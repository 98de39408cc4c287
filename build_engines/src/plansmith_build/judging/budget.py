"""The accuracy budget: how much may be lost, and whether a candidate stays within it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidOption
from plansmith_build.judging.losses import confidence_of, share_bound
from plansmith_build.judging.measures import Metric

if TYPE_CHECKING:
    from plansmith_build.judging.accuracy import Accuracy, OutputAgreement
    from plansmith_build.judging.measures import Measure

__all__ = ["Budget", "parse_drop"]

DEFAULT_DROP = 0.005
DEFAULT_ERROR = 0.05
# A cosine similarity of 0.995 is about what a relative error of 10 % leaves.
DEFAULT_COSINE_ERROR = 0.005
# From here on, a number without a sign is more likely a percentage than a fraction.
_AMBIGUOUS = 0.1


@dataclass(frozen=True)
class Budget:
    """What may be lost.

    Attributes:
        max_drop: of shares and scores, from 0 to 1.
        max_error: of errors; None for 5 % of a relative error and 0.5 % of a cosine similarity.
        prove: whether the bound of 95 % must be inside, not only the estimate.
    """

    max_drop: float = DEFAULT_DROP
    max_error: float | None = None
    prove: bool = False

    def allowed(self, measure: Measure) -> float:
        """The most that may be lost by this measure."""
        if measure.is_share:
            return self.max_drop
        if self.max_error is not None:
            return self.max_error
        return DEFAULT_COSINE_ERROR if measure.metric is Metric.COSINE else DEFAULT_ERROR

    def use(self, output: OutputAgreement, loss: float) -> float:
        """How much of what is allowed an output loses: above 1 is outside."""
        allowed = self.allowed(output.measure)
        lost = loss
        if self.prove:
            lost = math.inf if output.bound is None else max(loss, output.bound)
        if lost <= allowed:
            return lost / allowed if allowed else 0.0
        return lost / allowed if allowed else math.inf

    def worst(self, accuracy: Accuracy, reference: Accuracy) -> tuple[OutputAgreement, float]:
        """The output that uses most of what it may lose, and its loss."""
        return max(accuracy.losses_from(reference), key=lambda entry: self.use(*entry))

    def accepts(self, accuracy: Accuracy, reference: Accuracy) -> bool:
        """Whether every output is inside."""
        return self.use(*self.worst(accuracy, reference)) <= 1

    def complaint(self, accuracy: Accuracy, reference: Accuracy) -> str:
        """Why a candidate is outside, in words."""
        output, loss = self.worst(accuracy, reference)
        allowed = self.allowed(output.measure)
        verb = "drops by" if output.measure.is_share else "is off by"
        by = f"output {output.name!r} by {output.measure}"
        if loss <= allowed:
            bound = f"{output.bound:.2%}" if output.bound is not None else "anything"
            return f"{verb} {loss:.2%}, but as much as {bound} cannot be ruled out ({by}); {allowed:.2%} is allowed"
        return f"{verb} {loss:.2%} ({by}); {allowed:.2%} is allowed"

    def unprovable(self, reference: Accuracy) -> tuple[str, ...]:
        """A sentence for each measure by which there are too few rows to prove even that nothing is lost."""
        sentences = {}
        for output in reference.outputs:
            measure = output.measure
            if measure.metric is Metric.FUNCTION or not measure.is_share:
                continue
            least = share_bound(0, 0, reference.rows, paired=measure.labelled, confidence=confidence_of(1))
            if least > self.max_drop:
                sentences[measure] = (
                    f"{reference.rows} rows can prove no better than {least:.2%} by {measure}, and "
                    f"{self.max_drop:.2%} is allowed: more validation rows prove more"
                )
        return tuple(sentences.values())


def parse_drop(text: str, *, option: str = "--max-drop") -> float:
    """The largest drop allowed: `0.5%` and `0.005` are the same.

    Args:
        text: a percentage or a fraction.
        option: what to call it in an error.

    Raises:
        InvalidOption: it is neither a percentage nor a fraction below 1, or could be read as both.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 <= value < 1:
        raise InvalidOption(f"{option} must be a percentage or a fraction below 1, such as 0.5% or 0.005, got {text!r}")
    if match and not match[2] and value >= _AMBIGUOUS:
        raise InvalidOption(
            f"{option} {text.strip()}: is {match[1]}% meant or {value:.0%}? Write it with a percent sign"
        )
    return value
