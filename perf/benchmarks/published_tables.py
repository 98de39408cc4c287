"""Writes the tables of README.md and docs/ from the results in perf/results, so that no figure is typed.

`python perf/benchmarks/published_tables.py` rewrites what stands between `<!-- table NAME -->` and `<!-- end NAME -->`;
`--check` changes nothing, and exits with 1 where a page does not say what the results do. The results are what the
other benchmarks wrote: `--output perf/results`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plansmith_perf.comparing.results import median_latency, median_throughput, paired_ratio
from plansmith_perf.report.documents import read_document
from plansmith_perf.tuning.records import TuningRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.comparing.results import Comparison, PeerResult

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "perf" / "results"
PAGES = ("README.md", "docs/comparison.md", "docs/tuning.md", "docs/tensorrt.md", "docs/examples.md")
BASELINE = "FastAPI + ONNX Runtime"
SERVERS = (BASELINE, "LitServe", "MLServer", "BentoML", "PyTriton", "Triton, default configuration")
# With the file, engine and precision that plansmith serves: what serving alone gains.
SAME_ENGINE = ("FastAPI + the engine that plansmith serves", "PyTriton + the engine that plansmith serves")

Row = tuple[str, ...]


def summary() -> list[Row]:
    """The README's table, a row a claim: what every row of `figures` shows, against the strongest of the others."""
    return [
        ("what", "plansmith", "compared with", "ratio"),
        *_strongest("resnet50", "ResNet-50 served, 8 clients, requests/s", SERVERS),
        *_strongest("resnet50", "ResNet-50, the same engine and precision", SAME_ENGINE),
        *_strongest("mlp", "a small network served, 32 clients, requests/s", SERVERS),
        *_strongest("mlp", "the small network, the same engine and precision", SAME_ENGINE),
        *_tuned("mlp", "the small network"),
        *_client()[::2],
        _load_generator(),
        _backend()[1],
    ]


def figures() -> list[Row]:
    """All figures that were measured against something else."""
    return [
        ("what", "plansmith", "compared with", "ratio"),
        *_served(
            "resnet50",
            "ResNet-50 as built, tuned and served, 8 clients, requests/s",
            *SAME_ENGINE,
            "plansmith's engine in process",
        ),
        *_served("mlp", "MLP 64-128-10 as built, tuned and served, 32 clients, requests/s", *SAME_ENGINE),
        *_sentences(),
        *_tuned("mlp", "the MLP"),
        *_tuned("resnet50", "ResNet-50"),
        *_client(),
        _load_generator(),
        *_backend(),
    ]


def resources() -> list[Row]:
    """Start-up, memory and builds: what was measured, and the most that it is meant to take."""
    started = _read("many_models")
    models = f"{started['models']} small models"
    rows: list[Row] = [
        ("what", "measured", "meant to take at most"),
        (f"{models}, `plansmith serve` until ready, s", _number(statistics.median(started["figures"]["none"])), "15"),
        (f"{models}, idle, MiB of private memory of the largest", _number(max(started["private_memory"])), "60"),
    ]
    built = _read("searched_builds")["figures"]
    for name, words, seconds, gib in (
        ("resnet50", "ResNet-50", "60", "2"),
        ("recogniser", "the recogniser of PP-OCRv4, 11 MB", "120", "1.5"),
    ):
        rows += [
            (f"searched build of {words}, s", _number(built[name]["seconds"]), seconds),
            (f"searched build of {words}, GiB at its peak, servers included", f"{built[name]['peak_gib']}", gib),
        ]
    soak = _read("soak")
    words = f"{sum(soak['requests'].values()) / 1e6:.1f} million requests of mixed load in {soak['seconds'] / 60:g} min"
    rows.append((f"{words}, growth of the servers' memory, %", f"{100 * soak['figures']['growth']:.1f}", "2"))
    return rows


def applications() -> list[Row]:
    """The examples as served, beside FastAPI with the framework itself and with the same engine and precision."""
    rows: list[Row] = [
        ("example", "plansmith, requests/s", "FastAPI, the framework", "FastAPI, the same engine", "ratios")
    ]
    for name, found in _read("applications")["figures"].items():
        ours, framework, same = (found["rates"][who] for who in ("plansmith", "framework", "same engine"))
        medians = [_number(statistics.median(rates)) for rates in (ours, framework, same)]
        ratios = f"{_paired(ours, framework):.2f} and {_paired(ours, same):.2f}"
        served, theirs = f"{medians[0]}, {found['chosen']}", f"{medians[1]}, {found['framework']}"
        rows.append((name, served, theirs, medians[2], ratios))
    return rows


