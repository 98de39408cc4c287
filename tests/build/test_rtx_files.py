"""Engines of TensorRT for RTX in a repository: built without a GPU, described, checked, and told from plans."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from build_models import ADD, write
from pipeline_models import COLOURS, colour_classifier

from plansmith_build.commands.build import build
from plansmith_build.commands.recipe import recipe_of, refuse_unsafe
from plansmith_build.engines.tensorrt import plan_check
from plansmith_build.engines.tensorrt_rtx import library_version
from plansmith_build.errors import InvalidOption
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.plans import check_plans, newest_versions, own_models

APPLICATION = typer.Typer()
APPLICATION.command()(build)
BUILD = typer.main.get_command(APPLICATION)
DIGITS = Path(__file__).parents[2] / "model_repository" / "digits" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def built(plansmith, tmp_path_factory):
    """The committed digits for RTX GPUs: the repository, and what the command said."""
    repository = tmp_path_factory.mktemp("rtx") / "model_repository"
    done = plansmith(
        *("build", DIGITS, "--name", "digits", "--data", "random:32", "--max-drop", "5%", "--repository", repository),
        *("--target", "tensorrt-rtx", "--compute-capability", "8.6,8.9,12.0", "--no-serve", "--json"),
        *("--profile", "images:1x8x8,1x8x8,4x8x8|images:1x8x8,32x8x8,32x8x8"),
    )
    return repository, json.loads(done.stdout)["manifest"]


def write_engine(path, *version, tag=b"vtrt"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tag + bytes(20) + bytes(version) + b"engine")
    return path


def test_the_engine_is_published_with_what_compiled_it_and_a_configuration_of_its_own(built):
    repository, manifest = built
    config = config_from_text((repository / "digits/configs/rtx.pbtxt").read_text())
    assert (config.backend, config.default_model_filename) == ("tensorrt_rtx", "model.fp16.rtx.engine")
    assert [group.kind for group in config.instance_group] == [config.instance_group[0].KIND_GPU]
    assert not config.HasField("optimization")
    engine = repository / "digits/1/model.fp16.rtx.engine"
    assert plan_check.engine_version(engine) == library_version()
    assert "1/model.fp16.rtx.engine" in {entry["path"] for entry in manifest["files"]}
    # Only the engine that is served, and the portable model that every other server takes.
    assert {path.name for path in engine.parent.iterdir()} == {"model.onnx", engine.name, "manifest.json"}
    (served,) = [entry for entry in manifest["search"]["candidates"] if entry["config"]]
    assert served["compiled"] == {
        "compiler": f"TensorRT for RTX {library_version()}",
        "compute_capabilities": ["8.6", "8.9", "12.0"],
        "profile": {"images": [[1, 8, 8], [1, 8, 8], [4, 8, 8]]},
        "further_profiles": [{"images": [[1, 8, 8], [32, 8, 8], [32, 8, 8]]}],
        "tf32": False,
        "seconds": served["compiled"]["seconds"],
        "size": engine.stat().st_size,
    }


def test_nothing_that_was_not_measured_is_called_chosen(built):
    _, manifest = built
    assert {entry["status"] for entry in manifest["search"]["candidates"]} == {"compiled, not measured"}
    for entry in manifest["search"]["candidates"]:
        assert entry["reason"] == "by TensorRT for RTX 1.7.1 for 8.6, 8.9 and 12.0"
        assert entry["rows_per_second"] is None


def test_a_repository_with_engines_is_verified_and_a_damaged_one_found(built, plansmith, tmp_path):
    repository, _ = built
    assert "0 errors" in plansmith("verify", repository).stdout
    copy = tmp_path / "model_repository"
    (copy / "m" / "1").mkdir(parents=True)
    (copy / "m" / "1" / "model.engine").write_bytes(b"ftrt" + bytes(60))
    (copy / "m" / "config.pbtxt").write_text(
        'backend: "tensorrt_rtx" input { name: "x" data_type: TYPE_FP32 dims: 4 } '
        'output { name: "y" data_type: TYPE_FP32 dims: 4 } '
        'parameters { key: "cuda_grpah" value { string_value: "1" } }'
    )
    said = plansmith("verify", copy, expect=3).stdout
    assert "this is not an engine of TensorRT for RTX" in said
    assert "did you mean 'cuda_graph'?" in said


def test_an_engine_of_another_version_is_refused_with_both_ways_out(tmp_path):
    write_engine(tmp_path / "m" / "1" / "model.engine", 1, 6, 0, 9)
    write_engine(tmp_path / "m" / "2" / "model.engine", 1, 7, 1, 116)
    write_engine(tmp_path / "m" / "3" / "model.engine", 1, 7, 1, 116, tag=b"ftrt")
    other, damaged = plan_check.unfit_engines(tmp_path, "1.7.1.116")
    assert "m/1/model.engine was compiled by TensorRT for RTX 1.6.0.9, and this server has 1.7.1.116" in other
    assert "tensorrt-rtx-cu12-libs==1.6.0.9" in other
    assert "m/3/model.engine is not an engine" in damaged


@pytest.mark.parametrize(("version", "code"), [((1, 7, 1, 116), 0), ((1, 5, 0, 1), 3)])
def test_the_check_before_a_server_starts_asks_the_installed_package(tmp_path, version, code):
    write_engine(tmp_path / "m" / "1" / "model.engine", *version)
    done = subprocess.run([sys.executable, plan_check.__file__, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("build it again" in done.stderr) == bool(code)


def test_where_nothing_runs_engines_they_keep_no_server_from_starting(tmp_path):
    write_engine(tmp_path / "m" / "1" / "model.engine", 1, 5, 0, 1)
    done = subprocess.run(
        [sys.executable, "-I", "-S", plan_check.__file__, tmp_path], check=False, capture_output=True, text=True, env={}
    )
    assert done.returncode == 0, done.stderr


def test_an_engine_given_to_build_is_called_what_it_is(built, plansmith, tmp_path):
    repository, _ = built
    said = plansmith("build", repository / "digits/1/model.fp16.rtx.engine", "--repository", tmp_path / "r", expect=2)
    assert "an engine of TensorRT for RTX: build from the ONNX file it was made from" in said.stderr


def test_an_engine_of_another_version_is_built_again_as_it_was(built, plansmith, tmp_path):
    repository = shutil.copytree(built[0], tmp_path / "model_repository")
    engine = repository / "digits/1/model.fp16.rtx.engine"
    content = bytearray(engine.read_bytes())
    content[24:28] = 1, 6, 0, 9
    engine.write_bytes(content)
    said = plansmith("upgrade", "--repository", repository, "--dry-run", expect=3).stdout
    assert "1 of 1 models to be built again" in said
    assert "was compiled by TensorRT for RTX 1.6.0.9" in said
    assert not (repository / "digits/2").exists()
    (done,) = json.loads(plansmith("upgrade", "--repository", repository, "--json").stdout)["models"]
    assert (done["name"], done["exit_code"]) == ("digits", 0)
    assert plan_check.engine_version(repository / "digits/2" / engine.name) == library_version()
    made = json.loads((repository / "digits/2/manifest.json").read_text())
    assert made["recipe"] == done["recipe"] == built[1]["recipe"]
    kept = ("compute_capabilities", "profile", "further_profiles")
    before, after = (
        [{key: entry["compiled"][key] for key in kept} for entry in manifest["search"]["candidates"] if entry["config"]]
        for manifest in (built[1], made)
    )
    assert before == after
    assert "0 of 1 models" in plansmith("upgrade", "--repository", repository).stdout


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (["model.onnx", "--data=module:function"], "would run code or write elsewhere"),
        (["model.onnx", "--samples=random:choice"], "would run code or write elsewhere"),
        (["model.onnx", "--metric=random:x=evil:func"], "would run code or write elsewhere"),
        (["model.onnx", "--repository=/srv"], "would run code or write elsewhere"),
        (["model.onnx", "--json"], "would run code or write elsewhere"),
        (["a;b", "--unknown"], "yourself: plansmith build 'a;b' --unknown --name=digits --repository="),
        (["https://example.com/model.onnx?..."], "a signed URL"),
        (["--sign-key=key.pem"], "does not say how it was built"),
        ([], "does not say how it was built"),
    ],
)
def test_a_recipe_of_somebody_else_runs_no_code(recipe, reason):
    with pytest.raises(InvalidOption) as refused:
        refuse_unsafe(recipe, "digits", BUILD, Path("models"))
    assert reason in str(refused.value)


def test_harmless_words_are_taken():
    refuse_unsafe(["m.onnx", "--metric=out:0=cosine", "--data=random:32", "--no-serve"], "m", BUILD, Path("models"))


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (["m.onnx", "--seed", "0", "--max-batch-size", "0", "--optimization-level", "0"], None),
        (["{here}/m.onnx", "--data", "{here}/random"], ["./m.onnx", "--data=./random"]),
        (["/elsewhere/m.onnx", "--json", "-r", "x"], ["/elsewhere/m.onnx"]),
        (["https://me@host/m.onnx?key=secret"], ["https://host/m.onnx?..."]),
        (["s3://host/m.onnx#sha256=00"], ["s3://host/m.onnx"]),
    ],
)
def test_a_recipe_keeps_what_was_said_and_no_folder_of_the_machine(tmp_path, monkeypatch, words, recipe):
    monkeypatch.chdir(tmp_path)
    kept = recipe_of(BUILD.make_context("build", [word.format(here=tmp_path) for word in words]))
    wanted = recipe or ["m.onnx", "--max-batch-size=0", "--seed=0", "--optimization-level=0"]
    assert list(kept) == wanted


def test_what_cannot_be_built_is_said_and_the_rest_is_built(built, plansmith, tmp_path):
    repository, here = tmp_path / "model_repository", tmp_path / "here"
    here.mkdir()
    (here / "rich.py").write_text("raise SystemExit(99)")
    for name, recipe in {
        "good": [str(DIGITS), "--name=other", "--no-serve"],
        "changed": ["changed.onnx", "--no-serve"],
        "unknown": [],
    }.items():
        shutil.copytree(built[0] / "digits", repository / name)
        write_engine(repository / name / "1/model.fp16.rtx.engine", 1, 6, 0, 9)
        manifest = repository / name / "1/manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"recipe": recipe, "model": name}))
    write(here / "changed.onnx", ADD)
    (repository / "unreadable" / "1").mkdir(parents=True)
    (repository / "unreadable" / "1" / "x.engine").symlink_to("nowhere")
    done = plansmith("upgrade", "--repository", repository, "--json", cwd=here, expect=1)
    said = json.loads(done.stdout)
    assert {entry["name"]: entry["exit_code"] == 0 for entry in said["models"]} == {"good": True, "changed": False}
    assert set(said["not_built"]) == {"changed", "unknown", "unreadable"}
    assert "is expected: put the file back" in done.stderr
    assert sorted(path.parent.name for path in repository.glob("*/2")) == ["good"]
    assert "there is no repository" in plansmith("upgrade", "--repository", tmp_path / "typo", expect=2).stderr


def test_what_is_signed_is_verified_before_its_recipe_is_read(built, plansmith, tmp_path):
    repository, key, public = tmp_path / "models", tmp_path / "own.pem", tmp_path / "own.pub"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    version = shutil.copytree(built[0] / "digits", repository / "digits") / "1"
    write_engine(version / "model.fp16.rtx.engine", 1, 6, 0, 9)
    (version / "model.sig").write_text("{}")
    words = ("upgrade", "--repository", repository, "--sign-key", key)
    assert "name the public key with --public-key" in plansmith(*words, expect=2).stderr
    said = plansmith(*words, "--public-key", public, expect=1).stdout
    assert "not built: digits: the signature of digits/1 does not hold" in said
    assert not (repository / "digits/2").exists()


def test_a_pipeline_is_built_again_with_all_its_steps(plansmith, tmp_path):
    colour_classifier(tmp_path / "colours.onnx")
    (tmp_path / "labels.txt").write_text("".join(f"{colour}\n" for colour in COLOURS))
    steps = ('kind = "image"\npreprocess = "zero-to-one"', 'kind = "model"', 'kind = "classes"\nlabels = "labels.txt"')
    (tmp_path / "scenes.toml").write_text("".join(f"[[step]]\n{step}\n" for step in steps))
    plansmith(
        *("build", "colours.onnx", "--pipeline", "scenes.toml", "--data", "random:32", "--max-drop", "5%"),
        *("--target", "tensorrt-rtx", "--compute-capability", "8.9", "--no-serve"),
        cwd=tmp_path,
    )
    repository = tmp_path / "model_repository"
    (engine,) = (repository / "scenes.1.model").rglob("*.engine")
    write_engine(engine, 1, 6, 0, 9)
    said = plansmith("upgrade", "--dry-run", cwd=tmp_path, expect=3).stdout
    assert "1 of 1 models to be built again" in said
    assert f"scenes.1.model/1/{engine.name} was compiled by TensorRT for RTX 1.6.0.9" in said
    (done,) = json.loads(plansmith("upgrade", "--json", cwd=tmp_path).stdout)["models"]
    assert (done["name"], done["exit_code"]) == ("scenes", 0)
    (pipeline,) = own_models(ModelRepository(repository))
    made = [path.relative_to(repository) for path in newest_versions(pipeline)]
    assert sorted(map(str, made)) == ["scenes.2.classes/1", "scenes.2.image/1", "scenes.2.model/1", "scenes/2"]
    assert plan_check.engine_version(repository / "scenes.2.model" / "1" / engine.name) == library_version()
    for step in ("image", "classes"):
        before, after = ((repository / f"scenes.{version}.{step}" / "config.pbtxt").read_text() for version in (1, 2))
        assert before.replace("scenes.1.", "scenes.2.") == after
    # That of the version before stays until `plansmith prune`.
    check = check_plans(pipeline)
    assert (check.count, check.unfit, len(check.old)) == (1, (), 1)
    assert "scenes.1.model" in check.old[0]
    assert "0 of 1 models" in plansmith("upgrade", cwd=tmp_path).stdout
