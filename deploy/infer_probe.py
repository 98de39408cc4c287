"""Whether a Triton server answers inferences: a health check for containers, of the standard library alone.

    python3 infer_probe.py [--url http://localhost:8000] [MODEL ...]

Each model named here or in the variable PROBE_MODELS, or else each of a server that is ready, gets one request of zeros
in the shapes that it declares, 1 for a dynamic dimension. Exit code 0: all answered, or have too many requests and run
them. 1: the server is not ready, an answer was an error, none came in time, or a queue is full and nothing is run.
"""

import argparse
import json
import math
import os
import sys
import time
import urllib.error
import urllib.request

# Bytes an element where they are not four; an empty string is a length of zero.
SIZES = {"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT64": 8, "UINT64": 8}
SIZES["FP64"] = 8
FOUR = 4


def main() -> int:
    """Probe, say what is wrong, and give the exit code."""
    parser = argparse.ArgumentParser(description="Ask a Triton server for one inference of each model.")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for each request")
    options = parser.parse_args()
    server = Server(options.url.rstrip("/"), options.timeout)
    try:
        models = options.models or os.environ.get("PROBE_MODELS", "").split() or server.ready_models()
        # All together: whoever runs this probe waits for seconds only.
        server.wait_for_executions({model: server.executions(model) for model in models if not server.infer(model)})
    except (OSError, ValueError) as error:
        detail = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
        sys.stderr.write(f"{getattr(error, 'url', options.url)}: {error} {detail}".rstrip() + "\n")
        return 1
    return 0


class Server:
    """A Triton server over HTTP."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url, timeout
        # Never through a proxy: the server is on this machine.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        """The body of the answer; HTTPError for an error."""
        request = urllib.request.Request(f"{self.url}/{path}", data=body, headers=headers or {})  # noqa: S310
        with self.opener.open(request, timeout=self.timeout) as answer:
            return answer.read()

    def ready_models(self) -> list[str]:
        """The models of a server that is ready; not from its index, which takes the key where models can be loaded."""
        self.ask("v2/health/ready")
        return sorted({version["name"] for version in json.loads(self.ask("v2/models/stats"))["model_stats"]})

    def infer(self, model: str) -> bool:
        """Send zeros to a model and wait for its answer; false where its queue is full."""
        config = json.loads(self.ask(f"v2/models/{model}/config"))
        if config.get("model_transaction_policy", {}).get("decoupled"):
            return True  # It answers over gRPC streams only.
        header = {"inputs": [], "parameters": {"binary_data_output": True}}
        if "sequence_batching" in config:
            header["parameters"] |= {"sequence_id": 1, "sequence_start": True, "sequence_end": True}
        body = b""
        for tensor in json.loads(self.ask(f"v2/models/{model}"))["inputs"]:
            shape = [max(int(size), 1) for size in tensor["shape"]]
            data = bytes(math.prod(shape) * SIZES.get(tensor["datatype"], FOUR))
            header["inputs"].append({
                "name": tensor["name"], "datatype": tensor["datatype"], "shape": shape,
                "parameters": {"binary_data_size": len(data)},
            })  # fmt: skip
            body += data
        text = json.dumps(header).encode()
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        try:
            self.ask(f"v2/models/{model}/infer", text + body, headers)
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")
            if "maximum queue size" in message:
                return False
            # Of a request that waited for too long this is said once another one was run.
            if "timeout expired" not in message:
                raise ValueError(f"model {model}: {message or error}") from error
        return True

    def wait_for_executions(self, full: dict[str, int]) -> None:
        """Return once each has run more often than so: a queue is full where much is to do, or a backend hangs."""
        end = time.monotonic() + self.timeout
        while full := {model: before for model, before in full.items() if self.executions(model) == before}:
            if time.monotonic() > end:
                names = ", ".join(full)
                raise ValueError(f"model {names}: its queue is full, and nothing was run for {self.timeout:g} s")
            time.sleep(0.1)

    def executions(self, model: str) -> int:
        """How often the model has been run, all versions together."""
        versions = json.loads(self.ask(f"v2/models/{model}/stats"))["model_stats"]
        return sum(version["execution_count"] for version in versions)


if __name__ == "__main__":
    sys.exit(main())
