"""Profiles, configurations and versions of plans, as far as they can be had without a GPU."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx.parser
import pytest
from build_models import HEADER

from plansmith_build.engines.tensorrt import (
    PlanOptions,
    parse_profile,
    plan_check,
    plan_version,
    profile_for,
    provider_profile,
)
from plansmith_build.errors import InvalidOption
from plansmith_build.reading.signatures import signature_of
from plansmith_build.repository.config import model_config, text_from_config
from plansmith_build.search.candidate_configs import candidate_config
from plansmith_build.search.candidates import Candidate
from plansmith_build.search.targets import Device, Pairing, Precision, Target

PLANS = Pairing(Target.TENSORRT, Device.GPU, Precision.FP16)

IMAGES = signature_of(
    onnx.parser.parse_model(f"{HEADER} m (float[N, 3, H, W] images) => (float[N, 3, H, W] y) {{ y = Relu (images) }}")
)


def write_plan(path, *version, tag=b"ftrt", serialization=0):
    """The header of a plan, as trtexec --getPlanVersionOnly reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tag + serialization.to_bytes(4, "little") + bytes(16) + bytes(version) + b"engine")
    return path


def test_a_profile_goes_from_one_row_to_the_largest_batch_in_the_shapes_of_the_data():
    profile = profile_for(IMAGES, max_batch_size=16, observed={"images": (8, 3, 224, 192)})
    assert profile.minimum == {"images": (1, 3, 224, 192)}
    assert profile.optimum == profile.maximum == {"images": (16, 3, 224, 192)}


def test_a_model_without_batches_has_one_shape():
    profile = profile_for(IMAGES, max_batch_size=0, observed={"images": (2, 3, 8, 8)})
    assert profile.minimum == profile.maximum == {"images": (2, 3, 8, 8)}


def test_several_profiles_are_one_range_for_the_server_and_each_its_own_for_the_engine():
    text = "images:1x3x64x64,1x3x64x64,4x3x64x64|images:5x3x64x64,16x3x64x64,16x3x224x224"
    profile = profile_for(IMAGES, max_batch_size=16, observed={}, given=parse_profile(text))
    assert profile.minimum == {"images": (1, 3, 64, 64)}
    assert profile.optimum == {"images": (1, 3, 64, 64)}
    assert profile.maximum == {"images": (16, 3, 224, 224)}
    assert [part.optimum["images"][0] for part in profile.each] == [1, 16]
    assert provider_profile(profile) == {
        "trt_profile_min_shapes": "images:1x3x64x64,images:5x3x64x64",
        "trt_profile_opt_shapes": "images:1x3x64x64,images:16x3x64x64",
        "trt_profile_max_shapes": "images:4x3x64x64,images:16x3x224x224",
    }
    portable = model_config("m", IMAGES, max_batch_size=16)
    candidate = Candidate(PLANS, plans={"9.0": Path("model.plan")}, profile=profile)
    assert list(candidate_config(portable, candidate).instance_group[0].profile) == ["0", "1"]
    one = replace(candidate, profile=profile.parts[0])
    assert not candidate_config(portable, one).instance_group[0].profile


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images:1x3x8x8,1x3x8x8,4x3x8x8|images:6x3x8x8,8x3x8x8,16x3x8x8", "takes 1 to 4 and 6 to 16 rows"),
        ("images:1x3x8x8,1x3x8x8,16x3x8x8|other:1,1,1", "not all for the same inputs"),
        ("images:1x3x8x8,1x3x8x8,16x3x8x8|", "is empty"),
    ],
)
def test_several_profiles_with_a_gap_or_of_other_inputs_are_refused(text, said):
    with pytest.raises(InvalidOption, match=said):
        profile_for(IMAGES, max_batch_size=16, observed={}, given=parse_profile(text))


