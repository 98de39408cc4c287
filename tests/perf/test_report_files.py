"""What `plansmith bench report` writes as Markdown and CSV, and what it refuses; from real measurements."""

from __future__ import annotations

import csv
import json
import stat

import numpy as np
import plotly.graph_objects as go
import pytest
from made_measurements import distribution
from report_documents import HOSTILE, compare, measure, tune

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.report import name_documents, summarize, write_report
from plansmith_perf.report.csv_rows import COLUMNS
from plansmith_perf.report.figures import Figure
from plansmith_perf.report.sections import sections_of
from plansmith_perf.results.documents import ClosedLoop, Measurement, OpenLoop, SloOutcome, Stability


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def closed(plansmith, committed_server, folder):
    return measure(plansmith, committed_server.grpc_url, folder / "closed.json", "-c", "1,2", "--seconds", "1")


@pytest.fixture(scope="module")
def opened(plansmith, committed_server, folder):
    words = ("--rate", "60", "--seconds", "1.5", "--batch-size", "2")
    return measure(plansmith, committed_server.http_url, folder / "open.json", *words)


@pytest.fixture(scope="module")
def tuned(plansmith, folder):
    return tune(plansmith, folder)


@pytest.fixture
def everything(closed, opened, tuned):
    return {"closed": closed, "open": opened, "peers": compare(closed), "tuning": tuned}


def test_the_answer_comes_first_and_says_the_figures_of_the_result(closed):
    summary = summarize({"closed": closed})
    best = max(closed.measurements, key=lambda measured: measured.throughput)
    assert f"{best.throughput:,.0f} requests/s" in summary.answers[0]
    assert f"{best.load.concurrency} in flight" in summary.answers[0]
    requests = sum(measured.requests for measured in closed.measurements)
    assert f"None of the {requests:,} requests failed." in summary.answers
    assert summary.warnings == ()
    short = "too short for p99"
    said = any(short in note for one in closed.measurements for note in one.notes)
    assert any(short in note for note in summary.notes) == said


def many_and_few(closed, many: int = 1000) -> tuple[Measurement, Measurement]:
    """One measurement with as many answers as a p99 takes, and one with fewer; all between 2 and 3 ms."""
    measured = closed.measurements[0]
    return tuple(
        measured.model_copy(
            update={
                "requests": count,
                "latency": distribution(np.linspace(2e6, 3e6, count).astype(np.int64), [50, 99]),
                "notes": [],
            }
        )
        for count in (many, many - 1)
    )


def test_a_percentile_of_too_few_answers_has_no_figure_and_a_remark(closed, tmp_path):
    many, few = many_and_few(closed)
    write_report({"one": closed.model_copy(update={"measurements": [many, few]})}, tmp_path / "report.md")
    rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| ")]
    heading, first, second = ([cell.strip() for cell in row.split("|")] for row in (rows[0], *rows[2:4]))
    place = heading.index("p99")
    assert first[place] == "2.99"
    assert second[place] == "\\-"
    assert second[place - 1] == first[place - 1] == "2.50"
    assert "too few" not in first[-2]
    assert "999 answers are too few for p99" in second[-2]


def test_csv_has_percentiles_that_the_result_does_not_list_where_enough_answers_came(closed, tmp_path):
    measurements = list(many_and_few(closed, 10_000))
    write_report({"one": closed.model_copy(update={"measurements": measurements})}, tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["latency_p99_9"]) == pytest.approx(2.999, abs=0.003)
    assert second["latency_p99_9"] == ""
    assert float(second["latency_p99"]) == pytest.approx(2.99, abs=0.003)


