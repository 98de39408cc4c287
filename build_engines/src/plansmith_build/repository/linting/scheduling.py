"""Names, versions, instances, batching and queues of a configuration, and fields that only newer servers know.

Rules: ValidateModelConfig and ValidateInstanceGroup in triton-inference-server/core, src/model_config_utils.cc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

from plansmith_build.repository.config import count_instances
from plansmith_build.repository.linting.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from plansmith_build.repository.linting.context import ConfigContext

__all__ = ["check_newer_fields", "check_scheduling"]

# Far above what any machine has use for.
_MOST_INSTANCES = 1000


def check_scheduling(context: ConfigContext) -> Iterator[Finding]:
    """Everything in a configuration that needs no file to be looked at."""
    config = context.config
    if config.name and config.name != context.model.name:
        yield context.error(
            f"the name is {config.name!r}, and the folder's is {context.model.name!r}",
            f'write name: "{context.model.name}", or leave it out',
        )
    if config.max_batch_size < 0:
        yield context.error(f"max_batch_size is {config.max_batch_size}", "write 0 for a model without batches")
    if config.response_cache.enable and (
        config.HasField("sequence_batching") or config.model_transaction_policy.decoupled
    ):
        what = "sequence_batching" if config.HasField("sequence_batching") else "decoupled answers"
        yield context.error(f"a model with {what} cannot use the response cache", "disable it")
    yield from _check_versions(context)
    yield from _check_instances(context)
    yield from _check_batching(context)


def _check_versions(context: ConfigContext) -> Iterator[Finding]:
    policy = context.config.version_policy
    there = ", ".join(map(str, context.model.versions)) or "none"
    if policy.WhichOneof("policy_choice") == "specific":
        # The server skips the ones that do not exist, and refuses the model where none is left.
        severity = Severity.WARNING if context.served_versions else Severity.ERROR
        for version in policy.specific.versions:
            if version not in context.model.versions:
                yield Finding(severity, context.path, f"version_policy names version {version}", f"there are: {there}")
    if context.model.versions and not context.served_versions and not policy.specific.versions:
        yield context.error(
            "version_policy selects no version",
            f"write latest {{ num_versions: 1 }}, or specific with versions that exist: there are {there}",
        )


def _check_instances(context: ConfigContext) -> Iterator[Finding]:
    count = count_instances(context.config)
    if count > _MOST_INSTANCES:
        yield context.error(
            f"{count} instances: a server loads the model as many times, until its memory is full",
            f"write at most {_MOST_INSTANCES}",
        )
        return
    for group in context.config.instance_group:
        if context.backend == "ensemble":
            yield context.error("an ensemble cannot have instance groups", "remove instance_group")
            return
        yield from _check_devices(context, group)
        if group.count < 0:
            yield context.warning(f"count is {group.count}, which the server takes for its default", "write 1 or more")
        if group.profile and context.backend != "tensorrt":
            yield context.error("an instance group has a profile, which is for TensorRT models", "remove profile")


def _check_devices(context: ConfigContext, group: Any) -> Iterator[Finding]:
    kind = model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)
    if context.path.endswith("configs/cpu.pbtxt") and (kind == "KIND_GPU" or group.gpus):
        yield context.error(
            "instances are on the GPU in the configuration for CPUs", "write kind: KIND_CPU, or name the file gpu.pbtxt"
        )
    elif context.backend == "openvino" and (kind in ("KIND_GPU", "KIND_MODEL") or group.gpus):
        yield context.error(
            f"instances of {kind} are not on the CPU, where OpenVINO runs", "write kind: KIND_CPU alone"
        )
    elif group.gpus and kind != "KIND_GPU":
        # The server makes KIND_CPU of KIND_AUTO where it does not have all of them.
        finding = context.warning if kind == "KIND_AUTO" else context.error
        yield finding(
            f"instances of {kind} name GPUs, which a server without them refuses",
            "remove gpus, or write kind: KIND_GPU",
        )
    if min(group.gpus, default=0) < 0:
        yield context.error(f"gpus has {min(group.gpus)}", "write the numbers of GPUs, from 0")
    if context.backend == "tensorrt" and kind == "KIND_CPU":
        yield context.error("a TensorRT plan cannot run on a CPU", "write kind: KIND_GPU")


def _watches_its_queue(batching: Any) -> bool:
    """Whether the server forms no batch before an instance is free: PriorityQueue in core, src/scheduler_utils.cc."""
    policy = batching.default_queue_policy
    waits_for = (policy.max_queue_size, policy.default_timeout_microseconds, policy.allow_timeout_override)
    return bool(batching.priority_levels) or any(waits_for)


def _check_batching(context: ConfigContext) -> Iterator[Finding]:
    config = context.config
    if config.HasField("dynamic_batching"):
        batching = config.dynamic_batching
        if context.completed.max_batch_size < 1:
            yield context.warning(
                "dynamic_batching has no effect without max_batch_size",
                "set max_batch_size, or remove dynamic_batching",
            )
        elif _watches_its_queue(batching) and count_instances(config) <= 1:
            yield context.warning(
                "with priorities or a queue policy and one instance, Triton 2.51 may let each request wait for half a "
                "second",
                "write count: 2 in instance_group, or remove them",
            )
        for size in batching.preferred_batch_size:
            if not 0 < size <= max(config.max_batch_size, 0):
                yield context.error(
                    f"preferred_batch_size {size} is not within max_batch_size {config.max_batch_size}", "remove it"
                )
        if batching.preferred_batch_size and context.backend != "tensorrt":
            yield context.warning(
                "preferred_batch_size helps only plans with several optimization profiles",
                "remove it: batches then grow as large as the queue allows",
            )
        yield from _check_priorities(context, batching)


def _check_priorities(context: ConfigContext, batching: Any) -> Iterator[Finding]:
    levels = batching.priority_levels
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    for policy in policies:
        yield from _check_queue(context, policy)
    if levels and not 1 <= batching.default_priority_level <= levels:
        yield context.error(
            f"default_priority_level {batching.default_priority_level} is not one of the priority_levels",
            f"write 1 to {levels}",
        )
    if levels:
        for level in sorted(level for level in batching.priority_queue_policy if not 1 <= level <= levels):
            yield context.error(
                f"priority_queue_policy is for level {level}, and priority_levels is {levels}",
                f"write a key from 1 to {levels}",
            )
    if batching.preserve_ordering and levels > 1:
        yield context.error(
            f"preserve_ordering needs a single priority level, and priority_levels is {levels}", "remove one of them"
        )
    delay = model_config_pb2.ModelQueuePolicy.DELAY
    if batching.preserve_ordering and any(
        policy.default_timeout_microseconds and policy.timeout_action == delay for policy in policies
    ):
        yield context.error("preserve_ordering with timeout_action DELAY", "write timeout_action: REJECT")


def _check_queue(context: ConfigContext, policy: Any) -> Iterator[Finding]:
    if policy.allow_timeout_override and not policy.default_timeout_microseconds:
        yield context.warning(
            "allow_timeout_override without default_timeout_microseconds: a request's own timeout has no effect",
            "set default_timeout_microseconds",
        )


def check_newer_fields(context: ConfigContext) -> Iterator[Finding]:
    """Metrics of the model, and the limit of an ensemble's requests in flight, which only newer servers know.

    Rules: ValidateModelMetrics in core, src/model_config_utils.cc; the releases are those whose
    protobuf/model_config.proto in triton-inference-server/common has the field first.
    """
    config = context.config
    if config.HasField("model_metrics"):
        yield _needs_newer_server(context, "model_metrics")
    for control in config.model_metrics.metric_control:
        if not control.metric_identifier.family:
            yield context.error(
                "a metric_control has no metric family",
                'write metric_identifier { family: "nv_inference_first_response_histogram_ms" }',
            )
        if not control.histogram_options.buckets:
            yield context.error(
                "a metric_control has no buckets", "write histogram_options { buckets: [ 1, 10, 100 ] }"
            )
    if config.ensemble_scheduling.max_inflight_requests:
        yield _needs_newer_server(context, "max_inflight_requests")


def _needs_newer_server(context: ConfigContext, field: str) -> Finding:
    return context.warning(
        f"{field} is refused by older servers as an unknown field, the one from PyPI (2.51) included",
        "serve the model with a current Triton container, or remove the field",
    )
