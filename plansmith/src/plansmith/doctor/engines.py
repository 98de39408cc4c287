"""Triton and the engines, each tried and not only looked for."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from plansmith.doctor.findings import Finding
from plansmith_build.engines.tensorrt.availability import unavailable_because
from plansmith_build.progress import plural
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.plans import check_plans, own_models
from plansmith_server.errors import TritonUnavailable
from plansmith_server.launcher.triton_wheel import find_triton

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["onnxruntime_providers", "openvino", "plans", "tensorrt", "triton"]

_FATAL = 4
# What a package of ONNX Runtime lists though it is no device of its own to serve from.
_REMOTE = frozenset({"AzureExecutionProvider"})
_TENSORRT = "TensorrtExecutionProvider"
_LIBRARIES = (
    "install the CUDA and cuDNN, or TensorRT, that this ONNX Runtime was made for, or serve in NVIDIA's container"
)


def triton() -> Finding:
    """Triton's wheel: its binary, its Python backend's stub and the Python library that the stub needs."""
    try:
        wheel = find_triton()
    except TritonUnavailable as error:
        problem, _, remedy = str(error).partition(": ")
        return Finding("Triton", "failed", problem, remedy or "serve in a container: docs/deploy.md")
    return Finding("Triton", "ok", f"2.51 from nvidia-pytriton {wheel.version}; its Python backend starts")


def onnxruntime_providers() -> list[Finding]:
    """Each execution provider that ONNX Runtime lists, with a session opened and one row run on it."""
    try:
        import onnxruntime  # noqa: PLC0415 - a second of imports

        from plansmith_build.engines.cuda_libraries import load_cuda_libraries  # noqa: PLC0415 - imports it, too

        load_cuda_libraries()
    except Exception as error:  # noqa: BLE001 - whatever a library that does not fit raises
        return [_broken("ONNX Runtime", "onnxruntime", error)]
    names = [name for name in onnxruntime.get_available_providers() if name not in _REMOTE]
    onnxruntime.set_default_logger_severity(_FATAL)
    found = []
    for name in names:
        label = f"ONNX Runtime {name.removesuffix('ExecutionProvider')}"
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = _FATAL
            # Where a provider does not start, ONNX Runtime prints so.
            with redirect_stdout(io.StringIO()):
                session = onnxruntime.InferenceSession(_model(), options, providers=[name])
            session.run(None, {"images": np.zeros((1, 8, 8), np.float32)})
            opened = session.get_providers()[0]
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes of its own, and RuntimeError
            found.append(Finding(label, "failed", f"no session opens: {_first_line(error)}", _LIBRARIES))
            continue
        if opened == name:
            found.append(Finding(label, "ok", f"{onnxruntime.__version__}; a session ran"))
        elif name == _TENSORRT and unavailable_because():
            # onnxruntime-gpu lists it everywhere.
            found.append(Finding(label, "absent", "TensorRT is not here", "the CUDA provider is used"))
        else:
            detail = f"is listed, but a session falls back to {opened.removesuffix('ExecutionProvider')}"
            found.append(Finding(label, "failed", detail, _LIBRARIES))
    return found


def openvino() -> Finding:
    """OpenVINO, with a model compiled and one row run."""
    try:
        import openvino as ov  # noqa: PLC0415 - slow to import

        core = ov.Core()
        core.compile_model(core.read_model(_model()), "CPU")(np.zeros((1, 8, 8), np.float32))
    except Exception as error:  # noqa: BLE001 - whatever a library that does not fit raises
        return _broken("OpenVINO", "openvino", error)
    return Finding("OpenVINO", "ok", f"{version('openvino')}; a model ran on {', '.join(core.available_devices)}")


def tensorrt() -> Finding:
    """TensorRT, which builds plans for this machine's GPU."""
    if find_spec("tensorrt") is not None:
        try:
            import tensorrt  # noqa: F401, PLC0415 - only where it is installed
        except Exception as error:  # noqa: BLE001 - whatever a library that does not fit raises
            return _broken("TensorRT", "tensorrt", error)
    reason = unavailable_because()
    if not reason:
        return Finding("TensorRT", "ok", version("tensorrt"))
    problem, _, remedy = reason.partition(": ")
    return Finding("TensorRT", "absent", problem, remedy)


def plans(folder: Path) -> Finding:
    """Whether the TensorRT that is here runs the plans and engines of a repository, in this folder or one below it.

    Those of older versions, which wait for a rollback, are a warning at most.
    """
    found = {path.parent.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/config.pbtxt")}
    try:
        models = [model for repository in sorted(found) for model in own_models(ModelRepository(repository))]
        checks = [check_plans(model) for model in models]
    except OSError as error:
        detail = f"{error.filename} cannot be read: {error.strerror}"
        return Finding("plans", "failed", detail, "restore it from a copy")
    count = sum(check.count for check in checks)
    unfit = [sentence for check in checks for sentence in check.unfit]
    old = [sentence for check in checks for sentence in check.old]
    if unfit:
        detail = f"{len(unfit)} of {count} do not run here: {unfit[0].partition(': ')[0]}"
        return Finding("plans", "failed", detail, "plansmith upgrade builds them again")
    if old:
        detail = f"{len(old)} of older versions do not run here: {old[0].partition(': ')[0]}"
        return Finding("plans", "warning", detail, "plansmith prune removes them; a rollback to one cannot be served")
    if not count:
        return Finding("plans", "absent", "no plans")
    counted = f"{count} plan{plural(count)}"
    if missing := sorted({kind for check in checks for kind in check.missing}):
        return Finding("plans", "absent", f"{counted}, and {' and '.join(missing)} is not here to compare with")
    return Finding("plans", "ok", f"{counted}, all built by this TensorRT")


def _broken(name: str, package: str, error: Exception) -> Finding:
    return Finding(name, "failed", f"does not work: {_first_line(error)}", f"pip install --force-reinstall {package}")


def _model() -> bytes:
    return files("plansmith.demo").joinpath("digits", "digits.onnx").read_bytes()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
