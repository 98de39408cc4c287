"""No damage above the budget is accepted and no identical candidate refused, whatever kind of output a model has."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx.parser
import onnxruntime
from build_models import HEADER
from onnx import numpy_helper

from plansmith_build.datasets.ragged import ragged
from plansmith_build.judging.accuracy import measure_accuracy
from plansmith_build.judging.budget import Budget
from plansmith_build.judging.measures import Metric, choose_measures

TRIALS = 2000
BUDGET = Budget()


def answers_of(text, x, **weights):
    """The answers of a graph of ONNX's textual syntax, with the weights that the kind has been given."""
    model = onnx.parser.parse_model(f"{HEADER} kind {text}")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x.astype(np.float32)})[0]


def weights(rng, *shape, spread=1.0):
    return rng.normal(0, spread / np.sqrt(shape[0]), shape)


def classifier(rng, rows):
    text = "(float[N, 8] x) => (float[N, C] y) { h = MatMul (x, w) y = Softmax <axis = -1> (h) }"
    return answers_of(text, rng.normal(size=(rows, 8)), w=weights(rng, 8, int(rng.integers(2, 20)), spread=3))


def token_classifier(rng, rows):
    text = "(float[N, 7, 8] x) => (float[N, 7, 5] y) { h = MatMul (x, w) y = Softmax <axis = -1> (h) }"
    return answers_of(text, rng.normal(size=(rows, 7, 8)), w=weights(rng, 8, 5, spread=3))


def decision(rng, rows):
    text = "(float[N, 8] x) => (float[N, 1] y) { h = MatMul (x, w) y = Sigmoid (h) }"
    return answers_of(text, rng.normal(size=(rows, 8)), w=weights(rng, 8, 1, spread=3))


def regression(rng, rows):
    text = "(float[N, 8] x) => (float[N, 1] y) { h = MatMul (x, w) s = Add (h, b) y = Exp (s) }"
    return answers_of(text, rng.normal(size=(rows, 8)), w=weights(rng, 8, 1), b=rng.uniform(-5, 8))


def several_numbers(rng, rows):
    text = "(float[N, 8] x) => (float[N, 3] y) { h = MatMul (x, w) s = Mul (h, spread) y = Add (s, mean) }"
    x, w = rng.normal(size=(rows, 8)), weights(rng, 8, 3)
    return answers_of(text, x, w=w, spread=[300, 12, 0.2], mean=[1000, 40, 0.5])


def detector(rng, rows):
    text = """(float[N, 7, 16] x) => (float[N, 7, 30] y) <int64[2] parts = {4, 3}> {
        h = MatMul (x, w) corners, classes = Split <axis = 1> (h, parts)
        c = Sigmoid (corners) boxes = Mul (c, pixels) l = Sub (classes, rare) scores = Sigmoid (l)
        y = Concat <axis = 1> (boxes, scores) }"""
    return answers_of(text, rng.normal(size=(rows, 7, 16)), w=weights(rng, 16, 30, spread=2), pixels=640, rare=3)


def detector_with_channels_last(rng, rows):
    return np.ascontiguousarray(detector(rng, rows).transpose(0, 2, 1))


def audio(rng, rows):
    text = """(float[N, 1, 200] x) => (float[N, 200] y) <int64[1] one = {1}> {
        c = Conv <pads = [4, 4]> (x, w) y = Squeeze (c, one) }"""
    return answers_of(text, rng.normal(0, 0.1, (rows, 1, 200)), w=rng.normal(0, 1 / 3, (1, 1, 9)))


def embedding(rng, rows):
    text = "(float[N, 16] x) => (float[N, 64] y) { h = MatMul (x, w) y = LpNormalization <axis = 1, p = 2> (h) }"
    return answers_of(text, rng.normal(size=(rows, 16)), w=weights(rng, 16, 64))


def state(rng, rows):
    text = "(float[N, 2, 16] x) => (float[N, 2, 16] y) { h = MatMul (x, w) y = Tanh (h) }"
    return answers_of(text, rng.normal(size=(rows, 2, 16)), w=weights(rng, 16, 16, spread=0.7))


def features_some_of_them_dead(rng, rows):
    text = "(float[N, 3, 5, 5] x) => (float[N, 24, 5, 5] y) { c = Conv (x, w) r = Relu (c) y = Mul (r, living) }"
    x, living = rng.normal(size=(rows, 3, 5, 5)), rng.random((24, 1, 1)) > 0.2
    return answers_of(text, x, w=rng.normal(0, 1, (24, 3, 1, 1)), living=living)


