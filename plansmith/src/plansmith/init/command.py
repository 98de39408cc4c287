"""`plansmith init`."""

from __future__ import annotations

import json
import os
import shlex
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from plansmith_build.datasets.loading import check_source
from plansmith_build.repository.model_repository import name_from_file
from plansmith_client.errors import InvalidInput

__all__ = ["init"]

# Where each file goes.
PLACES = {
    "plansmith.toml": "plansmith.toml",
    "Containerfile": "Containerfile",
    "plansmith.yml": ".github/workflows/plansmith.yml",
}


def init(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.", show_default=False)],
    data: Annotated[
        str | None, typer.Option("--data", help="What candidates are judged on, as `plansmith build` takes it.")
    ] = None,
    *,
    folder: Annotated[Path, typer.Option("--folder", help="The project; made if need be.", file_okay=False)] = Path(),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Begin a project: plansmith.toml, a workflow for CI and a Containerfile.

    plansmith.toml has the defaults of the project, which every command in its folder reads. Nothing that exists is
    written over.

    For example:

        plansmith init digits.onnx --data held_out.npz
    """
    made = [folder / place for place in PLACES.values()]
    if there := [path for path in made if path.exists()]:
        raise InvalidInput(f"{there[0]} exists: move it away, or begin in another folder with --folder")
    if not model.is_file():
        raise InvalidInput(f"{model} {'is not a file' if model.exists() else 'does not exist'}: name an .onnx file")
    if model.suffix.lower() != ".onnx":
        raise InvalidInput(f"{model} does not end in .onnx: name an ONNX file, as `plansmith export` writes one")
    if data is not None:
        check_source(data)
        data = _seen_from(folder, Path(data)) if Path(data).exists() else data
    lines = (
        f'data = {json.dumps(data or "held_out.npz")}\nmax-drop = "0.5%"  # what a faster version may lose of accuracy'
    )
    words = {
        "model": json.dumps(_seen_from(folder, model))[1:-1],
        "name": name_from_file(model),
        "version": version("plansmith"),
        "data": lines if data is not None else "# " + lines.replace("\n", "\n# "),
    }
    _write(dict(zip(PLACES, made, strict=True)), words)
    if json_:
        print(json.dumps({"files": list(map(str, made))}))  # noqa: T201
        return
    for path in made:
        print(f"wrote {path}")  # noqa: T201
    go = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    print(f"\nNext: {go}plansmith build")  # noqa: T201


def _write(places: dict[str, Path], words: dict[str, str]) -> None:
    """Write each file with its words filled in: all of them, or none, since a half would keep `init` from beginning.

    Raises:
        InvalidInput: the system does not let one be written.
    """
    try:
        for source, path in places.items():
            text = files("plansmith.init").joinpath("files", source).read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(f"{{{word}}}", value)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except BaseException as error:
        for written in filter(Path.is_file, places.values()):
            written.unlink()
        if isinstance(error, OSError):
            raise InvalidInput(
                f"{path} cannot be used ({error.strerror}): name another folder with --folder, with room that you may "
                "write to"
            ) from error
        raise


def _seen_from(folder: Path, path: Path) -> str:
    """The path as the commands that run in the folder find it."""
    return str(path) if path.is_absolute() else os.path.relpath(path, folder)
