"""Answers under load: which differ only as batching makes them differ, and which are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from plansmith_perf.errors import WrongAnswer
from plansmith_perf.load.requests import check_answer

EXPECTED = {"scores": np.array([[1.0, -4.0]], np.float32), "names": np.array([[b"a"]], object)}


def test_the_order_of_additions_may_differ_under_load():
    check_answer({**EXPECTED, "scores": EXPECTED["scores"] + 1e-3}, EXPECTED, tolerance=1e-3)


def test_infinities_and_nan_are_right_where_they_are_expected():
    masked = np.array([[0.5, -np.inf, np.inf, np.nan, 60000]], np.float16)
    check_answer({"scores": masked}, {"scores": masked.copy()}, tolerance=1e-3)
    with pytest.raises(WrongAnswer, match="off by 2 of its greatest value"):
        check_answer({"scores": masked * np.float16([1, 1, 1, 1, -1])}, {"scores": masked}, tolerance=1e-3)
    with pytest.raises(WrongAnswer, match="off by inf"):
        check_answer({"scores": np.nan_to_num(masked, nan=np.nan)}, {"scores": masked}, tolerance=1e-3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"names": EXPECTED["names"]}, "'scores' is missing"),
        ({**EXPECTED, "scores": EXPECTED["scores"][:, ::-1]}, "'scores' is off by"),
        ({**EXPECTED, "scores": EXPECTED["scores"] * np.float32(np.nan)}, "'scores' is off by"),
        ({**EXPECTED, "scores": EXPECTED["scores"].repeat(2, axis=0)}, r"'scores' is float32 \[2, 2\]"),
        ({**EXPECTED, "scores": EXPECTED["scores"].astype(np.float64)}, "'scores' is float64"),
        ({**EXPECTED, "names": np.array([[b"b"]], object)}, "'names' has other values"),
    ],
    ids=["missing", "permuted", "nan", "shape", "dtype", "text"],
)
def test_a_wrong_answer_is_a_failure_and_not_a_success(wrong, sentence):
    with pytest.raises(WrongAnswer, match=sentence):
        check_answer(wrong, EXPECTED, tolerance=1e-3)
