"""What is compared: one published version, the requests that every peer gets, and the answers that are right."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from plansmith_build.repository.linting.context import backend_of, model_files
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.repository.model_repository import CONFIG, MANIFEST, ModelRepository
from plansmith_build.repository.staging import temporary_folder
from plansmith_client import Client
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.requests import CheckedRequest
from plansmith_perf.load.samples import check_loadable, make_requests
from plansmith_perf.tuning.variants import read_configs, variants_of
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_build.repository.model_repository import RepositoryModel
    from plansmith_client import ModelMetadata
    from plansmith_perf.load.samples import RequestOptions

__all__ = ["Subject", "open_subject"]

_DATATYPES = frozenset(
    ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64")
)


@dataclass(frozen=True)
class Subject:
    """A model on plansmith's own server, which runs throughout.

    Attributes:
        model: in the user's repository.
        version: the newest, which is compared.
        metadata: as the server tells it.
        file: the version's portable ONNX file.
        configs: the model's configurations, each an `inference.ModelConfig`, by path in its folder.
        served_path: of the one that the server has picked.
        server: plansmith's own.
        requests: the inputs, and ONNX Runtime's answers in FP32 with the portable file.
        batch_size: rows a request.
        folder: temporary, for whatever peers need; goes at the end.
    """

    model: RepositoryModel
    version: int
    metadata: ModelMetadata
    file: Path
    configs: Mapping[str, Any]
    served_path: str
    server: TritonServer
    requests: tuple[CheckedRequest, ...]
    batch_size: int
    folder: Path

    @property
    def served(self) -> Any:
        """The configuration that the server has picked, an `inference.ModelConfig`."""
        return self.configs[self.served_path]

    def described(self, path: str) -> str:
        """A configuration in a few words."""
        files = model_files(self.configs[path], self.file.parent)
        return f"{path}: {backend_of(self.configs[path])}, {files[0][1].name if files else 'no file'}"

    def is_reduced(self, path: str) -> bool:
        """Whether the build found that a configuration computes less exactly than FP32, and allowed it."""
        manifest = self.file.with_name(MANIFEST)
        variants = variants_of(
            {path: self.configs[path]},
            read_manifest(manifest) if manifest.is_file() else None,
            folder=self.file.parent,
        )
        return any(variant.reduced_precision for variant in variants)

    @property
    def batches(self) -> bool:
        """Whether requests can be put together."""
        return bool(self.metadata.max_batch_size)

    @property
    def outputs(self) -> list[str]:
        """Names, in the model's order."""
        return [spec.name for spec in self.metadata.outputs]

    def new_folder(self, name: str) -> Path:
        """An empty folder below `folder`."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


@contextmanager
def open_subject(
    repository: Path,
    name: str,
    options: RequestOptions,
) -> Iterator[Subject]:
    """Serve the model as `plansmith serve` does, and make the requests, for as long as the block lasts.

    Raises:
        LoadTestMisconfigured: the model cannot be compared, or the options do not fit it.
        plansmith_build.BuildError: the repository has no such model.
        plansmith_server.ServerError: the server does not start.
        plansmith_client.ClientError: the server does not answer.
    """
    model = ModelRepository.at(repository).existing_model(name)
    configs = read_configs(model)
    if not model.versions:
        raise LoadTestMisconfigured(f"model {name!r} has no version: build it with `plansmith build`")
    version = model.versions[-1]
    file = _portable_file(model, version, configs[CONFIG])
    served_as = ServerOptions(
        repository=repository, http_port=0, grpc_port=0, metrics_port=0, control="explicit", models=(name,)
    )
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        server = stack.enter_context(TritonServer(served_as))
        client = stack.enter_context(Client(server.grpc_url))
        served_path = next(state.config for state in server.models() if state.name == name)
        metadata = client.model(name).metadata
        _check_tensors(metadata)
        check_loadable(client.model(name))
        requests = make_requests(client.model(name), options)
        yield Subject(
            model=model,
            version=version,
            metadata=metadata,
            file=file,
            configs=configs,
            served_path=served_path,
            server=server,
            requests=_with_reference(requests, file, metadata),
            batch_size=options.batch_size,
            folder=folder,
        )


def _portable_file(model: RepositoryModel, version: int, portable: Any) -> Path:
    folder = model.version_path(version)
    files = model_files(portable, folder)
    there = bool(files) and files[0][1].is_file() and files[0][1].resolve().is_relative_to(folder.resolve())
    if backend_of(portable) != "onnxruntime" or not there:
        raise LoadTestMisconfigured(
            f"{model.name}/{CONFIG} is for no ONNX file of version {version}, which is what the peers are given: "
            "build it with `plansmith build`"
        )
    return files[0][1]


def _check_tensors(metadata: ModelMetadata) -> None:
    for spec in (*metadata.inputs, *metadata.outputs):
        if spec.datatype not in _DATATYPES:
            raise LoadTestMisconfigured(
                f"{spec.name!r} of model {metadata.name!r} is {spec.datatype}, which not every peer has: only models "
                "with numbers alone are compared"
            )


def _with_reference(
    requests: tuple[CheckedRequest, ...], file: Path, metadata: ModelMetadata
) -> tuple[CheckedRequest, ...]:
    """The same inputs with the answers of ONNX Runtime in this process."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in metadata.outputs]
    answers = (session.run(names, dict(request.inputs)) for request in requests)
    return tuple(
        CheckedRequest(request.inputs, dict(zip(names, map(np.asarray, answer), strict=True)))
        for request, answer in zip(requests, answers, strict=True)
    )
