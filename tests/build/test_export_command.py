"""`plansmith export`: what it takes, what it refuses and why, and what it says when a framework is not installed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

MODELS = """
import numpy as np
from sklearn.linear_model import LogisticRegression

def features():
    return np.random.default_rng(0).standard_normal((50, 4))

def classifier():
    rows = features()
    return LogisticRegression().fit(rows, rows[:, 0] > 0)

def with_rows():
    return classifier(), features()

def nothing(): return None
def number(): return 3
def broken(): return features()[99]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_models.py").write_text(MODELS)
    return tmp_path


def test_a_function_returns_the_model_and_the_next_command_is_told(plansmith, folder):
    done = plansmith("export", "my_models:classifier", cwd=folder)
    assert "X FP32 [-1, 4]" in done.stdout
    assert "probabilities FP32 [-1, 2]" in done.stdout
    assert "relative error" in done.stdout
    command = done.stdout.splitlines()[-1].removeprefix("Next: plansmith ").split()
    assert command == ["build", "classifier.onnx"]
    assert "classifier version 1" in plansmith(*command, cwd=folder).stdout


def test_the_result_for_machines(plansmith, folder):
    done = plansmith("export", "my_models:with_rows", "--output", "m.onnx", "--opset", "17", "--json", cwd=folder)
    result = json.loads(done.stdout)
    assert (result["path"], result["weights"], result["framework"]) == ("m.onnx", None, "scikit-learn")
    assert result["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert result["opsets"]["ai.onnx"] == 17
    assert all(entry["max_relative_error"] <= entry["tolerance"] for entry in result["comparisons"])
    assert result["versions"].keys() == {"scikit-learn", "skl2onnx", "onnxruntime"}


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".pt", ".pth"])
def test_a_pickle_is_refused_and_never_opened(plansmith, folder, suffix):
    class Payload:
        def __reduce__(self):
            return (open, (str(folder / "executed"), "w"))

    (folder / f"model{suffix}").write_bytes(pickle.dumps(Payload()))
    said = plansmith("export", f"model{suffix}", cwd=folder, expect=2).stderr
    assert f"model{suffix} is loaded with pickle, which runs whatever its author put into it: " in said
    assert "module:function" in said
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("model.onnx", "model.onnx is an ONNX file already: plansmith build model.onnx"),
        ("model.h5", "load it in Keras and save it as .keras"),
        ("model.safetensors", "holds weights and no model"),
        ("model.tflite", "is a TensorFlow Lite model"),
        (".", "is a folder"),
        ("model.xyz", "is not a model to export: name module:function, a .pt2 file or a .keras file"),
        ("my_models", "is not a model to export"),
        ("a" * 300 + ".pt2", "does not exist"),
        ("my_models:nothing", "returned a NoneType: return a model"),
        ("my_models:number", "returned a builtins.int: return a torch.nn.Module"),
        ("my_models:nosuch", "my_models has no function 'nosuch': it has "),
        ("my_models:broken", "my_models.py, line 17: IndexError: index 99 is out of bounds"),
        ("nosuch:model", "No module named 'nosuch': run the command in the folder that holds it"),
    ],
)
def test_what_is_no_model_is_refused_in_one_sentence(plansmith, folder, model, sentence):
    done = plansmith("export", model, cwd=folder, expect=2)
    assert sentence in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("package", "words", "command"),
    [
        ("torch", "export_pytorch(None, None, 'm.onnx')", "pip install torch onnxscript"),
        ("torch", "export_keras(None, 'm.onnx')", "pip install torch onnxscript"),
        ("skl2onnx", "export_scikit_learn(None, 'm.onnx')", "plansmith[export] brings it"),
        ("sklearn", "export_scikit_learn(None, 'm.onnx')", "plansmith[export] brings it"),
    ],
)
def test_a_framework_that_is_missing_is_named_with_the_command_that_brings_it(folder, package, words, command):
    # An import that fails is what a package that is not installed looks like.
    program = f"""
import sys
sys.modules[{package!r}] = None
from plansmith_build.exporting import *
try:
    {words}
except MissingPackage as error:
    print(error.exit_code, error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=folder)
    assert done.stdout.startswith("2 exporting a ")
    assert f"needs the package {package}: {command}" in done.stdout


def test_help_needs_no_framework(plansmith):
    assert "module:function" in plansmith("export", "--help").stdout
    program = """
import sys
import plansmith_build.commands.export
print(sorted({"onnx", "onnxruntime", "torch", "keras", "sklearn"} & set(sys.modules)))
import plansmith_build.exporting
print(sorted({"torch", "keras", "sklearn", "skl2onnx"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
