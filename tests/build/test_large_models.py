"""A model that is larger than a protobuf message may be goes through in every step without being held in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from plansmith_build import BuildOptions, build
from plansmith_build.errors import UnsafeExternalData
from plansmith_build.reading import loading, networks
from plansmith_build.search import graph_variants
from plansmith_build.search.search import SearchOptions
from plansmith_build.search.targets import Precision, Target

if TYPE_CHECKING:
    from pathlib import Path

# Builds with limits of a thousandth, and says how much memory that took.
PROGRAM = """
import json, resource, sys
from pathlib import Path
from plansmith_build import BuildOptions, build
from plansmith_build.engines import onnxruntime
from plansmith_build.portable import noise, optimization
from plansmith_build.reading import loading, networks
from plansmith_build.search import graph_variants
from plansmith_build.search.search import SearchOptions
from plansmith_build.search.targets import Precision, Target

for module in (loading, networks):
    module.INLINE_BYTES = 2**20
graph_variants.LARGEST_BYTES = onnxruntime.LARGE_DATA_BYTES = noise.LARGE_BYTES = optimization.GIVEN_BYTES = 2**20
search = SearchOptions("random:2", targets=(Target.TENSORRT,), precisions=(Precision.FP16,))
result = build(Path(sys.argv[1]), BuildOptions(repository=Path(sys.argv[2]), serve=False, search=search))
print(json.dumps([str(result.path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def write_stack(path: Path, *, layers: int, width: int, opset: int = 17, inline: bool = False) -> int:
    """Write a stack of matrices with external weights, or with all in one file; returns bytes."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((width, width), dtype=np.float32) * np.float32(np.sqrt(2 / width))
    tensors, nodes, weights = [], [], path.with_suffix(".weights")
    with weights.open("wb") as file:
        for layer in range(layers):
            tensor = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=matrix.shape)
            content = np.roll(matrix, layer, axis=0).tobytes()
            if inline:
                tensor.raw_data = content
            else:
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in {"location": weights.name, "offset": file.tell(), "length": len(content)}.items():
                    tensor.external_data.add(key=key, value=str(value))
                file.write(content)
            tensors.append(tensor)
            source, target = f"r{layer}" if layer else "x", f"r{layer + 1}" if layer < layers - 1 else "y"
            nodes.append(helper.make_node("MatMul", [source, tensor.name], [f"m{layer}"], name=f"matmul_{layer}"))
            nodes.append(helper.make_node("Relu", [f"m{layer}"], [target], name=f"relu_{layer}"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "stack", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path.stat().st_size + weights.stat().st_size


@pytest.mark.parametrize("inline", [False, True], ids=["external weights", "one file"])
def test_weights_that_change_after_they_were_checked_are_not_read(tmp_path, monkeypatch, inline):
    for module in (loading, networks):
        monkeypatch.setattr(module, "INLINE_BYTES", 2**20)
    source = tmp_path / "stack.onnx"
    write_stack(source, layers=3, width=512, inline=inline)
    network = loading.load_onnx(source).network
    networks.write_network(network, tmp_path / "copy.onnx")
    (path,) = {weight.path for weight in network.weights.values()}
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"else")
    with pytest.raises(UnsafeExternalData, match="changed while it was built: build again"):
        networks.write_network(network, tmp_path / "other.onnx")


@pytest.mark.parametrize("inline", [False, True], ids=["external weights", "one file"])
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_large_weights_are_rounded_as_they_are_written(tmp_path, monkeypatch, precision, inline):
    for module in (loading, networks):
        monkeypatch.setattr(module, "INLINE_BYTES", 2**20)
    monkeypatch.setattr(graph_variants, "LARGEST_BYTES", 2**20)
    source = tmp_path / "stack.onnx"
    write_stack(source, layers=3, width=512, inline=inline)
    search = SearchOptions("random:8", targets=(Target.TENSORRT,), precisions=(precision,), max_error=0.2)
    result = build(source, BuildOptions(repository=tmp_path / "repository", serve=False, search=search))
    (path,) = result.path.glob(f"*.{precision}.onnx")
    onnx.checker.check_model(path, full_check=True)
    assert path.stat().st_size < 10_000
    kept = onnx.load(source)
    model = onnx.load(path)
    wanted = {tensor.name: numpy_helper.to_array(tensor) for tensor in kept.graph.initializer}
    assert {tensor.name for tensor in model.graph.initializer} == set(wanted)
    for tensor in model.graph.initializer:
        narrow = numpy_helper.to_array(tensor)
        assert narrow.dtype.itemsize == 2
        np.testing.assert_array_equal(narrow, wanted[tensor.name].astype(narrow.dtype))
    (candidate,) = (entry for entry in result.manifest.search.candidates if entry.precision == precision)
    assert 0 < candidate.drop < 0.2
    if precision is Precision.FP16:
        x = np.random.default_rng(1).standard_normal((2, 512)).astype(np.float32)
        exact, given = (onnxruntime.InferenceSession(file).run(None, {"x": x})[0] for file in (source, path))
        np.testing.assert_allclose(given, exact, atol=5e-3 * np.abs(exact).max())


def test_the_memory_of_a_build_is_at_most_two_and_a_half_times_the_file(tmp_path):
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    write_stack(small, layers=3, width=512)
    size = write_stack(large, layers=7, width=2048)

    def peak_of(path: Path) -> int:
        command = [sys.executable, "-c", PROGRAM, path, tmp_path / f"of_{path.stem}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        published, peak = json.loads(done.stdout)
        assert any(name.endswith(".fp16.onnx.data") for name in map(str, (tmp_path / published).iterdir()))
        return int(peak)

    assert peak_of(large) - peak_of(small) <= 2.5 * size
