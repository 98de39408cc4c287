"""Results for the tests of reports: measured here, on the model that is committed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_perf.comparing.results import Comparison, PeerResult
from plansmith_perf.results.documents import LoadTestResult, read_result
from plansmith_perf.tuning.records import TuningRecord

if TYPE_CHECKING:
    from conftest import Plansmith

REPOSITORY = Path(__file__).parents[2] / "model_repository"
HOSTILE = "</script><script>window.intruder = 1</script><img src=x onerror='window.intruder = 2'>|`@all` =1+1"


def measure(plansmith: Plansmith, url: str, file: Path, *words: str) -> LoadTestResult:
    plansmith(
        *("bench", "digits", "--url", url, "--warmup", "0.3", "--workers", "1", "--distinct-inputs", "4"),
        *("--output", file, *words),
    )
    return read_result(file)


def tune(plansmith: Plansmith, folder: Path) -> TuningRecord:
    """A search with two trials, whose file is `folder / "tuning.json"`."""
    narrow = ("--variants", "onnxruntime", "--instances", "1", "--threads", "1", "--queue-delays", "0,1000")
    done = plansmith(
        *("tune", "digits", "--repository", REPOSITORY, "--slo", "p99=2s", *narrow, "--trials", "2", "--dry-run"),
        *("--seconds", "0.3", "--warmup", "0.1", "--max-concurrency", "4", "--rounds", "3", "--workers", "1"),
        *("--storage", folder / "trials.journal", "--json"),
    )
    (folder / "tuning.json").write_text(done.stdout)
    return TuningRecord.model_validate_json(
        done.stdout.partition('"tuning": ')[2].partition('\n  "met"')[0].rstrip(",")
    )


def compare(result: LoadTestResult) -> Comparison:
    """A comparison of what was measured at each load, as if the loads were peers."""
    first, *others = result.measurements
    peers = [
        PeerResult(
            name=f"Peer {number}",
            kind="server" if number else "plansmith",
            setup="as its documentation says",
            source="https://example.org/setup",
            versions={"onnxruntime": result.environment.packages.get("onnxruntime", "1")},
            status="measured",
            largest_difference=0.0,
            top1_agreement=1.0,
            rounds=[measured, measured],
        )
        for number, measured in enumerate([others[-1], first, *others[:-1]])
    ]
    missing = PeerResult(
        name="Absent", kind="server", setup="", versions={}, status="unavailable", reason="no wheel", rounds=[]
    )
    wrong = peers[1].model_copy(
        update={"name": "Wrong", "status": "wrong", "reason": "other values", "source": "javascript:alert(1)"}
    )
    return Comparison(
        created=result.created,
        model=result.model,
        model_version=result.model_version,
        batch_size=result.batch_size,
        concurrency=1,
        seconds=1.0,
        environment=result.environment,
        complete=True,
        baseline="Peer 1",
        peers=[*peers, wrong, missing],
    )
