"""A signed repository is tampered with at each of its files and folders, and `verify --public-key` finds it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import onnx
import onnx.parser
import pytest

import plansmith_build
from plansmith_build import BuildOptions
from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.linting.signatures import check_signatures
from plansmith_build.repository.model_repository import ModelRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from plansmith_build.repository.linting import Finding

# The package warns of its own use of its dependencies.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# A star is the one warm-up sample.
VERSION = ("manifest.json", "model.onnx", "model.sig")
FILES = ["signed.json", *(f"m/{name}" for name in ("config.pbtxt", "history.json", "labels.txt", "warmup/*"))]
FILES += [f"m/{version}/{name}" for version in (1, 2) for name in VERSION]
FOLDERS = ["m", "m/1", "m/2", "m/warmup"]


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key pair, and a repository of a model in two versions and another in one, all signed."""
    folder = tmp_path_factory.mktemp("signed")
    for words in ("ecparam -name prime256v1 -genkey -noout -out key.pem", "ec -in key.pem -pubout -out key.pub"):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    for name, operator in (("m", "Relu"), ("m", "Abs"), ("n", "Neg")):
        text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N, 4] x) => (float[N, 4] y) {{ y = {operator} (x) }}'
        onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
        options = {"serve": False, "sign_key": folder / "key.pem", "labels": folder / "labels.txt", "warmup": 1}
        plansmith_build.build(folder / "model.onnx", BuildOptions(folder / "models", name, **options))
    return folder


def found(repository: Path, public_key: Path) -> Iterator[Finding]:
    """What `verify --public-key` finds, what costs least first."""
    place = ModelRepository(repository)
    yield from check_signatures(place, public_key)
    yield from lint_repository(place)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}x"))


def _hide(path: Path) -> None:
    path.rename(path.with_name(f".{path.name}"))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _link_out(path: Path) -> None:
    aside = next(place for place in path.parents if place.name == "models").with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def _link_in(path: Path) -> None:
    real = path.with_name(f"{path.name}.real")
    path.rename(real)
    path.symlink_to(real.name)


def _fifo(path: Path) -> None:
    _remove(path)
    os.mkfifo(path)


def _folder(path: Path) -> None:
    _remove(path)
    path.mkdir()


def _file(path: Path) -> None:
    _remove(path)
    path.write_bytes(b"x")


def _swap(one: str, other: str) -> Callable[[Path], None]:
    def swap(repository: Path) -> None:
        (repository / one).rename(repository / "aside")
        (repository / other).rename(repository / one)
        (repository / "aside").rename(repository / other)

    return swap


def _copy(one: str, other: str) -> Callable[[Path], None]:
    def copy(repository: Path) -> None:
        if (repository / other).exists():
            _remove(repository / other)
        shutil.copytree(repository / one, repository / other)

    return copy


def _write(name: str, content: bytes = b"x") -> Callable[[Path], None]:
    def write(repository: Path) -> None:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_bytes(content)

    return write


def _forget(*versions: int) -> Callable[[Path], None]:
    """Versions removed as one would who knows the format: from the history, too."""

    def forget(repository: Path) -> None:
        path = repository / "m/history.json"
        history = json.loads(path.read_text())
        history["versions"] = [entry for entry in history["versions"] if entry["version"] not in versions]
        path.write_text(json.dumps(history))
        for version in versions:
            shutil.rmtree(repository / f"m/{version}")

    return forget


def _unlist(repository: Path) -> None:
    document = json.loads((repository / "signed.json").read_text())
    del document["models"]["n"]
    (repository / "signed.json").write_text(json.dumps(document))
    shutil.rmtree(repository / "n")


def _date_back(repository: Path) -> None:
    path = repository / "m/history.json"
    path.write_text(path.read_text().replace('"created": "2', '"created": "1'))


