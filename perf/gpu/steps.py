"""The steps of the GPU check, each of which gives what it found as a dictionary."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from plansmith_build.engines.cuda_libraries import load_cuda_libraries
from plansmith_client import Client, ClientError
from plansmith_server import ServerError, ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RESNET", "STEPS", "Setting"]

CLIENTS = 8
RESNET = "resnet50"


@dataclass(frozen=True)
class Setting:
    """What all steps share.

    Attributes:
        folder: where they work.
        models: ONNX files to build, beside the encoder.
        dry_run: on the CPU, with small models, to see that every step works; its figures mean nothing.
    """

    folder: Path
    models: tuple[Path, ...]
    dry_run: bool

    @property
    def repository(self) -> Path:
        """Where models are published."""
        return self.folder / "model_repository"

    @property
    def device(self) -> str:
        """`gpu`, or `cpu` in a dry run."""
        return "cpu" if self.dry_run else "gpu"


def device(setting: Setting) -> dict[str, Any]:
    """The GPU, its architecture, its driver and what is installed."""
    packages = {
        name: find_spec(name) is not None for name in ("tensorrt", "tensorrt_rtx_bindings", "torch", "onnxruntime")
    }
    if setting.dry_run:
        return {"name": "dry run", "packages": packages}
    from cuda.bindings import runtime as cuda  # noqa: PLC0415 - only where there is a GPU

    status, properties = cuda.cudaGetDeviceProperties(0)
    if status != cuda.cudaError_t.cudaSuccess:
        raise RuntimeError(f"there is no GPU to check: {status.name}. Give --dry-run to try the steps on the CPU")
    _, driver = cuda.cudaDriverGetVersion()
    return {
        "name": properties.name.decode(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.totalGlobalMem / 2**30, 1),
        "driver_cuda": f"{driver // 1000}.{driver % 1000 // 10}",
        "packages": packages,
    }


def build_for_onnxruntime(setting: Setting) -> dict[str, Any]:
    """Every model with ONNX Runtime, in each precision, verified and timed beside FP32."""
    from torch_encoder import export_encoder  # noqa: PLC0415 - PyTorch, for this step alone

    encoder = setting.folder / "encoder.onnx"
    export_encoder(encoder, small=setting.dry_run)
    precisions = ("fp32", "int8") if setting.dry_run else ("fp32", "fp16", "bf16")
    return {path.stem: _build(setting, path, "onnxruntime", precisions) for path in (*setting.models, encoder)}


def time_pytorch(setting: Setting) -> dict[str, Any]:
    """The encoder as PyTorch runs it."""
    return _pytorch(setting, compiled=False)


def time_compiled_pytorch(setting: Setting) -> dict[str, Any]:
    """The same compiled, which may take minutes."""
    return _pytorch(setting, compiled=True)


def change_batch_size(setting: Setting) -> dict[str, Any]:
    """Milliseconds of a run of the size of the one before it, and of another size, by how algorithms are chosen."""
    path = _model_file(setting, setting.models[-1].stem)
    return {choice: _time_sizes(path, choice, setting) for choice in ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")}


def serve(setting: Setting) -> dict[str, Any]:
    """The pip Triton with our backends, and several clients at once; arrays that are on the GPU, where there is one."""
    names = sorted(entry.name for entry in setting.repository.iterdir())
    options = _server_options(setting, setting.device)
    with TritonServer(options) as server:
        found: dict[str, Any] = {name: {"rows_per_second": _load(server.grpc_url, name, setting)} for name in names}
        if not setting.dry_run and RESNET in names:
            found["device_arrays"] = _device_arrays(server.grpc_url, RESNET)
    return found


def build_for_tensorrt(setting: Setting) -> dict[str, Any]:
    """Plans on this GPU, where TensorRT is installed; what NVIDIA's compiler says without one, elsewhere."""
    found: dict[str, Any] = {}
    if not setting.dry_run and find_spec("tensorrt") is None:
        found["note"] = "TensorRT is not installed here: graphs are compiled by TensorRT for RTX, and not measured"
    for path in setting.models:
        found[path.stem] = _build(setting, path, "tensorrt", ("fp16", "int8-fp16"))
    return found


def build_and_serve_for_rtx(setting: Setting) -> dict[str, Any]:
    """Engines of TensorRT for RTX, and whether this GPU takes them; its refusal is a result."""
    path = setting.models[0]
    found: dict[str, Any] = {"built": _build(setting, path, "tensorrt-rtx", ("fp16",))}
    try:
        with TritonServer(_server_options(setting, "rtx")) as server:
            found["rows_per_second"] = _load(server.grpc_url, path.stem, setting)
    except (ClientError, ServerError) as error:
        found["refused"] = str(error)[:2000]
    return found


STEPS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "device": device,
    "onnxruntime": build_for_onnxruntime,
    "triton": serve,
    "batch sizes": change_batch_size,
    "tensorrt": build_for_tensorrt,
    "tensorrt-rtx": build_and_serve_for_rtx,
    "pytorch": time_pytorch,
    "torch.compile": time_compiled_pytorch,
}
"""By name, in the order in which they are run: what is most worth knowing comes first."""


