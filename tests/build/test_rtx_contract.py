"""What our code calls of TensorRT for RTX and the CUDA runtime exists in NVIDIA's own bindings, with these parameters.

Unlike TensorRT's, these bindings and the libraries behind them run here; only an engine does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import plansmith_build.engines.tensorrt_rtx.capabilities as builder_package
import plansmith_server.backends.tensorrt_rtx as backend_package

PROGRAM = Path(__file__).with_name("tensorrt_contract_program.py")
COMPILER = [Path(builder_package.__file__).with_name("compiler.py")]
BACKEND = [Path(backend_package.__file__).with_name(name) for name in ("buffers.py", "engine.py", "validity.py")]


def held_against_the_bindings(*sources):
    done = subprocess.run(
        [sys.executable, PROGRAM, *sources],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TENSORRT_BINDINGS": "tensorrt_rtx_bindings"},
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("sources", "used"),
    [
        (COMPILER, {"builder.build_serialized_network", "config.set_compute_capability", "parser.parse_from_file"}),
        (
            BACKEND,
            {
                "runtime.get_engine_validity",
                "context.execute_async_v3",
                "cuda.cudaMemcpyAsync",
                "runtime_config.set_runtime_cache",
                "engine.create_execution_context",
            },
        ),
    ],
)
def test_every_name_and_call_that_we_use_is_in_nvidias_bindings(sources, used):
    report = held_against_the_bindings(*sources)
    assert report["version"].startswith("1.")
    assert report["wrong"] == []
    assert used <= set(report["checked"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("trt.ComputeCapability.SM90", "there is no SM90"),
        ("runtime_cache.store()", "there is no store"),
        ("config.set_compute_capability(1)", "misses index"),
        ("cuda.cudaMemcpyAsync(1, 2, 3, 4)", "misses stream"),
    ],
)
def test_a_wrong_name_or_call_would_be_found(tmp_path, wrong, said):
    (tmp_path / "wrong.py").write_text(f"def function():\n    {wrong}\n")
    assert any(said in sentence for sentence in held_against_the_bindings(tmp_path / "wrong.py")["wrong"])


def test_the_capabilities_that_we_name_are_those_of_the_enumeration():
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import tensorrt_rtx_bindings as trt; print(*trt.ComputeCapability.__members__)",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    ours = {f"SM{capability.replace('.', '')}" for capability in builder_package.ARCHITECTURES}
    assert set(done.stdout.split()) - {"NONE", "CURRENT"} == ours