def measured() -> list[Row]:
    """When, where and with what all figures were measured, and the program that repeats each."""
    programs = {
        **dict.fromkeys(("resnet50", "resnet50_few", "mlp", "mlp_few"), "peers_table"),
        **dict.fromkeys(("tune_gain_mlp", "tune_gain_resnet50"), "tune_gain"),
    }
    others = (
        *("client_speed", "load_generator", "backend_overhead", "minilm_text"),
        *("many_models", "searched_builds", "soak", "applications"),
    )
    rows: list[Row] = [("`perf/results`", "`perf/benchmarks`", "on", "machine", "versions")]
    before: tuple[str, str] | None = None
    for name in (*programs, *others):
        if not (RESULTS / f"{name}.json").exists():
            continue
        result = _read(name)
        environment = result["environment"]
        packages = environment["packages"]
        names = ("onnxruntime", "openvino", "tritonclient", "numpy")
        versions = (environment["server"], f"Python {environment['python']}", *(f"{n} {packages[n]}" for n in names))
        machine = f"{environment['processor']}, {environment['cores']} cores, {environment['memory'] / 2**30:.0f} GiB"
        here = (f"{machine}, {environment['system'].split('-')[0]}", ", ".join(filter(None, versions)))
        cells = here if here != before else ("the same", "the same")
        rows.append((f"`{name}.json`", f"`{programs.get(name, name)}.py`", result["created"][:10], *cells))
        before = here
    return rows


def peers(model: str) -> list[Row]:
    """Every peer of one comparison."""
    comparison = _comparison(model)
    percentiles = (50, 95, 99)
    headings = ("peer", "requests/s", *(f"p{percentile}, ms" for percentile in percentiles))
    rows: list[Row] = [(*headings, f"ratio to {comparison.baseline}", "top-1")]
    for peer in comparison.peers:
        rate = median_throughput(peer)
        ratio = paired_ratio(comparison, peer.name)
        rows.append(
            (
                peer.name,
                _number(rate) if rate is not None else f"{peer.status}: {peer.reason}",
                *(_percentile(peer, percentile) for percentile in percentiles),
                f"{ratio:.2f}" if ratio is not None else "-",
                f"{peer.top1_agreement:.1%}" if peer.top1_agreement is not None else "-",
            )
        )
    return rows


def tuning() -> list[Row]:
    """What tuning gained, and what the search found."""
    rows: list[Row] = [("what", "tuned", "compared with", "ratio, median of pairs")]
    for model in ("mlp", "resnet50"):
        rows += _tuned(model, model)
    search = _read("tune_search")
    quarter, everything = (TuningRecord.model_validate(search["searches"][name]) for name in ("quarter", "exhaustive"))
    rates = {name: statistics.median(values) for name, values in search["figures"].items()}
    words = f"{len(quarter.trials) - 1} trials, against all {len(everything.trials) - 1}, on the MLP, requests/s"
    ratio = _paired(search["figures"]["quarter"], search["figures"]["exhaustive"])
    return [*rows, (words, _number(rates["quarter"]), _number(rates["exhaustive"]), f"{ratio:.2f}")]


def compiled_engines() -> list[Row]:
    """What TensorRT for RTX compiled, by model and precision."""
    precisions = ("fp32", "fp16", "bf16", "int8", "int8-fp16")
    models = _read("compiled_engines")["models"]
    rows = [(f"`{name}`", *(_engine(found, precision) for precision in precisions)) for name, found in models.items()]
    return [("model", *precisions), *rows]


def compiled_matrices() -> list[Row]:
    """The same for the precisions of MatMul and Gemm alone, of the models that have such weights."""
    precisions = ("fp16", "w8a16", "w4a16", "fp8")
    models = _read("compiled_engines")["models"]
    return [
        ("model", *precisions),
        *(
            (f"`{name}`", *(_engine(found, precision) for precision in precisions))
            for name, found in models.items()
            if "bytes" in found.get("w8a16", {})
        ),
    ]


def quantizers() -> list[Row]:
    """The quantizers of plansmith and ModelOpt, by model and precision."""
    rows: list[Row] = [("model", "precision", "plansmith", "ModelOpt")]
    for model, found in _read("compiled_engines")["quantizers"].items():
        rows += [
            (f"`{model}`", precision, *(_quantized(made[name]) for name in ("plansmith", "modelopt")))
            for precision, made in found.items()
        ]
    return rows


