"""The configuration under which a candidate is served: the portable one, made fit for one engine on one device."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2

from plansmith_build.engines.tensorrt import fix_dims, provider_profile
from plansmith_build.search.targets import Device, Precision, Target

if TYPE_CHECKING:
    from plansmith_build.search.candidates import Candidate

__all__ = ["candidate_config"]

# ONNX Runtime's TensorRT provider has no names for the others; from TensorRT 11 on it needs none.
_PROVIDER_MODES = {
    Precision.INT8_FP16: Precision.INT8,
    Precision.W8A16: Precision.INT8,
    Precision.W4A16: Precision.FP16,
    Precision.FP8: Precision.FP16,
}


def candidate_config(portable: Any, candidate: Candidate) -> Any:
    """A copy of a portable configuration, made fit for a candidate."""
    if candidate.plans or candidate.pairing.target is Target.TENSORRT_RTX:
        return _compiled_config(portable, candidate)
    config = deepcopy(portable)
    pairing, instances, threads = candidate.pairing, candidate.instances, candidate.threads
    # Without a GPU to build a plan on, TensorRT is reached through ONNX Runtime's provider.
    config.backend = Target.ONNXRUNTIME if pairing.device is Device.GPU else pairing.target
    config.default_model_filename = candidate.files[0].name
    del config.instance_group[:]
    if pairing.device is Device.GPU:
        config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, count=instances)
        if candidate.speed is not None:
            # Judged and timed on the CUDA provider, and so served on that alone.
            config.ClearField("optimization")
            if not candidate.is_batched:
                config.ClearField("dynamic_batching")
            return config
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        # Q/DQ pairs and casts say what is computed in which precision; the provider only has to be allowed to. A graph
        # that is served as it is needs what the portable configuration allows.
        if pairing.precision is not Precision.FP32:
            mode = _PROVIDER_MODES.get(pairing.precision, pairing.precision)
            accelerators[0].parameters["precision_mode"] = mode.upper()
        if candidate.compiled is not None:
            accelerators[0].parameters.update(provider_profile(candidate.compiled.profile))
            fix_dims(config, candidate.compiled.profile)
        return config
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=instances)
    config.ClearField("optimization")
    if pairing.target is Target.OPENVINO:
        _describe_openvino(config, pairing.precision, instances, threads)
    elif threads:
        config.parameters["intra_op_thread_count"].string_value = str(threads)
    return config


def _compiled_config(portable: Any, candidate: Candidate) -> Any:
    """The configuration of plans or of an engine, whose shapes are settled."""
    config = deepcopy(portable)
    config.default_model_filename = candidate.files[0].name
    config.cc_model_filenames.clear()
    del config.instance_group[:]
    group = config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, count=candidate.instances)
    config.ClearField("optimization")
    if candidate.plans:
        config.ClearField("backend")
        config.platform = "tensorrt_plan"
        # By compute capability: the server takes that of the GPU that it finds.
        config.cc_model_filenames.update({capability: path.name for capability, path in candidate.plans.items()})
        profiles = len(candidate.profile.each) if candidate.profile is not None else 1
        if profiles > 1:
            # Without it the server loads the first one alone. Each instance takes, for every batch, the nearest.
            group.profile.extend(map(str, range(profiles)))
    else:
        config.backend = "tensorrt_rtx"
    if candidate.profile is not None:
        fix_dims(config, candidate.profile)
    return config


def _describe_openvino(config: Any, precision: Precision, instances: int, threads: int) -> None:
    """The parameters of https://github.com/triton-inference-server/openvino_backend#parameters, and one more."""
    if precision is Precision.BF16:
        config.parameters["HINT_BF16"].string_value = "yes"
    else:
        # plansmith-server reads it; the container does not know it and leaves the choice to OpenVINO.
        config.parameters["INFERENCE_PRECISION_HINT"].string_value = "f32"
    if threads:
        # Of all instances together, unlike ONNX Runtime's.
        config.parameters["INFERENCE_NUM_THREADS"].string_value = str(threads * instances)
        config.parameters["NUM_STREAMS"].string_value = str(instances)
