"""The models that the benchmarks of tuning begin with, served as Triton would by default, and their tuning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from mlp import write_mlp
from texture_classifier import INPUT, write_texture_classifier
from tritonclient.grpc import model_config_pb2

from plansmith_perf.tuning.records import TuningRecord

__all__ = ["IN_USE", "build_mlp", "build_resnet50", "tune"]

# There is no such configuration before the tuning, so config.pbtxt is the one in use.
IN_USE = "tuned"
COMMAND = str(Path(sys.executable).with_name("plansmith"))


def build_mlp(folder: Path) -> None:
    """The MLP 64-128-10 in FP32, in `folder`/model_repository."""
    write_mlp(folder / "mlp.onnx")
    _build(folder, "mlp.onnx")


def build_resnet50(folder: Path) -> Path:
    """ResNet-50 with all that `plansmith build` keeps of it, likewise; gives pictures to ask with."""
    write_texture_classifier(folder / "resnet50.onnx", folder / "calibration.npz")
    with np.load(folder / "calibration.npz") as pictures:
        np.savez(folder / "pictures.npz", **{INPUT: pictures[INPUT][:8]})
    _build(folder, "resnet50.onnx", "--data", "calibration.npz", "--max-drop", "0.5%")
    return folder / "pictures.npz"


def tune(folder: Path, model: str, *words: str) -> TuningRecord:
    """Run `plansmith tune` there; gives what it records."""
    tuning = [COMMAND, "tune", model, "--config-name", IN_USE, "--json", "--storage", "trials.journal", *words]
    done = subprocess.run(tuning, cwd=folder, check=True, stdout=subprocess.PIPE)
    return TuningRecord.model_validate(json.loads(done.stdout)["tuning"])


def _build(folder: Path, *words: str) -> None:
    """Without what Triton does not do unless it is told: dynamic batching, and a number of instances and threads."""
    subprocess.run([COMMAND, "build", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("model_repository/*/config.pbtxt")
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    config.ClearField("dynamic_batching")
    config.ClearField("instance_group")
    config.parameters.clear()
    path.write_text(text_format.MessageToString(config), encoding="utf-8")
