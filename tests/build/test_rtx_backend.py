"""The backend `tensorrt_rtx`, on a stand-in for the GPU: no machine that tests plansmith has one.

What is tested is what the backend calls, in which order and with which memory, and what it says where something does
not fit. That the calls exist with these parameters in NVIDIA's own bindings, tests/test_rtx_contract.py says.
"""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from build_models import HEADER
from onnx import numpy_helper
from rtx_stand_in import FakeCuda, FakeRtx

from plansmith_server.backends.config import ModelConfig
from plansmith_server.backends.engine import Instance
from plansmith_server.backends.tensorrt_rtx.engine import RtxEngine
from plansmith_server.backends.tensorrt_rtx.runtime import load as load_here
from plansmith_server.backends.validation import check
from plansmith_server.errors import ModelError, RequestError

HEAD = b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + bytes(36)
PROFILE = {"x": [(1, 8), (8, 8), (32, 8)]}


def linear() -> bytes:
    model = onnx.parser.parse_model(
        f"{HEADER} m (float[N, 8] x) => (float[N, 4] y, float[N] s) "
        "{ y = MatMul (x, w) s = ReduceSum <keepdims = 0> (y, axes) }"
    )
    rng = np.random.default_rng(0)
    for name, value in {"w": rng.standard_normal((8, 4)).astype(np.float32), "axes": np.array([1])}.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model.SerializeToString()


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads an engine of the linear model; tells the two stand-ins."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.engine").write_bytes(HEAD + b"engine")

    def load(*, fits=(), memory=2**30, kind="GPU", profile=PROFILE, **parameters):
        cuda = FakeCuda(memory=memory)
        rtx = FakeRtx(linear(), profile, cuda, fits=fits)
        config = ModelConfig.from_dict(
            {
                "name": "m",
                "max_batch_size": 32,
                "default_model_filename": "model.engine",
                "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [8]}],
                "output": [
                    {"name": "y", "data_type": "TYPE_FP32", "dims": [4]},
                    {"name": "s", "data_type": "TYPE_FP32", "dims": [1], "reshape": {"shape": []}},
                ],
                "parameters": {key: {"string_value": value} for key, value in parameters.items()},
            }
        )
        instance = Instance(config=config, folder=tmp_path / "1", kind=kind, device=0)
        engine = RtxEngine(instance, rtx, cuda)
        check(config, engine.signature)
        return engine, rtx, cuda

    return load


def rows(count, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)}


def test_requests_of_every_size_are_answered_as_the_model_computes(load):
    engine, _, _ = load()
    session = onnxruntime.InferenceSession(linear(), providers=["CPUExecutionProvider"])
    for count in (1, 32, 7, 7, 32, 1):
        given = rows(count, seed=count)
        for names in (("y", "s"), ("s",)):
            for array, expected in zip(engine.run(names, given), session.run(names, given), strict=True):
                np.testing.assert_array_equal(array, expected)


def test_an_answer_stays_what_it_is_when_the_next_request_is_run(load):
    engine, _, _ = load()
    first = engine.run(("y",), rows(4))[0]
    before = first.copy()
    engine.run(("y",), rows(4, seed=1))
    np.testing.assert_array_equal(first, before)


def test_memory_is_allocated_once_and_given_back(load):
    engine, rtx, cuda = load()
    allocations = cuda.calls.count("cudaMalloc")
    assert allocations == 3
    cuda.calls.clear()
    rtx.calls.clear()
    for _ in range(3):
        engine.run(("y", "s"), rows(5))
    each = ["cudaMemcpyAsync HostToDevice", *["cudaMemcpyAsync DeviceToHost"] * 2, "cudaStreamSynchronize"]
    assert cuda.calls == each * 3
    # A shape is set where it changes, and nothing but the run is asked for each request.
    assert rtx.calls == ["set_input_shape", *["execute_async_v3"] * 3]
    engine.close()
    assert not cuda.allocated
    assert not cuda.streams


def test_a_view_of_other_memory_is_copied_as_what_it_shows(load):
    engine, _, _ = load()
    wide = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    view = wide[:4, ::2]
    np.testing.assert_array_equal(engine.run(("y",), {"x": view})[0], engine.run(("y",), {"x": view.copy()})[0])


@pytest.mark.parametrize("shape", [(33, 8), (0, 8), (4, 7), (4, 8, 1)])
def test_a_shape_outside_the_profile_is_refused_with_its_bounds_and_the_next_request_is_answered(load, shape):
    engine, _, _ = load()
    with pytest.raises(RequestError, match=r"the engine takes \[1, 8\] to \[32, 8\]"):
        engine.run(("y",), {"x": np.zeros(shape, np.float32)})
    assert engine.run(("y",), rows(3))[0].shape == (3, 4)


