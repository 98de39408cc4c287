"""Every hostile input read in one process, as data of a build and as inputs of a request: what each ends with.

Started by the tests with a folder to write the inputs into; prints what is wrong, by name, as JSON.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attacking import SECONDS
from hostile_inputs import write_inputs

from plansmith_build.datasets import Preprocessing, load_dataset, read_preprocessing
from plansmith_build.errors import BuildError
from plansmith_build.reading.signatures import Signature
from plansmith_client import Client, ClientError, TensorSpec
from plansmith_client.commands.image_files import recorded_preparation
from plansmith_client.commands.input_files import read_inputs
from plansmith_client.testing import FakeModel, FakeServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from plansmith_client import Model

SPECS = {
    "numbers": TensorSpec("x", "FP32", (-1, 4)),
    "pictures": TensorSpec("x", "FP32", (-1, 1, 8, 8)),
    "words": TensorSpec("x", "BYTES", (-1, 1)),
}
Y = TensorSpec("y", "FP32", (-1, 1))
PIXELS = Preprocessing(size=(8, 8), channels="GRAY")


def _late(*_: object) -> None:
    # No error of reading a file, which it would be taken for.
    raise KeyboardInterrupt


def _ended(read: Callable[..., object], *arguments: object, **options: object) -> str:
    """What is wrong with how it ended, or `read` or `refused`."""
    signal.alarm(SECONDS)
    try:
        read(*arguments, **options)
    except (BuildError, ClientError):
        return "refused"
    except KeyboardInterrupt:
        return f"not ended after {SECONDS} s"
    except Exception as error:  # noqa: BLE001 - what came is the finding
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    return "read"


def _ask(model: Model, spec: TensorSpec, path: Path) -> object:
    return model(**read_inputs([str(path)], [spec]))


def _program(folder: Path) -> None:
    # What is read without a look at its size fills them.
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    signal.signal(signal.SIGALRM, _late)
    data, requests, declared = {}, {}, {}
    signatures = {name: Signature((spec,), (Y,), {"x": ("",) * len(spec.shape)}) for name, spec in SPECS.items()}
    models = {
        name: FakeModel(lambda inputs: {"y": np.ones((len(inputs["x"]), 1), np.float32)}, [spec], [Y])
        for name, spec in SPECS.items()
    }
    with Client("localhost:1", transport=FakeServer(models)) as client:
        for name, path in write_inputs(folder).items():
            picture = path.is_dir() and not any(path.glob("*.npy"))
            kind = "pictures" if picture else "numbers"
            preprocessing = PIXELS if picture else None
            data[name] = _ended(load_dataset, str(path), signatures[kind], preprocessing=preprocessing)
            if path.suffix in {".json", ".toml"}:
                declared[f"preprocess {name}"] = _ended(read_preprocessing, str(path))
                declared[f"manifest {name}"] = _ended(recorded_preparation, path)
            for kind, spec in SPECS.items():
                requests[f"{kind} {name}"] = _ended(_ask, client.model(kind), spec, path)
    for words in ("scale=1e1000000000", "scale=1/0", f"size={'9' * 400}", "resize=9999999999999", "std=0", "mean=nan"):
        declared[f"preprocess {words}"] = _ended(read_preprocessing, words)
    print(json.dumps({"data": data, "requests": requests, "declared": declared}))


if __name__ == "__main__":
    _program(Path(sys.argv[1]))
