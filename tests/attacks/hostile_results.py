"""Hostile results of load tests: each field of a result set to what it must not be, and damaged documents."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostile_repositories import EVIL

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parents[2] / "perf" / "results"
FORMULA = "\r=cmd|' /C calc'!A0"


def _seeds() -> Iterator[dict[str, Any]]:
    comparison = json.loads((RESULTS / "mlp.json").read_text())
    comparison["peers"] = comparison["peers"][:2]
    for peer in comparison["peers"]:
        peer["rounds"] = peer["rounds"][:1]
    yield comparison
    (round_,) = comparison["peers"][0]["rounds"]
    shared = ("created", "model", "model_version", "batch_size", "environment", "complete")
    yield {
        **{key: comparison[key] for key in shared},
        "schema_version": 1,
        "tool": "plansmith",
        "protocol": "grpc",
        "inputs": "random",
        "expected_answers": "idle server",
        "workers": 1,
        "interruption": None,
        "measurements": [round_],
        "slo": None,
    }


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*place, key))
    elif isinstance(value, list) and value:
        yield from _places(value[0], (*place, 0))
    yield place, value


def _changes(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or value is None:
        return {"text": EVIL}
    if isinstance(value, (int, float)):
        return {"negative": -1, "huge": 10**400, "nan": float("nan"), "text": EVIL}
    if isinstance(value, str):
        return {"evil": EVIL, "formula": FORMULA, "number": 7}
    return {"nothing": type(value)(), "null": None}


def write_results(folder: Path) -> dict[str, Path]:
    """Write all of them; by name."""
    folder.mkdir()
    contents: dict[str, str] = {
        "empty": "", "null": "null", "list": "[]", "deep": "[" * 100_000, "digits": f'{{"kind": {"9" * 100_000}}}',
        "number": "1", "words": "hello", "nul": '{"kind": "a\\u0000"}',
    }  # fmt: skip
    seen = set()
    for number, seed in enumerate(_seeds()):
        contents[f"good_{number}"] = json.dumps(seed)
        for place, value in _places(seed):
            name = ".".join(map(str, place))
            if not place or name in seen or ("rounds" in place and number == 0):
                continue
            seen.add(name)
            for kind, change in _changes(value).items():
                document = copy.deepcopy(seed)
                inner = document
                for step in place[:-1]:
                    inner = inner[step]
                inner[place[-1]] = change
                contents[f"{name}_{kind}"] = json.dumps(document)
    found = {}
    for name, text in contents.items():
        found[name] = folder / f"{len(found):03d}.json"
        found[name].write_text(text)
    return found
