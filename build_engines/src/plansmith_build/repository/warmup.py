"""Warm-up samples: requests that a server runs before it calls a version ready.

Each tensor is a file of the model's folder `warmup`, named after its content: two versions never mean two things by one
name, so an old one comes back with the samples that it had.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.shapes import fits
from plansmith_build.repository.config import config_from_text
from plansmith_client.protocol.codecs import binary_from_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["WARMUP", "add_warmup", "warmup_files"]

WARMUP = "warmup"


def add_warmup(config: Any, samples: Sequence[Arrays]) -> dict[str, bytes]:
    """Let a configuration name samples.

    Args:
        config: an `inference.ModelConfig`, changed.
        samples: the inputs of one request each, as clients send them; of one row each where the model takes batches.
            One of another size than the configuration takes is left out.

    Returns:
        The content of the files that it names.
    """
    files = {}
    tensors = {tensor.name: tensor for tensor in config.input}
    for number, sample in enumerate(samples):
        dims = {name: array.shape[1:] if config.max_batch_size else array.shape for name, array in sample.items()}
        # A configuration for plans may have fixed what the graph leaves free.
        if not all(fits(dims[name], tensors[name].dims) for name in sample):
            continue
        entry = config.model_warmup.add(name=f"sample {number}", batch_size=1)
        for name, array in sample.items():
            content = bytes(binary_from_array(array))
            file = hashlib.sha256(content).hexdigest()
            files[file] = content
            entry.inputs[name].CopyFrom(
                model_config_pb2.ModelWarmup.Input(
                    data_type=tensors[name].data_type, dims=dims[name], input_data_file=file
                )
            )
    return files


def warmup_files(model: Path, texts: Iterable[str]) -> set[Path]:
    """The files of a model's folder `warmup` that are there and that any of these configurations names."""
    named = set()
    for text in texts:
        try:
            config = config_from_text(text)
        except InvalidModel:
            continue
        named |= {data.input_data_file for sample in config.model_warmup for data in sample.inputs.values()}
    folder = model / WARMUP
    return {path for path in (folder.iterdir() if folder.is_dir() else ()) if path.name in named and path.is_file()}
