"""The configuration under which Triton's TensorRT backend serves plans."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["plan_config"]


def plan_config(portable: Any, *, plans: Mapping[str, str], instances: int = 1, profiles: int = 1) -> Any:
    """A copy of a portable configuration, made fit for plans.

    Args:
        portable: an `inference.ModelConfig`.
        plans: the plan's file name by compute capability, such as `{"9.0": "model.fp16.sm_90.plan"}`; the server takes
            the one of the GPU that it finds.
        instances: how many instances on each GPU.
        profiles: how many optimization profiles the plans have; each instance then takes, for every batch, the one
            whose best shapes are nearest.
    """
    config = deepcopy(portable)
    config.ClearField("backend")
    config.platform = "tensorrt_plan"
    config.default_model_filename = next(iter(plans.values()))
    config.cc_model_filenames.clear()
    config.cc_model_filenames.update(plans)
    del config.instance_group[:]
    group = config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, count=instances)
    if profiles > 1:
        # Without it the server loads the first one alone.
        group.profile.extend(map(str, range(profiles)))
    config.ClearField("optimization")
    return config
