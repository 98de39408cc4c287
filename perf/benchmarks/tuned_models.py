"""The models that the benchmarks of tuning begin with, served as Triton would by default."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from mlp import write_mlp
from texture_classifier import texture_images, write_texture_classifier
from tritonclient.grpc import model_config_pb2

__all__ = ["IN_USE", "build_mlp", "build_resnet50"]

# There is no such configuration before the tuning, so config.pbtxt is the one in use.
IN_USE = "tuned"


def build_mlp(folder: Path) -> Path:
    """The MLP 64-128-10 in FP32; returns its repository."""
    write_mlp(folder / "mlp.onnx")
    return _built(folder, "mlp.onnx")


def build_resnet50(folder: Path) -> tuple[Path, Path]:
    """ResNet-50 with all that `plansmith build` keeps of it; returns its repository and pictures to ask with."""
    write_texture_classifier(folder / "resnet50.onnx")
    images, labels = texture_images(256, seed=99)
    np.savez(folder / "calibration.npz", **{"gpu_0/data_0": images, "labels": labels})
    np.savez(folder / "pictures.npz", **{"gpu_0/data_0": images[:8]})
    repository = _built(folder, "resnet50.onnx", "--data", "calibration.npz", "--max-drop", "0.5%")
    return repository, folder / "pictures.npz"


def _built(folder: Path, *words: str) -> Path:
    command = str(Path(sys.executable).with_name("plansmith"))
    subprocess.run([command, "build", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    repository = folder / "model_repository"
    (config,) = repository.glob("*/config.pbtxt")
    _as_by_default(config)
    return repository


def _as_by_default(path: Path) -> None:
    """Without what Triton does not do unless it is told: dynamic batching, and a number of instances and threads."""
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    config.ClearField("dynamic_batching")
    config.ClearField("instance_group")
    config.parameters.clear()
    path.write_text(text_format.MessageToString(config), encoding="utf-8")
