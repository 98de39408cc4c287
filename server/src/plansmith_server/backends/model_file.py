"""The file of a model's version that a backend loads."""

from __future__ import annotations

from pathlib import Path

from plansmith_server.errors import ModelError

__all__ = ["find_model_file"]


def find_model_file(folder: Path, name: str, default: str = "model.onnx") -> Path:
    """The file `name` in the version folder `folder`, or `default` if that is missing.

    Args:
        folder: of the version.
        name: `default_model_filename`, or "". Triton fills in the backend's usual file name, so a file of that name may
            not exist. If it is a folder, the file `default` in it is meant.
        default: the file name to fall back on.

    Raises:
        ModelError: there is no such file, or the name points outside the folder.
    """
    wanted = Path(name or default)
    if wanted.is_absolute() or ".." in wanted.parts:
        raise ModelError(f"default_model_filename {name!r} points outside the version's folder: name a file in it")
    try:
        for path in (folder / wanted, folder / wanted / default, folder / default):
            if path.is_file():
                return path
    except OSError as error:
        raise ModelError(f"default_model_filename {name[:80]!r} cannot be used ({error.strerror})") from error
    raise ModelError(
        f"there is no {wanted} in version {folder.name}: copy the model there, or set default_model_filename"
    )
