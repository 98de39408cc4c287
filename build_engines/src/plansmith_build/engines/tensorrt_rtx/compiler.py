"""The program that compiles one graph with TensorRT for RTX, in a process of its own.

A file nobody vouches for may crash NVIDIA's compiler: then this process ends, and not the build. It is started by its
path and imports the bindings alone, so that it takes a tenth of a second to start. A JSON object on standard input says
what to compile, one on standard output what came of it: see `compilation.py`.

Checked against NVIDIA's own bindings by tests/test_rtx_contract.py, which reads this file: the names of the variables
there say which class each is of.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import tensorrt_rtx_bindings as trt

__all__ = ["compile_graph", "main"]


class _Recorder(trt.ILogger):  # type: ignore[misc]
    """Keeps what the compiler calls an error, which it tells nobody else."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
            self.errors.append(msg)


def compile_graph(request: dict[str, Any]) -> dict[str, Any]:
    """Compile one graph.

    Args:
        request: `model` and `engine`, the two paths; `capabilities`, such as `["8.6"]`, empty for the default;
            `profiles`, for each the three shapes of each dynamic input by name.

    Returns:
        `version`, `seconds` and `size` of the engine; or `stage` (`"parse"`, `"profile"` or `"build"`), `errors` with
        `node`, `operator` and `said`, and `log`.
    """
    recorder = _Recorder()
    started = time.monotonic()
    builder = trt.Builder(recorder)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, recorder)
    # By its path, so that weights beside it are found.
    if not parser.parse_from_file(request["model"]):
        errors = []
        for number in range(parser.num_errors):
            error = parser.get_error(number)
            errors.append({"node": error.node_name(), "operator": error.node_operator(), "said": error.desc()})
        return {"stage": "parse", "errors": errors, "log": recorder.errors}
    config = builder.create_builder_config()
    # FP32 is to mean FP32: TF32 rounds to 10 bits without being asked.
    config.clear_flag(trt.BuilderFlag.TF32)
    if request["capabilities"]:
        config.num_compute_capabilities = len(request["capabilities"])
        for index, capability in enumerate(request["capabilities"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)
    dynamic = [tensor for tensor in _inputs(network) if -1 in tuple(tensor.shape)]
    for shapes in request["profiles"]:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            if tensor.name not in shapes:
                return {"stage": "profile", "errors": [], "log": [f"no shapes for the input {tensor.name!r}"]}
            smallest, best, largest = map(tuple, shapes[tensor.name])
            profile.set_shape(tensor.name, smallest, best, largest)
        if dynamic and config.add_optimization_profile(profile) < 0:
            return {"stage": "profile", "errors": [], "log": recorder.errors}
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        return {"stage": "build", "errors": [], "log": recorder.errors}
    content = bytes(serialized)
    with open(request["engine"], "wb") as file:  # noqa: PTH123 - no import that is not needed
        file.write(content)
    return {"version": str(trt.__version__), "seconds": time.monotonic() - started, "size": len(content)}


def main() -> None:
    """Read the request, compile, and write the answer."""
    # What the parser prints by itself must not stand between the reader and the answer.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    json.dump(compile_graph(json.load(sys.stdin)), answer)
    answer.close()


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(number) for number in range(network.num_inputs)]


if __name__ == "__main__":
    main()
