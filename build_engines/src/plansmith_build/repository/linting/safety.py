"""Content that a server would run or follow, so that nobody serves it without knowing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.repository.linting.findings import error, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["PYTHON_STUB", "check_content", "check_safety"]

PYTHON_STUB = "triton_python_backend_stub"
"""Runs the code of Python models; Triton takes one from a model's folder before its own."""
_PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth"}
_LIBRARIES = (".so", ".dll", ".dylib")


def check_safety(context: ConfigContext) -> Iterator[Finding]:
    """Code that a configuration names."""
    config = context.config
    if context.backend == "python":
        yield context.warning(
            "the model is Python code, which the server runs", "read it, and serve only code that you trust"
        )
    if "EXECUTION_ENV_PATH" in config.parameters:
        yield context.warning(
            "the model brings its own execution environment", "serve only environments that you trust"
        )
    for library in config.model_operations.op_library_filename:
        yield context.warning(f"the server loads the library {library}", "serve only libraries that you trust")
    for agent in config.model_repository_agents.agents:
        if agent.name:
            what = f"the repository agent {agent.name!r}, a library of the server, may change the model before it loads"
            yield context.warning(what, "serve only with agents that you trust")
        else:
            yield context.error("a repository agent has no name", "add name")
    for key in ("CPU_EXTENSION_PATH", "trt_extra_plugin_lib_paths"):
        if key in config.parameters:
            yield context.warning(f"the server loads a library by {key}", "serve only libraries that you trust")


def check_content(repository: Path, model: Path) -> Iterator[Finding]:
    """Links out of the repository, libraries, pickles, and files that everyone may write to."""
    for path in (repository, model):
        if path.stat().st_mode & stat.S_IWOTH:
            where = str(path.relative_to(repository.parent)) if path == repository else path.name
            yield warning(where, "every user may write to it", f"chmod o-w {where}")
    for folder, folders, names in os.walk(model):
        folders.sort()
        for name in sorted([*names, *folders]):
            path = Path(folder) / name
            where = str(path.relative_to(repository))
            if path.is_symlink() and not path.resolve().is_relative_to(repository):
                yield error(where, "the link points outside the repository", "copy the file here")
                continue
            if path.is_symlink() or not path.exists():
                continue
            if path.stat().st_mode & stat.S_IWOTH:
                yield warning(where, "every user may write to it", f"chmod o-w {where}")
            if path.suffix in _PICKLES:
                yield warning(where, "loading a pickle may run code from it", "export the model to ONNX")
            if name.endswith(_LIBRARIES) or name == PYTHON_STUB:
                yield warning(where, "a library or program, which is code", "serve only code that you trust")
