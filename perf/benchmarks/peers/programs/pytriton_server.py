# mypy: disable-error-code="import-not-found"
"""An engine bound to Triton by PyTriton, with the dynamic batching that it has by default.

https://triton-inference-server.github.io/pytriton/latest/binding_configuration and `.../decorators` (`@batch`).
"""

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from peer_engine import load_engine

with warnings.catch_warnings():
    # PyTriton still imports what setuptools has deprecated.
    warnings.simplefilter("ignore")
    from pytriton.decorators import batch
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig


def tensors(given: list[dict[str, Any]], *, batched: bool) -> list[Any]:
    """PyTriton's specifications, which leave the batch dimension out."""
    return [
        Tensor(name=t["name"], dtype=np.dtype(t["dtype"]).type, shape=tuple(t["shape"][1 if batched else 0 :]))
        for t in given
    ]


def main() -> None:
    """Serve until told to stop."""
    settings = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
    engine = load_engine(settings)
    names = [tensor["name"] for tensor in settings["outputs"]]

    def compute(**inputs: Any) -> dict[str, Any]:
        return dict(zip(names, engine.run(names, inputs), strict=True))

    def compute_each(requests: Any) -> list[dict[str, Any]]:
        return [compute(**request.data) for request in requests]

    batched = settings["max_batch_size"] > 0
    addresses = {f"{kind}_address": settings["host"] for kind in ("http", "grpc", "metrics")}
    ports = {f"{kind}_port": settings[f"{kind}_port"] for kind in ("http", "grpc", "metrics")}
    with Triton(config=TritonConfig(**addresses, **ports)) as triton:
        triton.bind(
            model_name=settings["name"],
            infer_func=batch(compute) if batched else compute_each,
            inputs=tensors(settings["inputs"], batched=batched),
            outputs=tensors(settings["outputs"], batched=batched),
            config=ModelConfig(max_batch_size=settings["max_batch_size"]) if batched else ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    # PyTriton cleans up behind itself at Ctrl-C alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
