"""The file of a model's version that a backend loads."""

from __future__ import annotations

from pathlib import Path

from plansmith_server.errors import ModelError

__all__ = ["find_model_file"]

# Where a configuration names no file, Triton writes in what its own backend of that name would load; ours of OpenVINO
# takes other files as well.
_FILLED_IN = frozenset({"", "model.xml"})


def find_model_file(folder: Path, name: str, default: str = "model.onnx") -> Path:
    """The file `name` in the version folder `folder`, or `default` if nobody named one.

    Args:
        folder: of the version.
        name: `default_model_filename`, or "". If it is a folder, the file `default` in it is meant.
        default: the usual file name.

    Raises:
        ModelError: there is no such file, or the name points outside the folder.
    """
    wanted = Path(name or default)
    if wanted.is_absolute() or ".." in wanted.parts:
        raise ModelError(f"default_model_filename {name!r} points outside the version's folder: name a file in it")
    try:
        for path in (folder / wanted, folder / wanted / default, *([folder / default] if name in _FILLED_IN else [])):
            if path.is_file():
                return path
    except OSError as error:
        raise ModelError(f"default_model_filename {name[:80]!r} cannot be used ({error.strerror})") from error
    raise ModelError(
        f"there is no {wanted} in version {folder.name}: copy the model there, or set default_model_filename"
    )
