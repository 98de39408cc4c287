"""What the package shows to the world: its names, its documentation, its annotations, and how little it loads."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import types
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest
import tritonclient

import plansmith_client
from plansmith_client import Client, Model
from plansmith_client.calling.client_options import ClientOptions

PUBLIC = {
    *("AsyncClient", "AsyncModel", "AsyncBatchedModel", "AsyncMapRun", "AsyncModelSequence"),
    *("BatchedModel", "MapRun", "MappedItem", "ModelSequence", "ClassScore"),
    *("ModelStatistics", "BatchStatistics", "Duration"),
    *("RetryPolicy", "BreakerPolicy", "SharedMemoryPolicy", "Observer"),
    *("Client", "Model", "InferResult", "ModelMetadata", "ServerMetadata", "ModelStatus", "TensorSpec"),
    *("ClientError", "InvalidInput", "ClientClosed", "AccessDenied", "ModelNotFound", "ModelNotReady"),
    *("ServerUnavailable", "ServerOverloaded", "DeadlineExceeded", "InferenceFailed", "ProtocolError"),
}


def visible_names(module):
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }


def test_the_names_of_the_package_are_these_and_no_others():
    assert set(plansmith_client.__all__) == PUBLIC
    assert set(dir(plansmith_client)) > PUBLIC
    from_all = {}
    exec("from plansmith_client import *", from_all)
    assert set(from_all) - {"__builtins__"} == PUBLIC
    assert visible_names(plansmith_client) == PUBLIC
    with pytest.raises(AttributeError, match="has no attribute 'Clinet'"):
        _ = plansmith_client.Clinet
    assert plansmith_client.__version__ == version("plansmith-client")


def modules():
    return [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(plansmith_client.__path__, "plansmith_client.")
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_every_module_says_what_it_is_and_what_it_offers(module):
    assert module.__doc__
    # A room may offer nothing but its modules.
    if not hasattr(module, "__path__") or hasattr(module, "__all__"):
        assert set(module.__all__) <= set(vars(module))


@pytest.mark.parametrize(
    "function",
    [
        *(Client, Client.is_live, Client.is_ready, Client.wait_until_ready, Client.server_metadata, Client.models),
        *(Client.model, Client.close, Model, Model.is_ready, Model.infer, Model.__call__, Model.metadata.fget),
    ],
    ids=lambda function: function.__qualname__,
)
def test_what_talks_to_a_server_shows_an_example(function):
    assert "Example:" in function.__doc__


def test_annotations_are_shipped():
    assert files("plansmith_client").joinpath("py.typed").is_file()


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def loaded_by(program):
    return set(json.loads(run(f"{program}\nimport sys, json\nprint(json.dumps(list(sys.modules)))").splitlines()[-1]))


HEAVY = {
    "tritonclient",
    "grpc",
    "httptools",
    "urllib3",
    "google",
    "gevent",
    "geventhttpclient",
    "typer",
    "rich",
    "ml_dtypes",
}


def test_importing_the_package_loads_numpy_and_little_else():
    loaded = loaded_by("import plansmith_client, plansmith_client.tensors, plansmith_client.sampling")
    assert loaded & HEAVY == set()
    assert "numpy" in loaded


FIRST_ANSWER = """
import numpy as np
from plansmith_client import Client, TensorSpec
from plansmith_client.testing import FakeModel, FakeServer
with Client({url!r}) as client:
    client.is_live()
x = TensorSpec("x", "FP32", (-1, 4))
server = FakeServer({{"same": FakeModel(lambda inputs: inputs, [x], [x])}})
with Client({url!r}, transport=server) as client:
    print(client.model("same")(np.ones((2, 4), np.float32)).array)
