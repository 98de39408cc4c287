"""Data from a Python function of the user's: `module:function`.

The module is imported with the current folder first on the path, and the function is called without arguments. This
runs the user's code, as `python -c "import module; module.function()"` would. It returns one of

- an array with a row for each entry, for a model with one input;
- a mapping of arrays by input name, which may hold the labels under `labels`, `label` or `y`;
- a pair of either and the labels;
- an iterable (a list, a generator, a data loader) of samples, each of them a row or a batch: an array, a mapping, or a
  pair of either and its label or labels.

Anything that numpy takes is an array: PyTorch's tensors, data frames.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.datasets.errors import DataFunctionFailed, InvalidLabels
from plansmith_build.datasets.raw_data import RawData, check_memory, separate_labels
from plansmith_client.project_file import PYTHON_FUNCTION

if TYPE_CHECKING:
    from plansmith_build.datasets.layout import Layout
    from plansmith_build.datasets.ragged import Array

__all__ = ["call_user_function", "is_callable_source", "read_callable"]

# An endless generator must end somewhere; a calibration of a million samples would not.
_MOST_SAMPLES = 1_000_000
_FEWER = "or read fewer rows with --calibration-rows and --validation-rows"


def is_callable_source(source: str) -> bool:
    """Whether the text is `module:function`."""
    return PYTHON_FUNCTION.fullmatch(source) is not None


def call_user_function(source: str, *arguments: Any) -> Any:
    """Import a module, call a function of it and give what it returns.

    Args:
        source: `module:function`, either with dots in it.
        arguments: what it is called with.

    Raises:
        DataFunctionFailed: there is no such module or function, or it raised an exception; the sentence names the
            file and the line of the user's code.
    """
    match = PYTHON_FUNCTION.fullmatch(source)
    if match is None:
        raise DataFunctionFailed(f"{source!r} is not module:function, such as data:load")
    target = _found(source, match["module"], match["function"])
    return _run(source, lambda: target(*arguments))


def read_callable(source: str, layout: Layout, *, labels_key: str | None, limit: int | None) -> RawData:
    """The data that a function returns.

    Args:
        source: `module:function`.
        layout: of the data that is wanted.
        labels_key: the name of the labels in a mapping; None looks for the usual ones.
        limit: how many samples to take of an iterable at most; None for all.

    Raises:
        DataFunctionFailed: the function cannot be found or fails, or returns something that is not data.
        InvalidData: its samples do not fit the model's inputs, or each other.
        InvalidLabels: it is not clear which array holds the labels.
    """
    given = call_user_function(source)
    where = f"what {source} returned"
    labels: Any = None
    if isinstance(given, tuple) and len(given) == 2:  # noqa: PLR2004 - inputs and labels
        given, labels = given
    if isinstance(given, Mapping) or _is_array(given):
        named = _named(given, layout, where)
        arrays, found = separate_labels(named, layout, labels_key=labels_key, where=where)
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        samples = _samples(given, source, None if labels is not None else limit)
        arrays, found = _collected(samples, source, layout, labels_key)
    else:
        raise DataFunctionFailed(
            f"{source} returned a {type(given).__name__}: "
            "return an array, a mapping by input name, a pair of inputs and labels, or an iterable of samples"
        )
    if labels is not None:
        if found is not None:
            raise InvalidLabels(f"{where} returns labels twice, among the inputs and next to them: return them once")
        found = _array(labels, f"the labels of {where}")
    return RawData(arrays, found, None, "callable", where)


def _found(source: str, module_name: str, function_name: str) -> Callable[..., Any]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()

    def load() -> Any:
        return importlib.import_module(module_name)

    target = _run(source, load)
    for part in function_name.split("."):
        if not hasattr(target, part):
            names = ", ".join(name for name in vars(target) if callable(getattr(target, name)) and name[0] != "_")
            raise DataFunctionFailed(
                f"{source}: {module_name} has no function {function_name!r}: it has {names or 'none'}"
            )
        target = getattr(target, part)
    if not callable(target):
        raise DataFunctionFailed(f"{source} is a {type(target).__name__}, wanted a function")
    result: Callable[..., Any] = target
    return result


def _run(source: str, work: Callable[[], Any]) -> Any:
    """Do what runs code of the user's, and put what goes wrong there in a sentence."""
    try:
        return work()
    except SystemExit as error:
        raise DataFunctionFailed(f"{source} ended the program with sys.exit({error.code!r})") from error
    except Exception as error:
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{_short(error.filename)}, line {error.lineno}"
            raise DataFunctionFailed(f"{source}: {place}: {type(error).__name__}: {error.msg}") from error
        said = " ".join(str(error).split())[:300]
        if isinstance(error, ModuleNotFoundError) and not _place(error):
            raise DataFunctionFailed(
                f"{source}: {said}: run the command in the folder that holds it, or install it"
            ) from error
        raise DataFunctionFailed(f"{source}: {_place(error)}{type(error).__name__}: {said}") from error


