"""The examples in the docstrings of every public name are run, each in an environment with what it names."""

from __future__ import annotations

import asyncio
import inspect
import re
import shutil
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from client_servers import triton_with

import plansmith_client
import plansmith_client.metrics
import plansmith_client.telemetry
import plansmith_client.testing
from plansmith_client import AsyncClient, Client

BLOCK = re.compile(r"```python\n(?P<body>.*?)```", re.DOTALL)
COMMITTED = Path(__file__).parents[2] / "model_repository"
IMAGES = np.zeros((5, 8, 8), np.float32)


def public_objects():
    names = {name: getattr(plansmith_client, name) for name in plansmith_client.__all__}
    names |= {"Tracing": plansmith_client.telemetry.Tracing, "ClientMetrics": plansmith_client.metrics.ClientMetrics}
    names |= {name: getattr(plansmith_client.testing, name) for name in plansmith_client.testing.__all__}
    for name, value in names.items():
        yield name, value
        for member, attribute in vars(value).items():
            if (not member.startswith("_") or member == "__call__") and (
                callable(attribute) or isinstance(attribute, property)
            ):
                yield f"{name}.{member}", attribute


def examples():
    for name, value in public_objects():
        text = inspect.cleandoc(value.__doc__ or "")
        for number, found in enumerate(BLOCK.finditer(text)):
            yield pytest.param(name, textwrap.dedent(found["body"]), id=f"{name}-{number}")


# What says all that there is to say without a program.
WITHOUT_EXAMPLE = re.compile(
    r".*(Error|Exceeded|Failed|Denied|Found|Ready|Unavailable|Overloaded|Closed|Invalid)"
    r"|.*\.(name|version|url|timeout|array|mean|pause|numpy_dtype|with_config|add_note|with_traceback|observe|attempt)"
    r"|FakeServer\.(open_(async_)?transport|answer|responses|model)"
    r"|Observer|InvalidInput|(Async)?ModelSequence|ClientError"
)


def test_every_public_name_has_an_example():
    bare = [
        name
        for name, value in public_objects()
        if "```python" not in (value.__doc__ or "") and not WITHOUT_EXAMPLE.fullmatch(name)
    ]
    assert bare == []


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(COMMITTED / "digits", folder / "models" / "digits")
    with triton_with(("accumulate", "add", "digits", "double", "every_type", "repeat"), folder) as running:
        yield running


@pytest.mark.parametrize(("name", "body"), list(examples()))
def test_the_example_runs(server, name, body):
    body = body.replace("localhost:8001", server.grpc_url).replace("http://localhost:8000", server.http_url)
    known = {
        **{public: getattr(plansmith_client, public) for public in plansmith_client.__all__},
        "np": np,
        "numpy": np,
        "plansmith_client": plansmith_client,
        "threading": threading,
        "images": IMAGES,
        "a": np.ones((2, 3), np.int64),
        "b": np.ones((2, 3), np.int64),
        "log": __import__("logging"),
    }
    if "await " in body or "async " in body:
        asyncio.run(run_async(server, body, known))
        return
    with Client(server.grpc_url, timeout=20) as client:
        known |= {"client": client, "grpc_client": client, "model": client.model("digits")}
        known |= {"result": client.model("digits")(IMAGES)}
        exec(compile(body, name, "exec"), known)


async def run_async(server, body, known):
    async with AsyncClient(server.grpc_url, timeout=20) as client:
        known |= {"client": client, "grpc_client": client, "model": client.model("digits")}
        if "model(a" in body:
            known["model"] = client.model("add")
        source = "async def example():\n" + textwrap.indent(body, "    ")
        exec(compile(source, "example", "exec"), known)
        await known["example"]()
