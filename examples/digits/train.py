"""Train a small classifier of handwritten digits and export it to ONNX, in seconds and without a download.

The images are the 1,797 of `sklearn.datasets.load_digits`, 8 x 8 pixels with values 0 to 16; a fifth is held out.
Written to the output folder:

    digits.onnx        images FP32 [N, 8, 8] -> probabilities FP32 [N, 10]
    labels.txt         one class name a line, in the order of the probabilities
    held_out.npz       images FP32 [360, 8, 8] and labels INT64 [360], never seen in training
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.compose
import onnx.parser
import onnx.utils
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSET = 17
# From an image to what the classifier was trained on: a row of 64 pixels between 0 and 1.
PIXELS = f"""
<ir_version: 8, opset_import: ["" : {OPSET}]>
pixels (float[N, 8, 8] images) => (float[N, 64] pixels)
<float white = {{16}}>
{{
  scaled = Div (images, white)
  pixels = Flatten <axis = 1> (scaled)
}}
"""


def train(output: Path) -> float:
    """Train the classifier and write its files.

    Args:
        output: the folder to write to, made if need be.

    Returns:
        The accuracy on the held-out images, 0 to 1.
    """
    digits = load_digits()
    images = digits.images.astype(np.float32)
    labels = digits.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    # Each image again one pixel to the left, right, up and down: it makes the network care less where a digit stands.
    shifts = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]
    augmented = np.concatenate([np.roll(train_images, shift, axis=(1, 2)) for shift in shifts])
    classifier = MLPClassifier((128,), early_stopping=True, n_iter_no_change=20, random_state=0)
    classifier.fit(_pixels(augmented), np.tile(train_labels, len(shifts)))

    output.mkdir(parents=True, exist_ok=True)
    onnx.save(_to_onnx(classifier), output / "digits.onnx")
    (output / "labels.txt").write_text("".join(f"{label}\n" for label in digits.target_names), encoding="utf-8")
    np.savez_compressed(output / "held_out.npz", images=test_images, labels=test_labels)
    return float(classifier.score(_pixels(test_images), test_labels))


def _pixels(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return images.reshape(-1, 64) / 16


def _to_onnx(classifier: MLPClassifier) -> onnx.ModelProto:
    """The classifier as one network from images to probabilities, where skl2onnx knows only rows of features."""
    converted = to_onnx(
        classifier, np.zeros((1, 64), np.float32), target_opset=OPSET, options={"zipmap": False}, name="digits"
    )
    probabilities = onnx.utils.Extractor(converted).extract_model(["X"], ["probabilities"])
    model = onnx.compose.merge_models(onnx.parser.parse_model(PIXELS), probabilities, io_map=[("pixels", "X")])
    # merge_models writes the operator set twice; nothing but the default domain is left in the network.
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    model.graph.name = "digits"
    model.producer_name = "skl2onnx"
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/digits"), help="folder to write to [%(default)s]")
    arguments = parser.parse_args()
    accuracy = train(arguments.output)
    print(f"held-out accuracy {accuracy:.1%}; wrote {arguments.output}/digits.onnx, labels.txt and held_out.npz")
