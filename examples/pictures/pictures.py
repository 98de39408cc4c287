"""Image classification: a small CNN trained in PyTorch, and a server that takes image files and gives labels.

The pictures are scikit-learn's digits as PNG files in a folder for each class. The network is trained in seconds,
exported, calibrated and judged on pictures that it has not seen, and served as a pipeline in the precision that won.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from plansmith_build import BuildOptions, SearchOptions, build_pipeline
from plansmith_build.datasets import read_preprocessing
from plansmith_build.exporting import export_pytorch
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.search.targets import Precision, Target
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_classified

SIZE = 32
SHOWN = 40
PREPROCESSING = read_preprocessing(f"zero-to-one,size={SIZE},channels=GRAY")


def write_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the digits as PNG files, and split them: two thirds to learn from, the rest unseen."""
    digits = load_digits()
    learn: list[Path] = []
    unseen: list[Path] = []
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part, paths = ("unseen", unseen) if number % 3 == 0 else ("learn", learn)
        path = folder / part / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
        picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return learn, unseen


def network() -> nn.Sequential:
    """From pixels between 0 and 1, [N, 1, 32, 32], to scores [N, 10]."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 64, 10)]
    return nn.Sequential(*layers)


def train(paths: list[Path], epochs: int) -> nn.Sequential:
    """A network that tells the digits apart."""
    torch.manual_seed(0)
    # So small a network gains nothing by threads, which wait for each other on a busy machine.
    torch.set_num_threads(1)
    trained = network()
    pixels = np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in paths])[:, np.newaxis]
    images = torch.from_numpy(pixels)
    labels = torch.tensor([int(path.parent.name) for path in paths])
    optimizer = torch.optim.Adam(trained.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            nn.functional.cross_entropy(trained(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return trained.eval()


def main(folder: Path, *, quick: bool) -> None:
    """Train, build, serve and ask."""
    learn, unseen = write_pictures(folder)
    trained = train(learn, epochs=3 if quick else 20)
    torch.save(trained.state_dict(), folder / "pictures.pt")
    export_pytorch(trained, torch.zeros(1, 1, SIZE, SIZE), folder / "pictures.onnx")
    search = SearchOptions(
        str(folder / "unseen"),
        preprocessing=PREPROCESSING,
        precisions=(Precision.FP32, Precision.INT8),
        targets=(Target.ONNXRUNTIME,) if quick else (Target.ONNXRUNTIME, Target.OPENVINO),
        max_drop=0.01,
    )
    repository = folder / "model_repository"
    options = BuildOptions(repository, search=search, serve=not quick)
    built = build_pipeline(folder / "pictures.onnx", Path(__file__).with_name("pictures.toml"), options)
    model = read_manifest(repository / f"pictures.{built.version}.model" / "1" / "manifest.json").search
    assert model is not None  # noqa: S101 - it was built with data
    print(f"FP32 {model.fp32.top1:.1%}")
    for candidate in model.candidates:
        if candidate.accuracy is not None and candidate.ratio_to_fp32 is not None:
            said = f"{candidate.target} {candidate.precision} {candidate.accuracy.top1:.1%}"
            print(f"{said}, {candidate.ratio_to_fp32:.2f} times the speed of FP32: {candidate.status}")

    with (
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Client(server.grpc_url) as client,
    ):
        pictures = client.model("pictures")
        asked = unseen[:100] if quick else unseen
        files = [[path.read_bytes()] for path in asked]
        pictures([files[0]])
        started = time.perf_counter()
        answers = list(pictures.map(files))
        seconds = time.perf_counter() - started
        guesses = [item["label"][0].decode() for item in answers]
        right = [label == path.parent.name for label, path in zip(guesses, asked, strict=True)]
        print(f"served: {np.mean(right):.1%} of {len(asked)} files, {len(asked) / seconds:.0f} files/s")
        # Mistakes first.
        shown = [
            (Image.open(asked[place]), guesses[place], answers[place]["probability"][0], asked[place].parent.name)
            for place in np.argsort(right, kind="stable")[:SHOWN]
        ]
        save_classified(shown, folder / "pictures.png", columns=10)
        # A file that is none is refused alone.
        refused = list(pictures.map([files[0], [b"not an image"], files[1]]))[1]
        print(f"refused: {refused.error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/pictures"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="three epochs, one engine, and no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, quick=arguments.quick)
