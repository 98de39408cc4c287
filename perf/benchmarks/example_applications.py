"""The examples as applications: what callers send, what the network takes, and the framework's own model.

Each is a row of `APPLICATIONS`. `applications.py` asks plansmith with them; `peers/programs/fastapi_example.py` serves
them in FastAPI, by the framework and by plansmith's engine. What an example's folder holds was made by the example.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Arrays = dict[str, np.ndarray[Any, Any]]

__all__ = ["APPLICATIONS", "EXAMPLES", "Application"]

EXAMPLES = Path(__file__).parents[2] / "examples"
ITEMS = 100


@dataclass(frozen=True)
class Application:
    """One example.

    Attributes:
        program: below examples/, makes everything.
        model: what plansmith serves.
        framework: by name.
        bodies: what callers send, from the folder.
        request: a body as the inputs of `model`.
        prepare: from the folder what makes the network's inputs of a body.
        compute: from the folder what the framework makes of those; None where another benchmark has it.
        answer: the network's outputs to JSON: as plansmith's output of the same name has it.
        precision: of the example's own file.
    """

    program: str
    model: str
    framework: str
    bodies: Callable[[Path], list[bytes]]
    request: Callable[[bytes], Arrays]
    prepare: Callable[[Path], Callable[[bytes], Arrays]]
    compute: Callable[[Path], Callable[[Arrays], list[Any]]] | None
    answer: Callable[[Path, list[Any]], dict[str, Any]]
    precision: str = "fp32"


def _example(name: str) -> Any:
    """The module of an example."""
    path = EXAMPLES / name
    sys.path.insert(0, str(path.parent))
    return __import__(path.stem)


def _files(pattern: str, folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob(pattern))[:ITEMS]]


def _whole(name: str, body: bytes) -> Arrays:
    return {name: np.array([[body]], object)}


def _torch(module: Callable[[], Any], weights: str, folder: Path) -> Callable[[Arrays], list[Any]]:
    import torch  # noqa: PLC0415 - only for the framework's own contestant

    network = module()
    network.load_state_dict(torch.load(folder / weights, weights_only=True))
    network.eval()
    # Callers share the cores: a thread for each call.
    torch.set_num_threads(1)

    def compute(arrays: Arrays) -> list[Any]:
        with torch.inference_mode():
            return [network(torch.from_numpy(next(iter(arrays.values())))).numpy()]

    return compute


def _pixels(mode: str, body: bytes) -> Arrays:
    from PIL import Image  # noqa: PLC0415 - not for every example

    pixels = np.asarray(Image.open(io.BytesIO(body)).convert(mode), np.float32) / 255
    return {"input": pixels[np.newaxis, np.newaxis] if mode == "L" else pixels.transpose(2, 0, 1)[np.newaxis].copy()}


def _classes(labels: str, top: int, folder: Path, outputs: list[Any]) -> dict[str, Any]:
    names = (folder / labels).read_text().split() if labels else [str(digit) for digit in range(10)]
    return {"label": [names[place] for place in np.argsort(-outputs[0][0])[:top]]}


def _boxes(folder: Path, outputs: list[Any]) -> dict[str, Any]:
    from plansmith_server.backends.pipeline_step.boxes import BoxesStep  # noqa: PLC0415 - the same suppression

    names = (folder / "things.txt").read_text().split()
    step = BoxesStep(folder, labels=names, min_score=0.3, max_overlap=0.45, max_boxes=100)
    geometry = np.array([[1, 1, 0, 0, 1e4, 1e4]], np.float32)
    made = step.run({"predictions": outputs[0], "geometry": geometry})
    return {"label": [label.decode() for label in made["label"][0]], "box": made["box"].ravel().tolist()}


def _features(folder: Path) -> Callable[[bytes], Arrays]:
    from plansmith_server.backends.pipeline_step.runtime import load_step  # noqa: PLC0415 - the same features

    step: Any = load_step(max((folder / "model_repository").glob("words.*.audio")) / "1")
    return lambda body: {"input": step.features(body)[np.newaxis]}


def _tokens(folder: Path) -> Callable[[bytes], Arrays]:
    from tokenizers import Tokenizer  # noqa: PLC0415 - not for every example

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()

    def prepare(body: bytes) -> Arrays:
        made = tokenizer.encode(body.decode())
        rows = {"input_ids": made.ids, "attention_mask": made.attention_mask, "token_type_ids": made.type_ids}
        return {name: np.array([row], np.int64) for name, row in rows.items()}

    return prepare


def _mean(_: Path, outputs: list[Any]) -> dict[str, Any]:
    mean = outputs[0][0].mean(axis=0)
    return {"embedding": (mean / np.linalg.norm(mean)).tolist()}


def _row(body: bytes) -> Arrays:
    row = json.loads(body)
    return {"numbers": np.array([row["numbers"]], np.float32), "city": np.array([[row["city"]]], object)}


def _customers(_: Path) -> list[bytes]:
    numbers, cities, _ = _example("tabular/tabular.py").customers(ITEMS, seed=2)
    rows = zip(numbers.tolist(), cities[:, 0].tolist(), strict=True)
    return [json.dumps({"numbers": row, "city": city}).encode() for row, city in rows]


def _lightgbm(folder: Path) -> Callable[[Arrays], list[Any]]:
    import lightgbm  # noqa: PLC0415 - only for the framework's own contestant

    booster = lightgbm.Booster(model_file=folder / "customers.txt")
    codes = _example("tabular/tabular.py").codes

    def compute(arrays: Arrays) -> list[Any]:
        likely: Any = booster.predict(np.hstack([arrays["numbers"], codes(arrays["city"])]), num_threads=1)
        return [None, np.stack([1 - likely, likely], axis=1)]

    return compute


def _people(_: Path) -> list[bytes]:
    rows = np.random.default_rng(3).normal(size=(ITEMS, 10)).round(3).tolist()
    return [json.dumps(row).encode() for row in rows]


APPLICATIONS = {
    "pictures": Application(
        "pictures/pictures.py",
        "pictures",
        "PyTorch",
        partial(_files, "unseen/*/*.png"),
        partial(_whole, "image"),
        lambda _: partial(_pixels, "L"),
        partial(_torch, lambda: _example("pictures/pictures.py").network(), "pictures.pt"),
        partial(_classes, "", 3),
    ),
    "scenes": Application(
        "scenes/scenes.py",
        "scenes",
        "PyTorch",
        partial(_files, "unseen/*.png"),
        partial(_whole, "image"),
        lambda _: partial(_pixels, "RGB"),
        partial(_torch, lambda: _example("scenes/scenes.py").Detector(), "scenes.pt"),
        _boxes,
    ),
    "words": Application(
        "speech/words.py",
        "words",
        "PyTorch",
        partial(_files, "unseen/*/*.wav"),
        partial(_whole, "audio"),
        _features,
        partial(_torch, lambda: _example("speech/words.py").network(), "words.pt"),
        partial(_classes, "labels.txt", 1),
    ),
    "search": Application(
        "search/search.py",
        "sentences",
        "sentence-transformers",
        lambda _: (EXAMPLES / "search" / "corpus.txt").read_bytes().splitlines(),
        partial(_whole, "text"),
        _tokens,
        None,
        _mean,
        "int8 weights",
    ),
    "tabular": Application(
        "tabular/tabular.py",
        "customers",
        "LightGBM",
        _customers,
        _row,
        lambda _: _row,
        _lightgbm,
        lambda _, outputs: {"probabilities": np.ravel(outputs[1]).tolist()},
    ),
    "recommend": Application(
        "recommend/recommend.py",
        "person",
        "PyTorch",
        _people,
        lambda body: {"input": np.array([json.loads(body)], np.float32)},
        lambda _: lambda body: {"input": np.array([json.loads(body)], np.float32)},
        partial(_torch, lambda: _example("recommend/recommend.py").tower(), "person.pt"),
        lambda _, outputs: {"output": np.ravel(outputs[0]).tolist()},
    ),
}
