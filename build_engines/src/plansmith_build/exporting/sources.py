"""What `plansmith export` takes: a function that returns a model, or its file or folder without pickles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from plansmith_build.datasets.callables import call_user_function, is_callable_source
from plansmith_build.errors import InvalidOption
from plansmith_build.exporting.errors import UnsafeModelFile, UnsuitableModel
from plansmith_build.exporting.frameworks import quiet, require
from plansmith_build.exporting.hugging_face import CONFIG, dynamic_axes, load_folder
from plansmith_build.exporting.keras import require_keras

__all__ = ["LoadedModel", "load_model"]

Framework = Literal["pytorch", "scikit-learn", "keras"]

_PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".dill"}
_OTHERS = {
    ".onnx": "is an ONNX file already: plansmith build {path}",
    ".h5": "is a Keras file of before version 3: load it in Keras and save it as .keras",
    ".hdf5": "is a Keras file of before version 3: load it in Keras and save it as .keras",
    ".safetensors": "holds weights and no model: name the folder if config.json is beside it, or write a function that "
    "makes the model and loads them, and name it as module:function",
    ".pb": "is a TensorFlow graph: save the model as .keras, or convert it with tf2onnx",
    ".tflite": "is a TensorFlow Lite model: save the original as .keras, or convert it with tf2onnx",
}
_PROGRAM_SUFFIX, _KERAS_SUFFIX = ".pt2", ".keras"
# In the archives of torch.export: compiled code, and objects that are loaded with pickle.
_CODE_IN_PROGRAM = ("data/aotinductor/", "custom_obj_", "opaque_obj_")


@dataclass(frozen=True)
class LoadedModel:
    """A model object, ready to be exported.

    Attributes:
        framework: which export function takes it.
        model: a `torch.nn.Module`, a `torch.export.ExportedProgram`, a fitted estimator or a `keras.Model`.
        examples: inputs that came with it, None where none did.
        name: what to call the file, without suffix.
        dynamic_axes: dimensions besides the first that are known to vary, by input; of PyTorch models.
    """

    framework: Framework
    model: Any
    examples: Any
    name: str
    dynamic_axes: Mapping[str | int, list[int]] = field(default_factory=dict)


def load_model(source: str) -> LoadedModel:
    """Load a model.

    Args:
        source: `module:function`, whose function returns a model or a pair of a model and example inputs (this runs
            the user's code); a `.pt2` file of `torch.export.save`; a `.keras` file; or a folder that `save_pretrained`
            of transformers wrote.

    Raises:
        UnsuitableModel: there is no such thing, or it cannot be read.
        UnsafeModelFile: loading it would run what is in it.
        MissingPackage: its framework is not installed.
        DataFunctionFailed: the function cannot be found, or raised an exception.
    """
    path = Path(source)
    # For what cannot be the name of a file, pathlib raises where os.path says no.
    if is_callable_source(source) and not os.path.exists(path):  # noqa: PTH110
        return _from_function(source)
    if os.path.isfile(path / CONFIG):  # noqa: PTH113
        model, examples = load_folder(path)
        return LoadedModel("pytorch", model, examples, path.resolve().name, dynamic_axes(examples))
    if os.path.isdir(path):  # noqa: PTH112
        raise UnsuitableModel(
            f"{path} is a folder without {CONFIG}, which Hugging Face's models have: save the model as .keras or .pt2, "
            "or name a function that loads it: module:function"
        )
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise UnsafeModelFile(
            f"{path} is loaded with pickle, which runs whatever its author put into it: {_instead(suffix)}"
        )
    if suffix in _OTHERS:
        raise UnsuitableModel(f"{path} {_OTHERS[suffix].format(path=path)}")
    if suffix not in {_PROGRAM_SUFFIX, _KERAS_SUFFIX}:
        raise UnsuitableModel(f"{source} is not a model to export: name module:function, a .pt2 file or a .keras file")
    if not os.path.isfile(path):  # noqa: PTH113
        raise UnsuitableModel(f"{path} does not exist: name module:function, a .pt2 file or a .keras file")
    return _from_program(path) if suffix == _PROGRAM_SUFFIX else _from_keras(path)


def _instead(suffix: str) -> str:
    loading = "torch.load" if suffix in {".pt", ".pth", ".bin", ".ckpt"} else "joblib.load"
    saving = (
        "save the model with torch.export.save as .pt2, or "
        if loading == "torch.load"
        else "export it where it was trained with plansmith_build.exporting.export_scikit_learn, or "
    )
    return (
        f"{saving}write a function that makes or loads it ({loading}, if you trust it) and name it as module:function"
    )


def _from_function(source: str) -> LoadedModel:
    # Should the function import Keras, then on the backend that it is exported from, unless the user chose one.
    os.environ.setdefault("KERAS_BACKEND", "torch")
    given = call_user_function(source)
    examples: Any = None
    if isinstance(given, tuple) and len(given) == 2:  # noqa: PLR2004 - model and examples
        given, examples = given
    elif isinstance(given, (tuple, list, Mapping)) or given is None:
        raise UnsuitableModel(
            f"{source} returned a {type(given).__name__}: return a model, or a pair of a model and example inputs"
        )
    return LoadedModel(_framework_of(source, given), given, examples, source.rpartition(":")[2].rpartition(".")[2])


def _framework_of(source: str, model: Any) -> Framework:
    # By the names of its classes, so that no framework is imported to find out: a Keras model on the PyTorch backend
    # is a module of PyTorch too.
    bases = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__]
    if any(base.startswith("keras.") for base in bases):
        return "keras"
    if any(base.startswith(("torch.nn.modules.module.", "torch.export.")) for base in bases):
        return "pytorch"
    if any(base.startswith("sklearn.base.") for base in bases):
        return "scikit-learn"
    raise UnsuitableModel(
        f"{source} returned a {type(model).__module__}.{type(model).__name__}: return a torch.nn.Module with example "
        "inputs, a fitted scikit-learn estimator or a keras.Model"
    )


def _from_program(path: Path) -> LoadedModel:
    torch = require("torch")
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    # torch.export.load falls back to a full unpickler by itself; this takes it away.
    os.environ[name] = "1"
    try:
        with quiet():
            _check_program(path)
            program = torch.export.load(str(path))
    except InvalidOption:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnsuitableModel(
            f"{path} is not a program that torch.export.save wrote with this PyTorch: {said}"
        ) from error
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return LoadedModel("pytorch", program, None, path.stem)


def _check_program(path: Path) -> None:
    # Read by the same reader that loads it, so that both see the same names.
    archive = require("torch.export.pt2_archive").PT2ArchiveReader(str(path))
    for member in archive.get_file_names():
        if any(code in member for code in _CODE_IN_PROGRAM):
            raise UnsafeModelFile(
                f"{path} holds {member!r}, which runs when it is loaded: save the program without compiled "
                "code and custom objects, or name a function that loads it: module:function"
            )


def _from_keras(path: Path) -> LoadedModel:
    keras = require_keras()
    try:
        with quiet():
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        advice = ""
        if "safe_mode" in said or "lambda" in said.lower():
            advice = "; code in a model file is not run: name a function that loads it, module:function"
            said = "it holds a lambda, which is code"
        raise UnsuitableModel(f"{path} is not a model that Keras loads safely: {said}{advice}") from error
    return LoadedModel("keras", model, None, path.stem)
