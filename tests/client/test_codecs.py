"""Arrays to the bytes and values of the wire and back, for every datatype; what a server may get wrong is refused."""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from tritonclient.grpc import model_config_pb2

from plansmith_client import InvalidInput, ProtocolError, TensorSpec
from plansmith_client.protocol.codecs import (
    array_from_binary,
    array_from_values,
    binary_from_array,
    values_from_array,
)
from plansmith_client.tensors import (
    CONFIG_TYPES,
    DATATYPES,
    config_type_from_datatype,
    datatype_from_config_type,
    datatype_from_numpy,
    numpy_dtype_from_datatype,
)

NUMERIC = [datatype for datatype in DATATYPES if datatype not in ("BYTES", "BF16")]


@pytest.mark.parametrize("datatype", NUMERIC)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_numbers_come_back_as_they_were(datatype, data):
    shape = data.draw(numpy_strategies.array_shapes(min_dims=0, min_side=0, max_dims=3))
    array = data.draw(numpy_strategies.arrays(numpy_dtype_from_datatype(datatype), shape))
    binary = binary_from_array(array)
    assert len(binary) == array.nbytes
    back = array_from_binary(binary, datatype, shape)
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    if not array.size or np.isfinite(array).all():
        again = array_from_values(values_from_array(array), datatype, shape)
        assert again.tobytes() == array.tobytes()
        assert again.dtype == array.dtype


@given(st.lists(st.binary(max_size=20), max_size=30))
@settings(deadline=None)
def test_byte_strings_come_back_as_they_were(elements):
    array = np.empty(len(elements), object)
    array[:] = elements
    binary = binary_from_array(array)
    # The layout, written out.
    assert bytes(binary) == b"".join(struct.pack("<I", len(element)) + element for element in elements)
    assert array_from_binary(binary, "BYTES", [len(elements)]).tolist() == elements


def test_bfloat16_comes_back_bit_by_bit():
    # All 65,536 of them, NaNs with their payloads too.
    every = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(256, 256)
    back = array_from_binary(binary_from_array(every), "BF16", (256, 256))
    assert back.tobytes() == every.tobytes()
    assert back.dtype == ml_dtypes.bfloat16


def test_arrays_from_within_a_message_are_aligned_and_free_of_it():
    message = memoryview(b"x" + np.arange(4, dtype="<f8").tobytes())
    array = array_from_binary(message[1:], "FP64", (4,))
    assert array.flags.aligned
    message.release()
    assert array.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        (b"\0" * 7, "FP32", [2]),
        (b"\0" * 8, "FP32", [-2]),
        (b"\0" * 8, "FP32", [2.0]),
        (b"\0" * 8, "FP32", [10**12]),
        (b"\0" * 8, "FP33", [2]),
        (b"\5\0\0\0abc", "BYTES", [1]),
        (b"\1\0", "BYTES", [1]),
        (b"\1\0\0\0a", "BYTES", [2]),
        (b"\1\0\0\0a", "BYTES", [0]),
        (b"\1\0\0\0a", "BYTES", [10**15]),
        (b"\xff\xff\xff\xffa", "BYTES", [1]),
    ],
)
def test_bytes_that_are_not_the_tensor_are_refused(data, datatype, shape):
    with pytest.raises(ProtocolError):
        array_from_binary(data, datatype, shape)


@pytest.mark.parametrize(
    ("values", "datatype", "shape"),
    [
        ([1.0], "FP32", [2]),
        ([[1.0], [2.0, 3.0]], "FP32", [3]),
        (["a"], "FP32", [1]),
        ([None], "INT64", [1]),
        ([1], "BYTES", [1]),
        ([2**64], "INT64", [1]),
        ({"a": 1}, "FP32", [1]),
    ],
)
def test_values_that_are_not_the_tensor_are_refused(values, datatype, shape):
    with pytest.raises(ProtocolError):
        array_from_values(values, datatype, shape)


def test_values_may_be_nested_and_keep_the_digits_of_large_integers():
    assert array_from_values([[1, 2], [3, 4]], "INT8", [2, 2]).tolist() == [[1, 2], [3, 4]]
    assert array_from_values([2**64 - 1, 1], "UINT64", [2]).tolist() == [2**64 - 1, 1]
    assert array_from_values(["ü", b"\xff"], "BYTES", [2]).tolist() == ["ü".encode(), b"\xff"]


@pytest.mark.parametrize("array", [np.array([b"\xff"], object), np.array([np.nan], np.float32), np.array([np.inf])])
def test_what_json_cannot_carry_is_refused(array):
    with pytest.raises(InvalidInput, match="JSON"):
        values_from_array(array)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_the_tables_agree_in_every_direction(datatype):
    assert datatype_from_numpy(numpy_dtype_from_datatype(datatype)) == datatype
    assert datatype_from_config_type(config_type_from_datatype(datatype)) == datatype
    assert TensorSpec("x", datatype, (1,)).numpy_dtype == numpy_dtype_from_datatype(datatype)


def test_the_tables_agree_with_tritons_configuration():
    assert set(CONFIG_TYPES.values()) == set(model_config_pb2.DataType.keys()) - {"TYPE_INVALID"}


def test_names_that_are_none_are_refused():
    for call in (numpy_dtype_from_datatype, config_type_from_datatype, datatype_from_config_type):
        with pytest.raises(InvalidInput, match="'FLOAT'"):
            call("FLOAT")
    with pytest.raises(InvalidInput, match="complex64"):
        datatype_from_numpy(np.complex64)
    assert datatype_from_numpy(np.dtype(">i4")) == "INT32"
    assert datatype_from_numpy(np.dtype("S5")) == "BYTES"
