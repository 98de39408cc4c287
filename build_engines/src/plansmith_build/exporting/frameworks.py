"""The frameworks, imported when a model of theirs is exported and not before."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from plansmith_build.exporting.errors import MissingPackage

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet", "require", "versions_of"]

_TORCH = "pip install torch onnxscript, without a GPU the CPU build that pytorch.org names (gigabytes less)"
_BRINGS = {"torch": _TORCH, "onnxscript": _TORCH, "transformers": "pip install transformers"}


def require(module: str, framework: str = "PyTorch") -> Any:
    """Import a framework, or a part of one.

    Args:
        module: `"torch"`, `"torch.export"`, ...
        framework: `"PyTorch"`, `"Keras"`, `"scikit-learn"` or `"Hugging Face"`, the one that needs it.

    Raises:
        MissingPackage: it is not installed; the sentence says what brings it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name.partition(".")[0] if error.name else package
        raise MissingPackage(
            f"exporting a {framework} model needs the package {missing}: "
            f"{_BRINGS.get(missing, 'plansmith[export] brings it')}"
        ) from error


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of installed distributions by name."""
    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, log lines and prints of an exporter: what goes wrong is told by exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
