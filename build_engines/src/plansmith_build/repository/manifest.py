"""manifest.json: where a version came from, how it was made, how exact it is, and the hash of each of its files.

It stands in the version's folder. A field is never removed or given another meaning without a new `schema_version`;
readers ignore fields that they do not know.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.regular_files import read_regular

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_client.tensors import TensorSpec

__all__ = [
    "AccuracyRecord",
    "AgreementRecord",
    "Batching",
    "CandidateRecord",
    "CompiledRecord",
    "DataRecord",
    "Environment",
    "Graph",
    "Manifest",
    "OutputError",
    "PublishedFile",
    "SearchRecord",
    "ServerTrial",
    "Source",
    "Tensor",
    "Verification",
    "read_manifest",
]

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Source(_Record):
    """The file that the version was built from."""

    file: str = Field(description="name of the file, without its folder")
    sha256: str = Field(
        description="of the file; where it has external weights, of what `sha256sum FILE WEIGHTS...` prints, the "
        "weights by name"
    )
    size: int = Field(description="bytes, external weights included")
    producer: str = Field(description="the tool that wrote it, and its version")
    ir_version: int
    opsets: dict[str, int] = Field(description="operator set version by domain; the standard domain is ai.onnx")


class Tensor(_Record):
    """One input or output, as the protocol names types; -1 is a dimension that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    @classmethod
    def from_spec(cls, spec: TensorSpec) -> Tensor:
        """The record of a tensor specification."""
        return cls(name=spec.name, datatype=spec.datatype, shape=spec.shape, optional=spec.optional)

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}{' optional' if self.optional else ''}"


class Batching(_Record):
    """Whether the version takes batches."""

    max_batch_size: int = Field(description="0: no batches")
    made_dynamic: bool = Field(description="the source had a fixed number of rows, and the version has not")
    reshapes_rewritten: int = 0
    reason: str = Field(default="", description="why the version takes no batches, empty where it does")


class Graph(_Record):
    """What was done to the graph."""

    nodes_before: int
    nodes_after: int
    repairs: tuple[str, ...] = ()
    optimized: bool
    optimization: str = Field(description="the optimiser and its version, or why it was not used")
    format: str = Field(
        default="FP32",
        description="of the weights: FP32, FP16, BF16, FP64, 'INT8 QDQ', 'FP8 QDQ', 'INT8 operators', 'dynamic INT8', "
        "weight-only; 'pipeline' where there is no graph but steps, which `optimization` then lists",
    )
    ir_version: int
    opsets: dict[str, int]

    def in_words(self) -> str:
        """One line for a person."""
        if self.format == "pipeline":
            return f"a pipeline, {self.optimization}"
        return f"{self.nodes_before} -> {self.nodes_after} nodes, {self.format}, {self.optimization}"


class OutputError(_Record):
    """How far one output is from the reference."""

    name: str
    datatype: str
    max_absolute_error: float
    max_relative_error: float = Field(
        description="relative to the greatest magnitude of the reference; of whole numbers and strings, the fraction "
        "of the elements that differ"
    )
    tolerance: float = Field(description="greatest relative error allowed")
    values_compared: bool = Field(description="false: the source gives random values, only shapes were compared")
    finite: bool = Field(
        default=True,
        description="false: empty, or NaN or infinite everywhere, on every input that was tried; verifies nothing",
    )


class Verification(_Record):
    """The published file compared with the source, on the same inputs."""

    reference: str = Field(description="what ran the source")
    candidate: str = Field(description="what ran the published file")
    inputs: Literal["random", "given"] = Field(default="random", description="given: the user's own, or rows of data")
    seed: int
    samples: int = Field(description="different inputs, each run")
    rows_together: int = Field(description="rows that were also run as one batch and compared one by one, or 0")
    outputs: tuple[OutputError, ...]


class AgreementRecord(_Record):
    """One output compared with the FP32 model's, on the validation rows."""

    name: str
    top1_agreement: float | None = Field(description="fraction of rows with the same greatest element")
    cosine: float | None = Field(description="mean cosine similarity of the rows")
    signal_to_noise_db: float | None = Field(description="null: equal, or no floating point")
    max_absolute_error: float | None = Field(description="greatest difference of two elements")
    differing: float | None = Field(description="of whole numbers and text: fraction of elements that differ")
    measure: str = Field(
        default="",
        description="what judges it: top1, top5, decision or equal (shares, 'by labels' or against FP32), "
        "relative-error, cosine, or module:function",
    )
    loss: float | None = Field(default=None, description="by that measure, 0: nothing; null: without limit")
    bound: float | None = Field(default=None, description="what is lost at most, with 95 % confidence, with these rows")
    allowed: float | None = Field(default=None, description="the most that may be lost by that measure")


class AccuracyRecord(_Record):
    """How good answers are."""

    rows: int
    top1: float | None = Field(description="fraction of rows whose label scores highest; null without labels")
    top5: float | None
    outputs: tuple[AgreementRecord, ...]


class DataRecord(_Record):
    """Data that candidates were calibrated with and judged by."""

    kind: Literal["npz", "npy", "npy folder", "images", "callable", "random"]
    source: str
    sha256: str
    rows: int
    labelled: bool


_Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


class CompiledRecord(_Record):
    """An engine that TensorRT for RTX compiled without a GPU; one runs on the version that compiled it only."""

    compiler: str = Field(description="TensorRT for RTX and its version, all four numbers")
    compute_capabilities: tuple[str, ...] = Field(description="empty: Ampere and later")
    profile: _Profile = Field(description="smallest, best and largest shape by input")
    further_profiles: tuple[_Profile, ...] = Field(default=(), description="where it was built with several")
    tf32: bool = Field(default=False, description="whether FP32 may be rounded to TF32")
    seconds: float
    size: int = Field(description="of the engine, in bytes, whether or not it is published")


