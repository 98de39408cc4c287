"""`plansmith_client.testing`: what users test their own code with does what the client does with a real server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import signal
import threading
import weakref

import numpy as np
import pytest
from client_faces import open_client

import plansmith_client.testing
from plansmith_client import (
    AsyncClient,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ProtocolError,
    RetryPolicy,
    ServerOverloaded,
    ServerUnavailable,
    TensorSpec,
)
from plansmith_client.protocol.operations import Infer, ReadModelMetadata
from plansmith_client.testing import FakeModel, FakeServer

X, Y, Z = (TensorSpec(name, "FP32", (-1, 4)) for name in "xyz")
ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)


@pytest.fixture(params=["blocking", "async"])
def face(request):
    return request.param


def double(inputs):
    return {"y": inputs["x"] * 2}


def server_of(function, **options):
    return FakeServer({"model": FakeModel(function, [X], [Y], **options)})


def test_a_function_answers_and_a_large_batch_is_split_as_ever(face):
    server = server_of(double, max_batch_size=4)
    with open_client(face, "localhost:8001", transport=server) as client:
        model = client.model("model")
        assert model.metadata.max_batch_size == 4
        np.testing.assert_array_equal(model(ROWS).array, ROWS * 2)
        np.testing.assert_array_equal(model.map(ROWS).collect().array, ROWS * 2)
        best = model.classify(ROWS[:2], top=2)
    assert [[found.index for found in row] for row in best] == [[3, 2], [3, 2]]
    assert sorted(len(request.inputs[0].array) for request in server.requests[:3]) == [3, 3, 4]


def test_wrong_inputs_never_reach_the_function(face):
    server = server_of(double)
    with open_client(face, "http://localhost:8000", transport=server) as client:
        with pytest.raises(InvalidInput, match="float64"):
            client.model("model")(ROWS.astype(np.float64))
        with pytest.raises(ModelNotFound, match="the server has model"):
            client.model("other")(ROWS)
        with pytest.raises(ProtocolError):
            client.statistics()
        assert client.is_ready()
        assert not client.model("other").is_ready()
    assert server.requests == []


def test_an_outage_is_retried_and_overload_is_not(face):
    errors = [ServerUnavailable("gone"), ServerUnavailable("gone"), None, ServerOverloaded("full")]

    def flaky(inputs):
        error = errors.pop(0)
        if error is not None:
            raise error
        return double(inputs)

    retries = RetryPolicy(attempts=3, backoff=0.01)
    with open_client(face, "localhost:8001", transport=server_of(flaky), retries=retries) as client:
        np.testing.assert_array_equal(client.model("model")(ROWS).array, ROWS * 2)
        with pytest.raises(ServerOverloaded):
            client.model("model")(ROWS)
    assert errors == []


def test_an_answer_is_held_against_what_its_request_was_checked_by_though_the_model_is_loaded_anew_meanwhile():
    def replaced(inputs):
        server.models["model"] = FakeModel(double, [X], [Z])
        # Another caller meets the new one.
        assert other.model("model").metadata.outputs == (Z,)
        return double(inputs)

    server = server_of(replaced)
    with Client("localhost:8001", transport=server, metadata_max_age=0) as client:
        other = client.with_options(timeout=5)
        np.testing.assert_array_equal(client.model("model")(ROWS)["y"], ROWS * 2)


def test_two_tasks_may_close_one_client():
    async def close_twice():
        client = AsyncClient("http://localhost:1", retries=0)
        with contextlib.suppress(ServerUnavailable):
            await client.server_metadata()
        await asyncio.gather(client.close(), client.close())

    asyncio.run(close_twice())


@pytest.mark.parametrize("specs", [(X, Y), ([X], Y), ([X], [object()]), ([X], 5)])
def test_a_fake_model_of_other_things_than_lists_of_tensors_is_refused(specs):
    with pytest.raises(InvalidInput, match="TensorSpecs"):
        FakeModel(double, *specs)


def test_a_function_that_fails_or_answers_wrongly_is_a_model_that_failed(face):
    for function, words in (
        (lambda _: 1 / 0, "division by zero"),
        (lambda inputs: {"z": inputs["x"]}, "z"),
        (lambda inputs: {"y": inputs["x"].astype(np.float64)}, "float64"),
        (lambda _: [], "no outputs"),
    ):
        with (
            open_client(face, "localhost:8001", transport=server_of(function)) as client,
            pytest.raises(InferenceFailed, match=words),
        ):
            client.model("model")(ROWS)


class Broken:
    """An observer that fails."""

    @contextlib.contextmanager
    def observe(self, operation):
        if isinstance(operation, Infer):
            raise KeyError("of the observer")
        yield {}


def test_what_an_observer_raises_reaches_every_caller_of_a_batch(face):
    options = {"transport": server_of(double, max_batch_size=3), "observers": [Broken()]}
    with (
        open_client(face, "localhost:8001", **options) as client,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        batched = client.model("model").batched(max_delay=60)
        for call in [pool.submit(batched, ROWS[:1]) for _ in range(3)]:
            with pytest.raises(KeyError, match="of the observer"):
                call.result()


def test_a_slow_function_meets_the_deadline(face):
    import time  # noqa: PLC0415

    def slow(inputs):
        time.sleep(0.1)
        return double(inputs)

    with open_client(face, "localhost:8001", transport=server_of(slow)) as client:
        _ = client.model("model").metadata
        with pytest.raises(DeadlineExceeded):
            client.model("model")(ROWS, timeout=0.05)


CALLER = contextvars.ContextVar("CALLER", default="nobody")


@pytest.mark.parametrize(
    ("call", "interrupted"),
    [
        (lambda model: next(iter(model.map(ROWS[:5], batch_size=1, concurrency=4))), False),
        (lambda model: model.map(ROWS[1:5], batch_size=1, concurrency=4).collect(), True),
        (lambda model: model(ROWS[1:9]), True),
    ],
    ids=["left loop", "interrupted map", "interrupted parts"],
)
def test_who_leaves_a_call_of_many_requests_waits_for_none_of_them(call, interrupted):
    released, late, callers = threading.Event(), [], []

    def only_the_first(inputs):
        callers.append(CALLER.get())
        if inputs["x"][0, 0]:
            if interrupted and len(callers) == 4:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            if not released.wait(10):
                late.append(inputs)
        return double(inputs)

    server = server_of(only_the_first, max_batch_size=2)
    CALLER.set("me")
    with Client("localhost:8001", transport=server) as client:
        with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
            call(client.model("model"))
        assert late == []
        released.set()
    assert set(callers) == {"me"}


def test_a_decoupled_function_streams(face):
    server = server_of(lambda inputs: (double(inputs) for _ in range(3)), decoupled=True)
    with open_client(face, "localhost:8001", transport=server) as client:
        results = list(client.model("model").stream({"x": ROWS}, request_id="seven"))
        with pytest.raises(InvalidInput, match="decoupled"):
            client.model("model")(ROWS)
    assert [result.request_id for result in results] == ["seven"] * 3
    np.testing.assert_array_equal(results[2]["y"], ROWS * 2)


def test_the_example_of_the_module_runs():
    example = plansmith_client.testing.__doc__.partition("```python\n")[2].partition("```")[0]
    exec(compile(example, "example", "exec"), {})


def test_what_is_no_transport_is_refused():
    with pytest.raises(InvalidInput, match="FakeServer"):
        Client("localhost:8001", transport=double)


def test_an_error_is_never_its_own_cause(face):
    def unloaded(_):
        raise ModelNotReady("The model was unloaded")

    with (
        open_client(face, "localhost:8001", transport=server_of(unloaded)) as client,
        pytest.raises(ModelNotReady) as caught,
    ):
        client.model("model")(ROWS)
    # Whoever follows the causes comes to an end: Dask does, in an endless loop.
    assert caught.value.__cause__ is not caught.value


class Interrupting(FakeServer):
    """A server whose second step of a sequence is interrupted; it counts how often the metadata is read."""

    read = 0

    def answer(self, operation):
        self.read += isinstance(operation, ReadModelMetadata)
        answer = super().answer(operation)
        if isinstance(operation, Infer) and "sequence_id" in operation.parameters and len(self.requests) == 2:
            raise KeyboardInterrupt
        return answer


def test_a_sequence_has_ended_once_it_is_unknown_whether_a_step_was_taken():
    server = Interrupting({"model": FakeModel(double, [X], [Y])})
    with Client("localhost:8001", transport=server) as client:
        sequence = client.model("model").sequence()
        sequence(ROWS)
        with pytest.raises(KeyboardInterrupt):
            sequence(ROWS)
        with pytest.raises(InvalidInput, match="has ended"):
            sequence(ROWS)
    assert len(server.requests) == 2


def test_clients_with_other_options_learn_of_a_model_together_and_are_forgotten_alone():
    server = Interrupting({"model": FakeModel(double, [X], [Y])})
    with Client("localhost:8001", transport=server) as client:
        for timeout in (5, 6, 7):
            other = client.with_options(timeout=timeout).model("model")
            assert other.metadata.inputs == (X,)
            left = weakref.ref(other._core)
            other.submit(ROWS).exception()
            del other
        assert server.read == 1
        gc.collect()
        assert left() is None


@pytest.mark.parametrize("resolve", [False, True])
def test_a_closed_client_opens_and_answers_nothing(face, resolve):
    with open_client(face, "localhost:8001", transport=server_of(double), resolve=resolve) as client:
        client.close()
        model = client.model("model")
        for call in (
            client.is_live,
            client.is_ready,
            client.models,
            lambda: client.load_model("model"),
            lambda: model(ROWS),
            lambda: model.sequence()(ROWS),
            lambda: list(model.stream({"x": ROWS})),
            model.is_ready,
        ):
            with pytest.raises(ClientClosed):
                call()


def test_where_no_thread_can_be_started_the_caller_does_the_work(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Client("localhost:8001", transport=server_of(double, max_batch_size=4), resolve=True) as client:
        np.testing.assert_array_equal(client.model("model").map(ROWS).collect().array, ROWS * 2)
        np.testing.assert_array_equal(client.model("model")(ROWS).array, ROWS * 2)
        np.testing.assert_array_equal(client.model("model").submit(ROWS).result().array, ROWS * 2)


def test_a_batch_needs_a_dimension():
    scalar = TensorSpec("x", "FP32", ())
    server = FakeServer({"model": FakeModel(lambda inputs: inputs, [scalar], [scalar], max_batch_size=4)})
    with Client("localhost:8001", transport=server) as client, pytest.raises(ProtocolError, match="max_batch_size"):
        client.model("model")(np.float32(1))


def test_an_undeclared_input_may_be_a_tensor_of_another_library():
    class Tensor:
        def __dlpack__(self, **_):
            return ROWS.__dlpack__()

        def __dlpack_device__(self):
            return ROWS.__dlpack_device__()

    server = FakeServer({"model": FakeModel(double, [], [Y])})
    with Client("localhost:8001", transport=server) as client:
        np.testing.assert_array_equal(client.model("model")(x=Tensor()).array, ROWS * 2)
