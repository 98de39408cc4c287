"""Whether a server is fit for others to use, before it is started: `plansmith serve --production-check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_server.errors import NotForProduction
from plansmith_server.launcher.backend_directory import BACKENDS
from plansmith_server.launcher.complete_configs import read_config, text_of
from plansmith_server.launcher.ports import is_loopback

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from plansmith_server.launcher.complete_configs import Message
    from plansmith_server.launcher.options import ServerPlan
    from plansmith_server.launcher.repository import ModelFolder

__all__ = ["refuse_unfit"]

_NATIVE = (".so", ".dll", ".dylib")
# Which Triton looks for in a model's folder, too.
_RUNTIMES = ("model.py", "triton_python_backend_stub")
# Platforms of configurations without a backend that run nothing but our backends.
_PLATFORMS = ("ensemble", "onnxruntime_onnx")
# What names code to load: parameters, and a field of model_operations.
_CODE_PARAMETERS = ("EXECUTION_ENV_PATH", "CPU_EXTENSION_PATH", "trt_extra_plugin_lib_paths")
_LIBRARIES = "op_library_filename"


def refuse_unfit(plan: ServerPlan, *, allowed_code: Collection[str] = ()) -> None:
    """Raise unless a server may be used by others, through a proxy of this machine.

    Args:
        plan: how it would be started.
        allowed_code: names of models that may bring code of their own.

    Raises:
        NotForProduction: it is not; with a sentence for each reason.
    """
    found = list(_of_options(plan))
    for folder in plan.folders:
        found += _of_model(folder, plan, code=folder.name in allowed_code)
    if found:
        raise NotForProduction(
            "this server is not fit for others to use:\n" + "\n".join(f"- {sentence}" for sentence in found)
        )


def _of_options(plan: ServerPlan) -> Iterator[str]:
    options = plan.options
    if not is_loopback(plan.address):
        yield (
            f"others would reach Triton 2.51, which has known vulnerabilities, on {plan.address}: listen on 127.0.0.1 "
            "behind a proxy with TLS and tokens, or serve from a current container"
        )
    if options.open_admin:
        yield "--open-admin lets everyone load models, which is to run code: leave it out"
    if options.control != "none":
        yield (
            f"--control {options.control} loads models that were not checked, over gRPC for everyone: leave it out, and"
            " start the server again for new models"
        )
    if options.triton_arguments:
        yield f"what {' '.join(options.triton_arguments)} changes cannot be checked: leave out what follows --"
    if not options.strict:
        yield "a model that does not load would be left out in silence: add --strict"


def _of_model(folder: ModelFolder, plan: ServerPlan, *, code: bool) -> Iterator[str]:
    path = plan.options.repository / folder.name
    used = path / folder.config_used(plan.config_name)
    config = read_config(used)
    for what in () if code else _code(path, config):
        yield f"{folder.name} {what}: if you trust it, allow it with --allow-code {folder.name}"
    batching = _messages(config, "dynamic_batching")
    policies = [policy for each in batching for policy in _messages(each, "default_queue_policy")]
    if batching and not any(text_of(policy, "max_queue_size") not in ("", "0") for policy in policies):
        yield (
            f"{folder.name} lets any number of requests wait: build it with --max-queue-size, or set "
            f"default_queue_policy.max_queue_size in {used}"
        )
    elif batching and _instances(config) <= 1:
        yield (
            f"{folder.name} bounds its queue and has one instance, with which Triton 2.51 may let each request wait "
            f"for half a second: write count: 2 in instance_group of {used}"
        )


def _code(model: Path, config: Message) -> Iterator[str]:
    """What of a model the server would run as code, by its configuration and the files in its folder."""
    backend = text_of(config, "backend")
    if backend == "python":
        yield "is a Python model, whose code the server would run"
        return
    if backend and backend not in BACKENDS:
        yield f"brings its own backend {backend!r}, whose code the server would run"
    elif not backend and text_of(config, "platform") not in _PLATFORMS:
        yield "has no configuration that names its backend, so that its files say what is run"
    for parameter in _messages(config, "parameters"):
        if (name := text_of(parameter, "key")) in _CODE_PARAMETERS:
            yield f"names code to load in the parameter {name}"
    if any(_LIBRARIES in operations for operations in _messages(config, "model_operations")):
        yield f"names libraries to load in {_LIBRARIES}"
    for path in sorted(model.rglob("*")):
        if path.name.endswith(_NATIVE) or path.name in _RUNTIMES:
            yield f"brings {path.relative_to(model)}, which the server could load"
            return


def _instances(config: Message) -> int:
    counts = [text_of(group, "count") for group in _messages(config, "instance_group")]
    return sum(int(count) if count.isdecimal() else 1 for count in counts)


def _messages(message: Message, key: str) -> list[Message]:
    return [value for value in message.get(key, []) if isinstance(value, dict)]