class CandidateRecord(_Record):
    """One way to serve the model: an engine, a device and a precision."""

    target: str
    device: str
    precision: str
    status: str = Field(
        description="chosen, kept, slower, 'verified, not measured', 'compiled, not measured', 'outside the budget', "
        "failed, 'not possible here'; chosen and kept are said of what was measured only"
    )
    reason: str = Field(description="why it cannot be used, or what became of other methods for the same precision")
    config: str | None = Field(description="the configuration that serves it, where there is one")
    file: str | None = Field(description="the model file, where a configuration uses it")
    engine: str = Field(description="what ran it")
    layout: str = Field(description="how INT8 is laid out and was calibrated, or weights were pruned")
    kept_in_fp32: tuple[str, ...] = Field(description="names of nodes that were left as they were")
    accuracy: AccuracyRecord | None
    judged_by: str | None = Field(default=None, description="the output that uses most of what it may lose")
    drop: float | None = Field(description="what that output loses by its measure; 0 for nothing")
    rows_per_second: float | None = Field(description="in one process")
    fp32_rows_per_second: float | None = Field(
        description="of the FP32 model on ONNX Runtime, measured in turn with it"
    )
    ratio_to_fp32: float | None = Field(description="median of the ratios of the rounds")
    served_rows_per_second: float | None = Field(description="on a Triton of this machine")
    served_ratio: float | None = Field(
        default=None,
        description="median of the ratios of interleaved rounds to FP32 on ONNX Runtime, both served; where that was "
        "no candidate, to the fastest in one process",
    )
    instances: int
    threads: int = Field(description="of each instance; 0: as many as there are cores")
    is_batched: bool = Field(
        default=True, description="false where batches that change in size were measured slower than row after row"
    )
    compiled: CompiledRecord | None = Field(default=None, description="null where TensorRT for RTX did not compile it")


class SearchRecord(_Record):
    """How the fastest version inside the accuracy budget was found."""

    max_drop: float = Field(description="what may be lost of shares and scores, 0 to 1")
    max_error: float | None = Field(
        default=None,
        description="the greatest error allowed for measures that are not shares; null: each measure's default",
    )
    prove: bool = Field(default=False, description="whether the 95 % bound had to be inside, not only the loss")
    warnings: tuple[str, ...] = Field(default=(), description="why verdicts may say less than they seem to")
    calibration: DataRecord
    validation: DataRecord
    preprocessing: dict[str, Any] | None = Field(
        default=None, description="how images became rows, as --preprocess takes it; null for data without images"
    )
    fp32: AccuracyRecord = Field(description="the FP32 model on the validation rows; its labels' accuracy is the base")
    measured: str = Field(description="how speeds were taken, and of rows that differ in shape at which sizes")
    cores: int
    candidates: tuple[CandidateRecord, ...]


class ServerTrial(_Record):
    """Whether a Triton of the building machine served the version before it was published."""

    triton: str = Field(default="", description="version of the server; empty where none was started")
    served: tuple[str, ...] = Field(
        default=(), description="the configurations that it loaded and that answered as they were judged"
    )
    skipped: dict[str, str] = Field(default={}, description="the other configurations, and why they were not tried")

    def in_words(self) -> str:
        """One line for a person."""
        reasons: dict[str, list[str]] = {}
        for path, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(path)
        served = [f"Triton {self.triton} serves {', '.join(self.served)}"] if self.served else []
        return "; ".join([*served, *(f"{', '.join(paths)} not tried: {reason}" for reason, paths in reasons.items())])


class Environment(_Record):
    """Where the version was built and verified."""

    plansmith: str
    python: str
    tools: dict[str, str] = Field(description="version by name of the package, engines included")
    system: str
    cpu: str
    cpu_flags: tuple[str, ...] = Field(
        default=(), description="what the CPU has of the instructions that decide which engine and precision is fastest"
    )
    gpus: tuple[str, ...] = Field(default=(), description="names of the NVIDIA GPUs")
    driver: str = Field(default="", description="version of NVIDIA's driver; empty where there is none")


class PublishedFile(_Record):
    """A file as it was published, by its path in the model's folder."""

    path: str
    size: int
    sha256: str


class Manifest(_Record):
    """Everything there is to know about a version."""

    # What others add, such as the evidence of a tuning run, stays when a version is published again.
    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = SCHEMA_VERSION
    model: str
    version: int
    created: datetime = Field(description="in UTC")
    source: Source
    recipe: tuple[str, ...] = Field(
        default=(),
        description="the words of `plansmith build`, without the repository and keys; paths are relative to the folder "
        "that it ran in, and those outside of it stand as they were given, absolute ones with the folders of that "
        "machine; empty where a program built it",
    )
    graph: Graph
    batching: Batching
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    verification: Verification
    server_trial: ServerTrial | None = Field(default=None, description="null in versions built before there was one")
    environment: Environment
    search: SearchRecord | None = Field(default=None, description="null where only the portable model was built")
    files: tuple[PublishedFile, ...]
    configs: dict[str, str] = Field(
        default={}, description="text of each configuration as published, by path in the model's folder"
    )
    labels: str | None = Field(default=None, description="content of labels.txt as published")
    rolled_back_from: int | None = Field(
        default=None, description="the version that this one publishes again, None where it was built"
    )


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        InvalidModel: it cannot be read, or is not a manifest.
    """
    try:
        return Manifest.model_validate_json(read_regular(path))
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise InvalidModel(f"{path} is not a manifest: {where}: {first['msg']}") from error
