"""The dashboards are of the types that Grafana publishes of its own dashboards: no word is lost in them."""

from __future__ import annotations

import importlib
import json
import typing
import warnings

import pytest
from containers import ROOT
from kubernetes_policy import changed
from pydantic import ConfigDict, TypeAdapter, ValidationError
from wheels import wheels

FILES = sorted((ROOT / "deploy/watch/grafana/dashboards").glob("*.json"))
SDK = {"grafana-foundation-sdk==0.0.21": ("838b8cf35574d6bb2c3173b068e9461df4dc891aecd0f6674fefe244c2eba738",)}
ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
MUTATIONS = [
    ("panels 0 gridPosition", {"x": 0}),
    ("panels 0 gridPos w", "half"),
    ("panels 0 id", "one"),
    ("panels 0 targets 0 expression", "up"),
    ("panels 0 targets 0 expr", 1),
    ("panels 0 targets 0 legend", "{{model}}"),
    ("panels 0 fieldConfig defaults units", "s"),
    ("panels 0 fieldConfig defaults min", "none"),
    ("schemaVersion", "39"),
    ("time", {"from": "now-1h", "until": "now"}),
    ("graphTooltip", 7),
]


@pytest.fixture(scope="module")
def passed_through(pytestconfig):
    """What a dashboard is once it has been an object of Grafana's types, each value of which was looked at."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # That Grafana has a second format of dashboards, too.
        warnings.simplefilter("ignore", DeprecationWarning)
        patch.syspath_prepend(*wheels(SDK, pytestconfig.cache.mkdir("grafana")))
        cog, models = (importlib.import_module(f"grafana_foundation_sdk.{name}") for name in ("cog", "models"))
        for name in ("plugins", "encoder"):
            importlib.import_module(f"{cog.__name__}.{name}")
        dashboard = importlib.import_module(f"{models.__name__}.dashboard").Dashboard
        cog.plugins.register_default_plugins()

        def passed(document):
            made = dashboard.from_json(document)
            look_at(made)
            return json.loads(cog.encoder.JSONEncoder().encode(made))

        yield passed


def look_at(thing):
    """Raise where a value is not of the type that its class declares."""
    for name, declared in typing.get_type_hints(type(thing)).items():
        value = getattr(thing, name)
        if value is None or isinstance(value, (str, int, float)):
            TypeAdapter(declared, config=ANY_CLASS).validate_json(json.dumps(value), strict=True)
        for inner in value if isinstance(value, list) else [value]:
            if hasattr(inner, "to_json"):
                look_at(inner)


def lost(ours, theirs):
    """Whether something of ours is not in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return any(lost(value, theirs.get(key)) for key, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) != len(theirs) or any(map(lost, ours, theirs))
    return ours != theirs


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_dashboards_are_of_grafanas_types_which_see_each_mistake(file, passed_through):
    board = json.loads(file.read_text())
    assert not lost(board, passed_through(board))
    for path, value in MUTATIONS:
        mistaken = changed(board, path, value)
        try:
            assert lost(mistaken, passed_through(mistaken)), path
        except ValidationError:
            continue
