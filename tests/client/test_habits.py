"""What other clients get wrong, and this one does not: each a complaint of their users."""

from __future__ import annotations

import contextlib
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from client_faces import FACES, open_client, url_of

from plansmith_client import InvalidInput

ROWS = np.ones((2, 4), np.float32)


@pytest.fixture(params=FACES)
def face(request):
    return request.param


class Counting:
    """An observer that counts operations by kind."""

    def __init__(self) -> None:
        self.counts = Counter()

    @contextlib.contextmanager
    def observe(self, operation):
        self.counts[type(operation).__name__] += 1
        yield {}


def test_a_call_is_one_request_and_no_question_comes_before_it(server, face):
    counting = Counting()
    with open_client(face, url_of(face, server), observers=[counting]) as client:
        for _ in range(10):
            client.model("double")(ROWS)
    assert counting.counts == {"Infer": 10, "ReadModelMetadata": 1, "ReadModelConfig": 1}


def test_the_callers_headers_and_arrays_are_left_as_they_are(server, face):
    headers, inputs = {"X-Caller": "me"}, {"x": ROWS.copy()}
    with open_client(face, url_of(face, server), headers=headers) as client:
        client.model("double").infer(inputs, parameters=(parameters := {"note": "a"}))
    assert headers == {"X-Caller": "me"}
    assert parameters == {"note": "a"}
    np.testing.assert_array_equal(inputs["x"], ROWS)


def test_headers_that_the_server_cannot_take_are_the_callers_to_shorten(server, face):
    token = "secret" * 4000
    with open_client(face, url_of(face, server), token=token, timeout=30) as client:
        for call in (lambda: client.model("double")(ROWS), client.server_metadata):
            with pytest.raises(InvalidInput, match="shorten the token or the headers") as caught:
                call()
            assert "secret" not in str(caught.value)
    with open_client(face, url_of(face, server), timeout=30) as client, pytest.raises(InvalidInput, match="mmm"):
        client.model("m" * 100_000)(ROWS)


def test_bf16_is_exact_and_rounded_from_float32_rather_than_cut(server, face):
    values = np.array([[1.0, 1.00390625, 1.01171875, 3.3e38, -0.0]], np.float32)
    with open_client(face, url_of(face, server)) as client:
        got = client.model("every_type").infer({"bf16": values})["bf16_out"]
    assert got.dtype == ml_dtypes.bfloat16
    assert got.tobytes() == values.astype(ml_dtypes.bfloat16).tobytes()


def test_answers_belong_to_the_caller_and_may_be_changed(server, face):
    with open_client(face, url_of(face, server)) as client:
        first = client.model("double")(ROWS)["y"]
        first += 1
        assert client.model("double")(ROWS)["y"].tolist() == (ROWS * 2).tolist()


def test_objects_of_other_libraries_are_taken_without_a_word(server, face):
    class Lazy:
        def __array__(self, dtype=None, copy=None):
            return ROWS

    with open_client(face, url_of(face, server)) as client:
        assert client.model("double")(Lazy()).array.tolist() == (ROWS * 2).tolist()


def test_two_clients_of_one_process_do_not_share_what_they_know(server, face):
    with open_client(face, url_of(face, server)) as one, open_client(face, url_of(face, server)) as other:
        assert one.model("double").metadata is not other.model("double").metadata
        one.close()
        assert other.model("double")(ROWS).array.tolist() == (ROWS * 2).tolist()
