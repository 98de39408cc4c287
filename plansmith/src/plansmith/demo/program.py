"""The main job, end to end: build, serve, ask over gRPC and HTTP, show the answers, stop.

Everything is made below one folder; nothing outside it changes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from shutil import which
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from rich.markup import escape

from plansmith.demo.measure import Measurement, measure
from plansmith.demo.picture import save_images, save_terminal, terminal_picture
from plansmith_build import BuildOptions, build
from plansmith_build.datasets import Preprocessing
from plansmith_client import Client
from plansmith_client.errors import InvalidInput
from plansmith_client.terminal import Column, FittingTable
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["FILES", "Demonstration", "run", "step"]

# The trained classifier, its labels and images that it has not seen: see the README there.
FILES = Path(__file__).with_name("digits")
# From an image file to what the classifier takes: pixels of 0 to 16.
PREPROCESSING = Preprocessing(channels="GRAY", layout="NHW", scale=(16 / 255,))
THREADS = 8
ROUNDS = 5
SHOWN = 8
# On the same images the server must say what ONNX Runtime says in process; only the order of additions may differ.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Demonstration:
    """What was made and seen.

    Attributes:
        version: the number of the published version.
        repository: the model repository with it.
        measured: by the way that the images took.
        labels: the true classes, INT64 [N].
        picture: an SVG of what the terminal showed.
        seconds: the whole run.
    """

    version: int
    repository: Path
    measured: dict[str, Measurement]
    labels: NDArray[np.int64]
    picture: Path
    seconds: float


def run(files: Path, output: Path, console: Console) -> Demonstration:
    """Build, serve and ask the model of `files`, and write all that it takes to do so by hand to `output`.

    Args:
        files: a folder with digits.onnx, labels.txt and held_out.npz.
        output: the folder to work in, made if need be: a new one, an empty one, or that of an earlier run, to whose
            repository a version is added.
        console: where to show it; with `record=True`.

    Raises:
        SystemExit: the server's answers differ from those of ONNX Runtime in this process.
        InvalidInput: nothing can be written to `output`, or it has something else in it.
        BuildError: the builder's reason.
        ServerError: the server's reason.
    """
    started = time.perf_counter()
    repository, model = output / "model_repository", output / "digits.onnx"
    try:
        output.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=output).close()
        if files != output and any(output.iterdir()) and not (model.exists() and cmp(model, files / model.name)):
            raise InvalidInput(f"{output} has other files in it: name a new folder with --output")
        for name in (model.name, "labels.txt", "held_out.npz") if files != output else ():
            shutil.copy2(files / name, output)
    except OSError as error:
        raise InvalidInput(f"{output} cannot be used ({error.strerror}): name another folder with --output") from error
    with step(console, "Building a verified version from the ONNX file"):
        options = BuildOptions(
            repository=repository, name="digits", labels=files / "labels.txt", preprocessing=PREPROCESSING
        )
        built = build(files / "digits.onnx", options)
    console.print(f"  published version {built.version} in {escape(str(repository / 'digits' / str(built.version)))}")
    with np.load(files / "held_out.npz") as held_out:
        images, labels = held_out["images"], held_out["labels"]

    with step(console, escape(f"Writing the model and {len(images)} images to {output}")):
        save_images(images, labels, output)

    with step(console, "Starting NVIDIA's Triton on free loopback ports"):
        server = TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0))
        server.start()
    try:
        measured = ask(server, files / "digits.onnx", images, console)
    finally:
        with step(console, "Stopping the server"):
            server.stop()

    show(measured, images, labels, console)
    picture = output / "demo.svg"
    save_terminal(console, picture)
    seconds = time.perf_counter() - started
    console.print(f"\nDone in {seconds:.0f} s; what this showed is in {escape(str(picture))}. Go on:")
    command = "plansmith" if which("plansmith") else Path(sys.executable).with_name("plansmith")
    console.print(escape(f"  cd {shlex.quote(str(output))}"))
    console.print(f"  {command} serve")
    console.print(f"  {command} infer digits three.png    # from another terminal")
    return Demonstration(built.version, repository, measured, labels, picture, seconds)


def ask(server: TritonServer, model: Path, images: NDArray[np.float32], console: Console) -> dict[str, Measurement]:
    """Send the images to the server over both protocols, and to ONNX Runtime in this process.

    Args:
        server: a running server with a model `digits`.
        model: the ONNX file as it was trained, for the run in this process.
        images: FP32 [N, 8, 8].
        console: where to show what goes on.

    Raises:
        SystemExit: the server's answers differ from those of ONNX Runtime in this process.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    count = f"{len(images)} images, {ROUNDS} times, each alone"
    measured = {}
    with step(console, f"ONNX Runtime in this process: {count}"):
        measured["ONNX Runtime in process"] = measure(
            lambda image: session.run(None, {"images": image})[0], images, threads=1, rounds=ROUNDS
        )
    for protocol, url in [("gRPC", server.grpc_url), ("HTTP", server.http_url)]:
        with Client(url) as client, step(console, f"Triton over {protocol}, {THREADS} at a time: {count}"):
            classify = classifier(client)
            measured[f"Triton over {protocol}"] = measure(classify, images, threads=THREADS, rounds=ROUNDS)

    reference = measured["ONNX Runtime in process"].probabilities
    for name, measurement in measured.items():
        difference = float(np.abs(measurement.probabilities - reference).max())
        if difference > TOLERANCE:
            raise SystemExit(f"{name} differs from ONNX Runtime in process by {difference:.2g}: this is a bug, tell us")
    return measured


def classifier(client: Client) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The served model as a function from images FP32 [N, 8, 8] to probabilities FP32 [N, 10]."""
    model = client.model("digits")
    return lambda images: model(images)["probabilities"]


def show(
    measured: dict[str, Measurement], images: NDArray[np.float32], labels: NDArray[np.int64], console: Console
) -> None:
    """Print the table, and some images with what the served model takes them for."""
    columns = [Column("", "words"), *map(Column, ("accuracy", "p50 ms", "p95 ms", "p99 ms", "images/s"))]
    rows = [
        (
            name,
            f"{measurement.accuracy(labels):.1%}",
            *(f"{measurement.percentile(percent):.2f}" for percent in (50, 95, 99)),
            f"{measurement.images_per_second:,.0f}",
        )
        for name, measurement in measured.items()
    ]
    console.print()
    console.print(FittingTable(columns, rows, f"Accuracy and speed on {os.cpu_count()} CPU cores"))
    console.print("A network this small takes microseconds: the rest is the way to the server and back.\n", style="dim")

    probabilities = measured["Triton over gRPC"].probabilities
    mistakes = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    right = np.setdiff1d(np.arange(len(images)), mistakes)
    # Two mistakes among them: they are what one wants to see.
    shown = np.concatenate([right[: SHOWN - 2], mistakes[:2]])
    console.print(terminal_picture(images[shown], labels[shown], probabilities[shown]))


@contextmanager
def step(console: Console, title: str) -> Iterator[None]:
    """Show what is going on, and how long it took."""
    started = time.perf_counter()
    with console.status(title):
        yield
    console.print(f"[green]✓[/] {title} [dim]({time.perf_counter() - started:.1f} s)[/]")