def gpu(folder: Path = RESULTS / "gpu") -> list[Row]:
    """What `make gpu` measured, by device."""
    rows: list[Row] = [("GPU", "what", "measured")]
    for path in sorted(folder.glob("*.json")):
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        device = steps["device"]["found"]["name"]
        found = [pair for step in steps for pair in _gpu_step(step, steps[step])]
        rows += [("" if place else device, *pair) for place, pair in enumerate(found)]
    return rows


TABLES: dict[str, Callable[[], list[Row]]] = {
    "summary": summary,
    "figures": figures,
    "resources": resources,
    "applications": applications,
    "measured": measured,
    "peers mlp": lambda: peers("mlp"),
    "peers resnet50": lambda: peers("resnet50"),
    "tuning": tuning,
    "compiled engines": compiled_engines,
    "compiled matrices": compiled_matrices,
    "quantizers": quantizers,
    "gpu": gpu,
}


def _served(model: str, words: str, *more: str) -> list[Row]:
    rows = []
    for ours, name in (*(("plansmith", name) for name in (*SERVERS, *more)), ("plansmith, gRPC", BASELINE)):
        pair = _pair(model, ours, name)
        if pair is not None:
            ratio, mine, theirs = pair
            label = "the same" if rows else f"{words}, {_precision(mine)}"
            rows.append(
                (
                    label if ours == "plansmith" else "the same over gRPC",
                    f"{_number(median_throughput(mine))}{_mark(mine)}",
                    f"{_number(median_throughput(theirs))}{_mark(theirs)}, {name}{_remark(theirs)}",
                    f"{ratio:.2f}",
                )
            )
    return rows


def _strongest(model: str, words: str, servers: Sequence[str]) -> list[Row]:
    """As built, tuned and served, against the fastest of some servers of others, with what each computes in."""
    pairs = {name: pair for name in servers if (pair := _pair(model, "plansmith", name)) is not None}
    if not pairs:
        return []
    # The least gain is the strongest opponent.
    name, (ratio, mine, theirs) = min(pairs.items(), key=lambda one: one[1][0])
    precision = _precision(mine) if name in SAME_ENGINE else "FP32"
    return [
        (
            words,
            f"{_number(median_throughput(mine))}{_mark(mine)}, {_precision(mine)}",
            f"{_number(median_throughput(theirs))}{_mark(theirs)}, {precision}, {name}{_remark(theirs)}",
            f"{ratio:.2f}",
        )
    ]


def _pair(model: str, ours: str, name: str) -> tuple[float, PeerResult, PeerResult] | None:
    """Two peers of one run with their ratio: of the run of a few peers where that measured both, else of all."""
    for document in (f"{model}_few", model):
        if not (RESULTS / f"{document}.json").exists():
            continue
        comparison = _comparison(document)
        ratio = paired_ratio(comparison, ours, name)
        if ratio is not None:
            peers = {peer.name: peer for peer in comparison.peers}
            return ratio, peers[ours], peers[name]
    return None


def _precision(peer: PeerResult) -> str:
    """What of the repository was served, from the words of the comparison: runtime and precision."""
    found = re.search(r": (?P<backend>\w+), model(\.(?P<precision>\w+))?\.onnx", peer.setup)
    if found is None:
        raise ValueError(f"{peer.name} does not say what it served: {peer.setup}")
    return f"{(found['precision'] or 'fp32').upper()} on {found['backend']}"


def _remark(peer: PeerResult) -> str:
    if peer.setup.endswith("JSON"):
        return " (takes JSON)"
    return " of plansmith's backend" if peer.name.startswith("Triton") else ""


def _mark(peer: PeerResult) -> str:
    """Whether most of its rounds were not stable."""
    shaky = sum(measured.stability is not None and not measured.stability.stable for measured in peer.rounds)
    return "\\*" if 2 * shaky > len(peer.rounds) else ""


