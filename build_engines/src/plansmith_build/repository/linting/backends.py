"""Which backend runs a model: the names that Triton knows, and what it fills in where the configuration says nothing.

Rules: AutoCompleteBackendFields and ValidateModelConfig in triton-inference-server/core, src/model_config_utils.cc;
the names are in src/constants.h.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["PLATFORMS", "check_backend", "infer_backend"]

PLATFORMS: Mapping[str, str] = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "ensemble": "ensemble",
}
# In the order in which the server looks for them.
_BACKENDS_BY_FILE: Mapping[str, str] = {
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
    "model.plan": "tensorrt",
    "model.onnx": "onnxruntime",
    "model.xml": "openvino",
    "model.pt": "pytorch",
    "model.pt2": "pytorch",
    "model.py": "python",
}
# Triton holds backend and platform of these against each other; any platform goes with another backend.
_PAIRED = frozenset(PLATFORMS.values()) - {"ensemble"}
# Those of NVIDIA's containers and repositories. Any other needs a library of its own.
_PUBLISHED = frozenset(
    {
        *_PAIRED,
        *("openvino", "python", "dali", "fil", "vllm", "tensorrtllm", "dlpack", "stateful", "paddle"),
        # Of plansmith-server.
        *("pipeline_step", "tensorrt_rtx"),
        *("identity", "repeat", "square", "sequence", "dyna_sequence", "distributed_addsub", "implicit_state"),
    }
)
_NICKNAMES: Mapping[str, str] = {
    **PLATFORMS,
    "onnx": "onnxruntime",
    "ort": "onnxruntime",
    "onnxrt": "onnxruntime",
    "onnx_runtime": "onnxruntime",
    "trt": "tensorrt",
    "tensorrt_engine": "tensorrt",
    "plan": "tensorrt",
    "torch": "pytorch",
    "libtorch": "pytorch",
    "torchscript": "pytorch",
    "tf": "tensorflow",
    "openvino_ir": "openvino",
    "ov": "openvino",
    "python3": "python",
    "trtllm": "tensorrtllm",
}
# A name this close to a known one is a misspelling; anything else may be a backend of the user's own.
_CLOSE = 0.8


def infer_backend(model_name: str, default_filename: str, files: Collection[str]) -> str:
    """The backend that the server fills in where a configuration names neither backend nor platform.

    Args:
        model_name: the model's name; `model.<backend>` names a custom backend.
        default_filename: `default_model_filename`, or "".
        files: the names in the first version's folder.

    Returns:
        "" where the server cannot tell.
    """
    if default_filename:
        return _BACKENDS_BY_FILE.get(default_filename, "")
    known = next((backend for file, backend in _BACKENDS_BY_FILE.items() if file in files), "")
    return known or model_name.partition(".")[2]


def check_backend(context: ConfigContext) -> Iterator[Finding]:
    """Whether backend and platform are names that exist, and agree."""
    backend, platform = context.config.backend, context.config.platform
    if platform == "ensemble":
        if backend:
            yield context.error(f"an ensemble cannot have a backend, got {backend!r}", "remove backend")
    elif backend:
        yield from _check_name(context, backend)
        yield from _check_runtime(context, backend)
        if platform and backend in _PAIRED and PLATFORMS.get(platform) != backend:
            pairs = " or ".join(repr(name) for name, owner in PLATFORMS.items() if owner == backend)
            yield context.error(
                f"platform {platform!r} does not belong to backend {backend!r}", f"remove platform, or write {pairs}"
            )
    elif platform:
        if platform not in PLATFORMS and platform != "libtorch":
            meant = _meant(platform)
            fix = f"write backend: {_quoted(meant)} instead" if meant else f"write one of {', '.join(PLATFORMS)}"
            yield context.error(f"platform {platform!r} does not exist", fix)
    elif not context.backend:
        yield context.error(
            "neither backend nor platform is set, and no model file has a name that the server knows",
            'write backend: "onnxruntime", or the backend that runs the model',
        )


def _check_name(context: ConfigContext, backend: str) -> Iterator[Finding]:
    if backend in _PUBLISHED:
        return
    library = f"libtriton_{backend}.so"
    folders = [context.model.path, *(context.model.path / str(version) for version in context.model.versions)]
    if any((folder / library).exists() for folder in folders):
        return
    meant = _meant(backend)
    if meant:
        yield context.error(
            f"backend {backend!r} does not exist", f"did you mean {meant!r}? Write backend: {_quoted(meant)}"
        )
    else:
        yield context.warning(
            f"backend {backend!r} is not one that NVIDIA publishes, so a server needs it installed",
            f"install {library} or a Python-based backend of this name on the server, or correct the name",
        )


def _check_runtime(context: ConfigContext, backend: str) -> Iterator[Finding]:
    # The name of a file: GetBackendLibraryProperties in core, src/backend_model.cc.
    runtime, usual = context.config.runtime, (f"libtriton_{backend}.so", "model.py")
    if runtime in ("", *usual) or backend not in _PUBLISHED:
        return
    folders = [context.model.path, *(context.model.path / str(version) for version in context.model.versions)]
    if "/" in runtime or not any((folder / runtime).exists() for folder in folders):
        yield context.error(
            f"runtime {runtime!r} is not a library of backend {backend!r}",
            f"remove runtime, or write {' or '.join(map(_quoted, usual))}",
        )


def _meant(name: str) -> str:
    """The backend that a name which does not exist stands for, or ""."""
    lower = name.lower().replace("-", "_")
    if lower in _PUBLISHED:
        return lower
    if lower in _NICKNAMES:
        return _NICKNAMES[lower]
    close = difflib.get_close_matches(lower, [*_PUBLISHED, *_NICKNAMES], n=1, cutoff=_CLOSE)
    return _NICKNAMES.get(close[0], close[0]) if close else ""


def _quoted(name: str) -> str:
    return f'"{name}"'