def test_a_profile_of_ones_own_is_used():
    text = "images:1x3x64x64,4x3x224x224,16x3x512x512"
    profile = profile_for(IMAGES, max_batch_size=16, observed={}, given=parse_profile(text))
    assert profile.optimum == {"images": (4, 3, 224, 224)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images:1x3x8x8", "is not an optimization profile"),
        ("images:1x3x8x8,2x3x8,4x3x8x8", "different numbers of dimensions"),
        ("images:4x3x8x8,2x3x8x8,8x3x8x8", "do not grow"),
        ("images:1xx8x8,2x3x8x8,8x3x8x8", "is not a shape"),
        ("pictures:1x3x8x8,2x3x8x8,16x3x8x8", "the model has the inputs images"),
        ("images:1x4x8x8,2x4x8x8,16x4x8x8", "does not fit input 'images'"),
        ("images:1x3x8x8,2x3x8x8,8x3x8x8", "takes 1 to 8 rows of 'images', and the server will send 1 to 16"),
        ("", "is empty"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(text, said):
    with pytest.raises(InvalidOption, match=said):
        profile_for(IMAGES, max_batch_size=16, observed={}, given=parse_profile(text))


@pytest.mark.parametrize("options", [{"optimization_level": 6}, {"workspace_bytes": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InvalidOption):
        PlanOptions(**options)


def test_a_configuration_for_plans_names_one_for_each_architecture():
    portable = model_config("m", IMAGES, max_batch_size=16)
    plans = {"8.6": Path("model.fp16.sm_86.plan"), "9.0": Path("model.fp16.sm_90.plan")}
    config = candidate_config(portable, Candidate(PLANS, plans=plans))
    text = text_from_config(config)
    assert config.platform == "tensorrt_plan"
    assert dict(config.cc_model_filenames) == {"8.6": "model.fp16.sm_86.plan", "9.0": "model.fp16.sm_90.plan"}
    assert config.HasField("dynamic_batching")
    assert "KIND_GPU" in text
    assert "execution_accelerators" not in text
    assert portable.backend == "onnxruntime"


def test_the_version_of_a_plan_stands_in_its_header(tmp_path):
    assert plan_version(write_plan(tmp_path / "a.plan", 10, 16, 1, 11)) == "10.16.1.11"
    assert plan_version(write_plan(tmp_path / "b.plan", 10, 16, 1, 11, tag=b"ONNX")) is None
    assert plan_version(write_plan(tmp_path / "c.plan", 10, 16, 1, 11, serialization=9)) is None
    (tmp_path / "short.plan").write_bytes(b"ftrt")
    assert plan_version(tmp_path / "short.plan") is None


def test_a_plan_of_another_version_is_refused_with_the_way_out(tmp_path):
    write_plan(tmp_path / "m" / "1" / "model.plan", 10, 16, 1, 11)
    write_plan(tmp_path / "m" / "2" / "model.plan", 11, 1, 0, 106)
    (sentence,) = plan_check.unfit_plans(tmp_path, "11.1.0")
    assert "m/1/model.plan was built by TensorRT 10.16.1.11, and this server has 11.1.0" in sentence
    assert "docker compose --profile build run builder" in sentence


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library by the name of TensorRT's, of version 11.1.0 as far as its one function says."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "version.c").write_text("int getInferLibVersion(void) { return 110100; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libnvinfer.so.11", folder / "version.c"], check=True)
    return folder


@pytest.mark.parametrize(("version", "code"), [((11, 1, 0, 106), 0), ((10, 16, 1, 11), 3)])
def test_the_check_runs_with_the_standard_library_alone_and_asks_the_installed_tensorrt(
    library, tmp_path, version, code
):
    write_plan(tmp_path / "m" / "1" / "model.plan", *version)
    done = subprocess.run(
        [sys.executable, "-I", "-S", plan_check.__file__, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        env={"LD_LIBRARY_PATH": str(library)},
    )
    assert done.returncode == code, done.stderr
    assert ("build it in the container of the same release" in done.stderr) == bool(code)


def test_a_repository_that_is_not_there_does_not_pass_the_check(library, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-S", plan_check.__file__, tmp_path / "modles"],
        check=False,
        capture_output=True,
        text=True,
        env={"LD_LIBRARY_PATH": str(library)},
    )
    assert done.returncode == 2
    assert "modles cannot be read: No such file" in done.stderr


def test_plans_that_are_version_compatible_pass_on_later_versions(tmp_path):
    write_plan(tmp_path / "m" / "1" / "model.plan", 11, 0, 0, 1)
    write_plan(tmp_path / "m" / "2" / "model.plan", 11, 2, 0, 1)
    assert len(plan_check.unfit_plans(tmp_path, "11.1.0")) == 2
    (sentence,) = plan_check.unfit_plans(tmp_path, "11.1.0", version_compatible=True)
    assert "m/2/model.plan" in sentence


def test_a_repository_without_plans_needs_no_tensorrt(tmp_path):
    assert plan_check.main([str(tmp_path)]) == 0


def test_the_check_says_where_it_has_to_run(tmp_path):
    write_plan(tmp_path / "m" / "1" / "model.plan", 11, 0, 0, 1)
    done = subprocess.run(
        [sys.executable, "-I", "-S", plan_check.__file__, tmp_path], check=False, capture_output=True, text=True, env={}
    )
    assert done.returncode == 2
    assert "run this in the server's container" in done.stderr