# What lies side by side in an output and must not be ruined alone: index expressions.
EVERYTHING = (slice(None),)
KINDS = {
    classifier: [EVERYTHING],
    token_classifier: [EVERYTHING],
    decision: [EVERYTHING],
    regression: [EVERYTHING],
    several_numbers: [np.s_[:, column] for column in range(3)],
    detector: [np.s_[:, :4], np.s_[:, 4:]],
    detector_with_channels_last: [np.s_[..., :4], np.s_[..., 4:]],
    audio: [EVERYTHING],
    embedding: [EVERYTHING],
    state: [EVERYTHING],
    features_some_of_them_dead: [EVERYTHING],
}

DAMAGES = {
    "scaled": lambda rng, part: part * rng.choice([1e-3, 0.5, 0.9, 1.02, 1.2, 2, 1000]),
    "shifted": lambda rng, part: part + rng.choice([-2, -0.3, 0.02, 0.2, 1]) * part.std(),
    "permuted": lambda rng, part: part[rng.permutation(len(part))],
    "negated": lambda _, part: -part,
    "noised": lambda rng, part: part + rng.normal(0, rng.choice([0.001, 0.03, 0.1, 0.5]) * part.std(), part.shape),
    "constant": lambda _, part: np.full_like(part, part.mean()),
    "zero": lambda _, part: np.zeros_like(part),
}


# The axis of a row along which rows may differ in size: tokens, cells and samples of sound.
LENGTHS = {token_classifier: 0, detector: 1, detector_with_channels_last: 0, audio: 0}


def cut(array, axis, lengths):
    """Each row in a length of its own."""
    return ragged(np.take(row, range(length), axis) for row, length in zip(array, lengths, strict=True))


def loss_by_hand(measure, reference, damaged, part):
    """What the damage costs, counted in another way than by the code under test."""
    if measure.metric is Metric.TOP1:
        return np.mean([np.mean(a.argmax(-1) != b.argmax(-1)) for a, b in zip(reference, damaged, strict=True)])
    if measure.metric is Metric.DECISION:
        return np.mean((reference > 0.5) != (damaged > 0.5))
    before, after = (
        np.concatenate([row[part[1:]].reshape(-1) for row in array]).astype(np.float64)
        for array in (reference, damaged)
    )
    return np.sqrt(np.mean((after - before) ** 2)) / np.std(before)


def test_no_damage_above_the_budget_is_accepted_and_no_identical_candidate_refused():
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(TRIALS):
        rows = int(rng.integers(12, 80))
        kinds = rng.choice(len(KINDS), size=int(rng.integers(1, 4)))
        makers = [list(KINDS)[kind] for kind in kinds]
        whole = {f"output{n}": maker(rng, rows).astype(np.float32) for n, maker in enumerate(makers)}
        lengths = rng.integers(2, 6, rows) if rng.random() < 0.3 else None
        axes = {
            f"output{n}": LENGTHS[maker] for n, maker in enumerate(makers) if lengths is not None and maker in LENGTHS
        }
        answers = {name: cut(array, axes[name], lengths) if name in axes else array for name, array in whole.items()}
        sigmoids = [f"output{n}" for n, maker in enumerate(makers) if maker is decision]
        measures = choose_measures(answers, sigmoids=sigmoids)
        itself = measure_accuracy(answers, answers, None, measures, confidence=None)
        assert BUDGET.accepts(itself, itself), (makers, measures)

        ruined = int(rng.integers(len(makers)))
        name, parts = f"output{ruined}", KINDS[makers[ruined]]
        part = parts[int(rng.integers(len(parts)))]
        damage = list(DAMAGES)[int(rng.integers(len(DAMAGES)))]
        damaged = whole[name].copy()
        damaged[part] = DAMAGES[damage](rng, damaged[part])
        damaged = cut(damaged, axes[name], lengths) if name in axes else damaged
        candidate = measure_accuracy(answers, {**answers, name: damaged}, None, measures, confidence=None)
        loss = loss_by_hand(measures[name], answers[name], damaged, part)
        if loss > BUDGET.allowed(measures[name]) * 1.001:
            seen[damage, "above"] += 1
            seen["in its own shape", "above"] += name in axes
            told = (makers[ruined].__name__, damage, part, loss, measures[name])
            assert not BUDGET.accepts(candidate, itself), told
        else:
            seen[damage, "inside"] += 1
    # Each damage was large enough to matter, many times over.
    assert all(seen[damage, "above"] > 50 for damage in [*DAMAGES, "in its own shape"]), seen


def test_rounding_to_sixteen_bits_is_inside_the_budget_for_every_kind():
    rng = np.random.default_rng(1)
    for maker in KINDS:
        answers = {"y": maker(rng, 200).astype(np.float32)}
        measures = choose_measures(answers, sigmoids=["y"] if maker is decision else [])
        itself = measure_accuracy(answers, answers, None, measures)
        rounded = {"y": answers["y"].astype(np.float16).astype(np.float32)}
        candidate = measure_accuracy(answers, rounded, None, measures)
        assert BUDGET.accepts(candidate, itself), maker.__name__
