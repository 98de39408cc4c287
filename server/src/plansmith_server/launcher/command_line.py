"""The command line of tritonserver, and the folder that a run needs."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_server.errors import StartFailed
from plansmith_server.launcher.backend_directory import assemble
from plansmith_server.launcher.complete_configs import is_complete
from plansmith_server.launcher.repository import is_shell_safe
from plansmith_server.launcher.triton_arguments import resolve_paths, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_server.launcher.options import ServerPlan
    from plansmith_server.launcher.triton_wheel import TritonWheel

__all__ = ["Ports", "make_run_folder", "tritonserver_command"]

Ports = tuple[int, int, int]


def make_run_folder(wheel: TritonWheel, plan: ServerPlan) -> Path:
    """Make the temporary folder of one run: `backends`, `work` to run in, and perhaps `repository`.

    Backend processes import from their working folder before anything else: only this user may write to it, and it is
    empty unless they need another numpy than the environment has. `repository` is a link to the real one where Triton
    cannot take its path.

    Raises:
        StartFailed: there is no usable temporary folder.
    """
    # Triton hands these paths to a shell unquoted, so a TMPDIR with a space in it cannot be used.
    parent = next((folder for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp") if _usable(folder)), None)  # noqa: S108
    if parent is None:
        raise StartFailed("no temporary folder is writable: set TMPDIR to one without spaces in its path")
    try:
        folder = Path(tempfile.mkdtemp(prefix="plansmith-serve-", dir=parent))
        assemble(folder / "backends", wheel)
        (folder / "work").mkdir()
        if wheel.packages is not None:
            # They take no PYTHONPATH.
            for name in ("numpy", "numpy.libs"):
                (folder / "work" / name).symlink_to(wheel.packages / name, target_is_directory=True)
    except OSError as error:
        raise StartFailed(f"cannot prepare the server's files in {parent}: {error.strerror}") from error
    repository = plan.options.repository.resolve()
    if not is_shell_safe(str(repository)):
        (folder / "repository").symlink_to(repository, target_is_directory=True)
    return folder


def _usable(folder: str) -> bool:
    return is_shell_safe(folder) and os.access(folder, os.W_OK | os.X_OK)


def tritonserver_command(
    wheel: TritonWheel, plan: ServerPlan, ports: Ports, run_folder: Path, restrictions: Sequence[str]
) -> list[str]:
    """The words that start the server of `plan` on `ports` (HTTP, gRPC, metrics), with `AdminAccess.arguments`."""
    options = plan.options
    link = run_folder / "repository"
    http_port, grpc_port, metrics_port = ports
    words = [
        str(wheel.server),
        f"--model-repository={link if link.exists() else options.repository.resolve()}",
        f"--backend-directory={run_folder / 'backends'}",
        f"--cache-directory={wheel.caches}",
        f"--model-control-mode={options.control}",
        # A model that cannot be loaded is reported; the others are served.
        "--exit-on-error=false",
        # Triton's own limit must end before ours.
        f"--exit-timeout-secs={max(1, math.floor(options.stop_timeout) - 1)}",
        *(f"--{server}-address={plan.address}" for server in ("http", "grpc", "metrics")),
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
    ]
    if plan.config_name is not None:
        words.append(f"--model-config-name={plan.config_name}")
    if options.control == "none" and _nothing_to_complete(plan):
        words.append("--disable-auto-complete-config")
    if options.control == "poll":
        words.append(f"--repository-poll-secs={options.poll_seconds}")
    words += [f"--load-model={name}" for name in options.models]
    return [*words, *restrictions, *resolve_paths(options.triton_arguments)]


def _nothing_to_complete(plan: ServerPlan) -> bool:
    others = ("--model-repository", "--model-store", "--model-control-mode", "--model-config-name")
    if any(values_of(option, plan.options.triton_arguments) for option in others):
        # Other configurations than those of `plan` may be read.
        return False
    folder = plan.options.repository
    return all(is_complete(folder / model.name / model.config_used(plan.config_name)) for model in plan.folders)
