"""What a candidate loses is counted by labels where there are any, and by agreement with FP32 elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plansmith_build.accuracy import classifier_output, measure_accuracy, parse_drop
from plansmith_build.errors import InvalidOption, VerificationFailed

SCORES = np.array([[3, 1, 0], [0, 2, 1], [1, 0, 4], [5, 4, 0]], dtype=np.float32)


def test_with_labels_the_drop_is_that_of_top_1_accuracy():
    labels = np.array([0, 1, 2, 1])
    worse = SCORES.copy()
    worse[0] = [0, 1, 0]
    reference = measure_accuracy({"scores": SCORES}, {"scores": SCORES}, labels)
    candidate = measure_accuracy({"scores": SCORES}, {"scores": worse}, labels)
    assert (reference.top1, candidate.top1, reference.top5) == (0.75, 0.5, 1.0)
    assert candidate.drop_from(reference) == 0.25


def test_a_candidate_that_is_better_than_fp32_has_lost_nothing():
    labels = np.array([0, 1, 2, 1])
    better = SCORES.copy()
    better[3] = [0, 1, 0]
    reference = measure_accuracy({"scores": SCORES}, {"scores": SCORES}, labels)
    assert measure_accuracy({"scores": SCORES}, {"scores": better}, labels).drop_from(reference) == 0


def test_without_labels_the_drop_is_the_share_of_rows_with_another_best_class():
    other = SCORES.copy()
    other[3] = [4, 5, 0]
    reference = measure_accuracy({"scores": SCORES}, {"scores": SCORES})
    candidate = measure_accuracy({"scores": SCORES}, {"scores": other})
    assert candidate.top1 is None
    assert candidate.outputs[0].top1_agreement == 0.75
    assert candidate.drop_from(reference) == 0.25


def test_scores_with_further_dimensions_of_one_are_scores():
    image = SCORES.reshape(4, 3, 1, 1)
    assert measure_accuracy({"scores": image}, {"scores": image}, np.array([0, 1, 2, 0])).top1 == 1


def test_what_has_no_classes_is_compared_by_cosine_similarity():
    picture = np.random.default_rng(0).standard_normal((4, 2, 5, 5)).astype(np.float32)
    noisy = picture + np.float32(0.1) * np.random.default_rng(1).standard_normal(picture.shape).astype(np.float32)
    reference = measure_accuracy({"mask": picture}, {"mask": picture})
    candidate = measure_accuracy({"mask": picture}, {"mask": noisy})
    (output,) = candidate.outputs
    assert output.top1_agreement is None
    assert output.signal_to_noise_db == pytest.approx(20, abs=1.5)
    assert 0 < candidate.drop_from(reference) == 1 - output.cosine < 0.02


def test_equal_answers_have_no_noise():
    (output,) = measure_accuracy({"scores": SCORES}, {"scores": SCORES}).outputs
    assert (output.signal_to_noise_db, output.cosine, output.max_absolute_error) == (math.inf, 1.0, 0.0)


def test_whole_numbers_and_text_count_the_elements_that_differ():
    labels = np.array([[1], [2], [3], [4]])
    names = np.array([b"a", b"b", b"c", b"d"], dtype=object)
    given = {"label": np.array([[1], [2], [3], [5]]), "name": np.array([b"a", b"x", b"y", b"d"], dtype=object)}
    candidate = measure_accuracy({"label": labels, "name": names}, given)
    assert [output.differing for output in candidate.outputs] == [0.25, 0.5]
    assert candidate.drop_from(candidate) == 0.5


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_overflow_is_named_and_not_averaged_away(bad):
    given = SCORES.copy()
    given[2, 1] = bad
    with pytest.raises(VerificationFailed, match="'scores' overflows"):
        measure_accuracy({"scores": SCORES}, {"scores": given})


def test_an_infinity_that_fp32_gives_too_is_no_overflow():
    scores = SCORES.copy()
    scores[0, 2] = -np.inf
    assert measure_accuracy({"scores": scores}, {"scores": scores}).outputs[0].top1_agreement == 1


def test_another_shape_is_refused():
    with pytest.raises(VerificationFailed, match=r"is float32 \[4, 2\] where the FP32 model gives float32 \[4, 3\]"):
        measure_accuracy({"scores": SCORES}, {"scores": SCORES[:, :2]})


def test_labels_for_a_model_that_does_not_classify_are_refused():
    with pytest.raises(InvalidOption, match="no output classifies: mask float32"):
        classifier_output({"mask": np.zeros((4, 2, 5, 5), np.float32)}, np.zeros(4, np.int64))


def test_a_label_that_is_no_class_is_refused_by_its_row():
    with pytest.raises(InvalidOption, match="label 3 of row 1 is no class of output 'scores', which has 3"):
        classifier_output({"scores": SCORES}, np.array([0, 3, 1, 2]))


def test_class_numbers_can_be_the_answer_where_there_are_no_scores():
    assert classifier_output({"label": np.array([1, 2])}, np.array([1, 2])) == "label"


@pytest.mark.parametrize(("text", "value"), [("0.5%", 0.005), ("0.005", 0.005), ("0", 0), (" 12 %", 0.12)])
def test_a_budget_is_a_percentage_or_a_fraction(text, value):
    assert parse_drop(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "a", "-1%", "100%", "1", "0.5%%", "nan"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(InvalidOption, match="--max-drop"):
        parse_drop(text)
