"""From where a model is to a file on this disk: a folder of Hugging Face, MLflow or OCI, a registry, a URL of fsspec.

Nothing that is fetched is executed, and nothing but the ONNX file and the weights that it names is fetched; of an
artifact of OCI all that has a title. Credentials are those of the environment, as the library of each protocol reads
them: a URL with a password is refused, because it stands in the list of processes. So does a signed URL, which is
taken, and said without its signature.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from plansmith_build.errors import InvalidModel, InvalidOption
from plansmith_build.oci import pull, unpack_layout
from plansmith_build.reading.regular_files import sha256_of

__all__ = ["local_model", "without_secrets"]

_URL = re.compile(r"[a-z][a-z0-9+]*://", re.IGNORECASE)
_FRAGMENT = re.compile(r"#(.*)$")
_HASH = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)
# Where those who save a folder for a model put it: MLflow and Hugging Face.
_USUAL = ("model.onnx", "onnx/model.onnx")
_LARGEST_GRAPH = 2**31 - 1


def local_model(source: str, folder: Path) -> tuple[Path, str | None]:
    """The ONNX file that a source names, and how to call the model where the file's name does not say it.

    Args:
        source: a path of an ONNX file; a folder with one in it, as Hugging Face and MLflow have them; a folder in the
            OCI image layout; `oci://host/repository:tag` in a registry; or the URL of a file, such as
            `s3://bucket/model.onnx`, `hf://owner/name/onnx/model.onnx` or `https://...`. `#sha256=...` behind a URL is
            what the ONNX file must have; files of weights beside it are not covered.
        folder: an empty one, for what has to be fetched or unpacked.

    Raises:
        InvalidModel: there is no ONNX file there, or it is not the one that a hash says.
        InvalidOption: the URL cannot be used, or a package for its protocol is missing.
    """
    if _URL.match(source):
        url, expected = _with_hash(source)
        # A file in a bucket of Oracle's cloud, for fsspec, is called oci://bucket@namespace/model.onnx.
        if url.lower().startswith("oci://") and not ("@" in urlsplit(url).netloc and url.endswith(".onnx")):
            file, name = pull(url[len("oci://") :], folder)
            _require_hash(file, expected, without_secrets(source))
            return file, name
        file = _from_url(url, folder, expected)
        # Neither Hugging Face's folder for ONNX nor the number of a version in a repository is a name.
        folders = urlsplit(source).path.split("/")[:-1]
        above = [part for part in folders if part not in ("", "onnx") and not part.isdecimal()]
        return file, above[-1] if file.stem == "model" and above else None
    path = Path(source)
    # For what cannot be the name of a file, pathlib raises: whoever reads it says what is wrong.
    if os.path.isfile(path / "oci-layout"):  # noqa: PTH113
        return unpack_layout(path, folder), path.resolve().name
    if os.path.isdir(path):  # noqa: PTH112
        found = _in_folder(path)
        return found, path.resolve().name if found.stem == "model" else None
    return path, None


def without_secrets(source: str) -> str:
    """A URL without the user, the signature and the hash that it may hold; any other source as it is.

    Raises:
        InvalidOption: the URL is not valid.
    """
    if not _URL.match(source):
        return source
    try:
        parts = urlsplit(source)
    except ValueError:
        # What it says may hold a password.
        raise InvalidOption("MODEL is not a valid URL: write protocol://host/path") from None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _in_folder(folder: Path) -> Path:
    found = [folder / name for name in _USUAL if (folder / name).is_file()] or sorted(folder.glob("*.onnx"))
    if len(found) == 1 or (found and found[0].name == "model.onnx"):
        return found[0]
    if found:
        names = ", ".join(map(str, found))
        raise InvalidModel(f"{folder} is a folder with {len(found)} ONNX files: name one of {names}")
    if list(folder.glob("*.safetensors")):
        raise InvalidModel(
            f"{folder} holds weights and no ONNX file: plansmith export {folder} makes one of what transformers wrote"
        )
    if (folder / "MLmodel").is_file():
        raise InvalidModel(
            f"{folder} is a model of MLflow without the flavor onnx: save it with mlflow.onnx.save_model"
        )
    raise InvalidModel(f"{folder} is a folder without an ONNX file: name the .onnx file")


def _with_hash(source: str) -> tuple[str, str | None]:
    """A URL without its fragment, and the SHA-256 that the fragment says the model has."""
    shown = without_secrets(source)
    fragment = _FRAGMENT.search(source)
    url = source[: fragment.start()] if fragment else source
    if urlsplit(url).password is not None:
        raise InvalidOption(
            f"the URL of {shown} holds a password: leave it to the environment, or to a file of its own"
        )
    expected = _HASH.fullmatch(fragment[1]) if fragment else None
    if fragment and expected is None:
        raise InvalidOption(f"#{fragment[1]} behind the URL of {shown} is not #sha256= and 64 hexadecimal digits")
    return url, expected[1].lower() if expected else None


def _require_hash(file: Path, expected: str | None, shown: str) -> None:
    if expected is not None and (found := sha256_of(file)) != expected:
        raise InvalidModel(f"{shown} has the SHA-256 {found}, and {expected} is expected")


def _from_url(url: str, folder: Path, expected: str | None) -> Path:
    parts, shown = urlsplit(url), without_secrets(url)
    try:
        import fsspec  # noqa: PLC0415 - an extra, and only for URLs
    except ImportError:
        raise InvalidOption(f"{shown} needs fsspec: plansmith[remote] brings it") from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InvalidOption(f"{shown} needs another package: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise InvalidOption(f"{shown} cannot be fetched: {' '.join(str(error).split())}") from error
    name = PurePosixPath(parts.path).name
    if not name.endswith(".onnx"):
        raise InvalidOption(f"{shown} does not name an ONNX file: write the whole path of one, to .onnx")
    file = folder / name
    _get(system, path, file, shown, secret=parts.query)
    _require_hash(file, expected, shown)
    # Beside the model, as ONNX wants them; `load_onnx` checks what they hold. A signed URL is good for one file alone.
    for weights in _files_of_weights(file) if path.endswith(name) else []:
        _get(system, f"{path[: -len(name)]}{weights}", folder / weights, f"{shown[: -len(name)]}{weights}")
    return file


def _get(system: Any, path: str, target: Path, shown: str, secret: str = "") -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        system.get_file(path, str(target))
    except FileNotFoundError as error:
        raise InvalidModel(f"{shown} does not exist") from error
    except Exception as error:  # the libraries of the protocols have no common base of their errors
        said = " ".join(str(error).split()) or type(error).__name__
        said = (said.replace(secret, "...") if secret else said)[:200]
        raise InvalidModel(f"{shown} cannot be fetched: {said}") from error


def _files_of_weights(file: Path) -> list[str]:
    """The files below its folder that a graph keeps its weights in; others are refused when it is loaded."""
    import onnx  # noqa: PLC0415 - heavy, and only for URLs
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from onnx.external_data_helper import uses_external_data  # noqa: PLC0415

    from plansmith_build.reading.graphs import tensors_of  # noqa: PLC0415

    if file.stat().st_size > _LARGEST_GRAPH:
        return []
    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError:
        return []
    names = {
        entry.value
        for tensor in tensors_of(model)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    # The graph itself is there already, and checked.
    paths = {PurePosixPath(name) for name in names} - {PurePosixPath(file.name)}
    return sorted(str(path) for path in paths if not path.is_absolute() and ".." not in path.parts)
