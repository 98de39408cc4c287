"""Every public method bears whatever a server answers: the result is one, or the error is one of the client's."""

from __future__ import annotations

import grpc
import hostile_answers as hostile
import numpy as np
import pytest
from client_faces import FACES, open_client
from hostile_http import READ, REFUSED
from public_methods import ROW, needed, public, used
from test_http_answers import ScriptedServer

from plansmith_client import Client, ClientError, Model, SharedMemoryPolicy

# Of all answers each method is given one in so many, and the next method others.
STEP = 5
# Two more have ways of their own: reading the metadata, and an inference through shared memory.
METHODS = [one for one in public() if one[1] not in ("model", "with_options")]
METHODS += [(Model, "metadata"), (Model, "shared memory")]
# What a client believes for a while.
DESCRIPTIONS = ("/v2/models/m", "/v2/models/m/config", "ModelMetadata", "ModelConfig")


def call(client, kind, name, patience=20.0):
    """A right call, and the use of what it gives."""
    model = client.model("m")
    if name == "metadata":
        return model.metadata
    if name in ("infer", "shared memory"):
        result = model.infer({"x": ROW})
        assert isinstance(result["y"], np.ndarray)
        assert (result["y"].shape, result.model_name) == ((1, 4), "m")
        return result
    if name in ("__call__", "submit", "classify"):
        outputs = {"output": "y"} if name == "classify" else {}
        return used(name, (model if name == "__call__" else getattr(model, name))(ROW, **outputs))
    method = getattr(kind, name)
    named = needed(method)
    if name in ("wait_until_ready", "map"):
        # They go on until the time is over: until it is ready, and while it is overloaded.
        named["timeout"] = patience
    return used(name, getattr(client if kind is Client else model, name)(**named))


def over_http(path):
    """What a server may answer to a question for this path."""
    document = hostile.CLASSES if path == "classify" else hostile.DOCUMENTS.get(path, {})
    for number, body in enumerate(hostile.BODIES):
        yield from ((body, {}, status) for status in (200, hostile.STATUSES[number % len(hostile.STATUSES)]))
    for place in hostile.leaves(document):
        yield from (hostile.changed(document, *place, value) for value in (*hostile.VALUES, ...))
    if path.endswith("infer"):
        yield from hostile.RESULTS.values()
    if path == "/v2/models/m":
        yield from hostile.METADATAS.values()


def over_grpc(method):
    """What a server may answer to a call of this method."""
    right = hostile.message_of(hostile.CLASSES) if method == "classify" else hostile.messages().get(method)
    yield from (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x01\xff", b"", b"{}")
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            for details in ("", "no", "\u00fc\x1b[2J", "\ud800", "x" * 5000, "unable to find shared memory region"):
                yield lambda context, code=code, details=details: context.abort(code, details)
    if method == "ModelStreamInfer":
        yield from hostile.REPLIES.values()
    elif right is not None:
        yield from hostile.altered(right)
    if method == "ModelInfer":
        yield from hostile.REPLIES.values()


@pytest.fixture(scope="module")
def servers():
    with hostile.serving(hostile.HttpServer) as over_http, hostile.serving(hostile.GrpcServer) as over_grpc:
        yield {"http": over_http, "grpc": over_grpc}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_whatever_a_server_answers_no_other_error_leaves_a_public_method(servers, face, kind, name):
    protocol = face.partition("-")[0]
    server, answers = servers[protocol], over_http if protocol == "http" else over_grpc
    given = server.documents if protocol == "http" else server.replies
    options = {"timeout": 20, "retries": 0, "breaker": None}
    fresh = name in ("metadata", "shared memory")
    options["shared_memory"] = SharedMemoryPolicy(threshold=1) if name == "shared memory" else False
    raw, refused = [], 0

    def attempt(client, place, answer):
        nonlocal refused
        given[place] = answer
        try:
            call(client, kind, name, 0.05 if name == "wait_until_ready" else 1.0)
        except ClientError:
            refused += 1
        except Exception as error:  # noqa: BLE001 - none is allowed
            raw.append((place, answer, repr(error)))
        finally:
            given.clear()

    with open_client(face, server.url, **options) as client:
        if not fresh:
            call(client, kind, name)
        server.asked.clear()
        call(client, kind, name)
        places = sorted(set(server.asked))
        assert places
        for place in places:
            shift = METHODS.index((kind, name)) % STEP
            for answer in list(answers("classify" if name == "classify" else place))[shift::STEP]:
                if not fresh and place not in DESCRIPTIONS:
                    attempt(client, place, answer)
                    continue
                with open_client(face, server.url, **options) as other:
                    if not fresh:
                        call(other, kind, name)
                    attempt(other, place, answer)
        # What a method has been told of one answer does not stay.
        call(client, kind, name)
    assert not raw
    assert refused


ANSWERS = [*(data for data, _ in READ.values()), *(data for data, _ in REFUSED.values())]


@pytest.mark.parametrize("face", ["http", "http-async"])
def test_whatever_bytes_a_server_answers_no_other_error_leaves_a_public_method(face):
    scripted, raw = ScriptedServer(), []
    scripted.ends = True
    try:
        for number, data in enumerate(ANSWERS):
            scripted.parts = [data]
            kind, name = METHODS[number % len(METHODS)]
            options = {"timeout": 20, "retries": 0, "breaker": None}
            with open_client(face, scripted.url, **options) as client:
                try:
                    call(client, kind, name, 0.05 if name == "wait_until_ready" else 20.0)
                except ClientError:
                    continue
                except Exception as error:  # noqa: BLE001 - none is allowed
                    raw.append((name, data[:200], repr(error)))
    finally:
        scripted.stop()
    assert not raw
