"""Where a benchmark's figures go, and their file: with when, where and from which commit they come."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plansmith_perf.results.environment import describe_environment

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from plansmith_server import TritonServer

__all__ = ["read_arguments", "write_figures"]


def read_arguments(parser: ArgumentParser) -> Namespace:
    """What the command line says, `--output` of every benchmark added: the folder, which is made."""
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="folder for the figures [%(default)s]")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def write_figures(path: Path, server: TritonServer | None, **content: Any) -> None:
    """Write JSON.

    Args:
        path: the file.
        server: that was measured, started once; None where there was none.
        content: the figures, and what else there is to know.
    """
    document = {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "environment": describe_environment(f"triton {server.version}" if server else "").model_dump(),
        **content,
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _commit() -> str:
    """Of this checkout, with "+" where a file that git knows has changed; "" outside of one."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{found}+" if changed else found
