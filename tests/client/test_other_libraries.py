"""Tensors of torch and data frames of pandas go in, and what comes out goes back to them."""

from __future__ import annotations

import numpy as np
import pytest

from plansmith_client import Client, InvalidInput, TensorSpec
from plansmith_client.testing import FakeModel, FakeServer


def echoing(*specs: TensorSpec) -> Client:
    """A client whose model `echo` answers with its inputs."""
    return Client("localhost:1", transport=FakeServer({"echo": FakeModel(dict, specs, specs, max_batch_size=8)}))


DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch: pip install torch")


@pytest.mark.parametrize("kind", ["as it is", "transposed", "with a graph", "with a strided view"])
@pytest.mark.parametrize("dtype", DATATYPES)
def test_a_tensor_of_torch_goes_in_and_comes_back(torch, dtype, kind):
    tensor = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]).to(getattr(torch, dtype))
    if kind == "transposed":
        tensor = tensor.t()
    elif kind == "with a strided view":
        tensor = tensor[:, ::2]
    elif kind == "with a graph" and tensor.is_floating_point():
        tensor.requires_grad_()
    with echoing(TensorSpec("x", DATATYPES[dtype], (-1, -1))) as client:
        got = client.model("echo")(tensor)["x"]
        mapped = client.model("echo").map(tensor).collect()["x"]
    np.testing.assert_array_equal(got, mapped)
    back = torch.from_numpy(got.view("int16")).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_dlpack(got)
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor.detach())


def test_a_tensor_of_torch_is_not_rounded_unasked(torch):
    with echoing(TensorSpec("x", "FP16", (-1, 1))) as client:
        for wrong in (
            torch.zeros(1, 1),
            torch.zeros(1, 1, dtype=torch.bfloat16),
            torch.zeros(1, 1).to(torch.complex64),
        ):
            with pytest.raises(InvalidInput, match="'x'"):
                client.model("echo")(wrong)
        with pytest.raises(InvalidInput, match="Float8"):
            client.model("echo").map(torch.zeros(1, 1).to(torch.float8_e4m3fn)).collect()
    with echoing(TensorSpec("x", "FP32", (-1, 1))) as client:
        assert client.model("echo")(torch.ones(1, 1, dtype=torch.bfloat16)).array.tolist() == [[1.0]]


def test_a_data_frame_has_a_column_for_each_input_or_the_features_of_one():
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    people = pandas.DataFrame({"age": np.arange(20, dtype=np.int64), "name": [f"n{number}" for number in range(20)]})
    with echoing(TensorSpec("name", "BYTES", (-1, 1)), TensorSpec("age", "INT64", (-1,))) as client:
        result = client.model("echo").map(people).collect()
        assert result["age"].tolist() == list(range(20))
        assert result["name"].tolist() == [[f"n{number}".encode()] for number in range(20)]
        with pytest.raises(InvalidInput, match="age"):
            client.model("echo").map(people.drop(columns="age")).collect()
    features = pandas.DataFrame(np.ones((20, 4), np.float32), columns=list("abcd"))
    with echoing(TensorSpec("x", "FP32", (-1, 4))) as client:
        assert client.model("echo").map(features).collect()["x"].shape == (20, 4)