def test_each_request_runs_under_the_first_profile_that_takes_it(load):
    engine, rtx, cuda = load(profile=[{"x": [(1, 8), (1, 8), (4, 8)]}, {"x": [(2, 8), (32, 8), (32, 8)]}])
    assert cuda.calls.count("cudaMalloc") == 3
    session = onnxruntime.InferenceSession(linear(), providers=["CPUExecutionProvider"])
    rtx.calls.clear()
    for count in (1, 4, 5, 32, 32, 2):
        given = rows(count, seed=count)
        np.testing.assert_array_equal(engine.run(("y",), given)[0], session.run(["y"], given)[0])
    chosen = [call for call in rtx.calls if call.startswith("set_optimization_profile_async")]
    # Loading has run once under each, the second one last.
    assert chosen == [f"set_optimization_profile_async {number}" for number in (0, 1, 0)]
    with pytest.raises(RequestError, match=r"the engine takes \[1, 8\] to \[4, 8\] or \[2, 8\] to \[32, 8\]"):
        engine.run(("y",), rows(33))


def test_kernels_are_finished_before_the_first_request_and_kept_for_the_next_start(load, tmp_path):
    engine, rtx, _ = load()
    assert "execute_async_v3" in rtx.calls
    assert "kernels reused" not in rtx.calls
    (kept,) = (tmp_path / "cache" / "plansmith" / "tensorrt-rtx").iterdir()
    assert kept.name.endswith(".nvidia-rtx-4000-sff-ada-generation.cache")
    assert kept.stat().st_mode & 0o077 == 0
    engine.close()
    _, rtx, _ = load()
    assert "kernels reused" in rtx.calls


def test_kernels_that_others_could_have_written_are_not_run(load, tmp_path):
    load()
    folder = tmp_path / "cache" / "plansmith" / "tensorrt-rtx"
    folder.chmod(0o777)
    _, rtx, _ = load()
    assert "kernels reused" not in rtx.calls


def test_an_empty_cache_folder_keeps_nothing_and_damaged_kernels_are_finished_anew(load, tmp_path):
    load(runtime_cache_folder="")
    assert not (tmp_path / "cache").exists()
    load()
    (kept,) = (tmp_path / "cache" / "plansmith" / "tensorrt-rtx").iterdir()
    kept.write_bytes(b"damaged")
    engine, rtx, _ = load()
    assert "kernels reused" not in rtx.calls
    assert engine.run(("y",), rows(2))[0].shape == (2, 4)


def test_cuda_graphs_are_captured_where_that_is_asked_for(load):
    _, rtx, _ = load()
    assert rtx.graph_strategy == rtx.CudaGraphStrategy.DISABLED
    _, rtx, _ = load(cuda_graph="1")
    assert rtx.graph_strategy == rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    with pytest.raises(ModelError, match="'cuda_graph' must be 1 or 0"):
        load(cuda_graph="yes")


@pytest.mark.parametrize(
    ("diagnostics", "said"),
    [
        (("VERSION_MISMATCH",), "compiled by another version of TensorRT for RTX: build the model again"),
        (("UNSUPPORTED_CC",), "not compiled for this GPU's architecture"),
        (("OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME"), "update the driver; the CUDA runtime is too old"),
        (("INSUFFICIENT_GPU_MEMORY",), "too little memory"),
        (("MALFORMED_ENGINE",), "damaged"),
        (("CUDA_ERROR",), "nvidia-smi"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_before_it_is_loaded(load, diagnostics, said, monkeypatch):
    with pytest.raises(ModelError, match=said) as refused:
        load(fits=diagnostics)
    assert "compiled by TensorRT for RTX 1.7.1.116" in str(refused.value)


@pytest.mark.parametrize(
    ("head", "said"), [(b"ftrt", "a plan of TensorRT, which the backend tensorrt"), (b"ONNX", "no engine")]
)
def test_a_file_that_is_no_engine_is_called_what_it_is(load, tmp_path, head, said):
    (tmp_path / "1" / "model.engine").write_bytes(head + bytes(100))
    with pytest.raises(ModelError, match=said):
        load()


def test_a_gpu_with_too_little_memory_is_named_and_nothing_stays_allocated(load):
    with pytest.raises(ModelError, match="cudaErrorMemoryAllocation"):
        load(memory=600)


def test_an_instance_on_the_cpu_says_which_configuration_to_take_instead(tmp_path):
    config = ModelConfig.from_dict({"name": "m", "input": [], "output": []})
    with pytest.raises(ModelError, match="serve the model with another configuration, such as --config-name cpu"):
        load_here(Instance(config=config, folder=tmp_path, kind="CPU", device=0))