def _sentences() -> list[Row]:
    found = _read("minilm_text")
    ours, theirs = found["figures"]["plansmith"], found["figures"]["FastAPI + sentence-transformers"]
    medians = [_number(statistics.median(values)) for values in (ours, theirs)]
    words = f"MiniLM, text in and vectors out, 16 in flight, requests/s, {found['chosen']}"
    cosine = f"FastAPI + sentence-transformers; cosine similarity at least {found['cosine']['least']:.4f}"
    built = found["in_process"]
    alone = f"MiniLM as its build chose it, in process, rows/s, {found['chosen']}, cosine loss {built['drop']:.2%}"
    fp32 = f"{_number(built['fp32_rows_per_second'])}, ONNX Runtime in FP32"
    return [
        (words, medians[0], f"{medians[1]}, {cosine}", f"{_paired(ours, theirs):.2f}"),
        (alone, _number(built["rows_per_second"]), fp32, f"{built['ratio_to_fp32']:.2f}"),
    ]


def _tuned(model: str, words: str) -> list[Row]:
    record = TuningRecord.model_validate(_read(f"tune_gain_{model}"))
    if record.winner is None or record.ratio is None:
        return []
    rates = [
        statistics.median(played.throughput for played in record.rounds if played.trial == number)
        for number in (record.winner, 0)
    ]
    label = f"{words} tuned, {record.slo}, requests/s"
    return [(label, _number(rates[0]), f"{_number(rates[1])}, Triton's defaults", f"{record.ratio:.2f}")]


def _client() -> list[Row]:
    figures = _read("client_speed")["figures"]
    rows: list[Row] = []
    kinds = {
        "bulk scoring, rows/s": ("client: bulk scoring with `map`, the MLP over {}, rows/s", "tritonclient {} loop"),
        "one request of 19 MB, ms": ("one request of 19 MB over {}, ms", "tritonclient {}"),
        "19 MB there and back, ms": ("one request of 19 MB with an answer of 19 MB over {}, ms", "tritonclient {}"),
        "one row of 602 KB, ms": ("one row of 602 KB over {}, ms", "tritonclient {}"),
        "one small call, ms": ("one small call, checked and with a deadline, over {}, ms", "tritonclient {}"),
        "small calls of 32 threads, calls/s": ("small calls of 32 threads over {}, calls/s", "tritonclient {}"),
        "small calls of 32 tasks, calls/s": (
            "small calls of 32 tasks of an event loop over {}, calls/s",
            "tritonclient {}",
        ),
        "import and first answer, ms": ("a new process: import and first answer over {}, ms", "tritonclient {}"),
    }
    for kind, (words, other) in kinds.items():
        if kind not in figures:
            # Measured by a later version than the file's.
            continue
        for protocol in ("gRPC", "HTTP"):
            ours, theirs = figures[kind][f"plansmith {protocol}"], figures[kind][other.format(protocol)]
            ratio = _paired(ours, theirs) if kind.endswith("/s") else _paired(theirs, ours)
            medians = [_number(statistics.median(values)) for values in (ours, theirs)]
            other_figure = f"{medians[1]}, " + ("a loop of tritonclient" if "loop" in other else "tritonclient")
            rows.append((words.format(protocol), medians[0], other_figure, f"{ratio:.2f}"))
    return rows


def _load_generator() -> Row:
    figures = _read("load_generator")["figures"]
    ours, theirs = figures["plansmith"], figures["perf_analyzer"]
    words = "load generator, the MLP over gRPC, 32 in flight, requests/s"
    medians = [_number(statistics.median(values)) for values in (ours, theirs)]
    return (words, medians[0], f"{medians[1]}, perf_analyzer", f"{_paired(ours, theirs):.2f}")


def _backend() -> list[Row]:
    return [
        (
            f"`onnxruntime` backend{words}, the MLP, {concurrency} in flight, requests/s",
            _number(statistics.median(measured[name])),
            f"{_number(statistics.median(measured['handwritten']))}, a backend written for it",
            f"{_paired(measured[name], measured['handwritten']):.2f}",
        )
        for name, words in (("plansmith", ""), ("plansmith_spinning", " with threads that spin as the other's do"))
        for concurrency, measured in _read("backend_overhead")["figures"].items()
    ]


def _engine(found: dict[str, Any], precision: str) -> str:
    engine = found.get(precision, {})
    if "bytes" in engine:
        return f"{_number(engine['bytes'] / 1e6)}, {_number(engine['seconds'])}"
    said = engine.get("said", found.get("refused", ""))
    return "refused" if said.startswith("TensorRT does not take") else "not made" if said else "-"


def _quantized(made: dict[str, Any]) -> str:
    if "decibels" not in made:
        return made["said"].split(":")[0]
    return f"{_number(made['bytes'] / 1e6)}, {made['decibels']}"


