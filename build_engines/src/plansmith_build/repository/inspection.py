"""What a model repository holds, whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from plansmith_build.errors import BuildError, InvalidModel
from plansmith_build.reading.regular_files import read_regular, sha256_of
from plansmith_build.repository.config import config_from_text, specs_from_config
from plansmith_build.repository.manifest import Manifest, Tensor, read_manifest
from plansmith_build.repository.model_repository import CONFIG, LABELS, MANIFEST
from plansmith_build.repository.warmup import WARMUP

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.manifest import PublishedFile
    from plansmith_build.repository.model_repository import ModelRepository, RepositoryModel

__all__ = ["FileReport", "ModelReport", "ModelSummary", "OnnxReport", "inspect_file", "inspect_model", "summaries"]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelSummary(_Report):
    """One line about a model.

    Attributes:
        problem: why the configuration could not be read, empty where it could.
    """

    name: str
    versions: tuple[int, ...]
    backend: str
    max_batch_size: int | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    size: int
    problem: str = ""


class FileReport(_Report):
    """One file of a model.

    Attributes:
        path: in the model's folder.
        unchanged: whether its SHA-256 is the one in the manifest; None where no manifest names it.
    """

    path: str
    size: int
    unchanged: bool | None


class ModelReport(_Report):
    """Everything about one version of a model.

    Attributes:
        config: the text of config.pbtxt, empty where there is none.
        configs: the names that the server's --model-config-name may pick.
        manifest: None where plansmith did not write the version.
        missing: files that the manifest names and that are not there.
    """

    summary: ModelSummary
    version: int | None
    path: str
    config: str
    configs: tuple[str, ...]
    manifest: Manifest | None
    files: tuple[FileReport, ...]
    missing: tuple[str, ...]


class OnnxReport(_Report):
    """What an ONNX file holds."""

    path: str
    sha256: str
    size: int
    producer: str
    ir_version: int
    opsets: dict[str, int]
    nodes: int
    operators: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def summaries(repository: ModelRepository) -> tuple[ModelSummary, ...]:
    """A line about each model of a repository."""
    return tuple(_summary(repository.existing_model(name)) for name in repository.names())


def inspect_model(model: RepositoryModel, version: int | None = None) -> ModelReport:
    """Everything about a version, by default the newest.

    Raises:
        ModelNotFound: there is no such version.
        InvalidModel: its manifest is damaged, or its folders are deeper than can be listed.
    """
    versions = model.versions
    chosen = version if version is not None else max(versions, default=None)
    folder = model.version_path(chosen) if chosen is not None else model.path
    manifest_path = folder / MANIFEST
    manifest = read_manifest(manifest_path) if chosen is not None and manifest_path.exists() else None
    # The model's own files belong to its newest version: older manifests hold the hashes that they had once.
    newest = chosen == max(versions, default=None)
    config = model.path / CONFIG
    alternatives = [path for path in model.configurations.values() if path != config]
    paths = [path for path in [config, model.path / LABELS] if path.is_file()] + alternatives
    paths += sorted(path for path in (model.path / WARMUP).glob("*") if path.is_file())
    if chosen is not None:
        try:
            paths += sorted(path for path in folder.rglob("*") if path.is_file())
        except RecursionError as error:
            raise InvalidModel(f"{folder} holds folders deeper than can be listed: remove them") from error
    hashes = {file.path: file for file in manifest.files} if manifest else {}
    files = tuple(_file_report(path, model.path, hashes, newest=newest) for path in paths)
    return ModelReport(
        summary=_summary(model),
        version=chosen,
        path=str(folder),
        config=_text_of(config),
        configs=tuple(path.stem for path in alternatives),
        manifest=manifest,
        files=files,
        missing=tuple(sorted(hashes.keys() - {file.path for file in files})),
    )


def inspect_file(path: Path) -> OnnxReport:
    """What an ONNX file holds.

    Raises:
        InvalidModel: it is not an ONNX file, or cannot be served.
    """
    # onnx and ONNX Runtime are loaded for files only: reading a repository needs neither.
    from plansmith_build.portable.repair import listed_weights  # noqa: PLC0415
    from plansmith_build.reading.graphs import nodes_of, operator_name  # noqa: PLC0415
    from plansmith_build.reading.loading import load_onnx  # noqa: PLC0415
    from plansmith_build.reading.signatures import signature_of  # noqa: PLC0415

    file = load_onnx(path)
    model = file.network.model
    signature = signature_of(model, weights=listed_weights(model))
    operators: dict[str, int] = {}
    for node in nodes_of(model):
        operators[operator_name(node)] = operators.get(operator_name(node), 0) + 1
    return OnnxReport(
        path=str(path),
        sha256=file.sha256,
        size=file.size,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        ir_version=model.ir_version,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        nodes=sum(operators.values()),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        inputs=tuple(map(Tensor.from_spec, signature.inputs)),
        outputs=tuple(map(Tensor.from_spec, signature.outputs)),
    )


def _summary(model: RepositoryModel) -> ModelSummary:
    versions: tuple[int, ...] = ()
    backend, problem, size = "", "", 0
    max_batch_size: int | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    config_path = model.path / CONFIG
    try:
        versions = model.versions
        size = sum(path.stat().st_size for path in model.path.rglob("*") if path.is_file())
        if config_path.is_file():
            config = config_from_text(read_regular(config_path).decode())
            backend = config.backend or config.platform
            max_batch_size = config.max_batch_size
            batched = max_batch_size > 0
            inputs = tuple(map(Tensor.from_spec, specs_from_config(config.input, batched=batched)))
            outputs = tuple(map(Tensor.from_spec, specs_from_config(config.output, batched=batched)))
        onnx_file = model.path / str(max(versions, default=0)) / "model.onnx"
        if not (inputs and outputs) and onnx_file.is_file():
            # A server completes what the configuration leaves out from the file; so do we.
            report = inspect_file(onnx_file)
            backend = backend or "onnxruntime"
            inputs, outputs = inputs or report.inputs, outputs or report.outputs
    except InvalidModel as error:
        problem = str(error)
    except UnicodeDecodeError as error:
        problem = f"{config_path} cannot be read: {error}"
    except (BuildError, OSError, RuntimeError) as error:
        problem = f"{model.path} cannot be read: {error}"
    return ModelSummary(
        name=model.name,
        versions=versions,
        backend=backend,
        max_batch_size=max_batch_size,
        inputs=inputs,
        outputs=outputs,
        size=size,
        problem=problem,
    )


def _text_of(path: Path) -> str:
    """What is shown of a configuration: nothing of where a link leads."""
    try:
        return read_regular(path, follow=False).decode(errors="replace")
    except OSError:
        return ""


def _file_report(path: Path, folder: Path, hashes: dict[str, PublishedFile], *, newest: bool) -> FileReport:
    relative = str(path.relative_to(folder))
    expected = hashes.get(relative) if newest or path.parent != folder else None
    size = path.stat().st_size
    # A file of another size need not be read to know that it is another.
    unchanged = None if expected is None else size == expected.size and sha256_of(path) == expected.sha256
    return FileReport(path=relative, size=size, unchanged=unchanged)
