# mypy: disable-error-code="import-not-found"
"""Writes MLServer's settings into the working directory and starts `mlserver start .` there.

One process for inference, as by default (https://docs.seldon.ai/mlserver/user-guide/parallel-inference), and adaptive
batching, which is off unless it is asked for (https://docs.seldon.ai/mlserver/user-guide/adaptive-batching).
"""

import json
import os
import sys
from pathlib import Path

from mlserver.cli import main

TYPES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip


def tensors(given: list[dict[str, object]]) -> list[dict[str, object]]:
    """Tensors as model-settings.json has them."""
    return [{"name": t["name"], "datatype": TYPES[str(t["dtype"])], "shape": t["shape"]} for t in given]


if __name__ == "__main__":
    settings = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
    server = {name: settings[name] for name in ("host", "http_port", "grpc_port", "metrics_port")}
    model = {
        "name": settings["name"],
        "implementation": "mlserver_runtime.OnnxModel",
        "inputs": tensors(settings["inputs"]),
        "outputs": tensors(settings["outputs"]),
    }
    if settings["max_batch_size"]:
        model |= {"max_batch_size": settings["max_batch_size"], "max_batch_time": settings["batch_wait"]}
    # `debug`, on by default, is not for production.
    Path("settings.json").write_text(json.dumps({**server, "debug": False}), encoding="utf-8")
    Path("model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    sys.argv = ["mlserver", "start", "."]
    main()
