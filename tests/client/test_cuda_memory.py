"""Arrays on a GPU. This needs a GPU to run as it is meant; what is held without one: the calls are those of NVIDIA's
real bindings, the messages those of a real Triton, and everything before and behind the driver.
"""

from __future__ import annotations

import ctypes
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of

from plansmith_client import Client, ClientError, InvalidInput, SharedMemoryPolicy
from plansmith_client.protocol.operations import (
    ListCudaSharedMemory,
    RegisterCudaSharedMemory,
    UnregisterCudaSharedMemory,
)
from plansmith_client.shared_memory import cuda
from plansmith_client.transports.deadlines import Deadline

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


class OnDevice:
    """What torch and cupy show of an array; here its memory is the host's."""

    def __init__(self, array, **more):
        self.array = array
        self.dtype = array.dtype
        self.more = more

    def __getitem__(self, place):
        return OnDevice(self.array[place])

    @property
    def __cuda_array_interface__(self):
        described = self.array.__array_interface__
        names = ("shape", "typestr", "data", "strides", "version")
        return {**{name: described[name] for name in names}, **self.more}


@pytest.fixture(params=FACES)
def face(request):
    return request.param


@pytest.fixture
def device(monkeypatch):
    """A stand-in for the driver whose device memory is the host's; the server cannot map it, as it could not a GPU of
    another machine.
    """
    kept = {}

    def allocate(size):
        buffer = ctypes.create_string_buffer(size)
        kept[ctypes.addressof(buffer)] = buffer
        return (0, ctypes.addressof(buffer))

    handle = ctypes.create_string_buffer(64)

    def copy(target, source, size, _):
        ctypes.memmove(target, source, size)
        return (0,)

    stand_in = SimpleNamespace(
        cudaMalloc=allocate,
        cudaFree=lambda pointer: (0 * bool(kept.pop(pointer)),),
        cudaMemcpy=copy,
        cudaMemcpyKind=runtime.cudaMemcpyKind,
        cudaDeviceSynchronize=lambda: (0,),
        cudaGetDevice=lambda: (0, 0),
        cudaSetDevice=lambda _: (0,),
        cudaPointerGetAttributes=lambda _: (0, SimpleNamespace(device=0)),
        cudaIpcGetMemHandle=lambda _: (0, SimpleNamespace(getPtr=lambda: ctypes.addressof(handle))),
        CUDA_IPC_HANDLE_SIZE=64,
    )
    monkeypatch.setattr(cuda, "_runtime", lambda: stand_in)
    return kept


def test_the_calls_are_those_of_nvidias_bindings():
    wanted = {
        "cudaMalloc": 1,
        "cudaFree": 1,
        "cudaMemcpy": 4,
        "cudaDeviceSynchronize": 0,
        "cudaGetDevice": 0,
        "cudaSetDevice": 1,
        "cudaPointerGetAttributes": 1,
        "cudaIpcGetMemHandle": 1,
    }
    used = {name for name in wanted if f'"{name}"' in inspect.getsource(cuda)}
    assert used == set(wanted)
    for name, count in wanted.items():
        signature = getattr(runtime, name).__doc__.splitlines()[0].partition("(")[2].partition(")")[0]
        assert len([part for part in signature.split(",") if part.strip()]) == count, name
    assert int(runtime.CUDA_IPC_HANDLE_SIZE) == 64
    assert hasattr(runtime.cudaIpcMemHandle_t(), "getPtr")
    assert hasattr(runtime.cudaPointerAttributes(), "device")


def test_without_a_driver_the_array_and_the_reason_are_named(server, face):
    if int(runtime.cudaGetDevice()[0]) == 0:
        pytest.skip("this machine has a GPU")
    with open_client(face, url_of(face, server)) as client:
        with pytest.raises(InvalidInput, match=r"'x'.*GPU.*cudaError"):
            client.model("double")(OnDevice(ROWS))
        with pytest.raises(InvalidInput, match=r"'x'.*expected FP32"):
            client.model("double")(OnDevice(ROWS[:, :3].copy()))
        with pytest.raises(InvalidInput, match="__cuda_array_interface__ is not valid"):
            client.model("double")(OnDevice(ROWS, shape=None))


def test_what_the_server_cannot_map_is_brought_to_the_host(server, face, device):
    policy = SharedMemoryPolicy(threshold=16)
    for options in ({}, {"shared_memory": policy}, {"shared_memory": False}):
        with open_client(face, url_of(face, server), **options) as client:
            model = client.model("double")
            for _ in range(3):
                assert model(OnDevice(ROWS)).array.tolist() == (ROWS * 2).tolist()
            # More than one request, other dtypes, and not contiguous.
            assert model(OnDevice(np.tile(ROWS, (20, 1)))).array.tolist() == np.tile(ROWS * 2, (20, 1)).tolist()
            assert model(OnDevice(ROWS.astype(np.float16))).array.tolist() == (ROWS * 2).tolist()
            mixed = {"fp32": OnDevice(ROWS), "int64": np.array([[7]])}
            result = client.model("every_type").infer(mixed)
            assert result["fp32_out"].tolist() == ROWS.tolist()
            assert result["int64_out"].tolist() == [[7]]
            items = list(model.map([OnDevice(row) for row in ROWS]))
            assert [item["y"].tolist() for item in items] == (ROWS * 2).tolist()
    assert device == {}


def test_a_real_server_is_asked_in_its_own_words(server):
    for url in (server.grpc_url, server.http_url):
        with Client(url) as client:
            (asked,) = client._core.caller.servers.all()
            register = RegisterCudaSharedMemory("plansmith-test", b"\0" * 64, 0, 1024)
            # Triton from PyPI is built without CUDA for shared memory, or finds no device: it says so of the region.
            with pytest.raises(ClientError, match=r"(?i)cuda|shared memory|plansmith-test"):
                asked.transport.call(register, Deadline(10))
            try:
                assert "plansmith-test" not in asked.transport.call(ListCudaSharedMemory(), Deadline(10))
                asked.transport.call(UnregisterCudaSharedMemory("plansmith-test"), Deadline(10))
            except ClientError as error:
                assert "cuda" in str(error).lower() or "shared memory" in str(error).lower()  # noqa: PT017
