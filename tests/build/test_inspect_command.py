"""`plansmith inspect` shows what a repository holds, whoever wrote it, and what has changed since."""

from __future__ import annotations

import json

import pytest
import yaml
from build_models import ADD, write


@pytest.fixture
def adder(tmp_path, repository, plansmith):
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository, "--no-serve")
    return repository


def shown(plansmith, *words) -> dict:
    return json.loads(plansmith("inspect", *words, "--json").stdout)


def test_models_are_listed_with_versions_and_tensors(plansmith, adder):
    (model,) = shown(plansmith, "--repository", adder)["models"]
    assert (model["name"], model["versions"], model["backend"]) == ("adder", [1], "onnxruntime")
    said = plansmith("inspect", "--repository", adder).stdout
    assert "adder" in said
    assert "FP32 [-1, 4]" in said


def test_a_model_is_shown_with_its_origin_and_its_files(plansmith, adder):
    said = plansmith("inspect", "adder", "--repository", adder).stdout
    assert "adder.onnx" in said
    assert said.count("as published") == 2
    assert 'backend: "onnxruntime"' in said


def test_a_file_that_changed_since_it_was_published_is_marked(plansmith, adder):
    with (adder / "adder" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert "changed since" in plansmith("inspect", "adder", "--repository", adder).stdout
    (adder / "adder" / "1" / "model.onnx").unlink()
    assert "missing" in plansmith("inspect", "adder", "--repository", adder).stdout


def test_a_model_that_plansmith_did_not_write_is_shown_too(plansmith, repository):
    (repository / "foreign" / "1").mkdir(parents=True)
    write(repository / "foreign" / "1" / "model.onnx", ADD)
    note = "a line that is longer than any terminal " * 5
    config = f'backend: "onnxruntime"\nparameters {{ key: "note" value {{ string_value: "{note}" }} }}\n'
    (repository / "foreign" / "config.pbtxt").write_text(config)
    said = plansmith("inspect", "foreign", "--repository", repository).stdout
    assert note in said
    assert "plansmith did not write this version" in said
    assert "FP32 [-1, 4]" in said


def test_a_damaged_configuration_does_not_hide_the_other_models(plansmith, adder):
    (adder / "damaged").mkdir()
    (adder / "damaged" / "config.pbtxt").write_text("max_batch_size: many")
    said = plansmith("inspect", "--repository", adder).stdout
    assert "adder" in said
    assert "not a model configuration" in said


def test_an_onnx_file_is_shown_before_it_is_built(plansmith, tmp_path):
    said = plansmith("inspect", write(tmp_path / "adder.onnx", ADD)).stdout
    assert "1 Add" in said
    assert "FP32 [-1, 4]" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["nosuch"], "no model 'nosuch'; there are: adder"), (["adder", "--version", "7"], "no version 7; there are: 1")],
)
def test_what_is_not_there_is_named_with_what_is(plansmith, adder, words, reason):
    assert reason in plansmith("inspect", *words, "--repository", adder, expect=2).stderr


def test_a_repository_that_is_not_there_is_the_users_mistake(plansmith, tmp_path):
    assert "no repository" in plansmith("inspect", "--repository", tmp_path / "nosuch", expect=2).stderr


def test_a_model_card_says_what_the_manifest_knows(plansmith, repository, held_out_file):
    onnx = held_out_file.with_name("digits.onnx")
    words = ("--data", held_out_file, "--precision", "int8", "--target", "onnxruntime", "--no-serve")
    built = json.loads(plansmith("build", onnx, "--repository", repository, "--name", "d-1", *words, "--json").stdout)
    card = plansmith("inspect", "d-1", "--repository", repository, "--card").stdout
    _, metadata, body = card.split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert {"onnx", "int8"} <= set(metadata["tags"])
    (index,) = metadata["model-index"]
    assert index["name"] == "d-1"
    chosen = next(each for each in built["manifest"]["search"]["candidates"] if each["precision"] == "int8")
    results = [result["metrics"][0] for result in index["results"]]
    assert {"type": "accuracy", "value": chosen["accuracy"]["top1"], "name": "top-1, int8"} in results
    # What is a name stays one, and no folder of this machine is told.
    assert "# d\\-1" in body
    assert built["manifest"]["source"]["sha256"] in body
    assert f"{chosen['accuracy']['top1']:.2%}" in body
    assert "held\\_out.npz" in body
    assert str(held_out_file.parent) not in card
    json_too = plansmith("inspect", "d-1", "--repository", repository, "--card", "--json", expect=2)
    assert "--card" in json_too.stderr


def test_a_model_card_needs_a_manifest(plansmith, repository):
    (repository / "foreign" / "1").mkdir(parents=True)
    write(repository / "foreign" / "1" / "model.onnx", ADD)
    assert "no manifest" in plansmith("inspect", "foreign", "--repository", repository, "--card", expect=2).stderr