def _tampers() -> dict[str, Callable[[Path], object]]:
    made: dict[str, Callable[[Path], object]] = {}
    of_files = (_remove, _rename, _hide, _truncate, _empty, _alter, _append, _link_out, _link_in, _fifo, _folder)
    of_folders = (_remove, _rename, _hide, _link_out, _link_in, _file)
    for place, change in [*itertools.product(FILES, of_files), *itertools.product(FOLDERS, of_folders)]:
        made[f"{change.__name__[1:]} {place}"] = lambda repository, place=place, change=change: change(
            next(repository.glob(place))
        )
    added = ("libtriton_onnxruntime.so", "triton_python_backend_stub", "model.py", "data.bin", "notes.txt", ".hidden")
    for folder in ("m", "m/1", "m/2", "m/2/more", "m/warmup", "m/configs", "m/initial_state", "m/more", "m/3", "o"):
        for name in (*added, "model.plan", "config.pbtxt"):
            if (folder, name) != ("m", "config.pbtxt"):
                made[f"add {folder}/{name}"] = _write(f"{folder}/{name}")
    for one, other in (
        ("m/1", "m/2"),
        ("m", "n"),
        ("m/1", "n/1"),
        *((f"m/1/{name}", f"m/2/{name}") for name in VERSION),
    ):
        made[f"swap {one} {other}"] = _swap(one, other)
    for one, other in (("m/1", "m/2"), ("m/1", "m/3"), ("m/2", "m/1"), ("m", "o"), ("n/1", "m/1"), ("n", "n.1.step")):
        made[f"copy {one} {other}"] = _copy(one, other)
    made["add m/configs/cpu.pbtxt"] = _write("m/configs/cpu.pbtxt", b'backend: "onnxruntime"')
    made["add n/companion.json"] = _write("n/companion.json", b'{"model": "m"}')
    made["link to a model"] = lambda repository: (repository / "o").symlink_to("m")
    made["link outside"] = lambda repository: (repository / "o").symlink_to("/")
    made |= {"forget 1": _forget(1), "forget 2": _forget(2), "forget both": _forget(1, 2), "unlist n": _unlist}
    return made | {"date back": _date_back}


TAMPERS = _tampers()
SAID = {
    "copy m/1 m/2": "is the manifest of 'm' version 1, not of 'm' version 2",
    "swap m n": "is the manifest of 'n' version 1, not of 'm' version 1",
    "forget 2": "m/2: it was signed and is missing",
    "remove m": "m: it was signed and is missing",
    "remove signed.json": "signed.json: it is missing, so it is not known which models and versions were signed",
    "remove m/history.json": "m/history.json: it is missing, and version 1 is signed",
    "date back": "m/history.json: it differs from the signed manifest of version 1",
    "remove m/1/model.sig": "m/1: m/1 is not signed",
    "alter m/1/model.onnx": "m/1: the signature of m/1 does not hold",
    "alter m/labels.txt": "m/labels.txt: it differs from what was signed with version 2",
    "add m/libtriton_onnxruntime.so": "m/libtriton_onnxruntime.so: it differs from what was signed with version 2",
}
# They change nothing that is served: who may write to a file is no part of what it holds, and Triton reads no file
# beside the models' folders.
HARMLESS: dict[str, Callable[[Path], object]] = {
    "hard link": lambda repository: os.link(repository / "m/2/model.onnx", repository.with_name("other")),
    "for the owner alone": lambda repository: (repository / "m/2/model.onnx").chmod(0o600),
    "executable": lambda repository: (repository / "m/2/model.onnx").chmod(0o755),
    "empty folder": lambda repository: (repository / "m/more").mkdir(),
    "file beside the models": _write("model.py"),
    "spaces in the list": lambda repository: _append_spaces(repository / "signed.json"),
}
WARNED: dict[str, Callable[[Path], object]] = {
    "file for all to write": lambda repository: (repository / "m/2/model.onnx").chmod(0o666),
    "folder for all to write": lambda repository: (repository / "m/2").chmod(0o777),
    "a person's notes": _write("m/notes.md"),
    "what a build set aside": _write("m/config.pbtxt.before-2"),
}


def _append_spaces(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" \n")


