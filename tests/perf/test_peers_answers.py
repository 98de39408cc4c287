"""What counts as a right answer of a peer, before the load and under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from peers.program import Program, open_program
from plansmith_perf.comparing.answers import compare_answers
from plansmith_perf.comparing.subject import open_subject
from plansmith_perf.errors import WrongAnswer
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.load.requests import CheckedRequest, check_answer
from plansmith_perf.load.samples import RequestOptions

REPOSITORY = Path(__file__).parents[2] / "model_repository"
IMAGES = np.random.default_rng(0).random((8, 8, 8), np.float32)
TOLERANCE = 1e-3
# What a build may find accurate enough: every class at its place, the values far off.
LOSS = np.float32(0.3)


@pytest.fixture(scope="module")
def session():
    return onnxruntime.InferenceSession(str(REPOSITORY / "digits/1/model.onnx"))


@pytest.fixture(scope="module")
def reference(session):
    """One image a request, answered in FP32."""
    inputs = [{"images": IMAGES[number : number + 1]} for number in range(len(IMAGES))]
    return [CheckedRequest(one, {"probabilities": session.run(None, one)[0]}) for one in inputs]


def compare(session, reference, moved_by_batching):
    def ask(inputs):
        return {"probabilities": session.run(None, inputs)[0] * LOSS}

    def ask_together(requests):
        return [
            {"probabilities": ask(inputs)["probabilities"] * np.float32(1 + moved_by_batching)} for inputs in requests
        ]

    return compare_answers(ask, ask_together, reference, at_once=4, reduced_precision=True, tolerance=TOLERANCE)


def test_under_load_a_peer_of_reduced_precision_is_held_to_its_own_answers(session, reference):
    agreement = compare(session, reference, 0.0)
    assert (agreement.problem, agreement.top1) == ("", 1.0)
    assert agreement.largest_difference == pytest.approx(1 - LOSS)
    assert agreement.tolerance == TOLERANCE
    for mine, other in zip(agreement.requests, agreement.requests[1:], strict=False):
        np.testing.assert_array_equal(mine.expected["probabilities"], reference_of(session, mine) * LOSS)
        with pytest.raises(WrongAnswer, match="is off by"):
            check_answer(other.expected, mine.expected, tolerance=agreement.tolerance)


def reference_of(session, request):
    return session.run(None, dict(request.inputs))[0]


def test_what_batching_was_seen_to_change_is_no_wrong_answer_under_load(session, reference):
    agreement = compare(session, reference, 0.01)
    assert agreement.tolerance == pytest.approx(TOLERANCE + 0.02, rel=1e-3)


def test_however_much_batching_changes_under_load_no_other_answer_is_right(session, reference):
    assert compare(session, reference, 0.5).tolerance == pytest.approx(TOLERANCE + 0.05)
    assert compare(session, reference, np.nan).tolerance == pytest.approx(TOLERANCE + 0.05)


def test_an_answer_that_is_mixed_up_under_load_is_wrong_in_reduced_precision_too():
    """A real server under a real load: its answers are far from FP32 and then are those of other requests."""
    # Those of the comparison, and of the connections' first requests.
    right = 60
    program = Program(
        None, (), (str(Path(__file__).with_name("peers_wrong_server.py")), str(right), "mixed-up"), "raw", "/"
    )
    options = MeasuringOptions(0.5, 0.0, 1, 10.0)
    with (
        open_subject(REPOSITORY, "digits", RequestOptions(measuring=options, distinct_inputs=8)) as subject,
        open_program(subject, program) as contestant,
    ):
        agreement = compare_answers(
            contestant.ask,
            contestant.ask_together,
            subject.requests,
            at_once=4,
            reduced_precision=True,
            tolerance=TOLERANCE,
        )
        assert agreement.problem == ""
        assert agreement.tolerance == TOLERANCE
        contestant.prepare(agreement)
        measured = contestant.measure(4, options)
    assert measured.wrong_answers > 0
    assert measured.errors == measured.wrong_answers
