"""The answers of all engines to one file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Answer", "CheckReport", "Verdict"]


class Verdict(StrEnum):
    """What an engine says to a graph."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """What one engine says to the model in one precision.

    Attributes:
        target: `onnxruntime`, `openvino` or `tensorrt`.
        device: `cpu` or `gpu`.
        precision: what it is to compute in, such as `fp16`.
        verdict: whether it takes it; unknown where the engine is not here to be asked.
        said: what was found out, or why not, in one line.
        relative_error: the greatest one beside the original file on random inputs; None where nothing was run.
        seconds: how long the engine took to compile or load it.
        size: of the compiled engine in bytes; None where there is none.
    """

    target: str
    device: str
    precision: str
    verdict: Verdict
    said: str
    relative_error: float | None = None
    seconds: float | None = None
    size: int | None = None


@dataclass(frozen=True)
class CheckReport:
    """What was found out about a file.

    Attributes:
        file: its path.
        size: bytes, with external weights.
        nodes: how many.
        opset: of the standard operators.
        inputs: a line each.
        outputs: a line each.
        max_batch_size: what a configuration would say; 0 for no batches.
        batching: how batches come about, or why there are none.
        repairs: what would be changed in the file so that every engine takes it.
        answers: of each engine, in each precision.
    """

    file: str
    size: int
    nodes: int
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_batch_size: int
    batching: str
    repairs: tuple[str, ...]
    answers: tuple[Answer, ...]

    def refused_by(self, target: str) -> bool:
        """Whether an engine takes the model in no precision at all."""
        verdicts = [answer.verdict for answer in self.answers if answer.target == target]
        return bool(verdicts) and all(verdict is Verdict.NO for verdict in verdicts)
