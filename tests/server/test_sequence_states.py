"""What a backend remembers of sequences: by rules that need no server to be checked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from configurations import configure, signature_from

from plansmith_server.backends.sequences import SequenceAnswering, States
from plansmith_server.errors import RequestError


def test_a_state_is_kept_until_it_is_dropped_or_idle_for_too_long():
    now = 0.0
    states = States(10, clock=lambda: now)
    for sequence in (1, 2, "three"):
        states.keep(sequence, {"h": np.full(1, now)})
    now = 9.0
    states.keep(2, {"h": np.full(1, now)})
    now = 11.0
    states.drop_idle(["three"])
    assert len(states) == 2
    assert states.of(2)["h"] == 9
    assert states.of("three")["h"] == 0
    with pytest.raises(RequestError, match=r"sequence 1 has no state: .* nothing came for 10 seconds: begin it again"):
        states.of(1)
    states.drop(2)
    with pytest.raises(RequestError):
        states.of(2)


class Written:
    """Stands for a tensor of Triton's; the tests make its memory run out."""

    full = False

    def __init__(self, name, array):
        if self.full and array.item() == 2:
            raise MemoryError("shared memory is full")
        self.name, self.array = (lambda: name), array
        self.as_numpy = lambda: array

    from_dlpack = None


class Asked:
    """Stands for a request of Triton's."""

    def __init__(self, sequence, flags, **inputs):
        self.correlation_id, self.flags = (lambda: sequence), (lambda: flags)
        self.inputs = lambda: [Written(name, np.float32([[value]])) for name, value in inputs.items()]
        self.requested_output_names = lambda: ["y"]


def test_no_state_is_taken_twice_where_an_answer_of_a_batch_cannot_be_written(tmp_path, monkeypatch):
    signature = signature_from(tmp_path, "float[n, 1] x, float[n, 1] h", "float[n, 1] y, float[n, 1] hn")
    state = {"input_name": "h", "output_name": "hn", "data_type": "TYPE_FP32", "dims": [1]}
    tensors = {
        key: [{"name": name, "data_type": "TYPE_FP32", "dims": [1]}] for key, name in (("input", "x"), ("output", "y"))
    }

    runs = []

    def run(names, arrays):
        runs.append(len(arrays["x"]))
        total = arrays["x"] + arrays["h"]
        return [total for _ in names]

    triton = SimpleNamespace(
        Tensor=Written,
        InferenceResponse=lambda tensors=(), error=None: error or tensors[0].array.item(),
        TritonError=type(
            "TritonError", (str,), {"INTERNAL": 1, "__new__": lambda cls, text, _=0: str.__new__(cls, text)}
        ),
        TRITONSERVER_REQUEST_FLAG_SEQUENCE_START=1,
        TRITONSERVER_REQUEST_FLAG_SEQUENCE_END=2,
    )
    config = configure(max_batch_size=4, sequence_batching={"state": [state]}, **tensors)
    answering = SequenceAnswering(SimpleNamespace(signature=signature, run=run), config, triton)
    assert answering.answer([Asked(1, 1, x=1, h=0), Asked(2, 1, x=1, h=0)]) == [1, 1]
    monkeypatch.setattr(Written, "full", True)
    first, second = answering.answer([Asked(1, 0, x=2.5), Asked(2, 0, x=1)])
    assert first == 3.5
    assert "shared memory is full" in second
    monkeypatch.setattr(Written, "full", False)
    # The second as if it had not been asked, as every request that fails; Triton's request of no sequence joins no run.
    runs.clear()
    said = answering.answer([Asked(1, 2, x=1), Asked(0, 0, x=1), Asked(2, 2, x=5)])
    assert said == [4.5, "a request of no sequence", 6]
    assert runs == [2]
