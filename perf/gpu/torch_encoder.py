"""A text encoder in PyTorch, timed as PyTorch runs it and as ONNX Runtime runs its export, on the same device."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["export_encoder", "time_encoder"]

ROUNDS = 5


class Encoder(torch.nn.Module):
    """Words to one vector a sentence."""

    def __init__(self, *, width: int, layers: int) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(1000, width)
        layer = torch.nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=4 * width, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """FP32 [rows, width] of INT64 [rows, words]."""
        encoded: torch.Tensor = self.layers(self.words(ids)).mean(dim=1)
        return encoded


def make_encoder(*, small: bool) -> Encoder:
    """The same weights each time."""
    torch.manual_seed(0)
    return Encoder(width=32 if small else 384, layers=1 if small else 6).eval()


def export_encoder(path: Path, *, small: bool) -> None:
    """Write the encoder as ONNX, for any number of sentences of 64 words."""
    sentences = torch.zeros((2, 64), dtype=torch.int64)
    torch.onnx.export(
        make_encoder(small=small),
        (sentences,),
        path,
        input_names=["ids"],
        output_names=["vectors"],
        dynamic_shapes={"ids": {0: torch.export.Dim("rows", min=1, max=64)}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def time_encoder(device: str, *, small: bool, compiled: bool, runs: int) -> dict[str, Any]:
    """Milliseconds for 8 sentences, eager or compiled; why not, where it is not compiled."""
    encoder = make_encoder(small=small).to(device)
    ids = torch.randint(0, 1000, (8, 64), device=device)
    found: dict[str, Any] = {"torch": torch.__version__, "rows": len(ids)}
    with torch.inference_mode():
        if not compiled:
            return {**found, "eager_ms": _milliseconds(lambda: encoder(ids), device, runs)}
        try:
            module = torch.compile(encoder, backend="eager" if small else "inductor")
            found["compiled_ms"] = _milliseconds(lambda: module(ids), device, runs)
        except Exception as error:  # noqa: BLE001 - a compiler is missing, or does not know the device
            found["not_compiled"] = str(error).splitlines()[0][:200]
    return found


def _milliseconds(run: Callable[[], Any], device: str, runs: int) -> float:
    """The median of a few rounds."""
    for _ in range(3):
        run()
    rounds = []
    for _ in range(ROUNDS):
        _wait(device)
        started = time.perf_counter()
        for _ in range(runs):
            run()
        _wait(device)
        rounds.append(1000 * (time.perf_counter() - started) / runs)
    return round(statistics.median(rounds), 4)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