def test_a_peer_whose_rounds_are_too_short_has_no_p99(closed, tmp_path):
    many, few = many_and_few(closed)
    peers = [
        peer.model_copy(update={"rounds": [one, many]})
        for peer, one in zip(compare(closed).peers[:2], (many, few), strict=True)
    ]
    write_report({"peers": compare(closed).model_copy(update={"peers": peers})}, tmp_path / "report.md")
    rows = [
        line for line in (tmp_path / "report.md").read_text().splitlines() if "| Peer 1" in line or "Peer 0" in line
    ]
    by_name = {row.partition("Peer ")[2][0]: row for row in rows if "answers" in row or "measured" in row}
    assert "| 2.50 | 2.99 |" in by_name["0"]
    assert "too few" not in by_name["0"]
    assert "| 2.50 | \\- |" in by_name["1"]
    assert "measured; in a round 999 answers are too few for p99" in by_name["1"]


@pytest.mark.parametrize(
    ("load", "met", "said"),
    [
        (ClosedLoop(concurrency=8), True, "kept p99=50ms in one run of Locust with at most 8 in flight"),
        (ClosedLoop(concurrency=8), False, "did not keep p99=50ms in one run of Locust with at most 8 in flight"),
        (OpenLoop(rate=60, arrivals="poisson"), True, "of Locust at 60/s, poisson arrivals or less"),
        (OpenLoop(rate=60, arrivals="recorded"), True, "of Locust at 60/s, recorded arrivals on average"),
    ],
)
def test_a_run_of_locust_is_not_said_to_have_found_the_highest_rate(closed, load, met, said):
    measured = closed.measurements[0].model_copy(update={"load": load})
    for rate in (None, 60.0):
        slo = SloOutcome(slo="p99=50ms", met=met, rate=rate)
        result = closed.model_copy(update={"tool": "locust", "slo": slo, "measurements": [measured]})
        answer = summarize({"locust": result}).answers[0]
        assert said in answer
        assert "confirmed" not in answer
        assert "up to" not in answer


def test_results_that_measure_different_things_are_not_put_side_by_side_silently(closed, opened):
    (warning,) = summarize({"closed": closed, "open": opened}).warnings
    assert "batch of" in warning
    assert "protocol" in warning
    assert "processor" not in warning


