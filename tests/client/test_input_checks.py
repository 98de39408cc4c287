"""What a caller may pass, and what is refused before a byte is sent."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from plansmith_client import Client, InvalidInput, Model, ModelMetadata, TensorSpec
from plansmith_client.inputs.conversion import UnfitValueError, array_from_value
from plansmith_client.protocol.metadata import ModelConfig
from plansmith_client.protocol.operations import Infer, Operation, ReadModelConfig, ReadModelMetadata
from plansmith_client.tensors import DATATYPES, numpy_dtype_from_datatype

BERT = ModelMetadata(
    name="bert",
    versions=("1",),
    platform="",
    inputs=(
        TensorSpec("ids", "INT64", (-1, 8)),
        TensorSpec("mask", "FP32", (-1, -1)),
        TensorSpec("text", "BYTES", (-1, 1)),
    ),
    outputs=(TensorSpec("logits", "FP32", (-1, 2)), TensorSpec("pooled", "FP32", (-1, 768))),
)


class Offline:
    """A transport that knows one model, counts what it is asked, and fails the test when an inference is to be sent."""

    calls = 0

    def call(self, operation: Operation, _, __):
        self.calls += 1
        match operation:
            case ReadModelMetadata():
                return BERT
            case ReadModelConfig():
                return ModelConfig(max_batch_size=4, optional_inputs=frozenset({"text"}))
            case Infer():
                raise AssertionError(f"was sent: {operation}")

    def close(self):
        pass


def model_of(transport: Offline) -> Model:
    client = Client("nowhere:1")
    (server,) = client._core.caller.servers.all()
    server.transport = transport
    return client.model("bert")


@pytest.fixture
def bert():
    return model_of(Offline())


IDS, MASK = np.zeros((2, 8), np.int64), np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ids": IDS, "mask": MASK, "nope": 1}, r"no input 'nope': expected 'ids' INT64 \[-1, 8\], 'mask'"),
        ({"ids": IDS}, r"input 'mask': missing; given 'ids', expected FP32 \[-1, -1\]"),
        ({"ids": IDS[:, :7], "mask": MASK}, r"input 'ids': given int64 \[2, 7\], expected INT64 \[-1, 8\]"),
        ({"ids": IDS[0], "mask": MASK}, r"input 'ids': given int64 \[8\].*array\[numpy.newaxis\]"),
        ({"ids": IDS.astype(float), "mask": MASK}, r"input 'ids': given float64 \[2, 8\], expected INT64"),
        ({"ids": IDS, "mask": MASK.astype(float)}, r"input 'mask': given float64.*astype\(numpy.float32\).*cast=True"),
        ({"ids": [[1.5] * 8] * 2, "mask": MASK}, r"input 'ids': given a list.*holds 1.5"),
        ({"ids": [[1] * 8, [1]], "mask": MASK}, r"input 'ids': given a list.*differ in length"),
        ({"ids": None, "mask": MASK}, r"input 'ids': given a NoneType"),
        ({"ids": IDS, "mask": MASK, "text": [[1], [2]]}, r"input 'text'.*holds a int"),
        ({"ids": IDS, "mask": MASK, "text": np.array(["a", "b"])}, r"input 'text'.*array\[:, numpy.newaxis\]"),
        ({"ids": IDS, "mask": MASK, "text": [["\ud800"], ["a"]]}, r"input 'text'.*not valid Unicode"),
        ({"ids": np.zeros((0, 8), int), "mask": np.zeros((0, 1), np.float32)}, r"batch of 0, expected 1 or more"),
        ({"ids": IDS, "mask": MASK[:1]}, r"input 'mask': given a batch of 1, expected 2 as in input 'ids'"),
    ],
)
def test_a_wrong_input_is_named_with_what_was_given_and_expected(bert, inputs, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        bert.infer(inputs)
    assert "'bert'" in str(caught.value)
    assert caught.value.exit_code == 2


def test_positions_are_counted_and_no_input_is_given_twice(bert):
    with pytest.raises(InvalidInput, match="given 4 inputs, expected at most 3"):
        bert(IDS, MASK, [["a"]] * 2, 1)
    with pytest.raises(InvalidInput, match="input 'ids': given twice, by position and by name"):
        bert(IDS, ids=IDS)
    with pytest.raises(InvalidInput, match=r"input 'ids': given a dict.*infer\(inputs\)"):
        bert({"ids": IDS, "mask": MASK})


@pytest.mark.parametrize("outputs", [["nope"], ["logits", "logits"], [], ["logits", "nope"]])
def test_wrong_outputs_are_refused_with_the_right_ones(bert, outputs):
    with pytest.raises(InvalidInput, match=r"'logits' FP32 \[-1, 2\], 'pooled'"):
        bert.infer({"ids": IDS, "mask": MASK}, outputs=outputs)


@pytest.mark.parametrize("parameters", [{"a": None}, {"a": [1]}, {"a": 2**64}, {1: "a"}, {"a": "\ud800"}])
def test_parameters_that_cannot_be_sent_are_refused(bert, parameters):
    with pytest.raises(InvalidInput, match="parameter"):
        bert.infer({"ids": IDS, "mask": MASK}, parameters=parameters)


def test_a_request_id_is_text(bert):
    with pytest.raises(InvalidInput, match="request_id"):
        bert.infer({"ids": IDS, "mask": MASK}, request_id=7)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, "3", None, True])
def test_a_timeout_is_a_number_of_seconds(timeout):
    with pytest.raises(InvalidInput, match="timeout"):
        Client("localhost:1", timeout=timeout)


@pytest.mark.parametrize("timeout", [np.float32(0.5), np.int64(3), math.inf, 3e6, 1e7, 1e300, 10**400])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_timeout_may_be_of_any_real_type_and_of_any_length(timeout, scheme):
    with Client(f"{scheme}localhost:1", timeout=timeout) as client:
        assert not client.is_live()


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost", "localhost:x", "localhost:0", "localhost:99999", ":8001", "a b:1", None),
        *("ftp://a:1", "grpc://a", "grpc://a:1/path", "http://", "http://a:1?q=1", "http://[::1", "http://a:0"),
    ],
)
def test_a_url_of_another_form_is_refused(url):
    with pytest.raises(InvalidInput, match="URL"):
        Client(url)


@pytest.mark.parametrize(("name", "version"), [("", ""), (None, ""), ("a", "new"), ("a", "-1"), ("a", 3), ("a", "²")])
def test_a_model_is_named_and_its_version_a_number(name, version):
    with Client("localhost:1") as client, pytest.raises(InvalidInput):
        client.model(name, version)


# The rule, written out: which dtype is taken for which datatype.
TAKEN = {
    "BOOL": "bool",
    "UINT8": "bool uint8",
    "UINT16": "bool uint8 uint16",
    "UINT32": "bool uint8 uint16 uint32",
    "UINT64": "bool uint8 uint16 uint32 uint64",
    "INT8": "bool int8",
    "INT16": "bool int8 uint8 int16",
    "INT32": "bool int8 uint8 int16 uint16 int32",
    "INT64": "bool int8 uint8 int16 uint16 int32 uint32 int64",
    "FP16": "bool int8 uint8 float16",
    "BF16": "bool int8 uint8 bfloat16 float32",
    "FP32": "bool int8 uint8 int16 uint16 float16 bfloat16 float32",
    "FP64": "bool int8 uint8 int16 uint16 int32 uint32 float16 bfloat16 float32 float64",
    "BYTES": "",
}
DTYPES = sorted({name for names in TAKEN.values() for name in names.split()})


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("name", [*DTYPES, "complex64", "datetime64[s]", "longdouble"])
def test_a_dtype_is_taken_exactly_where_nothing_is_lost(datatype, name):
    array = np.zeros(3, ml_dtypes.bfloat16 if name == "bfloat16" else name)
    if name in TAKEN[datatype].split():
        assert array_from_value(array, datatype).dtype == numpy_dtype_from_datatype(datatype)
    else:
        with pytest.raises(UnfitValueError):
            array_from_value(array, datatype)


@pytest.mark.parametrize("datatype", [datatype for datatype in DATATYPES if datatype != "BYTES"])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_what_is_taken_keeps_every_value_but_for_floats_that_cast_rounds(datatype, data):
    name = data.draw(st.sampled_from([name for name in DTYPES if name != "bfloat16"]))
    cast = data.draw(st.booleans())
    array = data.draw(numpy_strategies.arrays(name, st.integers(0, 5)))
    dtype = numpy_dtype_from_datatype(datatype)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = array.astype(dtype)
    as_given = rounded.astype(np.float64) if dtype.kind in "fV" else rounded
    both_floats = array.dtype.kind == "f" and dtype.kind in "fV"
    overflows = both_floats and (np.isinf(as_given) & np.isfinite(array)).any()
    try:
        taken = array_from_value(array, datatype, cast=cast)
    except UnfitValueError:
        if not cast:
            assert overflows or name not in TAKEN[datatype].split()
        else:
            assert overflows or (not both_floats and as_given.tolist() != array.tolist())
        return
    assert cast or name in TAKEN[datatype].split()
    assert not overflows
    assert taken.dtype == dtype
    np.testing.assert_array_equal(taken.astype(as_given.dtype), as_given)
    assert both_floats or as_given.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("array", "datatype", "expected"),
    [
        (np.array([1, 2.5], object), "FP32", [1, 2.5]),
        (np.array([1 / 3, 300.0], ml_dtypes.bfloat16), "FP16", [0.333984375, 300]),
        (np.array([3.0], ml_dtypes.bfloat16), "INT8", [3]),
        (np.array([1, 0.1], np.longdouble), "FP32", [1, np.float32(0.1)]),
        (np.ones((0, 3)), "INT64", np.ones((0, 3))),
        (np.array([1e39, np.inf]), "FP32", "beyond the range of FP32"),
        (np.array([np.longdouble("1e400")]), "FP64", "beyond the range of FP64"),
        (np.array([70000.0], ml_dtypes.bfloat16), "FP16", "beyond the range of FP16"),
        (np.array([2**63], np.uint64), "INT64", "cannot hold"),
        (np.array([2.0**63]), "INT64", "cannot hold"),
        (np.array([1.5]), "INT32", "holds 1.5, which INT32 cannot hold"),
        (np.array([2**24 + 1]), "FP32", "cannot hold exactly"),
        (np.array(["1"]), "FP32", "holds strings"),
        (np.array([1j]), "FP32", "holds complex128"),
        (np.array([1.0]), "BYTES", "which BYTES does not take"),
    ],
)
def test_what_cast_takes_and_refuses(array, datatype, expected):
    if isinstance(expected, str):
        with pytest.raises(UnfitValueError, match=expected):
            array_from_value(array, datatype, cast=True)
    else:
        assert array_from_value(array, datatype, cast=True).tolist() == np.asarray(expected).tolist()


def test_bfloat16_is_rounded_to_nearest_with_ties_to_even():
    one_step = 2.0**-7
    floats = np.array(
        [1 + one_step / 2, 1 + 3 * one_step / 2, 1 + one_step * 0.51, -1 - one_step / 2, np.nan], np.float32
    )
    rounded = array_from_value(floats, "BF16")
    assert rounded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(rounded.astype(float), [1, 1 + 2 * one_step, 1 + one_step, -1, np.nan])
    with pytest.raises(UnfitValueError, match="beyond the range of BF16"):
        array_from_value(np.array([3.4e38], np.float32), "BF16")
    assert np.isinf(array_from_value(np.array([np.inf], np.float32), "BF16").astype(float))


@pytest.mark.parametrize(
    ("value", "datatype", "expected"),
    [
        ([1, 2], "INT8", [1, 2]),
        ([2**64 - 1, 0], "UINT64", [2**64 - 1, 0]),
        ([2**63, 1], "UINT64", [2**63, 1]),
        ([-(2**63), 2**63 - 1], "INT64", [-(2**63), 2**63 - 1]),
        ([0, 1], "BOOL", [False, True]),
        ([True, False], "INT64", [1, 0]),
        ([1.0], "INT32", [1]),
        ([1, 0.5], "FP16", [1.0, 0.5]),
        ([2**24, -(2**30)], "FP32", [2.0**24, -(2.0**30)]),
        ([2**70, 0.5], "FP64", [2.0**70, 0.5]),
        ([2**24 + 1.0], "FP32", [2.0**24]),
        ([float("nan"), float("inf")], "FP32", [math.nan, math.inf]),
        ([], "INT64", []),
        (3, "INT64", 3),
        (((1, 2), (3, 4)), "UINT8", [[1, 2], [3, 4]]),
        ([np.int16(3), np.int16(4)], "INT32", [3, 4]),
    ],
)
def test_python_numbers_take_the_declared_datatype(value, datatype, expected):
    array = array_from_value(value, datatype)
    assert array.dtype == numpy_dtype_from_datatype(datatype)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        ([128], "INT8"),
        ([-1], "UINT64"),
        ([2**63], "INT64"),
        ([2**64], "UINT64"),
        ([2**24 + 1], "FP32"),
        ([2**24 + 1, 0.5], "FP32"),
        ([[0.5, 1.0], [2**53 + 1, math.inf]], "FP64"),
        (2**53 + 1, "FP64"),
        ([2**63, -1, 2**53 + 1], "FP64"),
        ([1, np.int64(2**53 + 1)], "FP64"),
        ([257], "BF16"),
        ([2049], "FP16"),
        ([10**30], "FP32"),
        ([10**400], "FP64"),
        ([2**70 + 1], "FP64"),
        ([2**70], "INT64"),
        ([10**5000], "INT64"),
        ([math.nan, 2**63], "UINT64"),
        ([2**70, None], "FP64"),
        ([2], "BOOL"),
        ([0.5], "INT64"),
        ([math.nan], "INT32"),
        ([math.inf], "INT64"),
        ([1e300], "FP32"),
        ([70000.0], "FP16"),
        (["1"], "FP32"),
        ([None], "FP32"),
        ([1j], "FP64"),
        (object(), "FP32"),
        ({1, 2}, "INT64"),
        ([np.float64(0.1)], "FP32"),
        (np.ma.masked_less(np.float32([1, -1]), 0), "FP32"),
        (np.ma.masked_less(np.int64([1, -1]), 0), "FP32"),
        (np.ma.masked_array(np.array(["a"], object), mask=True), "BYTES"),
        ([[1], [2, 3]], "INT64"),
    ],
)
def test_what_would_change_a_value_is_refused(value, datatype):
    with pytest.raises(UnfitValueError):
        array_from_value(value, datatype)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BOOL", "BYTES")])
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_python_integer_is_kept_or_refused(datatype, data):
    edges = st.builds(lambda bits, more, sign: sign * (2**bits + more), st.integers(0, 130), st.integers(-2, 2),
                      st.sampled_from((1, -1)))  # fmt: skip
    numbers = data.draw(st.lists(st.one_of(edges, st.integers(), st.just(0.0)), min_size=1, max_size=4))
    try:
        taken = array_from_value(numbers, datatype)
    except UnfitValueError:
        assert any(not fits(number, datatype) for number in numbers)
        return
    kept = taken.astype(np.float64) if taken.dtype.kind in "fV" else taken
    assert kept.tolist() == numbers


def fits(number, datatype):
    dtype = numpy_dtype_from_datatype(datatype)
    if dtype.kind in "iu":
        return np.iinfo(dtype).min <= number <= np.iinfo(dtype).max
    with np.errstate(over="ignore"):
        return float(np.float64(number).astype(dtype)) == number


@pytest.mark.parametrize(
    "value",
    [
        ["a", "ü\0", b"\xff\0", ""],
        np.array(["a", "ü\0", b"\xff\0", ""], object),
        ("a", bytearray("ü\0".encode()), memoryview(b"\xff\0"), ""),
    ],
)
def test_strings_become_bytes_and_keep_their_zero_bytes(value):
    array = array_from_value(value, "BYTES")
    assert array.dtype == object
    assert array.tolist() == [b"a", "ü\0".encode(), b"\xff\0", b""]


@pytest.mark.parametrize("value", [np.array([["ab", "ü"]]), np.array([[b"ab", "ü".encode()]]), [["ab", "ü"]]])
def test_numpys_own_strings_become_bytes(value):
    assert array_from_value(value, "BYTES").tolist() == [[b"ab", "ü".encode()]]


class WithArray:
    def __array__(self, dtype=None, copy=None):
        return np.ones((2, 2), np.float32)


class WithDlpack:
    """An array of another library: nothing but the DLPack protocol."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize(
    "value", [WithArray(), WithDlpack(np.ones((2, 2), np.float32)), np.ones((2, 2), np.float32).view(np.recarray)]
)
def test_arrays_of_other_libraries_are_taken(value):
    array = array_from_value(value, "FP32")
    assert type(array) is np.ndarray
    np.testing.assert_array_equal(array, np.ones((2, 2), np.float32))


