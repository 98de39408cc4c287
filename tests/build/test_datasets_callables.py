"""Data from a Python function of the user's."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from datasets_signatures import IMAGES, PAIR, TOKENS

from plansmith_build.datasets import DataFunctionFailed, InvalidData, InvalidLabels, load_dataset

MODULE = '''
import numpy as np

ROWS = np.arange(6 * 64, dtype=np.float32).reshape(6, 8, 8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
A = np.ones((6, 4), np.float32)

def array(): return ROWS
def with_labels(): return ROWS, LABELS
def mapping(): return {"images": ROWS, "labels": LABELS}
def two_inputs(): return {"a": A, "b": A}
def two_inputs_with_labels(): return {"a": A, "b": A}, list(LABELS)
def generator(): yield from ROWS
def pairs(): return list(zip(ROWS, LABELS))
def batches():
    for start in (0, 4):
        yield [ROWS[start:start + 4], LABELS[start:start + 4]]
def mappings(): return [{"a": row, "b": row} for row in A]
def samples_and_labels(): return list(ROWS), LABELS
def endless():
    while True:
        yield ROWS[0]
def lists(): return [[1, 2], [3, 4]]

class Loader:
    @staticmethod
    def load(): return ROWS

class Tensor:
    """What a PyTorch tensor looks like from outside."""
    def detach(self): return self
    def cpu(self): return ROWS
def tensor(): return iter([Tensor()])

def broken():
    rows = ROWS
    return rows[17, 0]
def fails_late():
    yield ROWS[0]
    raise KeyError("nothing here")
def leaves():
    import sys
    sys.exit(3)
def nothing(): return None
def number_of_things(): return 3
def empty(): return []
def ragged(): return [ROWS[0], ROWS[0, :3]]
def sometimes(): return [(ROWS[0], 1), ROWS[1]]
def unnamed(): return A
def twice(): return {"images": ROWS, "labels": LABELS}, LABELS
def needs(argument): return argument
def own_objects(): return [object()]
not_a_function = 3
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "calibration_data.py").write_text(MODULE)
    (tmp_path / "unparsable.py").write_text("def load(:\n")
    (tmp_path / "needs_more.py").write_text("\nimport nosuchmodule\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("calibration_data", "unparsable", "needs_more"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("function", "labelled"),
    [
        ("array", False),
        ("with_labels", True),
        ("mapping", True),
        ("generator", False),
        ("pairs", True),
        ("batches", True),
        ("samples_and_labels", True),
        ("Loader.load", False),
        ("tensor", False),
    ],
)
def test_whatever_holds_the_rows_gives_the_same_data(function, labelled):
    dataset = load_dataset(f"calibration_data:{function}", IMAGES)
    np.testing.assert_array_equal(dataset.inputs["images"], np.arange(6 * 64).reshape(6, 8, 8))
    assert (dataset.labels is not None) == labelled
    if labelled:
        assert dataset.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (dataset.kind, dataset.source) == ("callable", f"calibration_data:{function}")


@pytest.mark.parametrize("function", ["two_inputs", "mappings", "two_inputs_with_labels"])
def test_several_inputs_are_named(function):
    dataset = load_dataset(f"calibration_data:{function}", PAIR)
    assert {name: array.shape for name, array in dataset.inputs.items()} == {"a": (6, 4), "b": (6, 4)}


def test_the_hash_tells_data_apart_whatever_way_it_came():
    hashes = [load_dataset(f"calibration_data:{name}", IMAGES).sha256 for name in ("array", "generator", "pairs")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_plain_lists_of_numbers_are_rows():
    assert load_dataset("calibration_data:lists", TOKENS).inputs["ids"].tolist() == [[1, 2], [3, 4]]


def test_an_endless_generator_ends_where_it_is_told_to():
    assert len(load_dataset("calibration_data:endless", IMAGES, max_rows=7)) == 7


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("calibration_data:broken", r"calibration_data.py, line 37: IndexError: index 17 is out of bounds"),
        ("calibration_data:fails_late", r"calibration_data.py, line 40: KeyError: 'nothing here'"),
        ("calibration_data:leaves", r"ended the program with sys.exit\(3\)"),
        ("calibration_data:nothing", "returned a NoneType: return an array, a mapping"),
        ("calibration_data:number_of_things", "returned a int"),
        ("calibration_data:empty", "gave no samples"),
        ("calibration_data:needs", r"calibration_data:needs: TypeError: needs\(\) missing 1 required positional"),
        ("calibration_data:sometimes", r"sample 1 .*has \['images'\], and those before it have \['images', 'labels'\]"),
        ("calibration_data:nosuch", "calibration_data has no function 'nosuch': it has array, "),
        ("calibration_data:not_a_function", "is a int, wanted a function"),
        ("nosuchmodule:load", "No module named 'nosuchmodule': run the command in the folder"),
        ("needs_more:load", "needs_more.py, line 2: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("unparsable:load", "unparsable.py, line 1: SyntaxError"),
    ],
)
def test_what_goes_wrong_in_the_users_code_is_told_with_its_place(source, sentence):
    with pytest.raises(DataFunctionFailed, match=sentence) as caught:
        load_dataset(source, IMAGES)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_what_a_function_gives_is_checked_as_a_file_is():
    with pytest.raises(InvalidData, match=r"sample 1 of calibration_data:ragged is float32 \[3, 8\]"):
        load_dataset("calibration_data:ragged", IMAGES)
    with pytest.raises(DataFunctionFailed, match="is not a mapping, and the model has the inputs 'a', 'b'"):
        load_dataset("calibration_data:unnamed", PAIR)
    with pytest.raises(InvalidLabels, match="returns labels twice, among the inputs and next to them"):
        load_dataset("calibration_data:twice", IMAGES)
    with pytest.raises(InvalidData, match=re.escape("sample 0 of calibration_data:own_objects is object []")):
        load_dataset("calibration_data:own_objects", IMAGES)
