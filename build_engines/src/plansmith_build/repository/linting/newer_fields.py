"""Fields that only newer servers know, and what they hold.

Rules: ValidateModelMetrics in triton-inference-server/core, src/model_config_utils.cc; the releases are those whose
protobuf/model_config.proto in triton-inference-server/common has the field first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_newer_fields"]


def check_newer_fields(context: ConfigContext) -> Iterator[Finding]:
    """Metrics of the model, and the limit of an ensemble's requests in flight."""
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