def _pytorch(setting: Setting, *, compiled: bool) -> dict[str, Any]:
    from torch_encoder import time_encoder  # noqa: PLC0415 - as above

    if setting.dry_run:
        return time_encoder("cpu", small=True, compiled=compiled, runs=3)
    return time_encoder("cuda", small=False, compiled=compiled, runs=50)


def _model_file(setting: Setting, name: str) -> Path:
    """The FP32 graph that was published."""
    return max((setting.repository / name).glob("*/model.onnx"))


def _time_sizes(path: Path, choice: str, setting: Setting) -> dict[str, float]:
    load_cuda_libraries()
    provider: Any = "CPUExecutionProvider"
    if not setting.dry_run:
        provider = ("CUDAExecutionProvider", {"cudnn_conv_algo_search": choice})
    session = onnxruntime.InferenceSession(path, providers=[provider])
    (described,) = session.get_inputs()
    rows = np.random.default_rng(0).random((8, *described.shape[1:]), np.float32)
    found: dict[str, list[float]] = {"same_ms": [], "changed_ms": []}
    last = 0
    for size in (1, 1, 7, 7, 1, 7, 8, 1, 8, 8):
        started = time.perf_counter()
        session.run(None, {described.name: rows[:size]})
        if last:
            found["same_ms" if size == last else "changed_ms"].append(1000 * (time.perf_counter() - started))
        last = size
    return {key: round(statistics.median(taken), 1) for key, taken in found.items()}


def _build(setting: Setting, path: Path, target: str, precisions: tuple[str, ...]) -> list[dict[str, Any]]:
    data = path.with_suffix(".npz")
    words = [
        *(str(Path(sys.executable).with_name("plansmith")), "build", str(path)),
        *("--repository", str(setting.repository)),
        *("--target", target, "--no-serve", "--json"),
        # Where there are labels, accuracy counts; elsewhere the answers need only be of use for timing.
        *(("--data", str(data), "--max-drop", "1%") if data.exists() else ("--data", "random:32", "--max-drop", "50%")),
    ]
    for precision in precisions:
        words += ["--precision", precision]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return [{"target": target, "status": "failed", "reason": " ".join(done.stderr.split())[-500:]}]
    candidates = json.loads(done.stdout)["manifest"]["search"]["candidates"]
    kept = (
        "target",
        "device",
        "precision",
        "status",
        "reason",
        "engine",
        "rows_per_second",
        "ratio_to_fp32",
        "compiled",
    )
    return [{key: entry.get(key) for key in kept} for entry in candidates]


def _server_options(setting: Setting, config_name: str) -> ServerOptions:
    return ServerOptions(
        repository=setting.repository, http_port=0, grpc_port=0, metrics_port=0, config_name=config_name
    )


def _load(url: str, name: str, setting: Setting) -> float:
    """Rows a second of several clients with one row each, for a few seconds."""
    seconds = 0.5 if setting.dry_run else 5.0

    def ask(_: int) -> int:
        with Client(url) as client:
            model = client.model(name)
            row = _row(model)
            model.infer(row)
            count, until = 0, time.monotonic() + seconds
            while time.monotonic() < until:
                model.infer(row)
                count += 1
        return count

    with ThreadPoolExecutor(CLIENTS) as threads:
        return round(sum(threads.map(ask, range(CLIENTS))) / seconds, 1)


def _device_arrays(url: str, name: str) -> dict[str, Any]:
    """Milliseconds of a call with arrays of the CPU, and with the same on the GPU already, in turn.

    With the regions of CUDA memory that the server has registered then, and how far the answers are apart.
    """
    import torch  # noqa: PLC0415 - as above
    from tritonclient.grpc import InferenceServerClient  # noqa: PLC0415 - another one's word for what is registered

    with Client(url) as client:
        model = client.model(name)
        rows = {key: np.repeat(value, 8, axis=0) for key, value in _row(model).items()}
        places: dict[str, Any] = {"cpu": rows, "gpu": {key: torch.from_numpy(v).cuda() for key, v in rows.items()}}
        answers = {place: next(iter(model.infer(given).values())) for place, given in places.items()}
        seconds: dict[str, list[float]] = {place: [] for place in places}
        for _ in range(10):
            for place, given in places.items():
                started = time.perf_counter()
                for _ in range(10):
                    model.infer(given)
                seconds[place].append((time.perf_counter() - started) / 10)
        regions = InferenceServerClient(url.rpartition("/")[2]).get_cuda_shared_memory_status().regions
    return {
        "rows": 8,
        **{f"{place}_ms": round(1000 * statistics.median(taken), 3) for place, taken in seconds.items()},
        "cuda_regions": len(regions),
        "difference": float(np.abs(answers["cpu"] - answers["gpu"]).max()),
    }


def _row(model: Any) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    rng = np.random.default_rng(0)
    row = {}
    for spec in model.metadata.inputs:
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        whole = spec.datatype.startswith(("INT", "UINT"))
        row[spec.name] = rng.integers(0, 10, shape).astype(np.int64) if whole else rng.random(shape, np.float32)
    return row
