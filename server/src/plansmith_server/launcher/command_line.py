"""The command line of tritonserver."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from plansmith_server.launcher.backend_directory import BACKENDS
from plansmith_server.launcher.complete_configs import is_complete
from plansmith_server.launcher.triton_arguments import resolve_paths, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_server.launcher.options import ServerPlan
    from plansmith_server.launcher.triton_wheel import TritonWheel

__all__ = ["Ports", "tritonserver_command"]

Ports = tuple[int, int, int]


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
        # By these names the supervisor, and the next start after a kill, find the shared memory of this run.
        *(f"--backend-config={name},shm-region-prefix-name={run_folder.name}-" for name in ("python", *BACKENDS)),
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
