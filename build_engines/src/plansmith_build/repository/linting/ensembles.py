"""Ensembles: the fields that they cannot have, and the flow of tensors from step to step.

Rules: BuildEnsembleGraph and ValidateEnsembleSchedulingConfig in triton-inference-server/core,
src/model_config_utils.cc. The models of the steps are not looked at here.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_ensemble", "steps_in_order"]


def check_ensemble(context: ConfigContext) -> Iterator[Finding]:
    """Whether every tensor is made once, before it is read, and used."""
    config = context.config
    if context.backend != "ensemble":
        if config.HasField("ensemble_scheduling"):
            yield context.error(
                "ensemble_scheduling is set for a model that is not an ensemble", 'write platform: "ensemble"'
            )
        return
    if not config.ensemble_scheduling.step:
        yield context.error("the ensemble has no steps", "add ensemble_scheduling")
        return
    for field in ("optimization", "model_warmup"):
        if config.HasField(field) if field == "optimization" else len(config.model_warmup):
            yield context.error(
                f"an ensemble cannot have {field}", f"remove {field}, or set it for the models of its steps"
            )
    for number, step in enumerate(config.ensemble_scheduling.step, start=1):
        for field in ("model_name", "input_map", "output_map"):
            if not getattr(step, field):
                yield context.error(f"step {number} of the ensemble has no {field}", f"add {field}")
    yield from _check_flow(context)


def _check_flow(context: ConfigContext) -> Iterator[Finding]:
    config = context.config
    steps = config.ensemble_scheduling.step
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    made = Counter(name for step in steps for name in step.output_map.values())
    read = {name for step in steps for name in step.input_map.values()}
    for name, count in made.items():
        if count > 1:
            yield context.error(
                f"the ensemble's tensor {name!r} is made {count} times", "give each output another name"
            )
    for name in sorted(inputs - read):
        yield context.error(
            f"the ensemble's input {name!r} is not read by any step", "add it to an input_map, or remove it"
        )
    for name in sorted(set(made) - read - outputs):
        yield context.error(
            f"the ensemble's tensor {name!r} is made and never used",
            "read it in a step, declare it as an output, or remove it from output_map",
        )
    for step in steps:
        for name in sorted(set(step.input_map.values()) - inputs - set(made)):
            yield context.error(
                f"the ensemble's tensor {name!r}, read by {step.model_name!r}, is not the output of any step",
                "correct input_map or output_map",
            )
    for name in sorted(outputs - set(made) - inputs):
        yield context.error(f"the ensemble's output {name!r} is not the output of any step", "add it to output_map")
    written = {name for step in steps_in_order(config) for name in step.output_map.values()}
    for name in sorted(set(made) - written - inputs):
        yield context.error(
            f"the ensemble's tensor {name!r} is never written: a step that it depends on waits for a tensor for ever",
            "order the steps so that each tensor is made before it is read",
        )


def steps_in_order(config: Any) -> list[Any]:
    """The steps of an ensemble, each after those that make what it reads; without those that wait for ever."""
    ready = {tensor.name for tensor in config.input}
    waiting, done = list(config.ensemble_scheduling.step), []
    while runnable := [step for step in waiting if ready.issuperset(step.input_map.values())]:
        waiting = [step for step in waiting if step not in runnable]
        ready.update(name for step in runnable for name in step.output_map.values())
        done += runnable
    return done
