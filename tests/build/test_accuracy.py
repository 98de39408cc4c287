"""What a candidate loses is counted by labels where there are any, and by agreement with FP32 elsewhere."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from plansmith_build import accuracy as public
from plansmith_build.errors import InvalidOption, VerificationFailed
from plansmith_build.judging.accuracy import measure_accuracy
from plansmith_build.judging.budget import Budget, parse_drop
from plansmith_build.judging.judge import Judge, doubts
from plansmith_build.judging.losses import confidence_of, share_bound
from plansmith_build.judging.measures import Measure, Metric, choose_measures, classifier_output, parse_metrics

SCORES = np.array([[3, 1, 0], [0, 2, 1], [1, 0, 4], [5, 4, 0]], dtype=np.float32)
PROBABILITIES = SCORES / SCORES.sum(axis=1, keepdims=True)


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
    other = PROBABILITIES.copy()
    other[3] = [0.4, 0.6, 0]
    reference = measure_accuracy({"scores": PROBABILITIES}, {"scores": PROBABILITIES})
    candidate = measure_accuracy({"scores": PROBABILITIES}, {"scores": other})
    assert candidate.top1 is None
    assert candidate.outputs[0].top1_agreement == 0.75
    assert candidate.drop_from(reference) == 0.25


def test_scores_with_further_dimensions_of_one_are_scores():
    image = SCORES.reshape(4, 3, 1, 1)
    assert measure_accuracy({"scores": image}, {"scores": image}, np.array([0, 1, 2, 0])).top1 == 1


def test_what_has_no_classes_is_compared_by_relative_error():
    picture = np.random.default_rng(0).standard_normal((4, 2, 5, 5)).astype(np.float32)
    noisy = picture + np.float32(0.1) * np.random.default_rng(1).standard_normal(picture.shape).astype(np.float32)
    reference = measure_accuracy({"mask": picture}, {"mask": picture})
    candidate = measure_accuracy({"mask": picture}, {"mask": noisy})
    (output,) = candidate.outputs
    assert output.top1_agreement is None
    assert output.signal_to_noise_db == pytest.approx(20, abs=1.5)
    assert candidate.drop_from(reference) == pytest.approx(0.1, rel=0.5)
    assert output.bound > output.value


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
    with pytest.raises(InvalidOption, match="label 3 of row 1 is not a class of output 'scores', which has 3"):
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


def test_a_budget_that_may_be_a_percentage_or_a_fraction_is_asked_back():
    with pytest.raises(InvalidOption, match=r"--max-drop 0.5: is 0.5% meant or 50%\? Write it with a percent sign"):
        parse_drop("0.5")


def test_every_output_is_in_the_budget_with_labels_too():
    rng = np.random.default_rng(0)
    answers = {"scores": SCORES, "boxes": rng.normal(size=(4, 6)).astype(np.float32)}
    given = {"scores": SCORES, "boxes": rng.normal(size=(4, 6)).astype(np.float32)}
    labels = np.array([0, 1, 2, 0])
    itself = measure_accuracy(answers, answers, labels)
    candidate = measure_accuracy(answers, given, labels)
    assert (candidate.top1, itself.drop_from(itself)) == (1.0, 0.0)
    assert not Budget().accepts(candidate, itself)
    assert "is off by" in Budget().complaint(candidate, itself)


def test_labels_of_0_and_1_belong_to_one_number_a_row():
    probabilities = np.array([[0.1], [0.9], [0.4], [0.8]], np.float32)
    labels = np.array([0, 1, 1, 1])
    reference = measure_accuracy({"p": probabilities}, {"p": probabilities}, labels)
    assert (reference.outputs[0].measure.metric, reference.top1) == (Metric.DECISION, 0.75)
    assert measure_accuracy({"p": probabilities}, {"p": 1 - probabilities}, labels).drop_from(reference) == 0.5


def test_a_decision_that_never_changes_is_judged_by_relative_error():
    rare = np.random.default_rng(0).uniform(0, 0.4, (100, 1)).astype(np.float32)
    assert choose_measures({"p": rare}, sigmoids=["p"])["p"].metric is Metric.RELATIVE_ERROR
    often = rare * 2
    assert choose_measures({"p": often}, sigmoids=["p"])["p"].metric is Metric.DECISION
    assert choose_measures({"p": often})["p"].metric is Metric.RELATIVE_ERROR


def test_as_many_scores_as_class_names_are_class_scores():
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert choose_measures({"y": logits})["y"].metric is Metric.RELATIVE_ERROR
    assert choose_measures({"y": logits}, classes=3)["y"].metric is Metric.TOP1
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert choose_measures({"y": log_softmax})["y"].metric is Metric.TOP1


def test_the_user_names_the_metric_of_one_output_or_of_all_that_it_fits():
    answers = {"a:0": SCORES, "count": np.arange(4)}
    chosen = choose_measures(answers, given=parse_metrics(["a:0=cosine"]))
    assert [measure.metric for measure in chosen.values()] == [Metric.COSINE, Metric.EQUAL]
    chosen = choose_measures(answers, given=parse_metrics(["top5"]))
    assert [measure.metric for measure in chosen.values()] == [Metric.TOP5, Metric.EQUAL]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            ["accuracy"],
            "'accuracy' is not a metric: write one of top1, top5, decision, relative-error, cosine",
        ),
        (["b=top1"], "the model has no such output, only a, count"),
        (["count=top1"], "--metric count=top1 does not fit output 'count', int64"),
        (["top1", "top5"], "given twice for 'all outputs'"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(texts, said):
    with pytest.raises(InvalidOption, match=said):
        choose_measures({"a": SCORES, "count": np.arange(4)}, given=parse_metrics(texts))


def test_a_function_of_the_users_own_scores_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_metric.py").write_text(
        "import numpy as np\n"
        "def correlation(answers, reference, labels):\n"
        "    return np.corrcoef(answers[:, 0], reference[:, 0])[0, 1]\n"
    )
    rng = np.random.default_rng(0)
    answers = {"y": rng.normal(size=(60, 1)).astype(np.float32)}
    measures = choose_measures(answers, given=parse_metrics(["y=own_metric:correlation"]))
    itself = measure_accuracy(answers, answers, None, measures)
    noisy = {"y": answers["y"] + rng.normal(size=(60, 1)).astype(np.float32)}
    candidate = measure_accuracy(answers, noisy, None, measures)
    assert itself.drop_from(itself) == 0
    expected = 1 - np.corrcoef(noisy["y"][:, 0], answers["y"][:, 0])[0, 1]
    assert candidate.drop_from(itself) == pytest.approx(expected)
    assert candidate.outputs[0].bound > expected


@pytest.mark.parametrize("loss", [0.002, 0.01, 0.05])
def test_the_bound_of_a_share_holds_in_95_of_100_samples(loss):
    rng = np.random.default_rng(0)
    worse = rng.binomial(200, loss, 2000)
    held = [share_bound(int(count), 0, 200, paired=False, confidence=0.95) >= loss for count in worse]
    assert np.mean(held) >= 0.94
    better = rng.binomial(200, 0.02, 2000)
    paired = [
        share_bound(int(one), int(other), 200, paired=True, confidence=0.95) >= loss - 0.02
        for one, other in zip(worse, better, strict=True)
    ]
    assert np.mean(paired) >= 0.94


def test_bounds_hold_together_however_often_the_same_rows_are_looked_at():
    assert sum(1 - confidence_of(look) for look in range(1, 50)) <= 0.05 + 1e-12
    scores = np.eye(4, dtype=np.float32)[np.arange(32) % 4]
    judge = Judge.of(_Same(), [{"y": scores}], None, batched=True)
    first, second, third = (judge.judge(_Same(), look=look).outputs[0].bound for look in (1, 2, 3))
    assert 0.09 < first < 0.1 < second < third


class _Same:
    """Answers what it is asked."""

    description = "the same"

    def run(self, arrays):
        return arrays


def test_the_bound_of_an_error_holds_in_about_95_of_100_samples():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        reference = {"y": rng.normal(size=(100, 1))}
        given = {"y": reference["y"] + rng.normal(0, 0.1, (100, 1))}
        held.append(measure_accuracy(reference, given).outputs[0].bound >= 0.1)
    assert np.mean(held) >= 0.9


def test_to_prove_a_budget_takes_enough_rows():
    few, many = (np.eye(4, dtype=np.float32)[np.arange(rows) % 4] for rows in (32, 1000))
    budget = Budget(max_drop=0.005, prove=True)
    for scores, proven in ((few, False), (many, True)):
        itself = measure_accuracy({"y": scores}, {"y": scores})
        assert itself.outputs[0].measure == Measure(Metric.TOP1)
        assert budget.accepts(itself, itself) is proven
        assert bool(budget.unprovable(itself)) is not proven
    itself = measure_accuracy({"y": few}, {"y": few})
    assert budget.unprovable(itself)[0].startswith("32 rows can prove no better than 9.57% by top1")
    assert "cannot be ruled out" in budget.complaint(itself, itself)


@pytest.mark.parametrize("measure", ["relative-error", "cosine", "top1"])
def test_large_outputs_are_compared_in_pieces(measure):
    rng = np.random.default_rng(0)
    reference = {"y": rng.standard_normal((512, 64, 512), dtype=np.float32)}
    given = {"y": reference["y"] + np.float32(0.01)}
    measures = choose_measures(reference, None, given={"y": measure})
    tracemalloc.start()
    try:
        accuracy = measure_accuracy(reference, given, None, measures)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # In FP64 as a whole each of the two would have twice its size.
    assert peak < 2 * reference["y"].nbytes
    assert accuracy.outputs[0].max_absolute_error == pytest.approx(0.01, rel=1e-3)
    assert accuracy.outputs[0].signal_to_noise_db == pytest.approx(40, abs=0.1)
    assert accuracy.outputs[0].cosine == pytest.approx(0.99995, abs=1e-5)


def test_candidates_of_ones_own_are_measured_and_judged_as_a_build_does():
    rng = np.random.default_rng(0)
    reference = {
        "sentence": rng.normal(size=(200, 384)).astype(np.float32),
        "landmarks": rng.uniform(40, 80, (200, 20)).astype(np.float32),
    }
    rounded = {name: array + rng.normal(0, 2e-3, array.shape).astype(np.float32) for name, array in reference.items()}
    stuck = {**rounded, "landmarks": np.repeat(reference["landmarks"].mean(0, keepdims=True), 200, axis=0)}
    good, bad = (public.measure_accuracy(reference, given, metrics=["sentence=cosine"]) for given in (rounded, stuck))
    assert [str(output.measure) for output in good.outputs] == ["cosine", "relative-error"]
    assert good.drop_from(good) < 0.001
    assert bad.drop_from(good) == pytest.approx(1, abs=0.01)
    assert public.Budget().accepts(good, good)
    assert "'landmarks'" in public.Budget().complaint(bad, good)


def test_labels_in_lists_judge_candidates_of_ones_own():
    wrong = PROBABILITIES[:, ::-1]
    itself, other = (
        public.measure_accuracy({"y": PROBABILITIES}, {"y": given}, [0, 1, 2, 0]) for given in (PROBABILITIES, wrong)
    )
    assert (itself.top1, other.top1, other.drop_from(itself)) == (1, 0.25, 0.75)


@pytest.mark.parametrize(
    ("reference", "labels", "metrics", "message"),
    [
        ({}, None, [], "there is no output"),
        ({"y": np.ones((0, 3))}, None, [], "output 'y' has 0"),
        ({"y": np.ones((4, 3)), "z": np.ones(3)}, None, [], "output 'y' has 4, output 'z' has 3"),
        ({"y": SCORES}, [0, 1], [], "labels has 2"),
        ({"y": SCORES}, [0.5] * 4, [], "labels must be whole numbers"),
        ({"y": SCORES}, None, ["z=top1"], "no such output"),
    ],
)
def test_answers_that_cannot_be_measured_are_refused(reference, labels, metrics, message):
    with pytest.raises(InvalidOption, match=message):
        public.measure_accuracy(reference, reference, labels, metrics=metrics)


def warned(labels, answered, classes=4):
    """What is said of a model that gives these classes to rows with these labels."""
    answers = {"y": np.eye(classes, dtype=np.float32)[answered]}
    measures = choose_measures(answers, labels)
    accuracy = measure_accuracy(answers, answers, labels, measures)
    return " ".join(
        doubts(
            Judge([], batched=True, answers=answers, labels=labels, measures=measures, bounded=False, accuracy=accuracy)
        )
    )


def test_labels_in_another_order_and_answers_hardly_better_than_a_guess_are_warned_of():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 4
    right = np.where(rng.random(240) < 0.9, labels, rng.integers(0, 4, 240))
    guessed = np.where(rng.random(240) < 0.13, labels, rng.integers(0, 4, 240))
    assert warned(labels, right) == ""
    # Two of four classes exchanged: half of the rows are right, which is no chance.
    assert "with the classes in another order" in warned(labels, np.array([0, 1, 3, 2])[right])
    assert "always giving the most frequent label on 25.00%" in warned(labels, guessed)
    # With a row or two of each class, some order fits by chance.
    assert "another order" not in warned(labels[:16] % 16, rng.integers(0, 16, 16), classes=16)
