"""Small ONNX models for the tests of `plansmith build`, each written as text or with onnx's helpers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import helper, numpy_helper

from plansmith_build import BuildOptions, build
from plansmith_build.progress import silent
from plansmith_build.repository.filesystem import ExchangeUnsupported

if TYPE_CHECKING:
    from plansmith_build import BuildResult

__all__ = [
    "ADD",
    "HEADER",
    "LINEAR",
    "answers",
    "built_model",
    "litter",
    "model_of",
    "no_exchange",
    "put",
    "snapshot",
    "write",
    "write_external",
]

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
ADD = "add (float[N, 4] a, float[N, 4] b) => (float[N, 4] sum) { sum = Add (a, b) }"
LINEAR = "linear (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }"


def write(path: Path, text: str, *, header: str = HEADER) -> Path:
    """Write the model that `text` describes in ONNX's textual syntax."""
    onnx.save(onnx.parser.parse_model(header + text), path)
    return path


def write_external(path: Path, location: str = "weights.bin", *, rows: int = 64) -> Path:
    """Write a model whose only weight is stored in `location`; the weight file is written beside it."""
    weight = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)
    model = onnx.parser.parse_model(f"{HEADER} linear (float[N, {rows}] x) => (float[N, 3] y) {{ y = MatMul (x, w) }}")
    (path.parent / "weights.bin").write_bytes(weight.tobytes())
    tensor = model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=weight.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(weight.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def model_of(nodes, inputs, outputs, weights=(), *, opset=17, ir=8) -> onnx.ModelProto:
    """A model of onnx's own nodes and value infos, with arrays by name as its weights."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def built_model(
    folder: Path, repository: Path, model: str | Path | onnx.ModelProto, progress: Any = silent, **options: Any
) -> BuildResult:
    """Build a model that is given as text, message or path; no server tries it where a test does not say so."""
    if isinstance(model, str):
        model = onnx.parser.parse_model(model if model.startswith("<") else HEADER + model)
    path = model if isinstance(model, Path) else folder / "model.onnx"
    if not isinstance(model, Path):
        path.write_bytes(model.SerializeToString())
    return build(path, BuildOptions(repository=repository, **{"name": "model", "serve": False, **options}), progress)


def answers(model: Path | onnx.ModelProto, *, optimized: bool = True, **inputs: Any) -> dict[str, Any]:
    """What ONNX Runtime computes from these inputs, by output."""
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def put(repository: Path, name: str, config: str, *, graph: str = LINEAR) -> Path:
    """A model of one version in a repository, with this config.pbtxt."""
    (repository / name / "1").mkdir(parents=True)
    write(repository / name / "1" / "model.onnx", graph)
    (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def no_exchange(*_: Path) -> None:
    """In the place of `rename_exchange`: what NFS and some overlay file systems answer, and not this machine's."""
    raise ExchangeUnsupported


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def litter(repository: Path) -> list[Path]:
    """What builders left beside a repository, but for the model folder that the last version replaced."""
    builders = sorted(repository.parent.glob(".*.plansmith/build-*"))
    kept = {".plansmith-build", "replaced"}
    replaced = [path for path in builders if {entry.name for entry in path.iterdir()} == kept]
    return [path for path in builders if path not in replaced[:1]]
