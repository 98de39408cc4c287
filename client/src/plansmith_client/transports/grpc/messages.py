"""NVIDIA's generated messages of Triton's gRPC service, as tritonclient ships them, without its client.

`from tritonclient.grpc import service_pb2` would run its client first, a tenth of the time from the start of a process
to its first answer. Here the generated modules are loaded from their files, for this package alone: whoever imports
tritonclient, before, after or meanwhile, finds it as usual.
"""

from __future__ import annotations

import builtins
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import SimpleNamespace
from typing import Any

__all__ = ["service_pb2"]

_PACKAGE = "tritonclient.grpc"


def _generated(name: str) -> Any:
    """A module of the package: from its file, unless another version of tritonclient has it elsewhere."""
    package = None if _PACKAGE in sys.modules else find_spec(_PACKAGE)
    spec = package and PathFinder.find_spec(f"{_PACKAGE}.{name}", package.submodule_search_locations or ())
    if not spec or not spec.loader:
        import tritonclient.grpc  # noqa: PLC0415 - runs the package

        return getattr(tritonclient.grpc, name)
    module = module_from_spec(spec)
    # The module's own `import` statements call this: exec() keeps the builtins that it finds.
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
    spec.loader.exec_module(module)
    return module


def _import(name: str, globals_: Any = None, locals_: Any = None, names: Any = (), level: int = 0) -> Any:
    """`__import__`, but what is imported from the package is loaded without it, too."""
    if name == _PACKAGE and names:
        return SimpleNamespace(**{part: _generated(part) for part in names})
    return __import__(name, globals_, locals_, names, level)


service_pb2 = _generated("service_pb2")
