"""The configuration under which the backend `tensorrt_rtx` serves an engine."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tritonclient.grpc import model_config_pb2

__all__ = ["BACKEND", "engine_config"]

BACKEND = "tensorrt_rtx"


def engine_config(portable: Any, *, engine: str, instances: int = 1) -> Any:
    """A copy of a portable configuration, made fit for an engine.

    Args:
        portable: an `inference.ModelConfig`.
        engine: the engine's file name; one file is for every architecture that it was compiled for.
        instances: how many instances on each GPU.
    """
    config = deepcopy(portable)
    config.backend = BACKEND
    config.default_model_filename = engine
    config.cc_model_filenames.clear()
    del config.instance_group[:]
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, count=instances)
    config.ClearField("optimization")
    return config