def test_a_partial_result_says_so_first(closed, tmp_path):
    cut = closed.measurements[1].model_copy(update={"complete": False})
    partial = closed.model_copy(
        update={"complete": False, "interruption": "Ctrl-C", "measurements": [closed.measurements[0], cut]}
    )
    assert "partial: Ctrl-C" in summarize({"cut": partial}).warnings[0]
    write_report({"cut": partial}, tmp_path / "cut.md")
    text = (tmp_path / "cut.md").read_text()
    assert "partial: Ctrl\\-C" in text.partition("| load")[0]
    write_report({"cut": partial}, tmp_path / "cut.csv")
    with (tmp_path / "cut.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["measured", "partial"]


def test_markdown_has_the_answer_one_open_table_a_measurement_a_row_and_the_rest_folded(closed, tmp_path):
    write_report({"closed": closed}, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "## Performance of digits"
    assert lines[2].startswith("**digits answered at most ")
    opened_part = text.partition("<details>")[0]
    rows = [line for line in opened_part.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(closed.measurements)
    assert len({row.count(" | ") for row in rows}) == 1
    assert text.count("<details>") == text.count("</details>") > 1
    assert "processor" in text.partition("<details>")[2]


def test_markdown_keeps_hostile_names_as_text(closed, tmp_path):
    write_report({HOSTILE: closed.model_copy(update={"model": HOSTILE})}, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "@all" not in text
    assert "`@" not in text.replace("\\`", "")
    assert not [line for line in text.splitlines() if line.startswith("|") and line.replace("\\|", "").count("|") < 3]


def test_the_first_sentence_says_not_stable_and_calls_no_open_loop_a_maximum(closed, opened):
    shaken = Stability(stable=False, throughput=[1.0, 9.0], spread=0.8)
    unstable = [one.model_copy(update={"stability": shaken}) for one in closed.measurements]
    first = summarize({"closed": closed.model_copy(update={"measurements": unstable})}).answers[0]
    assert first.startswith("digits answered at most ")
    assert "requests/s (not stable), with" in first
    steady = [one.model_copy(update={"stability": None}) for one in opened.measurements]
    said = summarize({"open": opened.model_copy(update={"measurements": steady})}).answers[0]
    assert said.startswith("digits answered ")
    assert "at most" not in said
    assert "not stable" not in said


def test_an_address_in_markdown_cannot_end_its_link(closed, tmp_path):
    comparison = compare(closed)
    address = "https://example.org/a>)\n\n# Owned\r\n| x | `y` <b> \u2028 [z](w)"
    peers = [comparison.peers[0].model_copy(update={"source": address}), *comparison.peers[1:]]
    write_report({"peers": comparison.model_copy(update={"peers": peers})}, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "\n# Owned" not in text
    link = text.partition("](<https://example.org/a")[2].partition(">)")[0]
    assert link.startswith("%3E)%0A%0A#%20Owned%0D%0A%7C%20x%20%7C%20%60y%60%20%3Cb%3E%20%E2%80%A8")
    assert "(<https://example.org/setup>)" in text


def test_csv_has_a_row_for_each_measurement_and_trial_and_columns_that_stay(everything, tmp_path):
    write_report(everything, tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames) == COLUMNS
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("load test", "comparison", "tuning")}
    closed, opened = everything["closed"], everything["open"]
    assert len(by_kind["load test"]) == len(closed.measurements) + len(opened.measurements)
    assert len(by_kind["comparison"]) == sum(max(1, len(peer.rounds)) for peer in everything["peers"].peers)
    assert len(by_kind["tuning"]) == len(everything["tuning"].trials)
    first, measured = rows[0], closed.measurements[0]
    assert float(first["throughput"]) == pytest.approx(measured.throughput)
    assert float(first["latency_p90"]) == pytest.approx(measured.latency.percentiles["90"] / 1000)
    assert 0 < float(first["latency_p50"]) <= float(first["latency_p90"]) <= float(first["latency_max"]) * 1.01
    # 90 answers or so tell a p50, and no p99.
    slow = by_kind["load test"][-1]
    assert float(slow["latency_p50"]) == pytest.approx(opened.measurements[0].latency.percentiles["50"] / 1000)
    assert (slow["latency_p99"], slow["latency_p99_9"]) == ("", "")
    assert "too short for p" in slow["remarks"]
    assert float(first["queue"]) == pytest.approx(measured.server_side.queue / 1000)
    assert (first["load"], first["concurrency"], first["rate"]) == ("closed", "1", "")
    assert by_kind["load test"][-1]["arrivals"] == "poisson"


@pytest.mark.parametrize("sign", ["=", "+", "-", "@"])
def test_a_name_is_no_formula_in_a_spreadsheet_and_hides_nothing(closed, tmp_path, sign):
    write_report({f" {sign}1+1\x1b[31m\u202e\r": closed}, tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as file:
        assert {row["result"] for row in csv.DictReader(file)} == {f"' {sign}1+1\\x1b[31m\\u202e\\r"}


@pytest.mark.parametrize("ending", ["md", "html"])
def test_control_and_direction_characters_of_names_are_written_out(closed, tmp_path, ending):
    write_report({"one": closed.model_copy(update={"model": "a\x1b\u202eb"})}, tmp_path / f"report.{ending}")
    text = (tmp_path / f"report.{ending}").read_text()
    assert "a\\x1b\\u202eb" in text.replace("\\\\", "\\")
    assert "\x1b" not in text
    assert "a\u202e" not in text


def test_the_report_says_what_was_served(closed, tmp_path):
    write_report({"closed": closed}, tmp_path / "report.md")
    assert "| served | onnxruntime; " in (tmp_path / "report.md").read_text().replace("\\", "")


def test_every_plot_is_what_plotly_defines(everything):
    figures = [block for part in sections_of(everything) for block in part.blocks if isinstance(block, Figure)]
    assert {figure.name.partition("-")[0] for figure in figures} == {
        *("throughput", "percentiles", "breakdown", "timeline", "peers", "trials"),
    }
    for figure in figures:
        # Raises where plotly knows no such property or value.
        go.Figure({"data": figure.data, "layout": figure.layout})


def test_the_command_writes_each_format_from_the_files_of_every_command(plansmith, closed, opened, tuned, folder):
    peers = folder / "peers.json"
    peers.write_text(compare(closed).model_dump_json())
    files = (folder / "closed.json", folder / "open.json", peers, folder / "tuning.json")
    done = plansmith("bench", "report", *files, "--output", "report.md", "--json", cwd=folder)
    said = json.loads(done.stdout)
    assert said["results"] == ["closed", "open", "peers", "tuning"]
    assert said["bytes"] == (folder / "report.md").stat().st_size
    assert any(
        "keeps its place" in sentence or "faster" in sentence or "winner" in sentence for sentence in said["summary"]
    )
    assert "answered wrongly: other values" in "".join(said["warnings"])
    done = plansmith("bench", "report", folder / "closed.json", "-o", "REPORT.CSV", cwd=folder)
    assert "digits answered at most" in done.stdout
    assert stat.S_IMODE((folder / "REPORT.CSV").stat().st_mode) & 0o600 == 0o600


def test_files_of_one_name_are_told_apart_by_their_folders(closed, tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(closed.model_dump_json())
    assert list(name_documents([tmp_path / "before/result.json", tmp_path / "after/result.json"])) == [
        "before/result",
        "after/result",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[1]", "does not hold a JSON object"),
        (b"{}", "is not a result"),
        (b'{"schema_version": 2}', "is not a result of a load test.*schema_version"),
        (b'{"kind": "comparison", "schema_version": 9}', "is not a result.*schema_version"),
        (b'{"tuning": {"trials": []}}', "is not a result"),
        (b'{"a": NaN}', "is not JSON"),
    ],
)
def test_what_is_no_result_is_refused_in_a_sentence_that_names_the_file(tmp_path, content, sentence):
    file = tmp_path / "result.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoadTestMisconfigured, match=sentence) as refused:
        name_documents([file])
    assert "result.json" in str(refused.value)


def test_a_mistake_is_one_sentence_and_nothing_is_written(plansmith, tmp_path):
    (tmp_path / "result.json").write_text("{}")
    done = plansmith("bench", "report", "result.json", "--output", "report.html", expect=2, cwd=tmp_path)
    assert done.stderr.count("Error:") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_damaged_histogram_is_refused(closed, tmp_path):
    document = json.loads(closed.model_dump_json())
    text = document["measurements"][0]["latency"]["histogram"]
    document["measurements"][0]["latency"]["histogram"] = text[: len(text) // 2]
    (tmp_path / "result.json").write_text(json.dumps(document))
    with pytest.raises(LoadTestMisconfigured, match="histogram is damaged"):
        name_documents([tmp_path / "result.json"])


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("report.pdf", "must end with"),
        ("report", "must end with"),
        ("nowhere/report.md", "does not exist"),
        ("a.md", "folder"),
    ],
)
def test_where_no_report_can_be_written_that_is_said(closed, tmp_path, output, sentence):
    (tmp_path / "a.md").mkdir()
    with pytest.raises(LoadTestMisconfigured, match=sentence):
        write_report({"closed": closed}, tmp_path / output)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.md"]


def test_a_result_that_is_given_twice_is_refused(closed, folder):
    with pytest.raises(LoadTestMisconfigured, match="given twice"):
        name_documents([folder / "closed.json", folder / "closed.json"])


def test_a_report_that_cannot_be_made_leaves_the_old_one(closed, tmp_path):
    old = tmp_path / "report.md"
    old.write_text("old")
    with pytest.raises(LoadTestMisconfigured, match="nothing to report"):
        write_report({}, old)
    assert old.read_text() == "old"
    write_report({"new": closed}, old)
    assert "digits" in old.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
