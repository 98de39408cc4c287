"""One point of the search: what it says in a configuration, and how to read it back from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2

from plansmith_perf.tuning.records import SettingRecord

if TYPE_CHECKING:
    from plansmith_perf.tuning.variants import Variant

__all__ = ["Setting", "config_of", "setting_from_config"]

_OWN_THREADS = {
    "onnxruntime": ("intra_op_thread_count",),
    "openvino": ("INFERENCE_NUM_THREADS", "NUM_STREAMS"),
}


@dataclass(frozen=True)
class Setting:
    """What is searched.

    Attributes:
        variant: backend, model file and precision.
        instances: how many of the model run at the same time.
        threads: of each instance; 0: what the backend takes by itself, an equal share of the cores.
        max_batch_size: 0 for a model that takes no batches.
        queue_delay: how long dynamic batching waits for more requests, microseconds; None: no dynamic batching.
        preferred_batch_size: a batch of this size does not wait any longer; 0: none.
    """

    variant: Variant
    instances: int
    threads: int
    max_batch_size: int
    queue_delay: int | None
    preferred_batch_size: int = 0

    def record(self) -> SettingRecord:
        """The same without the configuration behind it."""
        return SettingRecord(
            variant=self.variant.name,
            instances=self.instances,
            threads=self.threads,
            max_batch_size=self.max_batch_size,
            queue_delay=self.queue_delay,
            preferred_batch_size=self.preferred_batch_size,
        )


def config_of(setting: Setting) -> Any:
    """The `inference.ModelConfig` of a setting: its variant's, with everything that is not searched as it was."""
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(setting.variant.config)
    del config.instance_group[:]
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=setting.instances)
    config.max_batch_size = setting.max_batch_size
    if setting.queue_delay is None:
        config.ClearField("dynamic_batching")
    else:
        config.dynamic_batching.SetInParent()
        config.dynamic_batching.max_queue_delay_microseconds = setting.queue_delay
        preferred = [setting.preferred_batch_size] if setting.preferred_batch_size else []
        config.dynamic_batching.preferred_batch_size[:] = preferred
    for key in _OWN_THREADS[setting.variant.backend]:
        config.parameters.pop(key, None)
    if setting.threads and setting.variant.backend == "openvino":
        # https://github.com/triton-inference-server/openvino_backend#parameters: of all instances together.
        config.parameters["INFERENCE_NUM_THREADS"].string_value = str(setting.threads * setting.instances)
        config.parameters["NUM_STREAMS"].string_value = str(setting.instances)
    elif setting.threads:
        config.parameters["intra_op_thread_count"].string_value = str(setting.threads)
    return config


def setting_from_config(variant: Variant) -> Setting:
    """The setting that comes closest to a variant's own configuration."""
    config = variant.config
    instances = max(1, sum(group.count or 1 for group in config.instance_group))
    batching = config.dynamic_batching
    preferred = list(batching.preferred_batch_size)
    return Setting(
        variant=variant,
        instances=instances,
        threads=_threads(config, variant.backend, instances),
        max_batch_size=config.max_batch_size,
        queue_delay=int(batching.max_queue_delay_microseconds) if config.HasField("dynamic_batching") else None,
        preferred_batch_size=preferred[0] if len(preferred) == 1 else 0,
    )


def _threads(config: Any, backend: str, instances: int) -> int:
    key = _OWN_THREADS[backend][0]
    # Not by indexing: that would add the key.
    text = config.parameters[key].string_value if key in config.parameters else ""
    number = int(text) if text.isascii() and text.isdecimal() else 0
    return number // instances if backend == "openvino" else number
