"""The backends, model files and precisions that a version can be served with on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2

from plansmith_build.errors import InvalidModel
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting.context import backend_of, model_files
from plansmith_build.repository.model_repository import CONFIG
from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.manifest import Manifest
    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = ["BACKENDS", "Variant", "read_configs", "variants_of"]

BACKENDS = ("onnxruntime", "openvino")
# These decide how exactly a model computes, and not only how fast.
_PRECISION_KEYS = ("HINT_BF16", "INFERENCE_PRECISION_HINT")


@dataclass(frozen=True)
class Variant:
    """One way to compute the model.

    Attributes:
        name: what it is called in a table: backend, file and precision.
        backend: the server's.
        config: an `inference.ModelConfig` for the CPU.
        reduced_precision: whether the build found that it computes less exactly than FP32, and allowed it.
    """

    name: str
    backend: str
    config: Any = field(compare=False, hash=False, repr=False)
    reduced_precision: bool


def read_configs(model: RepositoryModel) -> dict[str, Any]:
    """The model's configurations by path in its folder.

    Raises:
        LoadTestMisconfigured: the model cannot be tuned; the message says why.
    """
    configs = {}
    for path, file in model.configurations.items():
        try:
            configs[path] = config_from_text(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, InvalidModel) as error:
            raise LoadTestMisconfigured(
                f"{model.name}/{path} cannot be read: {error}; see `plansmith verify`"
            ) from error
    if CONFIG not in configs:
        raise LoadTestMisconfigured(f"model {model.name!r} has no {CONFIG}: build it with `plansmith build`")
    config = configs[CONFIG]
    if backend_of(config) == "ensemble" or config.HasField("ensemble_scheduling"):
        steps = ", ".join(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step)) or "its models"
        raise LoadTestMisconfigured(
            f"{model.name!r} is an ensemble, which has no instances, batches or threads of its own: tune {steps}"
        )
    if config.HasField("sequence_batching"):
        raise LoadTestMisconfigured(
            f"{model.name!r} takes sequences, which the load of `plansmith bench` does not make: it cannot be tuned"
        )
    if config.model_transaction_policy.decoupled:
        raise LoadTestMisconfigured(
            f"{model.name!r} is decoupled, it answers a request any number of times: it cannot be tuned"
        )
    if not any(_runs_on_cpu(config) for config in configs.values()):
        raise LoadTestMisconfigured(
            f"{model.name!r} has the backend {backend_of(config) or 'unnamed'!r}, and none of its configurations "
            f"is for {' or '.join(BACKENDS)} on a CPU: only those can be tuned"
        )
    return configs


def variants_of(configs: dict[str, Any], manifest: Manifest | None, *, folder: Path) -> tuple[Variant, ...]:
    """Every different way in which the configurations compute the model on a CPU, and OpenVINO next to ONNX Runtime.

    Args:
        configs: by path in the model's folder; OpenVINO is added next to config.pbtxt, where that is among them.
        manifest: the version's.
        folder: the version's, for the names of the files.

    Raises:
        LoadTestMisconfigured: a file is missing.
    """
    reduced = _reduced_precision(manifest)
    found: dict[str, Variant] = {}
    for path, config in configs.items():
        if not _runs_on_cpu(config):
            continue
        on_cpu = _for_cpu(config)
        file = model_files(on_cpu, folder)[0][1].name
        if not (folder / file).exists():
            raise LoadTestMisconfigured(
                f"{path} is for the file {file}, which version {folder.name} does not have: see `plansmith verify`"
            )
        on_cpu.default_model_filename = file
        name = _name(on_cpu, file)
        # The configuration of the lower precision may be a copy under another name.
        found.setdefault(name, Variant(name, on_cpu.backend, on_cpu, path in reduced))
    for other in _on_openvino(configs[CONFIG], folder) if CONFIG in configs else ():
        found.setdefault(other.name, other)
    return tuple(found.values())


def _on_openvino(portable: Any, folder: Path) -> tuple[Variant, ...]:
    """OpenVINO with the portable file, computing in FP32, where it can be served."""
    types = {tensor.data_type for tensor in [*portable.input, *portable.output]}
    unsupported = {model_config_pb2.TYPE_STRING, model_config_pb2.TYPE_BF16} & types
    if (
        backend_of(portable) != "onnxruntime"
        or find_spec("openvino") is None
        or unsupported
        or any(tensor.optional for tensor in portable.input)
    ):
        return ()
    config = _for_cpu(portable)
    config.backend = "openvino"
    file = model_files(portable, folder)[0][1].name
    config.default_model_filename = file
    config.parameters.clear()
    config.parameters["INFERENCE_PRECISION_HINT"].string_value = "f32"
    return (Variant(_name(config, file), "openvino", config, reduced_precision=False),)


def _runs_on_cpu(config: Any) -> bool:
    on_gpu = any(group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU for group in config.instance_group)
    return backend_of(config) in BACKENDS and not on_gpu


def _for_cpu(config: Any) -> Any:
    """A copy that says CPU where the original leaves it open, without the accelerators of a GPU."""
    copy = model_config_pb2.ModelConfig()
    copy.CopyFrom(config)
    copy.backend = backend_of(config)
    copy.ClearField("platform")
    accelerators = copy.optimization.execution_accelerators
    accelerators.ClearField("gpu_execution_accelerator")
    if not accelerators.ByteSize():
        copy.optimization.ClearField("execution_accelerators")
    if not copy.optimization.ByteSize():
        copy.ClearField("optimization")
    for group in copy.instance_group:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    return copy


def _name(config: Any, file: str) -> str:
    hints = {key: config.parameters[key].string_value for key in _PRECISION_KEYS if key in config.parameters}
    precision = "bf16" if "HINT_BF16" in hints else hints.get("INFERENCE_PRECISION_HINT", "")
    return " ".join(filter(None, (config.backend, file, precision)))


def _reduced_precision(manifest: Manifest | None) -> frozenset[str]:
    """The configurations for which the build lowered the precision, inside its accuracy budget."""
    if manifest is None or manifest.search is None:
        return frozenset()
    candidates = manifest.search.candidates
    exact = {"fp32", manifest.graph.format.lower()}
    return frozenset(c.config for c in candidates if c.config is not None and c.precision not in exact)
