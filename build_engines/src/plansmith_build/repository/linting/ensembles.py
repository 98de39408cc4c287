"""Ensembles: their steps against the models that they use.

What a server refuses is in triton-inference-server/core, src/ensemble_scheduler/ensemble_utils.cc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting.findings import error
from plansmith_build.repository.model_repository import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_ensemble"]


def check_ensemble(context: ConfigContext) -> Iterator[Finding]:
    """Steps, the tensors between them, and the fields that an ensemble cannot have."""
    config = context.config
    if context.backend != "ensemble":
        if config.HasField("ensemble_scheduling"):
            yield error(
                context.path,
                "ensemble_scheduling is set for a model that is not an ensemble",
                'write platform: "ensemble"',
            )
        return
    if not config.ensemble_scheduling.step:
        yield error(context.path, "the ensemble has no steps", "add ensemble_scheduling")
        return
    for field in ("optimization", "model_warmup"):
        if config.HasField(field) if field == "optimization" else len(config.model_warmup):
            yield error(
                context.path,
                f"an ensemble cannot have {field}",
                f"remove {field}, or set it for the models of its steps",
            )
    for step in config.ensemble_scheduling.step:
        yield from _check_step(context, step)
    yield from _check_tensors(context)


def _check_tensors(context: ConfigContext) -> Iterator[Finding]:
    config = context.config
    steps = config.ensemble_scheduling.step
    made = {tensor.name for tensor in config.input} | {name for step in steps for name in step.output_map.values()}
    for step in steps:
        for name in step.input_map.values():
            if name not in made:
                yield error(
                    context.path,
                    f"the ensemble's tensor {name!r}, read by {step.model_name!r}, is not the output of any step",
                    "correct input_map or output_map",
                )
    for tensor in config.output:
        if tensor.name not in made:
            yield error(
                context.path,
                f"the ensemble's output {tensor.name!r} is not the output of any step",
                "add it to output_map",
            )


def _check_step(context: ConfigContext, step: Any) -> Iterator[Finding]:
    """The names that the maps have for a model's own tensors, and how many rows it takes."""
    if step.model_name not in context.siblings:
        yield error(
            context.path, f"the ensemble uses the model {step.model_name!r}, which does not exist", "add the model"
        )
        return
    try:
        text = (context.model.path.parent / step.model_name / CONFIG).read_text(encoding="utf-8")
        model = config_from_text(text)
    except (InvalidModel, OSError, UnicodeDecodeError):
        # Reported for that model itself, or completed by the server.
        return
    for field, role, names, tensors in (
        ("input_map", "input", step.input_map, model.input),
        ("output_map", "output", step.output_map, model.output),
    ):
        known = [tensor.name for tensor in tensors]
        for name in names:
            if known and name not in known:
                yield error(
                    context.path,
                    f"{field} names {name!r}, but the model {step.model_name!r} has no such {role}",
                    f"its {role}s are {', '.join(known)}: name one of them",
                )
    for tensor in model.input:
        if not tensor.optional and tensor.name not in step.input_map:
            yield error(
                context.path,
                f"the input {tensor.name!r} of the model {step.model_name!r} is not mapped",
                "add it to input_map",
            )
    if model.max_batch_size < context.config.max_batch_size and (model.input or model.max_batch_size):
        yield error(
            context.path,
            f"max_batch_size is {context.config.max_batch_size}, and the model {step.model_name!r} takes "
            f"{model.max_batch_size}",
            f"write max_batch_size: {model.max_batch_size}, or build that model for larger batches",
        )
