"""Signatures of real ONNX graphs, for the tests of calibration data."""

from __future__ import annotations

import onnx.parser
from build_models import HEADER

from plansmith_build.reading.signatures import Signature, signature_of

__all__ = ["IMAGES", "PAIR", "PICTURES", "TOKENS", "WORDS", "signature"]


def signature(text: str) -> Signature:
    """What the graph that `text` describes in ONNX's textual syntax takes and gives."""
    return signature_of(onnx.parser.parse_model(HEADER + text))


IMAGES = signature("m (float[N, 8, 8] images) => (float[N, 8, 8] y) { y = Relu (images) }")
PICTURES = signature("m (float[N, 3, 32, 32] pictures) => (float[N, 3, 32, 32] y) { y = Relu (pictures) }")
PAIR = signature("m (float[N, 4] a, float[N, 4] b) => (float[N, 4] sum) { sum = Add (a, b) }")
TOKENS = signature("m (int64[N, S] ids) => (int64[N, S] y) { y = Abs (ids) }")
WORDS = signature("m (string[N, 2] words) => (string[N, 2] y) { y = Identity (words) }")
