"""How a plan is run and timed, on a stand-in for the GPU: no machine that tests plansmith has one."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from build_models import HEADER
from onnx import numpy_helper
from rtx_stand_in import FakeCuda, FakeTensorRT

from plansmith_build.engines.onnxruntime import RunFailed
from plansmith_build.engines.tensorrt import OptimizationProfile, PlanOptions
from plansmith_build.engines.tensorrt.execution import PlanSession
from plansmith_build.engines.tensorrt.plans import timing_cache_of
from plansmith_build.search.plan_candidates import plan_rate
from plansmith_build.search.workload import Workload

PROFILE = {"x": [(1, 8), (32, 8), (32, 8)]}


def linear() -> bytes:
    model = onnx.parser.parse_model(f"{HEADER} m (float[N, 8] x) => (float[N, 4] y) {{ y = MatMul (x, w) }}")
    weights = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model.SerializeToString()


@pytest.fixture
def gpu(monkeypatch):
    """Puts a stand-in for TensorRT and one for CUDA where the code imports them."""

    def install(*, profile=PROFILE, **options):
        cuda = FakeCuda()
        trt = FakeTensorRT(linear(), profile, cuda, **options)
        bindings = ModuleType("cuda.bindings")
        bindings.runtime = cuda
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        return trt, cuda

    return install


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "model.plan").write_bytes(b"ftrt" + bytes(60))
    return tmp_path / "model.plan"


def rows(count):
    return {"x": np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)}


def test_a_plan_answers_as_its_graph_and_allocates_for_the_largest_request_only(gpu, plan):
    _, cuda = gpu()
    session = PlanSession(plan, device=0)
    expected = onnxruntime.InferenceSession(linear(), providers=["CPUExecutionProvider"])
    for count in (8, 3, 8, 32, 1, 32):
        np.testing.assert_array_equal(session.run(rows(count))["y"], expected.run(None, rows(count))[0])
    # Input and output, for 8 rows and then for 32.
    assert cuda.calls.count("cudaMalloc") == 4
    assert cuda.calls.count("cudaStreamCreate") == 1
    session.close()
    assert not cuda.allocated
    assert not cuda.on_host
    assert not cuda.streams


def test_a_plan_with_several_profiles_runs_each_request_under_the_first_that_takes_it(gpu, plan):
    trt, _ = gpu(profile=[{"x": [(1, 8), (1, 8), (4, 8)]}, {"x": [(2, 8), (32, 8), (32, 8)]}])
    session = PlanSession(plan, device=0)
    expected = onnxruntime.InferenceSession(linear(), providers=["CPUExecutionProvider"])
    for count in (1, 4, 5, 32, 2):
        np.testing.assert_array_equal(session.run(rows(count))["y"], expected.run(None, rows(count))[0])
    chosen = [call for call in trt.calls if call.startswith("set_optimization_profile_async")]
    assert chosen == [f"set_optimization_profile_async {number}" for number in (1, 0)]


def test_an_answer_is_not_changed_by_the_next(gpu, plan):
    gpu()
    session = PlanSession(plan, device=0)
    first = session.run(rows(4))["y"]
    before = first.copy()
    session.run(rows(5))
    np.testing.assert_array_equal(first, before)


def test_a_version_compatible_plan_loads_only_where_its_code_is_allowed(gpu, plan):
    gpu(host_code=True)
    with pytest.raises(RunFailed, match="does not load the plan"):
        PlanSession(plan, device=0)
    assert PlanSession(plan, device=0, version_compatible=True).run(rows(2))["y"].shape == (2, 4)


def test_an_array_of_another_type_is_refused_and_not_read_as_something_else(gpu, plan):
    gpu()
    session = PlanSession(plan, device=0)
    with pytest.raises(RunFailed, match="'x' is float64, and the plan reads float32"):
        session.run({"x": np.zeros((2, 8))})
    with pytest.raises(RunFailed, match="not within the optimization profile"):
        session.run(rows(33))


def test_a_plan_is_timed_by_the_gpus_clock_at_the_shape_that_it_is_built_for(gpu, plan):
    _, cuda = gpu()
    session = PlanSession(plan, device=0)
    shapes = [{"x": shape} for shape in PROFILE["x"]]
    rate = plan_rate(session, OptimizationProfile(*shapes), Workload((rows(8),), 8, rows(8), is_batched=True))
    cuda.calls.clear()
    # 32 rows in the two milliseconds that the stand-in says.
    assert rate(0.1) == pytest.approx(16_000)
    assert cuda.runs == 10 + 50
    assert cuda.calls.count("cudaMemcpyAsync HostToDevice") == cuda.runs
    assert cuda.calls.count("cudaStreamSynchronize") == 0
    # Of a model without batches, whatever its first dimension, an input is one row; both sizes count alike.
    alone = Workload((rows(8), rows(4)), 1, rows(8), is_batched=False)
    assert plan_rate(session, OptimizationProfile(*shapes), alone)(0.1) == pytest.approx(500)


def test_each_kind_of_gpu_has_a_timing_cache_of_its_own(gpu, tmp_path):
    trt, cuda = gpu()
    cuda.cudaSetDevice(0)
    path = timing_cache_of(PlanOptions(timing_cache=tmp_path / "kernels.cache"), 0)
    assert path == tmp_path / f"kernels.nvidia-rtx-4000-sff-ada-generation.{trt.__version__}.cache"
    assert timing_cache_of(PlanOptions(), 0) is None