def _configured(text: str) -> Callable[[Path], None]:
    def configure(repository: Path) -> None:
        path = repository / "m/config.pbtxt"
        path.write_text(path.read_text() + text)
        shutil.copy(repository / "m/2/model.onnx", repository / "m/2/other.onnx")

    return configure


def _lead_outside(repository: Path) -> None:
    path = repository / "m/2/manifest.json"
    path.write_text(path.read_text().replace('"2/model.onnx"', '"2/../../../secret"'))


# Without a key, manifests and the history alone tell; a user may have added what no server reads.
LOADED = "error: it was never published, and a server would load it"
UNSIGNED = {
    "copy m/1 m/2": "m/2/manifest.json: error: ",
    "copy m/1 m/3": "m/3/manifest.json: error: ",
    "swap m/1 m/2": "m/1/manifest.json: error: ",
    "remove m/2": "m/2: error: it was published last and is missing",
    "remove m/2/manifest.json": "m/2/manifest.json: error: it was published and is missing",
    "truncate m/history.json": "m/history.json: error: it cannot be read",
    "add m/2/libtriton_onnxruntime.so": f"m/2/libtriton_onnxruntime.so: {LOADED}",
    "add m/configs/cpu.pbtxt": "m/configs/cpu.pbtxt: warning: it was not published with version 2",
    "add m/2/more/manifest.json": "m/2/more/manifest.json: warning: it was never published",
    "add m/2/more/model.sig": "m/2/more/model.sig: warning: it was never published",
    "default file": f"m/2/other.onnx: {LOADED}",
    "file of a GPU": f"m/2/other.onnx: {LOADED}",
    "lead outside": "m/2/../../../secret: error: the manifest names a file outside the model",
}
TAMPERS |= {f"add m/2/more/{name}": _write(f"m/2/more/{name}") for name in ("manifest.json", "model.sig")}
TAMPERS["default file"] = _configured('default_model_filename: "other.onnx"')
TAMPERS["file of a GPU"] = _configured('cc_model_filenames { key: "9.0" value: "other.onnx" }')
TAMPERS["lead outside"] = _lead_outside


@pytest.mark.parametrize("tamper", TAMPERS)
def test_each_tampering_with_a_signed_repository_is_an_error(signed: Path, tmp_path: Path, tamper: str) -> None:
    repository = shutil.copytree(signed / "models", tmp_path / "models")
    TAMPERS[tamper](repository)
    errors = (f for f in found(repository, signed / "key.pub") if f.severity is Severity.ERROR)
    first = next(errors)
    told = itertools.chain([first], errors) if tamper in SAID else [first]
    assert any(SAID.get(tamper, "") in f"{finding.path}: {finding.message}" for finding in told)


@pytest.mark.parametrize("tamper", UNSIGNED)
def test_without_a_key_hashes_and_history_tell(signed: Path, tmp_path: Path, tamper: str) -> None:
    repository = shutil.copytree(signed / "models", tmp_path / "models")
    TAMPERS[tamper](repository)
    said = [f"{f.path}: {f.severity}: {f.message}" for f in lint_repository(ModelRepository(repository))]
    assert any(line.startswith(UNSIGNED[tamper]) for line in said), said


@pytest.mark.parametrize("change", [*HARMLESS, *WARNED])
def test_what_changes_nothing_that_is_served_is_no_error(signed: Path, tmp_path: Path, change: str) -> None:
    repository = shutil.copytree(signed / "models", tmp_path / "models")
    (HARMLESS | WARNED)[change](repository)
    assert {f.severity for f in found(repository, signed / "key.pub")} == (
        {Severity.WARNING} if change in WARNED else set()
    )


def test_every_file_of_a_signed_repository_is_tried(signed: Path) -> None:
    models = signed / "models"
    there = {path for path in models.rglob("*") if "n" not in path.relative_to(models).parts}
    assert there == {next(models.glob(place)) for place in (*FILES, *FOLDERS)}
    assert not list(found(models, signed / "key.pub"))
    assert len(TAMPERS) >= 200
