"""Small models with weights of their own, and the files of pipelines around them."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
from build_models import model_of
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ("[PAD]", "[UNK]", "a", "great", "poor", "film", "book", "this", "is")
VECTORS = np.random.default_rng(3).normal(size=(len(WORDS), 8)).astype(np.float32)
COLOURS = ("red", "green", "blue", "dark")


def save(path: Path, nodes, inputs, outputs, weights) -> Path:
    def declared(tensors):
        return [helper.make_tensor_value_info(*tensor) for tensor in tensors]

    model = model_of(nodes, declared(inputs), declared(outputs), weights)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def colour_classifier(path: Path) -> Path:
    """The colour that a picture has most of: scores [rows, 4] from pixels between 0 and 1, [rows, 3, 16, 16]."""
    weights = np.concatenate([np.eye(3) * 8, [[-8], [-8], [-8]]], axis=1).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["scores"]),
    ]
    return save(
        path,
        nodes,
        [("images", TensorProto.FLOAT, ["rows", 3, 16, 16])],
        [("scores", TensorProto.FLOAT, ["rows", 4])],
        {"weights": weights, "bias": np.array([0, 0, 0, 4], np.float32)},
    )


def pitch_classifier(path: Path) -> Path:
    """Whether the lower or the upper half of a spectrum is louder: scores [rows, 2] from features [rows, 1, 8, 10]."""
    weights = np.repeat(np.eye(2), 4, axis=0).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
    ]
    return save(
        path,
        nodes,
        [("features", TensorProto.FLOAT, ["rows", 1, 8, 10])],
        [("scores", TensorProto.FLOAT, ["rows", 2])],
        {"weights": weights},
    )


def tone(frequency: float, *, rate=8000, channels=1, width=2, seconds=0.1, level=0.5) -> bytes:
    """A WAV file."""
    samples = level * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as recording:
        recording.setparams((channels, width, rate, 0, "NONE", ""))
        recording.writeframes(np.repeat(samples * 2 ** (8 * width - 1), channels).astype(f"<i{width}").tobytes())
    return buffer.getvalue()


def word_vectors(path: Path) -> Path:
    """A vector for each token, [rows, tokens, 8]; an id beyond the vocabulary is an error."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["vectors"])]
    return save(
        path,
        nodes,
        [("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [("vectors", TensorProto.FLOAT, ["rows", "tokens", 8])],
        {"table": VECTORS},
    )


def sentiment(path: Path) -> Path:
    """Scores [rows, 2] for negative and positive: 4 for each word that is one of them."""
    table = np.zeros((len(WORDS), 2), np.float32)
    table[WORDS.index("poor"), 0] = table[WORDS.index("great"), 1] = 4
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("ReduceSum", ["words", "tokens"], ["scores"], keepdims=0),
    ]
    return save(
        path,
        nodes,
        [("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [("scores", TensorProto.FLOAT, ["rows", 2])],
        {"table": table, "tokens": np.array([1], np.int64)},
    )


def tokenizer(path: Path, words=WORDS) -> Path:
    made = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(path))
    return path


PLACES = np.array([[8, 8, 8, 8], [9, 8, 8, 8], [24, 24, 16, 16], [8, 8, 8, 8]], np.float32)


def detector(path: Path) -> Path:
    """Four boxes, as YOLOv8 gives them, [rows, 6, 4]; the scores are 0.9, 0.8, 0.7, 0.6 times the mean of the pixels.

    The first two overlap and are of class 0, the third is elsewhere, and the last lies on the first and is of class 1.
    """
    scores = np.array([[0.9, 0.8, 0.7, 0], [0, 0, 0, 0.6]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "column"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "scores"], ["by_class"]),
        helper.make_node("Mul", ["brightness", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "places"], ["boxes"]),
        helper.make_node("Concat", ["boxes", "by_class"], ["predictions"], axis=1),
    ]
    return save(
        path,
        nodes,
        [("images", TensorProto.FLOAT, ["rows", 3, 32, 32])],
        [("predictions", TensorProto.FLOAT, ["rows", 6, 4])],
        {
            "column": np.array([-1, 1, 1], np.int64),
            "scores": scores[np.newaxis],
            "nothing": np.zeros((1, 4, 4), np.float32),
            "places": PLACES.T[np.newaxis].copy(),
        },
    )


def bar_detector(path: Path) -> Path:
    """How probable text is at each pixel, [rows, 1, height, width]: where any colour is."""
    nodes = [helper.make_node("ReduceMax", ["images"], ["map"], axes=[1], keepdims=1)]
    return save(
        path,
        nodes,
        [("images", TensorProto.FLOAT, ["rows", 3, "height", "width"])],
        [("map", TensorProto.FLOAT, ["rows", 1, "height", "width"])],
        {},
    )


def bar_reader(path: Path) -> Path:
    """Scores [rows, places, 4] of blank, red, green and blue, from lines [rows, 3, 48, width]: a place is 16 pixels."""
    nodes = [
        helper.make_node("AveragePool", ["lines"], ["pooled"], kernel_shape=[48, 16], strides=[48, 16], ceil_mode=1),
        helper.make_node("Squeeze", ["pooled", "height"], ["colours"]),
        helper.make_node("Transpose", ["colours"], ["places"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["places"], ["most"], axes=[2], keepdims=1),
        helper.make_node("Clip", ["most", "blank", "blank"], ["blanks"]),
        helper.make_node("Concat", ["blanks", "places"], ["scores"], axis=2),
    ]
    return save(
        path,
        nodes,
        [("lines", TensorProto.FLOAT, ["rows", 3, 48, "width"])],
        [("scores", TensorProto.FLOAT, ["rows", "places", 4])],
        {"height": np.array([2], np.int64), "blank": np.array(0.6, np.float32)},
    )


def picture(colour: tuple[int, int, int], size=(40, 30), form="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def tiled_picture(side: int, tile: int) -> bytes:
    """A grey TIFF, whose one tile, compressed, is larger than it is."""
    pixels = zlib.compress(bytes(tile * tile))
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<4sI", b"II*\0", 8 + len(pixels))
    return header + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def column(*items: bytes) -> np.ndarray:
    """Items as rows of a BYTES input, [rows, 1]."""
    return np.array([*items, None], object)[:-1].reshape(-1, 1)