"""
# What takes time to import, and a first answer needs nothing of.
LATER = {
    *("faces.async_client", "faces.async_model", "faces.batched", "faces.sequences", "faces.streaming", "mapping"),
    *("protocol.classification", "protocol.statistics", "transports.proxies"),
}


@pytest.mark.parametrize(
    ("url", "needed"),
    [("grpc://localhost:1", {"grpc", "google", "tritonclient"}), ("http://localhost:1", {"httptools"})],
)
def test_a_first_answer_loads_no_more_than_it_needs(url, needed):
    loaded = loaded_by(FIRST_ANSWER.format(url=url))
    # Of tritonclient the messages alone: not its client, and what that imports.
    theirs = {"tritonclient.grpc", "tritonclient.utils", "rapidjson", "google.protobuf.json_format", "packaging"}
    unwanted = HEAVY | theirs | {f"plansmith_client.{name}" for name in LATER}
    assert loaded & unwanted == needed


OURS = "from plansmith_client.transports.grpc.messages import service_pb2 as ours"
THEIRS = "import tritonclient.grpc"
AT_ONCE = f"""
import importlib, threading
other = threading.Thread(target=importlib.import_module, args=["tritonclient.grpc"])
other.start()
{OURS}
other.join()
{THEIRS}
"""
SAME = """
import sys
from tritonclient.grpc import model_config_pb2, service_pb2
assert sys.modules["tritonclient.grpc.service_pb2"] is service_pb2
assert sys.modules["tritonclient.grpc.model_config_pb2"] is model_config_pb2
assert ours.ModelInferRequest is service_pb2.ModelInferRequest
assert type(ours.ModelConfigResponse().config) is model_config_pb2.ModelConfig
assert service_pb2.__builtins__["__import__"] is __import__
tritonclient.grpc.InferenceServerClient("localhost:1").close()
"""


@pytest.mark.parametrize(
    ("loading", "protobuf"),
    [(f"{OURS}\n{THEIRS}", "upb"), (f"{OURS}\n{THEIRS}", "python"), (f"{THEIRS}\n{OURS}", "upb"), (AT_ONCE, "upb")],
    ids=["after", "after, in Python", "before", "at once"],
)
def test_tritonclient_is_whole_whenever_it_is_imported(loading, protobuf):
    run(loading + SAME, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=protobuf)


def test_messages_that_another_version_of_tritonclient_keeps_elsewhere_are_found(tmp_path):
    package = tmp_path / "tritonclient" / "grpc"
    shutil.copytree(Path(tritonclient.__file__).parent, package.parent)
    (package / "messages").mkdir()
    (package / "service_pb2.py").rename(package / "messages" / "service_pb2.py")
    imports = "from tritonclient.grpc import model_config_pb2\nfrom tritonclient.grpc.messages import service_pb2\n"
    (package / "__init__.py").write_text(imports)
    found = run(f"{OURS}\nprint(ours.__file__)", PYTHONPATH=str(tmp_path)).strip()
    assert found == str(package / "messages" / "service_pb2.py")


def test_nothing_of_the_client_outlives_its_modules():
    # What the hooks for forks or the caches of `typing` keep would make the end of each process longer.
    run("""
import gc, sys, weakref
import plansmith_client.transports.grpc.transport, plansmith_client.transports.http.transport
modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("plansmith_client")}
values = [value for module in modules.values() for value in vars(module).values()]
ours = [weakref.ref(value) for value in values if isinstance(value, type) and value.__module__ in modules]
assert len(ours) > 100
del modules, plansmith_client, values
gc.collect()
assert {kept() for kept in ours} == {None}, {kept() for kept in ours}
""")


@pytest.mark.parametrize("kind", [plansmith_client.Client, plansmith_client.AsyncClient])
def test_every_option_of_a_client_is_named_in_its_signature_and_shared_by_all_faces(kind):
    named = [name for name in inspect.signature(kind).parameters if name != "url"]
    assert named == [field.name for field in dataclasses.fields(ClientOptions)]


def test_the_options_show_no_credentials():
    defaults = {p.name: p.default for p in inspect.signature(Client).parameters.values() if p.name != "url"}
    options = ClientOptions(**{**defaults, "token": "secret", "headers": {"x-key": "secret"}})
    assert "secret" not in repr(options)


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [
        (plansmith_client.Client, plansmith_client.AsyncClient),
        (plansmith_client.Model, plansmith_client.AsyncModel),
        (plansmith_client.ModelSequence, plansmith_client.AsyncModelSequence),
        (plansmith_client.BatchedModel, plansmith_client.AsyncBatchedModel),
        (plansmith_client.MapRun, plansmith_client.AsyncMapRun),
    ],
    ids=lambda kind: kind.__name__,
)
def test_both_kinds_of_client_have_the_same_methods_with_the_same_arguments(blocking, asynchronous):
    def methods(kind):
        return {
            name: inspect.signature(member).parameters if callable(member) else "property"
            for name, member in vars(kind).items()
            if (not name.startswith("_") or name in ("__init__", "__call__"))
            and (callable(member) or isinstance(member, property))
        }

    here, there = methods(blocking), methods(asynchronous)
    assert set(here) == set(there)
    for name, parameters in here.items():
        if parameters == "property" or (name == "__init__" and blocking is not plansmith_client.Client):
            continue
        assert [(p.name, p.kind, p.default) for p in parameters.values()] == [
            (p.name, p.kind, p.default) for p in there[name].values()
        ], name
