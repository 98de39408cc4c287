"""A configuration that leaves tensors out, as the server completes it: by the rules of its own backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from plansmith_build.errors import BuildError
from plansmith_build.repository.linting.graphs import read_tensors

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["complete_from_onnx"]


def complete_from_onnx(config: Any, path: Path, *, fixed_batch_allowed: bool) -> Any:
    """`config` with the inputs, outputs and max_batch_size that a server adds to it.

    It is returned as it is where nothing is to be added, where the server would refuse to, or where plansmith-server is
    not installed.

    Args:
        config: an `inference.ModelConfig`; nothing in it is changed.
        path: the model file.
        fixed_batch_allowed: whether the backend can give a fixed first dimension any size.
    """
    try:
        from plansmith_server.backends.autocomplete import complete, is_complete  # noqa: PLC0415 - an optional one
        from plansmith_server.backends.onnx_signature import read_onnx_signature  # noqa: PLC0415
        from plansmith_server.errors import ModelError  # noqa: PLC0415
    except ImportError:
        return config
    # As Triton passes it on: an empty list, such as that of a reshape, counts.
    fields = json_format.MessageToDict(
        config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if is_complete(fields):
        return config
    try:
        # A file that must not be read any further is refused here.
        read_tensors(path)
        added = complete(fields, read_onnx_signature(path), fixed_batch_allowed=fixed_batch_allowed)
    except (BuildError, ModelError):
        return config
    return json_format.ParseDict({**fields, **added}, type(config)())
