"""Every public method takes whatever it is given: the answer is right, or the error is one of the client's."""

from __future__ import annotations

import datetime as dt
import inspect
import math
from fractions import Fraction
from types import SimpleNamespace

import hostile_answers as hostile
import numpy as np
import pytest
from client_faces import FACES, open_client
from public_methods import ROW, arguments, needed, public, used

from plansmith_client import (
    AsyncClient,
    BreakerPolicy,
    Client,
    ClientError,
    InvalidInput,
    ModelNotFound,
    ProtocolError,
    RetryPolicy,
    SharedMemoryPolicy,
    TensorSpec,
    sampling,
    tensors,
    testing,
)
from plansmith_client.transports.addresses import Address

JUNK = [
    *(
        None,
        True,
        0,
        -1,
        2**70,
        1.5,
        math.nan,
        math.inf,
        1j,
        "",
        "x",
        "\ud800",
        "\0",
        b"x",
        [],
        [None],
        [[1], [2, 3]],
        {},
    ),
    *({"x": None}, {None: 1}, {"x": ROW, "y": ROW}, (), object(), int, len, dt.date(2026, 1, 1)),
    *(np.array(1), np.array(["x"]), np.zeros((0, 4)), np.array([object()]), np.zeros(3, complex)),
    *(np.zeros(2, [("a", int)]), SimpleNamespace(__array__=3), iter([1]), range(3)),
]


def calls(method):
    """Arguments with one of them wrong."""
    for one in arguments(method):
        for value in JUNK:
            if one.name == "progress" and callable(value):
                # What the caller's own function raises is the caller's.
                continue
            if one.kind is one.VAR_POSITIONAL:
                yield (value,), {}
                yield (ROW, value), {}
            elif one.kind is one.VAR_KEYWORD:
                yield (), {**needed(method), "x": value}
                yield (), {**needed(method), "nope": value}
            else:
                given = {**needed(method), one.name: value}
                positional = [given.pop(other.name) for other in arguments(method) if other.kind == 0]
                yield tuple(positional), given


@pytest.fixture(scope="module")
def servers():
    with hostile.serving(hostile.HttpServer) as over_http, hostile.serving(hostile.GrpcServer) as over_grpc:
        yield {"http": over_http.url, "grpc": over_grpc.url}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(("kind", "name"), [one for one in public() if one[1] != "wait_until_ready"])
def test_a_wrong_argument_never_gives_another_error(servers, face, kind, name):
    tried = list(calls(getattr(kind, name)))
    raw = []
    with open_client(face, servers[face.partition("-")[0]], timeout=20, retries=0, shared_memory=False) as client:
        target = client if kind is Client else client.model("m")
        for positional, named in tried:
            try:
                used(name, (target if name == "__call__" else getattr(target, name))(*positional, **named))
            except (InvalidInput, ModelNotFound):
                continue
            except Exception as error:  # noqa: BLE001 - none is allowed
                if "request_id" in named and isinstance(error, ProtocolError):
                    # The server gives back an identifier of its own.
                    continue
                raw.append((positional, named, repr(error)))
    assert not raw


@pytest.mark.parametrize("kind", [Client, AsyncClient, RetryPolicy, BreakerPolicy, SharedMemoryPolicy])
def test_a_wrong_option_of_a_client_or_policy_never_gives_another_error(kind):
    raw = []
    url = {"url": "http://localhost:1"} if kind in (Client, AsyncClient) else {}
    for name in inspect.signature(kind).parameters:
        for value in (*JUNK, 10**400, "x" * 5000):
            try:
                kind(**{**url, name: value})
            except ClientError:
                continue
            except Exception as error:  # noqa: BLE001 - none is allowed
                raw.append((name, value, repr(error)))
    assert not raw


@pytest.mark.parametrize("seconds", [np.float32(0.01), Fraction(1, 100), 1e300, 10**400, math.inf])
def test_a_number_of_seconds_may_be_of_any_real_type_and_of_any_length(seconds):
    assert all(0 < RetryPolicy(backoff=seconds, longest_backoff=math.inf).pause(n) <= 86_400 for n in (0, 5_000))
    assert BreakerPolicy(cooldown=seconds, longest_cooldown=math.inf).cooldown >= 0.009
    x = TensorSpec("x", "FP32", (-1, 4))
    server = testing.FakeServer({"m": testing.FakeModel(lambda inputs: inputs, [x], [x])})
    options = {"hedge_after": seconds, "metadata_max_age": seconds, "transport": server}
    with Client(["localhost:1", "localhost:2"], **options) as client:
        assert client.model("m")(ROW).array.tolist() == ROW.tolist()


PUBLIC = [
    *(getattr(module, name) for module in (sampling, tensors, testing) for name in module.__all__),
    testing.FakeServer({}).open_transport,
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("function", [one for one in PUBLIC if callable(one)])
def test_a_wrong_argument_of_a_function_beside_the_client_never_gives_another_error(function):
    right = {"spec": TensorSpec("x", "FP32", (-1, 4)), "rng": np.random.default_rng(0), "models": {}}
    right |= {"specs": [right["spec"]], "name": "x", "datatype": "FP32", "shape": (1,), "function": len}
    right |= {"inputs": [], "outputs": [], "dtype": np.float32, "config_type": "TYPE_FP32"}
    right |= {"address": None, "connection": None}
    raw = []
    for name in inspect.signature(function).parameters:
        for value in (*JUNK, 10**400):
            if name in ("spec", "specs", "rng"):
                continue
            given = {one: right[one] for one in inspect.signature(function).parameters if one in right}
            try:
                function(**{**given, name: value})
            except ClientError:
                continue
            except Exception as error:  # noqa: BLE001 - none is allowed
                raw.append((name, value, repr(error)))
    assert not raw


def test_the_url_of_a_call_is_refused_with_that_of_its_server():
    assert Address.parse("http://host:8000/gateway/v2").path == "/gateway"
    assert Address.parse("http://host:8000/v2/v2/").path == "/v2"
    assert Address.parse("http://host:8000/v2/models-of-ours").path == "/v2/models-of-ours"
    for call in ("models/digits/infer", "health/ready/", "models"):
        with pytest.raises(InvalidInput, match=r"ends before '/v2/.*: http://host:8000/gateway$"):
            Address.parse(f"http://host:8000/gateway/v2/{call}")


def test_a_host_that_is_not_ascii_is_sent_as_its_letters_are_written_in_the_dns():
    assert Address.parse("http://b\u00fccher.example:8000").authority == "xn--bcher-kva.example:8000"
    with pytest.raises(InvalidInput, match="not a valid name"):
        Address.parse("http://\u00fc..b:8000")