def _gpu_step(name: str, step: dict[str, Any]) -> list[tuple[str, str]]:
    """What a step of perf/gpu found, a line for each figure; its reason, where it was not done."""
    if step["status"] != "done":
        return [(name, f"{step['status']}: {step['reason']}")]
    lines = _GPU_LINES.get(name)
    return lines(step["found"]) if lines is not None else []


def _gpu_builds(found: dict[str, Any]) -> list[tuple[str, str]]:
    built = {model: entries for model, entries in found.items() if isinstance(entries, list)}
    return [
        (f"{model}, {_gpu_pairing(entry)}, in process", _gpu_candidate(entry))
        for model, entries in built.items()
        for entry in entries
        if entry["status"] not in {"not possible here", "compiled, not measured"}
    ]


def _gpu_served(found: dict[str, Any]) -> list[tuple[str, str]]:
    arrays = found.get("device_arrays", {})
    served = [
        (f"{model}, served", f"{_number(found[model]['rows_per_second'])} rows/s")
        for model in found
        if model != "device_arrays"
    ]
    placed = [
        (f"one call of {arrays['rows']} rows on the {key[:3].upper()}", f"{_number(arrays[key])} ms")
        for key in ("cpu_ms", "gpu_ms")
        if key in arrays
    ]
    return served + placed


def _gpu_sizes(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"a run of as many rows as the one before, and of another number; algorithms: {choice}",
            f"{_number(taken['same_ms'])} ms, {_number(taken['changed_ms'])} ms",
        )
        for choice, taken in found.items()
    ]


def _gpu_pytorch(found: dict[str, Any]) -> list[tuple[str, str]]:
    timed = {"eager": "eager_ms", "compiled": "compiled_ms"}
    return [
        (f"encoder, PyTorch {how}, {found['rows']} rows", f"{_number(found[key])} ms")
        for how, key in timed.items()
        if key in found
    ]


def _gpu_rtx(found: dict[str, Any]) -> list[tuple[str, str]]:
    rate = found.get("rows_per_second")
    return [("engine for RTX, served", f"{_number(rate)} rows/s" if rate else f"refused: {found['refused']}")]


_GPU_LINES: dict[str, Callable[[dict[str, Any]], list[tuple[str, str]]]] = {
    "onnxruntime": _gpu_builds,
    "tensorrt": _gpu_builds,
    "triton": _gpu_served,
    "batch sizes": _gpu_sizes,
    "pytorch": _gpu_pytorch,
    "torch.compile": _gpu_pytorch,
    "tensorrt-rtx": _gpu_rtx,
}


def _gpu_pairing(entry: dict[str, Any]) -> str:
    """Of a build that failed as a whole, only the target is known."""
    device = f" ({entry['device'].upper()})" if "device" in entry else ""
    return " ".join(filter(None, (entry["target"], entry.get("precision")))) + device


def _gpu_candidate(entry: dict[str, Any]) -> str:
    rate = entry.get("rows_per_second")
    return f"{_number(rate)} rows/s" if rate else f"{entry['status']}: {entry.get('reason', '')}"


def _comparison(model: str) -> Comparison:
    return read_document(RESULTS / f"{model}.json")


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def _percentile(peer: PeerResult, percentile: float) -> str:
    latency = median_latency(peer, percentile)
    return _number(latency / 1000) if latency is not None else "-"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")  # noqa: PLR2004 - three digits


def _as_markdown(rows: Sequence[Row]) -> str:
    # A reason may be of several lines, and end a cell.
    head, *rest = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rest)])


def _filled(text: str) -> str:
    def table(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- table {name} -->\n{_as_markdown(TABLES[name]())}\n<!-- end {name} -->"

    return re.sub(r"<!-- table (?P<name>.+?) -->\n.*?<!-- end (?P=name) -->", table, text, flags=re.DOTALL)


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a table is another one")
    arguments = parser.parse_args()
    different = []
    for page in PAGES:
        before = (ROOT / page).read_text(encoding="utf-8")
        after = _filled(before)
        if after != before:
            different.append(page)
            if not arguments.check:
                (ROOT / page).write_text(after, encoding="utf-8")
    if arguments.check and different:
        sys.exit(f"{', '.join(different)}: not what perf/results says; run python perf/benchmarks/published_tables.py")


if __name__ == "__main__":
    main()
