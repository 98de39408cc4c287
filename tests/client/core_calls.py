"""The core of what a client does, as a program: `python core_calls.py [TAKEN ...] GRPC_URL HTTP_URL`.

For interpreters, versions of numpy and systems that the environment of the tests is not. What is named as TAKEN is
taken away before the client is imported: `poll`, `proc` (/proc and /dev/shm), or a value of `sys.platform`.
"""

import asyncio
import logging
import multiprocessing.shared_memory  # noqa: F401 - what looks at sys.platform is imported before that is changed
import select
import socket
import subprocess  # noqa: F401
import sys
from functools import partial

import grpc  # noqa: F401
import numpy as np

ROWS = np.arange(80, dtype=np.float32).reshape(20, 4)


def take_poll() -> None:
    """As on Windows, and more: only `select.select` is left."""
    import selectors  # noqa: PLC0415

    for name in ("poll", "epoll", "kqueue", "devpoll"):
        if hasattr(select, name):
            delattr(select, name)
    for name in ("PollSelector", "EpollSelector", "KqueueSelector", "DevpollSelector"):
        if hasattr(selectors, name):
            delattr(selectors, name)
    selectors.DefaultSelector = selectors.SelectSelector
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        delattr(socket, name)
    # One that Python knows and the system does not.
    socket.TCP_KEEPCNT = 999


def take_proc() -> None:
    """Whatever opens something in /proc or /dev/shm is told that it does not exist."""

    def refuse(event: str, arguments: tuple) -> None:
        if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(("/proc", "/dev/shm")):
            raise FileNotFoundError(2, "No such file or directory", str(arguments[0]))

    sys.addaudithook(refuse)


def take_system(platform: str) -> None:
    """What says which system it is, and what only POSIX has."""
    import os  # noqa: PLC0415

    for name in ("register_at_fork", "fork", "posix_fallocate", "O_NOFOLLOW", "O_CLOEXEC", "geteuid", "getuid"):
        delattr(os, name)
    # A Python that was built without libffi lacks it.
    sys.modules["ctypes"] = None
    if platform == "win32":
        sys.modules["fcntl"] = None
        asyncio.selector_events.BaseSelectorEventLoop.add_reader = _refuse
        asyncio.BaseEventLoop.create_unix_connection = asyncio.SelectorEventLoop.create_unix_connection = _refuse
        socket.socketpair = partial(socket.socketpair, socket.AF_UNIX)
        del socket.AF_UNIX
    sys.platform = platform


def _refuse(*_: object, **__: object) -> None:
    """As the event loop of Windows, of what it lacks."""
    raise NotImplementedError


def check(client, model) -> None:
    """Calls of a blocking client."""
    assert client.is_ready()
    assert model.metadata.max_batch_size == 8
    assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
    assert model.map(ROWS).collect().array.tolist() == (ROWS * 2).tolist()
    assert model.submit(x=ROWS[:1]).result().array.tolist() == (ROWS[:1] * 2).tolist()
    assert model.batched()(ROWS[:2]).array.tolist() == (ROWS[:2] * 2).tolist()
    assert model.classify(ROWS[:1], top=2)[0][0].index == 3
    large = np.ones((8, 4), np.float32)
    for _ in range(2):
        assert client.model("every_type").infer({"fp32": np.ones((600, 1000), np.float32)})["fp32_out"].all()
    assert model(large).array.all()
    with client.model("accumulate").sequence() as sequence:
        sequence([[1.0]])
        assert sequence.end([[2.0]]).array.tolist() == [[3.0]]
    numbers = [result["number"].tolist() for result in client.model("repeat").stream({"count": [2], "value": [7.0]})]
    assert numbers == [[0], [1]]
    assert client.statistics()
    assert client.model("double").config()["name"] == "double"


def check_types(client) -> None:
    """Every datatype there and back, and what does not fit."""
    from plansmith_client import InvalidInput, ModelNotFound  # noqa: PLC0415
    from plansmith_client.tensors import DATATYPES, numpy_dtype_from_datatype  # noqa: PLC0415

    for datatype in set(DATATYPES) - {"BYTES", "BF16"}:
        array = np.array([[0, 1]]).astype(numpy_dtype_from_datatype(datatype))
        name = datatype.lower()
        got = client.model("every_type").infer({name: array})[f"{name}_out"]
        assert (got.dtype, got.tolist()) == (array.dtype, array.tolist()), datatype
    words = client.model("every_type").infer({"string": [["ü", "a\0"]]})["string_out"]
    assert words.tolist() == [["ü".encode(), b"a\0"]]
    for wrong in (ROWS.astype(np.float64), ROWS[0], [[2**24 + 1] * 4]):
        try:
            client.model("double")(wrong)
        except InvalidInput:
            continue
        raise AssertionError(wrong)
    try:
        client.model("nope")(ROWS)
    except ModelNotFound:
        return
    raise AssertionError("nope")


async def check_tasks(url: str) -> None:
    """Calls of an asynchronous client."""
    from plansmith_client import AsyncClient  # noqa: PLC0415

    async with AsyncClient(url, timeout=60) as client:
        model = client.model("double")
        results = await asyncio.gather(*[model(ROWS[:2]) for _ in range(8)])
        assert all(result.array.tolist() == (ROWS[:2] * 2).tolist() for result in results)
        stream = client.model("repeat").stream({"count": [2], "value": [7.0]})
        assert len([result async for result in stream]) == 2
        assert len([item async for item in model.map(ROWS)]) == len(ROWS)


def main() -> None:
    """Take away, and call."""
    *taken, grpc_url, http_url = sys.argv[1:]
    for name in taken:
        {"poll": take_poll, "proc": take_proc}.get(name, lambda name=name: take_system(name))()
    from plansmith_client import Client  # noqa: PLC0415

    told = []
    log = logging.getLogger("plansmith_client")
    log.setLevel(logging.DEBUG)
    log.addFilter(lambda record: told.append(record.getMessage()))
    for url in (grpc_url, http_url):
        with Client(url, timeout=60) as client:
            check(client, client.model("double"))
            check_types(client)
        asyncio.run(check_tasks(url))
    # What the system lacks is said once by each client that would have used it.
    assert sum(line.startswith("No shared memory") for line in told) == (taken not in ([], ["poll"])) * 2, told
    sys.stdout.write(f"{sys.version_info[:2]} {np.__version__} {sys.platform}")


main()