def wrong_ids():
    """Arrays that are not INT64 [-1, 8] with a row at least."""
    shapes = numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
    dtypes = st.one_of(
        numpy_strategies.integer_dtypes(), numpy_strategies.unsigned_integer_dtypes(),
        numpy_strategies.floating_dtypes(), numpy_strategies.boolean_dtypes(), numpy_strategies.byte_string_dtypes(),
    )  # fmt: skip
    arrays = st.tuples(dtypes, shapes).map(lambda pair: np.zeros(pair[1], pair[0]))

    def is_wrong(array):
        fits = array.ndim == 2 and array.shape[1] == 8 and array.shape[0] >= 1
        return not fits or array.dtype.kind in "fS" or array.dtype == np.uint64

    return arrays.filter(is_wrong)


@pytest.fixture(scope="module")
def asked_before():
    """A model whose metadata has been read, and its transport."""
    transport = Offline()
    model = model_of(transport)
    assert model.metadata.max_batch_size == 4
    return model, transport


@given(ids=wrong_ids())
@settings(max_examples=10_000, deadline=None)
def test_of_10000_wrong_arrays_each_is_refused_by_name_and_none_is_sent(asked_before, ids):
    model, transport = asked_before
    before = transport.calls
    mask = np.zeros((ids.shape[0] if ids.ndim else 1, 3), np.float32)
    with pytest.raises(InvalidInput, match="'ids'"):
        model(ids, mask)
    # An inference would have failed. The metadata and the configuration are read again.
    assert transport.calls == before + 2
