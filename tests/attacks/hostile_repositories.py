"""Hostile model repositories: each file of a model replaced by what must not be read, and names that mean something."""

from __future__ import annotations

import itertools
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "the secret of somebody else"
EVIL = "\x1b]0;owned\x07\x1b[2J\u202e"
FILES = (
    "config.pbtxt",
    "configs/cpu.pbtxt",
    "labels.txt",
    "history.json",
    "1/manifest.json",
    "2/model.onnx",
    "2/extra",
)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _folder(path: Path) -> None:
    path.mkdir()


def _secret(path: Path) -> None:
    path.symlink_to(path.parents[2 + path.parent.name.isdecimal() + (path.parent.name == "configs")] / "secret")


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


KINDS = (_fifo, _device, _circle, _dangling, _folder, _secret, _huge)


def _written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda model: (model / name).write_bytes(content)


def _appended(text: str) -> Callable[[Path], object]:
    return lambda model: (model / "config.pbtxt").write_text((model / "config.pbtxt").read_text() + text)


def _named(name: str | bytes) -> Callable[[Path], object]:
    return lambda model: os.mkdir(os.path.join(os.fsencode(model.parent), os.fsencode(name)))  # noqa: PTH102, PTH118


def _deep(model: Path) -> None:
    path = os.fspath(model / "2")
    for _ in range(1200):
        path += "/d"
        os.mkdir(path)  # noqa: PTH102 - pathlib's own recursion ends before


OTHERS: dict[str, Callable[[Path], object]] = {
    "config_nul": _written("config.pbtxt", b'name: "m\0"'),
    "config_not_utf8": _written("config.pbtxt", b"\xff\xfe"),
    "config_evil": _written("config.pbtxt", f"{EVIL} {{".encode()),
    "config_braces": _written("config.pbtxt", b"optimization {" * 100_000),
    "history_garbled": _written("history.json", b"{"),
    "history_30_digits": _written(
        "history.json",
        b'{"versions": [{"version": %d, "created": "2026-01-01T00:00:00Z", "source_sha256": ""}]}' % 10**30,
    ),
    "manifest_evil": _written("2/manifest.json", f'{{"a": "{EVIL}"}}'.encode()),
    "manifest_nested": _written("2/manifest.json", b"[" * 100_000),
    "labels_with_another_line_end": _written("labels.txt", "a\u2028b\r".encode()),
    "filename_nul": _appended('\ndefault_model_filename: "a\\000b"\n'),
    "filename_long": _appended(f'\ndefault_model_filename: "{"n" * 5000}"\n'),
    "filename_above": _appended('\ndefault_model_filename: "../../../secret"\n'),
    "filenames_evil": _appended(f'\ncc_model_filenames {{ key: "8.6" value: "{EVIL}" }}\n'),
    "version_20_digits": lambda model: (model / "99999999999999999999").mkdir(),
    "version_255_digits": lambda model: (model / ("9" * 255)).mkdir(),
    "deep": _deep,
    "file_evil": lambda model: (model / "2" / EVIL).touch(),
    "file_not_utf8": lambda model: os.mkfifo(os.path.join(os.fsencode(model), b"2/\xff\xfe")),  # noqa: PTH118
    "model_evil": _named(EVIL),
    "model_not_utf8": _named(b"\xff\xfe"),
    "model_shell": _named("x$(touch PWNED)"),
    "model_link": lambda model: (model.parent / "n").symlink_to(model.parent),
}


def write_repositories(folder: Path, good: Path) -> dict[str, Path]:
    """Copies of a good repository, whose model is called m, each with one thing wrong; by name."""
    spoilers = dict(OTHERS)
    for name, make in itertools.product(FILES, KINDS):

        def spoil(model: Path, name: str = name, make: Callable[[Path], None] = make) -> None:
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).unlink(missing_ok=True)
            make(model / name)

        spoilers[f"{name.replace('/', '_')}{make.__name__}"] = spoil
    found = {}
    for name, wrong in spoilers.items():
        found[name] = folder / name / "models"
        shutil.copytree(good, found[name])
        (folder / name / "secret").write_text(SECRET)
        wrong(found[name] / "m")
    return found
