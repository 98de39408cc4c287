"""Of the methods for INT8, the fastest inside the budget is taken, and layers are ranked only where that may pay."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plansmith_build.search.candidates import Candidate, Status
from plansmith_build.search.int8_choice import Attempt, fastest_method
from plansmith_build.search.targets import Device, Pairing, Precision, Target
from plansmith_build.search.timing import Speed

INT8 = Pairing(Target.OPENVINO, Device.CPU, Precision.INT8)
RATIOS = st.floats(0.2, 8)
USED = st.floats(0.1, 50)


class Engine:
    """Methods whose speeds and losses are known, and which of them were tried and ranked.

    Args:
        methods: by name, speed and used budget of the whole graph and of the one with some layers kept; None instead
            of the speed for a graph that does not run.
    """

    def __init__(self, methods):
        self.methods = methods
        self.judged = []
        self.ranked = []

    def attempt(self, name, speed, used, with_some_kept=None):
        status, reason = (Status.SLOWER, "") if used <= 1 else (Status.OUTSIDE_BUDGET, "is off by too much")
        timed = Speed(speed, 1, speed) if speed is not None else None
        self.judged.append(Attempt(name, Candidate(INT8, status, reason, speed=timed), used, with_some_kept))
        return self.judged[-1]

    def inside(self):
        return [attempt.candidate.speed.ratio for attempt in self.judged if attempt.used <= 1]

    def whole(self, name):
        speed, used, *kept = self.methods[name]

        def with_some_kept(share):
            self.ranked.append((name, speed, max(self.inside(), default=0), share))
            return self.attempt(name, *kept)

        return self.attempt(name, speed, used, with_some_kept)

    def fastest(self, first, otherwise=(), *, fastest=0.0, fp32=1.0):
        tries = ([partial(self.whole, name) for name in names] for names in (first, otherwise))
        return fastest_method(*tries, fastest=fastest, fp32=fp32)


@given(
    methods=st.dictionaries(st.sampled_from("abcd"), st.tuples(RATIOS, USED, RATIOS, USED), min_size=1),
    split=st.integers(1, 4),
    fastest=st.just(0.0) | RATIOS,
    fp32=RATIOS,
)
def test_the_answer_is_the_fastest_of_those_judged_inside_the_budget(methods, split, fastest, fp32):
    engine = Engine(methods)
    names = list(methods)
    answer = engine.fastest(names[:split], names[split:], fastest=fastest, fp32=fp32)
    if not engine.inside():
        assert answer.reason.startswith(min(engine.judged, key=lambda one: one.used).candidate.reason)
        assert not answer.is_usable
    else:
        assert answer.speed.ratio == max(engine.inside())
    assert all(whole > max(inside, fastest) and 0 < share <= 1 for _, whole, inside, share in engine.ranked)
    if not engine.inside():
        # Nothing that might have been the fastest was left out.
        ranked = {name for name, *_ in engine.ranked}
        assert all(name in ranked or speed <= fastest for name, (speed, *_) in methods.items())


def test_layers_are_not_ranked_where_a_method_that_takes_one_conversion_is_inside_and_faster():
    engine = Engine({"NNCF": (1.9, 3.0, 1.7, 0.2), "blocks": (1.95, 0.03, None, 0)})
    answer = engine.fastest(["NNCF", "blocks"])
    assert (engine.ranked, answer.speed.ratio) == ([], 1.95)
    assert answer.reason == (
        "NNCF: is off by too much; its layers were not ranked: with some in FP32 it would hardly be faster than what "
        "is inside the budget"
    )
    # FP32 of another engine, likewise.
    engine = Engine({"static": (1.5, 30.0, 1.3, 0.9)})
    assert not engine.fastest(["static"], fastest=2.0).is_usable
    assert engine.ranked == []


@pytest.mark.parametrize(("used", "ranked"), [(3.0, False), (1.05, True)])
def test_layers_are_ranked_where_as_few_as_seem_to_have_to_stay_leave_the_method_faster(used, ranked):
    engine = Engine({"NNCF": (2.3, used, 2.1, 0.9), "blocks": (1.95, 0.03, None, 0)})
    answer = engine.fastest(["NNCF", "blocks"])
    assert bool(engine.ranked) is ranked
    assert answer.speed.ratio == (2.1 if ranked else 1.95)
    if ranked:
        # With so much in FP32, it is as fast as the other.
        ((_, whole, inside, share),) = engine.ranked
        assert share + (1 - share) / whole == pytest.approx(1 / inside)


def test_what_does_not_run_whole_is_ranked_and_what_cannot_be_made_is_not():
    engine = Engine({"static": (None, float("inf"), 1.4, 0.5)})
    assert engine.fastest(["static"], fastest=1.2).speed.ratio == 1.4
    failed = Attempt("dynamic", Candidate(INT8, Status.FAILED, "a whole batch"), float("inf"))
    assert fastest_method([lambda: failed], [], fastest=0.0, fp32=1.0) == failed.candidate
