"""A small transformer with random weights, whose activations have outliers as those of trained ones have."""

from __future__ import annotations

import numpy as np
import onnx
from build_models import HEADER
from onnx import numpy_helper

__all__ = ["WORDS", "small_transformer", "word_ids"]

WORDS = 128
WIDTH, HEADS, HIDDEN = 64, 4, 128


def small_transformer() -> onnx.ModelProto:
    """Two layers: word ids INT64 [N, S] to embeddings FP32 [N, 64]."""
    layers = "".join(_layer(number) for number in range(2))
    model = onnx.parser.parse_model(
        f"""{HEADER} small (int64[N, S] ids) => (float[N, {WIDTH}] embedding)
        <int64[4] heads = {{0, 0, {HEADS}, {WIDTH // HEADS}}}, int64[3] joined = {{0, 0, {WIDTH}}},
         float root = {{0.25}}> {{
            h0 = Gather (table, ids) {layers} embedding = ReduceMean <axes = [1], keepdims = 0> (h2)
        }}"""
    )
    rng = np.random.default_rng(0)

    def add(name: str, array: np.ndarray) -> None:
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))

    add("table", rng.standard_normal((WORDS, WIDTH)))
    # A few channels are far larger than the others, and the next matrix brings them down.
    scale = np.ones(WIDTH)
    scale[[3, 17]] = 60
    for number in range(2):
        for name, shape in {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH)}.items():
            add(f"w{name}{number}", rng.standard_normal(shape) / 8)
        add(f"up{number}", rng.standard_normal((WIDTH, HIDDEN)) / 8 / scale[:, np.newaxis])
        add(f"down{number}", rng.standard_normal((HIDDEN, WIDTH)) / 8)
        add(f"outliers{number}", scale)
        add(f"ones{number}", np.ones(WIDTH))
        add(f"zeros{number}", np.zeros(WIDTH))
    return model


def word_ids(rows: int, words: int, *, seed: int) -> np.ndarray:
    """Random inputs, INT64 [rows, words]."""
    return np.random.default_rng(seed).integers(0, WORDS, (rows, words))


def _layer(n: int) -> str:
    def split(name: str, perm: str) -> str:
        return (
            f"{name}{n} = MatMul (h{n}, w{name}{n}) {name}r{n} = Reshape ({name}{n}, heads) "
            f"{name}t{n} = Transpose <perm = {perm}> ({name}r{n}) "
        )

    return (
        f"{split('q', '[0, 2, 1, 3]')} {split('k', '[0, 2, 3, 1]')} {split('v', '[0, 2, 1, 3]')} "
        f"s{n} = MatMul (qt{n}, kt{n}) m{n} = Mul (s{n}, root) p{n} = Softmax <axis = -1> (m{n}) "
        f"c{n} = MatMul (p{n}, vt{n}) ct{n} = Transpose <perm = [0, 2, 1, 3]> (c{n}) cr{n} = Reshape (ct{n}, joined) "
        f"o{n} = MatMul (cr{n}, wo{n}) a{n} = Add (h{n}, o{n}) "
        f"l{n} = LayerNormalization <axis = -1> (a{n}, outliers{n}, zeros{n}) "
        f"u{n} = MatMul (l{n}, up{n}) g{n} = Relu (u{n}) d{n} = MatMul (g{n}, down{n}) e{n} = Add (a{n}, d{n}) "
        f"h{n + 1} = LayerNormalization <axis = -1> (e{n}, ones{n}, zeros{n}) "
    )
