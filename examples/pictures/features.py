"""A network as a pair of eyes for an SVM: features learnt on many pictures, classes on a few.

The network of pictures.py learns the digits 0 to 4, of which there are many pictures. Without its last layer it tells
what is on a picture by 2,048 numbers, and behind it an SVM and a logistic regression of scikit-learn learn the digits
5 to 9 from ten pictures each. Each is served with the network as one pipeline: files in, labels out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pictures import SIZE, train, write_pictures
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from plansmith_build import BuildOptions, build_pipeline
from plansmith_build.exporting import export_pytorch, export_scikit_learn
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_bars

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 10
# Digits below are those that the network learns.
FIRST = 5
# By name: how scores become those of the step `classes`.
HEADS: dict[str, tuple[Any, str]] = {
    "svm": (SVC(kernel="rbf"), "softmax"),
    "logistic": (LogisticRegression(max_iter=500), "none"),
}


def pixels_of(paths: list[Path]) -> NDArray[np.float32]:
    """Pixels between 0 and 1, [pictures, 1, 32, 32]."""
    pixels: NDArray[np.float32] = np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in paths])
    return pixels[:, np.newaxis]


def digits_of(paths: list[Path]) -> NDArray[np.int64]:
    """What the folders are called, counted from the first digit that the network has not learnt."""
    return np.array([int(path.parent.name) - FIRST for path in paths])


def few_of(paths: list[Path]) -> list[Path]:
    """The first pictures of each digit that the network has not learnt."""
    return [
        one for digit in range(FIRST, 10) for one in [path for path in paths if path.parent.name == str(digit)][:FEW]
    ]


def main(folder: Path, *, quick: bool) -> None:
    """Train, export, build, serve and ask."""
    learn, unseen = (sorted(paths) for paths in write_pictures(folder))
    network = train([path for path in learn if int(path.parent.name) < FIRST], epochs=3 if quick else 20)
    eyes = network[:-1].eval()
    torch.save(eyes.state_dict(), folder / "eyes.pt")
    few = few_of(learn)
    asked = [path for path in unseen if int(path.parent.name) >= FIRST][:: 3 if quick else 1]
    with torch.no_grad():
        features, held_out = (eyes(torch.from_numpy(pixels_of(paths))).numpy() for paths in (few, asked))
    export_pytorch(eyes, torch.zeros(1, 1, SIZE, SIZE), folder / "eyes.onnx")
    words = ("five", "six", "seven", "eight", "nine")
    (folder / "labels.txt").write_text("".join(f"{word}\n" for word in words))

    plain, plain_held_out = (pixels_of(paths).reshape(len(paths), -1) for paths in (few, asked))
    repository = folder / "model_repository"
    pipeline = Path(__file__).with_name("features.toml").read_text()
    expected, on_pixels = {}, {}
    heads = dict(list(HEADS.items())[: 1 if quick else None])
    for name, (head, activation) in heads.items():
        on_pixels[name] = head.fit(plain, digits_of(few)).predict(plain_held_out) == digits_of(asked)
        head.fit(features, digits_of(few))
        expected[name] = head.predict(held_out)
        export_scikit_learn(head, folder / "head.onnx", example=features)
        (folder / f"{name}.toml").write_text(pipeline.replace('"softmax"', f'"{activation}"'))
        build_pipeline(folder / "eyes.onnx", folder / f"{name}.toml", BuildOptions(repository, serve=not quick))
    bars = {}
    with (
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Client(server.grpc_url, timeout=300) as client,
    ):
        for name in heads:
            answers = client.model(name).map([[path.read_bytes()] for path in asked])
            said = np.array([words.index(answer["label"][0].decode()) for answer in answers])
            right, same = said == digits_of(asked), (said == expected[name]).mean()
            shares = f"{right.mean():.1%} of {len(asked)} files right as served"
            print(f"{name}: {shares}, {same:.1%} as scikit-learn says", end="; ")
            print(f"{on_pixels[name].mean():.1%} right where it learns from pixels")
            bars[f"{name}: {shares}"] = [
                (word, right[here].mean(), f"{right[here].mean():.0%}, from pixels {on_pixels[name][here].mean():.0%}")
                for word, here in ((word, digits_of(asked) == digit) for digit, word in enumerate(words))
            ]
    save_bars(bars, folder / "features.svg", "Digits that the network has not learnt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/features"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="three epochs, the SVM alone, fewer files, no trial")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.output / "model_repository", ignore_errors=True)
    main(arguments.output, quick=arguments.quick)