def _place(error: BaseException) -> str:
    """File and line of the innermost frame that is neither ours nor a library's."""
    paths = sysconfig.get_paths()
    libraries = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    others = (str(Path(__file__).parent), str(Path(np.__file__).parents[1]), "<frozen", *libraries)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(others):
            return f"{_short(frame.filename)}, line {frame.lineno}: "
    return ""


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _samples(given: Iterable[Any], source: str, limit: int | None) -> list[Any]:
    samples: list[Any] = []
    size = 0
    iterator = _run(source, lambda: iter(given))
    end = object()
    while limit is None or len(samples) < limit:
        sample = _run(source, lambda: next(iterator, end))
        if sample is end:
            break
        samples.append(sample)
        size += _size(sample)
        check_memory(size, f"what {source} gives", f"end it earlier, {_FEWER}")
        if len(samples) > _MOST_SAMPLES:
            raise DataFunctionFailed(f"{source} gave more than {_MOST_SAMPLES:,} samples: end it, {_FEWER}")
    return samples


def _collected(
    samples: list[Any], source: str, layout: Layout, labels_key: str | None
) -> tuple[dict[str, Array], Array | None]:
    """The samples as one array for each input, and their labels."""
    if not samples:
        raise DataFunctionFailed(f"{source} gave no samples: give at least one")
    parts: dict[str, list[tuple[str, Array]]] = {}
    labels: list[Array] = []
    keys: frozenset[str] | None = None
    for number, sample in enumerate(samples):
        where = f"sample {number} of {source}"
        label: Any = None
        given = sample
        if _is_pair(given):
            given, label = given
        named, found = separate_labels(_named(given, layout, where), layout, labels_key=labels_key, where=where)
        found = _array(label, f"the label of {where}") if label is not None else found
        names = frozenset(named) | ({"labels"} if found is not None else set())
        if keys is not None and names != keys:
            raise DataFunctionFailed(f"{where} has {sorted(names)}, and those before it have {sorted(keys)}")
        keys = names
        for name, array in named.items():
            parts.setdefault(name, []).append((where, array))
        if found is not None:
            labels.append(np.atleast_1d(found))
    known = {spec.name: spec for spec in layout.inputs}
    arrays = {
        # An input that the model does not have is refused later, in a message that lists those that it has.
        name: layout.stack(known[name], arrays) if name in known else arrays[0][1]
        for name, arrays in parts.items()
    }
    return arrays, np.concatenate(labels) if labels else None


def _named(given: Any, layout: Layout, where: str) -> dict[str, Array]:
    if isinstance(given, Mapping):
        return {str(name): _array(value, f"{name!r} of {where}") for name, value in given.items()}
    if len(layout.inputs) == 1:
        return {layout.inputs[0].name: _array(given, where)}
    names = ", ".join(repr(spec.name) for spec in layout.inputs)
    raise DataFunctionFailed(f"{where} is not a mapping, and the model has the inputs {names}: name each array")


def _array(value: Any, where: str) -> Array:
    try:
        if hasattr(value, "detach"):
            # A PyTorch tensor that a gradient is recorded for, or that lies on a GPU, does not convert itself.
            value = value.detach().cpu()
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataFunctionFailed(
            f"{where} is a {type(value).__name__}, which cannot be made an array: {said}"
        ) from error


def _is_pair(sample: Any) -> bool:
    """Whether a sample is inputs and label: PyTorch's data loaders give a list, and a row may be a list of numbers."""
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:  # noqa: PLR2004
        return False
    return isinstance(sample, tuple) or isinstance(sample[0], Mapping) or _is_array(sample[0])


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") or hasattr(value, "__array__")


def _size(sample: Any) -> int:
    if isinstance(sample, Mapping):
        return sum(map(_size, sample.values()))
    if isinstance(sample, (tuple, list)):
        return sum(map(_size, sample))
    return int(getattr(sample, "nbytes", 8))
