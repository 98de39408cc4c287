"""One call of the SDK and of tritonclient, each as its own documentation writes it.

tritonclient: simple_grpc_infer_client.py, simple_http_infer_client.py and simple_grpc_aio_infer_client.py in
https://github.com/triton-inference-server/client/tree/main/src/python/examples. Its HTTP client is not thread-safe:
each thread has one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from plansmith_client import AsyncClient, Client
from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack, ExitStack

    from numpy.typing import NDArray

__all__ = [
    "AsyncCall",
    "Call",
    "ClientKind",
    "is_async",
    "open_async_call",
    "open_calls",
    "tritonclient_call",
    "tritonclient_tensors",
]

ClientKind = Literal["sdk-grpc", "tritonclient-grpc", "sdk-aio", "tritonclient-aio", "sdk-http", "tritonclient-http"]

Arrays = Mapping[str, "NDArray[Any]"]
Call = Callable[[Arrays], "dict[str, NDArray[Any]]"]
AsyncCall = Callable[[Arrays], "Awaitable[dict[str, NDArray[Any]]]"]


def is_async(kind: ClientKind) -> bool:
    """Whether it is called with asyncio."""
    return kind.endswith("-aio")


def open_calls(
    kind: ClientKind, url: str, model: str, outputs: Sequence[str], *, threads: int, stack: ExitStack
) -> list[Call]:
    """A call for each thread."""
    if kind.startswith("sdk"):
        target = stack.enter_context(Client(url)).model(model)
        return [lambda inputs: dict(target.infer(inputs))] * threads
    if kind == "tritonclient-grpc":
        import tritonclient.grpc  # noqa: PLC0415 - a process loads only the client that it measures

        client = stack.enter_context(tritonclient.grpc.InferenceServerClient(url))
        return [tritonclient_call(tritonclient.grpc.InferInput, client, model, outputs)] * threads
    import tritonclient.http  # noqa: PLC0415

    place = urlsplit(url).netloc
    clients = [stack.enter_context(tritonclient.http.InferenceServerClient(place)) for _ in range(threads)]
    return [tritonclient_call(tritonclient.http.InferInput, one, model, outputs) for one in clients]


async def open_async_call(
    kind: ClientKind, url: str, model: str, outputs: Sequence[str], *, stack: AsyncExitStack
) -> AsyncCall:
    """A call that any number of tasks may share."""
    if kind == "sdk-aio":
        target = (await stack.enter_async_context(AsyncClient(url))).model(model)

        async def sdk(inputs: Arrays) -> dict[str, NDArray[Any]]:
            return dict(await target.infer(inputs))

        return sdk
    import tritonclient.grpc.aio  # noqa: PLC0415

    client = await stack.enter_async_context(tritonclient.grpc.aio.InferenceServerClient(url))

    async def bare(inputs: Arrays) -> dict[str, NDArray[Any]]:
        result = await client.infer(model, tritonclient_tensors(tritonclient.grpc.aio.InferInput, inputs))
        return {name: result.as_numpy(name) for name in outputs}

    return bare


def tritonclient_call(make: Any, client: Any, model: str, outputs: Sequence[str]) -> Call:
    """One call of a client; `make` is the `InferInput` of its module."""

    def call(inputs: Arrays) -> dict[str, NDArray[Any]]:
        result = client.infer(model, tritonclient_tensors(make, inputs))
        return {name: result.as_numpy(name) for name in outputs}

    return call


def tritonclient_tensors(make: Any, inputs: Arrays) -> list[Any]:
    """Arrays as a client takes them; `make` is the `InferInput` of its module."""
    tensors = []
    for name, array in inputs.items():
        tensor = make(name, array.shape, datatype_from_numpy(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors
