"""Configurations as Triton passes them on, and signatures of small graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnx.parser

from plansmith_server.backends.config import ModelConfig
from plansmith_server.backends.onnx_signature import read_onnx_signature

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_server.backends.signature import Signature


def configure(**fields: Any) -> ModelConfig:
    """A configuration as Triton passes it on; parameters as plain text."""
    parameters = {key: {"string_value": value} for key, value in fields.pop("parameters", {}).items()}
    return ModelConfig.from_dict({"name": "m", "parameters": parameters, **fields})


def signature_from(folder: Path, inputs: str, outputs: str, nodes: str = "y = Identity (x)") -> Signature:
    """That of a graph in ONNX's own text format."""
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return read_onnx_signature(folder / "model.onnx")
