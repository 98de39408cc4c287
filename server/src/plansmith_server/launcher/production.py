"""What speaks against letting others use a server, before it is started: `plansmith serve --production-check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_server.errors import NotForProduction
from plansmith_server.launcher.backend_directory import BACKENDS
from plansmith_server.launcher.complete_configs import read_config, text_of
from plansmith_server.launcher.ports import is_loopback

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from plansmith_server.launcher.options import ServerPlan
    from plansmith_server.launcher.repository import ModelFolder

__all__ = ["refuse_unfit"]

_NATIVE = (".so", ".dll", ".dylib")
_STUB = "triton_python_backend_stub"


def refuse_unfit(plan: ServerPlan, *, allowed_code: Collection[str] = ()) -> None:
    """Raise unless a server may be used by others, through a proxy of this machine.

    Args:
        plan: how it would be started.
        allowed_code: names of models that may bring code of their own.

    Raises:
        NotForProduction: with a sentence for each thing that speaks against it.
    """
    found = list(_of_options(plan))
    for folder in plan.folders:
        if not plan.options.models or folder.name in plan.options.models:
            found += _of_model(folder, plan, code=folder.name in allowed_code)
    if found:
        raise NotForProduction("not for others as it is:\n" + "\n".join(f"- {sentence}" for sentence in found))


def _of_options(plan: ServerPlan) -> Iterator[str]:
    if not is_loopback(plan.address):
        yield (
            f"others would reach Triton 2.51, which has known vulnerabilities, on {plan.address}: listen on 127.0.0.1 "
            "behind a proxy with TLS and tokens, or serve from a current container"
        )
    if plan.options.open_admin:
        yield "--open-admin lets everyone load models, which is to run code: leave it out"
    if not plan.options.strict:
        yield "a model that does not load would be left out in silence: add --strict"


def _of_model(folder: ModelFolder, plan: ServerPlan, *, code: bool) -> Iterator[str]:
    path = plan.options.repository / folder.name
    used = path / folder.config_used(plan.config_name)
    config = read_config(used)
    if not code and (what := _code(path, text_of(config, "backend"))):
        yield (
            f"{folder.name} brings {what}, which the server would run: if you trust it, allow it with "
            f"--allow-code {folder.name}"
        )
    batching = [each for each in config.get("dynamic_batching", []) if isinstance(each, dict)]
    policies = [policy for each in batching for policy in each.get("default_queue_policy", [])]
    if batching and not any(text_of(policy, "max_queue_size") not in ("", "0") for policy in policies):
        yield (
            f"{folder.name} lets any number of requests wait: build it with --max-queue-size, or set "
            f"default_queue_policy.max_queue_size in {used}"
        )


def _code(model: Path, backend: str) -> str:
    if backend and backend not in BACKENDS:
        return f"its own backend {backend!r}" if backend != "python" else "a Python model"
    found = (path for path in model.rglob("*") if path.name.endswith(_NATIVE) or path.name == _STUB)
    return next((f"the library {path.relative_to(model)}" for path in found), "")
