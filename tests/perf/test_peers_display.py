"""What a comparison shows of its figures, and what it does not show because too little was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from plansmith_perf.comparing.results import median_latency
from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.report.documents import read_document
from plansmith_perf.report.terminal import show_comparison

FILE = Path(__file__).parents[2] / "perf" / "results" / "mlp.json"


@pytest.fixture
def comparison():
    """The published one: thousands of answers in every round of every peer."""
    return read_document(FILE)


def shortened(comparison, name, answers):
    """The same, had the last round of one peer had so few answers."""
    peers = []
    for peer in comparison.peers:
        *others, last = peer.rounds
        few = last.model_copy(update={"latency": last.latency.model_copy(update={"count": answers})})
        peers.append(peer.model_copy(update={"rounds": [*others, few]}) if peer.name == name else peer)
    return comparison.model_copy(update={"peers": peers})


def shown(comparison, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    show_comparison(comparison)
    return capsys.readouterr().out


def cells(said, name):
    (line,) = (line for line in said.splitlines() if line.strip().startswith(f"{name}  "))
    return line.split()[len(name.split()) :]


def test_a_percentile_for_which_a_round_had_too_few_answers_is_not_shown(comparison, monkeypatch, capsys):
    said = shown(shortened(comparison, "LitServe", 44), monkeypatch, capsys)
    assert cells(said, "LitServe")[1] != "-"
    assert cells(said, "LitServe")[2] == "-"
    assert "-" not in cells(said, "MLServer")
    assert said.count("too few answers") == 1
    assert "it takes 1,000 for p99;" in said


def test_a_median_too_is_not_shown_where_a_round_had_next_to_no_answers(comparison, monkeypatch, capsys):
    said = shown(shortened(comparison, "LitServe", 19), monkeypatch, capsys)
    assert cells(said, "LitServe")[1:3] == ["-", "-"]
    assert "it takes 20 for p50 and 1,000 for p99;" in said


def test_nothing_is_said_where_every_round_had_enough(comparison, monkeypatch, capsys):
    said = shown(comparison, monkeypatch, capsys)
    assert all("-" not in cells(said, peer.name)[:3] for peer in comparison.peers)
    assert "too few answers" not in said


def test_the_median_of_the_rounds_is_told_where_every_round_has_enough(comparison):
    peer = next(peer for peer in comparison.peers if peer.name == "LitServe")
    enough = samples_needed(99.0)
    (same,) = (one for one in shortened(comparison, "LitServe", enough).peers if one.name == "LitServe")
    assert median_latency(same, 99.0) == median_latency(peer, 99.0) is not None
    (fewer,) = (one for one in shortened(comparison, "LitServe", enough - 1).peers if one.name == "LitServe")
    assert median_latency(fewer, 99.0) is None
    assert median_latency(peer, 50.0) < median_latency(peer, 87.5) < median_latency(peer, 99.0)
    assert median_latency(peer.model_copy(update={"status": "wrong"}), 99.0) is None
    assert median_latency(peer.model_copy(update={"rounds": []}), 99.0) is None
