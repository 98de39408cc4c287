"""What our code calls of TensorRT 10 and 11 exists in NVIDIA's own bindings, with these parameters. No GPU is needed.

The bindings' wheels are small; the libraries behind them are not, so empty ones of the same names stand in for them:
enough to import every class, enumeration and documented signature, and not to build anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import plansmith_build.engines.tensorrt as package

PROGRAM = Path(__file__).with_name("tensorrt_contract_program.py")
SOURCES = [Path(package.__file__).with_name(name) for name in ("availability.py", "execution.py", "plans.py")]
# Of the wheels for Python 3.11 and 3.12, as the package index has them.
BINDINGS = {
    "10": (
        "tensorrt-cu12-bindings==10.16.1.11",
        "150ef2b672487e29a8ea916353467c3e199994fb33589167e3641a928e243aa7",
        "8e339335e7255b3fb3954eca61b4acbbdfcf7b28505bd711914519647ba310c8",
    ),
    "11": (
        "tensorrt-cu12-bindings==11.4.0.106",
        "e2ab48f316bbff6a7a44a30e94a9ceb0d2cf6645ff39feadecfa68d7cb7a94bf",
        "6490518c9e072d57e0a815ad80b103596933efe776ffa61766ef31c25dbd8b39",
    ),
}
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "getInferLibVersion",
)


@pytest.fixture(scope="module", params=["10", "11"])
def bindings(request, tmp_path_factory):
    """Runs Python with the bindings of one major version."""
    major = request.param
    folder = tmp_path_factory.mktemp(f"tensorrt-{major}")
    requirements = folder / "requirements.txt"
    name, *hashes = BINDINGS[major]
    requirements.write_text(f"{name} {' '.join(f'--hash=sha256:{value}' for value in hashes)}\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary=:all:", "--require-hashes", "-r", requirements, "--target", folder / "packages"),
        ],
        check=True,
    )
    # What the package `tensorrt` does, which brings the libraries as well.
    (folder / "packages" / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    (folder / "empty.c").write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for library in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
        name = f"{library}.so.{major}"
        subprocess.run(
            ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, folder / "empty.c"], check=True
        )
    paths = [str(folder / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(paths)}

    def run(*words):
        return subprocess.run(
            [sys.executable, *words], check=True, capture_output=True, text=True, env=environment
        ).stdout

    run.major = major
    return run


def test_every_name_and_call_that_we_use_is_in_nvidias_bindings(bindings):
    report = json.loads(bindings(PROGRAM, *SOURCES))
    assert report["version"].split(".")[0] == bindings.major
    assert report["wrong"] == []
    assert {"builder.build_serialized_network", "config.set_timing_cache", "cuda.cudaMemcpyAsync"} <= set(
        report["checked"]
    )
    assert len(report["checked"]) > 70


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("trt.BuilderFlag.FP32_PLEASE", "there is no FP32_PLEASE"),
        ("builder.build_it()", "there is no build_it"),
        ("config.set_flag()", "misses flag"),
        ("config.set_timing_cache(cache, ignore_mismatches=False)", "has no parameter ignore_mismatches"),
        ("cuda.cudaMemcpy(1, 2, 3, 4, 5)", "takes 4 arguments, and gets 5"),
    ],
)
def test_a_wrong_name_or_call_would_be_found(bindings, tmp_path, wrong, said):
    (tmp_path / "wrong.py").write_text(f"def function():\n    {wrong}\n")
    report = json.loads(bindings(PROGRAM, tmp_path / "wrong.py"))
    assert any(said in sentence for sentence in report["wrong"]), report


def test_precision_flags_that_tensorrt_11_has_removed_are_not_used(bindings, tmp_path):
    (tmp_path / "old.py").write_text("trt.BuilderFlag.FP16\n")
    found = json.loads(bindings(PROGRAM, tmp_path / "old.py"))["wrong"]
    assert bool(found) == (bindings.major == "11")


def test_progress_reaches_ours_and_ctrl_c_reaches_tensorrt(bindings):
    said = bindings(
        "-c",
        """
import tensorrt as trt
from plansmith_build.engines.tensorrt.plans import _monitor
steps = []
def progress(step):
    steps.append(step.title)
    if len(steps) == 2:
        raise KeyboardInterrupt
monitor = _monitor(trt, "Building", progress)
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start("Tactics", None, 7)
print(monitor.step_complete("Tactics", 0), monitor.step_complete("Tactics", 1), monitor.interrupted, steps[0])
""",
    )
    assert said.split("\n")[0] == "True False True Building: Tactics, 1 of 7"


def test_ctrl_c_that_arrives_while_tensorrt_computes_ends_the_build(bindings, tmp_path):
    # The signal is pending when TensorRT, which is no Python, calls the monitor: as it is in a build.
    (tmp_path / "step.c").write_text(
        "#include <signal.h>\nint step(int (*complete)(int)) { raise(SIGINT); return complete(0); }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "step.so", tmp_path / "step.c"], check=True)
    said = bindings(
        "-c",
        """
import ctypes, functools, signal, sys
import tensorrt as trt
from plansmith_build.engines.tensorrt.plans import _monitor, _until_interrupted
before = signal.getsignal(signal.SIGINT)
monitor = _monitor(trt, "Building", lambda step: None)
monitor.phase_start("Tactics", None, 7)
complete = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(functools.partial(monitor.step_complete, "Tactics"))
with _until_interrupted(monitor):
    goes_on = ctypes.CDLL(sys.argv[1]).step(complete)
print(goes_on, monitor.interrupted, signal.getsignal(signal.SIGINT) is before)
""",
        tmp_path / "step.so",
    )
    assert said.split() == ["0", "True", "True"]


def test_a_machine_without_a_gpu_says_so(bindings):
    said = bindings(
        "-c", "from plansmith_build.engines.tensorrt import unavailable_because; print(unavailable_because())"
    )
    assert said.strip() in {"", "there is no NVIDIA GPU here"}
