"""The main job, end to end: train, build, serve, ask over gRPC and HTTP, show the answers, stop.

Everything is made below one folder, out/demo by default; nothing outside it changes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from measure import Measurement, measure
from picture import save_png, terminal_picture
from rich.console import Console
from rich.table import Table
from train import train

from plansmith_build import BuildOptions, build
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

THREADS = 8
ROUNDS = 5
# Digits shown in the terminal; twice as many are in the PNG.
SHOWN = 8
# On the same images the server must say what ONNX Runtime says in process; only the order of additions may differ.
TOLERANCE = 1e-4

console = Console()


def main(output: Path) -> None:
    """Run the demonstration and write its picture and its model repository to `output`."""
    started = time.perf_counter()
    with step("Training a classifier on scikit-learn's digits"):
        train(output)
    repository = output / "model_repository"
    shutil.rmtree(repository, ignore_errors=True)
    with step("Building a verified version from the ONNX file"):
        built = build(
            output / "digits.onnx", BuildOptions(repository=repository, name="digits", labels=output / "labels.txt")
        )
    console.print(f"  published version {built.version} in {os.path.relpath(built.path)}")
    with np.load(output / "held_out.npz") as held_out:
        images, labels = held_out["images"], held_out["labels"]

    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with step("Starting NVIDIA's Triton on free loopback ports"):
        server = TritonServer(options)
        server.start()
    try:
        measured = ask(server, output / "digits.onnx", images)
    finally:
        with step("Stopping the server"):
            server.stop()

    show(measured, images, labels, output / "predictions.png")
    console.print(f"\nDone in {time.perf_counter() - started:.0f} s. Serve the model yourself:")
    console.print(f"  .venv/bin/plansmith serve --repository {repository}", style="bold")


def ask(server: TritonServer, model: Path, images: NDArray[np.float32]) -> dict[str, Measurement]:
    """Send the images to the server over both protocols, and to ONNX Runtime in this process.

    Args:
        server: a running server with a model `digits`.
        model: the ONNX file as it was trained, for the run in this process.
        images: FP32 [N, 8, 8].

    Raises:
        SystemExit: the server's answers differ from those of ONNX Runtime in this process.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    count = f"{len(images)} images, {ROUNDS} times, each alone"
    measured = {}
    with step(f"ONNX Runtime in this process: {count}"):
        measured["ONNX Runtime in process"] = measure(
            lambda image: session.run(None, {"images": image})[0], images, threads=1, rounds=ROUNDS
        )
    for protocol, url in [("gRPC", server.grpc_url), ("HTTP", server.http_url)]:
        with Client(url) as client, step(f"Triton over {protocol}, {THREADS} at a time: {count}"):
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


def show(measured: dict[str, Measurement], images: NDArray[np.float32], labels: NDArray[np.int64], png: Path) -> None:
    """Print the table and the picture, and write the PNG."""
    table = Table(title=f"\nAccuracy and speed on {os.cpu_count()} CPU cores", title_justify="left")
    for heading in ["", "accuracy", "p50 ms", "p95 ms", "p99 ms", "images/s"]:
        table.add_column(heading, justify="right" if heading else "left")
    for name, measurement in measured.items():
        percentiles = [f"{measurement.percentile(percent):.2f}" for percent in (50, 95, 99)]
        table.add_row(
            name, f"{measurement.accuracy(labels):.1%}", *percentiles, f"{measurement.images_per_second:,.0f}"
        )
    console.print(table)
    console.print("A network this small takes microseconds: the rest is the way to the server and back.\n", style="dim")

    probabilities = measured["Triton over gRPC"].probabilities
    mistakes = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    right = np.setdiff1d(np.arange(len(images)), mistakes)
    # Two mistakes among them: they are what one wants to see.
    shown = np.concatenate([right[: SHOWN - 2], mistakes[:2], right[SHOWN:]])[: 2 * SHOWN]
    console.print(terminal_picture(images[shown[:SHOWN]], labels[shown[:SHOWN]], probabilities[shown[:SHOWN]]))
    save_png(png, images[shown], labels[shown], probabilities[shown])
    console.print(f"More of them: {png}")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show what is going on, and how long it took."""
    started = time.perf_counter()
    with console.status(title):
        yield
    console.print(f"[green]✓[/] {title} [dim]({time.perf_counter() - started:.1f} s)[/]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder to work in [%(default)s]")
    main(parser.parse_args().output)
