"""`plansmith init` begins a project, whose plansmith.toml every command reads."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "plansmith" / "src" / "plansmith" / "demo" / "digits"


def test_a_project_is_begun_built_and_never_written_over(plansmith, tmp_path):
    said = plansmith("init", DIGITS / "digits.onnx", "--data", DIGITS / "held_out.npz", cwd=tmp_path).stdout
    assert "Next: plansmith build" in said
    project = tmp_path / "plansmith.toml"
    text = project.read_text().replace(
        "[build]\n", '[build]\ntarget = ["onnxruntime"]\nprecision = ["fp32"]\nno-serve = true\n'
    )
    project.write_text(text.replace('"model_repository"', '"models"'))
    # All of it comes from the file, and what the command line says wins.
    built = json.loads(plansmith("build", "--max-drop", "1%", "--json", cwd=tmp_path).stdout)
    search = built["manifest"]["search"]
    assert {(one["target"], one["precision"]) for one in search["candidates"]} == {("onnxruntime", "fp32")}
    assert search["validation"]["source"] == "held_out.npz"
    assert search["max_drop"] == 0.01
    assert (tmp_path / "models" / "digits" / "1").is_dir()
    assert "digits" in plansmith("inspect", cwd=tmp_path).stdout
    # A repository that is named, and a model of the project's.
    (tmp_path / "others").mkdir()
    for words, checked in (
        ((), "1 model"),
        (("models",), "1 model"),
        (("digits",), "1 model"),
        (("others",), "0 models"),
        ((tmp_path / "others",), "0 models"),
    ):
        assert f"{checked} checked: 0 errors" in plansmith("verify", *words, cwd=tmp_path).stdout
    assert "accuracy" in plansmith("inspect", "digits", "--card", cwd=tmp_path).stdout

    assert "plansmith.toml exists" in plansmith("init", DIGITS / "digits.onnx", cwd=tmp_path, expect=2).stderr
    assert tomllib.loads(project.read_text())["build"]["precision"] == ["fp32"]
    assert (
        "cannot be used (Not a directory): name another folder with --folder"
        in plansmith("init", DIGITS / "digits.onnx", "--folder", project / "below", cwd=tmp_path, expect=2).stderr
    )
    # Nor is half a project begun.
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / ".github").touch()
    done = plansmith("init", DIGITS / "digits.onnx", "--folder", "half", cwd=tmp_path, expect=2)
    assert "name another folder with --folder" in done.stderr
    assert [path.name for path in (tmp_path / "half").iterdir()] == [".github"]
    # Nothing is begun around what is not there.
    for words, sentence in (
        (("other.onnx",), "other.onnx does not exist: name"),
        ((DIGITS / "digits.onnx", "--data", "no.npz"), "no.npz does not exist: name"),
        ((DIGITS / "labels.txt",), "labels.txt does not end in .onnx: name"),
    ):
        assert sentence in plansmith("init", *words, "--folder", "new", cwd=tmp_path, expect=2).stderr
        assert not (tmp_path / "new").exists()


def test_what_a_project_begins_with_is_valid(plansmith, tmp_path):
    (tmp_path / "my model.onnx").touch()
    made = json.loads(plansmith("init", "my model.onnx", "--folder", "new", "--json", cwd=tmp_path).stdout)["files"]
    assert all((tmp_path / path).is_file() for path in made)
    said = plansmith("init", "my model.onnx", "--folder", "an other", cwd=tmp_path).stdout
    assert "Next: cd 'an other' && plansmith build" in said
    project = tomllib.loads((tmp_path / "new" / "plansmith.toml").read_text())
    # As seen from the project's folder.
    assert project["build"] == {"model": "../my model.onnx"}
    workflow = tmp_path / "new" / ".github" / "workflows" / "plansmith.yml"
    assert "plansmith bench run my_model " in workflow.read_text()
    # The version that wrote it, so that the project is built tomorrow as today.
    assert f"pip install 'plansmith[perf]=={version('plansmith')}'" in workflow.read_text()
    checker = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run([checker, "--builtin-schema", "vendor.github-workflows", workflow], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("repository =", "plansmith.toml is not valid TOML"),
        ("[inspect]\nrepositori = 'models'", "plansmith inspect has no such option: it has"),
        ("[biuld]\nmax-drop = '1%'", "[biuld] is not the name of a command"),
        ("[build]\ndata = 'module:function'", "would run code: give it on the command line"),
        ("[build]\nmetric = ['random:x=evil:func']", "would run code: give it on the command line"),
        ("[export]\nmodel = 'module:function'", "would run code: give it on the command line"),
        ("[serve]\nhost = '0.0.0.0'", "opens a server to others"),
    ],
)
def test_a_file_that_cannot_be_followed_is_one_clear_sentence(plansmith, tmp_path, text, said):
    (tmp_path / "plansmith.toml").write_text(text)
    assert said in plansmith("inspect", cwd=tmp_path, expect=2).stderr


def test_the_table_of_a_command_with_commands_of_its_own_is_read(plansmith, tmp_path):
    for text, said in (
        ("[bench]\nrounds = 'many'", "'many' is not a whole number"),
        ("[bench.run]\nseconds = 'few'", "'few' is not a number"),
        ("[bench.run]\nspeed = 5", "[bench.run] has 'speed', and plansmith bench run has no such option"),
        ("[bench]\nrun = 3", "[bench] has a value for 'run': make it a table, [bench.run]"),
        ("[bench.ran]\nseconds = 5", "bench has no command 'ran': it has run, compare, diff, report"),
    ):
        (tmp_path / "plansmith.toml").write_text(text)
        assert said in plansmith("bench", "run", "digits", "--url", "localhost:9", cwd=tmp_path, expect=2).stderr
