"""The examples as applications: what callers send, and what answers it behind FastAPI.

Each is a row of `APPLICATIONS`. `applications.py` asks plansmith with them; `peers/programs/fastapi_example.py` serves
them in FastAPI, by the framework and by plansmith's engines. What an example's folder holds was made by the example.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from example_answers import answer_by_hand, answer_streams, answer_with_all_steps, compute_with_engine
from example_frameworks import (
    EXAMPLES,
    compute_with_lightgbm,
    compute_with_torch,
    example,
    read_with_rapidocr,
    tell_moods,
    tell_voices,
    tell_with_svm,
    vectors_of_sentences,
)
from wheel_files import take_minilm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from example_answers import Answer, Arrays, ServedStep

__all__ = ["APPLICATIONS", "Application"]

ITEMS = 100


@dataclass(frozen=True, kw_only=True)
class Application:
    """One example.

    Attributes:
        program: below examples/, makes everything.
        model: what plansmith serves.
        framework: by name.
        bodies: what callers send, from the folder.
        request: a body as the inputs of `model`.
        by_framework: from the folder what answers a body with its headers: JSON, with plansmith's names of outputs.
        by_engines: the same from the folder and the steps that plansmith serves.
        precision: of the example's own file.
        environments: of `peers/requirements`, whose packages the framework needs beside this environment's.
        fetch: puts into the folder what the framework needs and the example has not.
        is_stream: whether bodies belong together, one after the other: each connection is a stream.
    """

    program: str
    model: str
    framework: str
    bodies: Callable[[Path], list[bytes]]
    request: Callable[[bytes], Arrays]
    by_framework: Callable[[Path], Answer]
    by_engines: Callable[[Path, Sequence[ServedStep]], Answer]
    precision: str = "fp32"
    environments: tuple[str, ...] = ()
    fetch: Callable[[Path], None] | None = None
    is_stream: bool = False


def _files(pattern: str, folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob(pattern))[:ITEMS]]


def _whole(name: str, body: bytes) -> Arrays:
    return {name: np.array([[body]], object)}


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
    step = BoxesStep(labels=names, min_score=0.3, max_overlap=0.45, max_boxes=100)
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
    numbers, cities, _ = example("tabular/tabular.py").customers(ITEMS, seed=2)
    rows = zip(numbers.tolist(), cities[:, 0].tolist(), strict=True)
    return [json.dumps({"numbers": row, "city": city}).encode() for row, city in rows]


def _people(_: Path) -> list[bytes]:
    rows = np.random.default_rng(3).normal(size=(ITEMS, 10)).round(3).tolist()
    return [json.dumps(row).encode() for row in rows]


def _chunks(folder: Path) -> list[bytes]:
    chunks = example("speech/speech.py").chunks_of(folder, 0, quick=True)
    return [chunk.tobytes() for chunk in chunks[:ITEMS]]


def _pages(folder: Path) -> list[bytes]:
    there = [folder / f"{name}.png" for name in example("pages/pages.py").PAGES]
    return [path.read_bytes() for path in there if path.exists()]


def _voice(_: Path, steps: Sequence[ServedStep]) -> Answer:
    (engine,) = steps

    def compute(chunk: np.ndarray[Any, Any], state: Arrays) -> tuple[Any, Arrays]:
        made = engine.run({"input": chunk, **state})
        return made["output"], {name: made[output] for name, output in engine.states.items()}

    return answer_streams(compute, {"state": np.zeros((1, 2, 128), np.float32)})


def _praise_and_blame(_: Path) -> list[bytes]:
    sentiment = example("search/sentiment.py")
    return [text.encode() for text in sentiment.made(sentiment.UNSEEN, sentiment.PHRASES)[0][:ITEMS]]


def _framework(
    prepare: Callable[[Path], Callable[[bytes], Arrays]],
    compute: Callable[[Path], Callable[[Arrays], list[Any]]],
    answer: Callable[[Path, list[Any]], dict[str, Any]],
) -> Callable[[Path], Answer]:
    return lambda folder: answer_by_hand(prepare(folder), compute(folder), partial(answer, folder))


def _engine(
    prepare: Callable[[Path], Callable[[bytes], Arrays]], answer: Callable[[Path, list[Any]], dict[str, Any]]
) -> Callable[[Path, Sequence[ServedStep]], Answer]:
    return lambda folder, steps: answer_by_hand(prepare(folder), compute_with_engine(steps), partial(answer, folder))


def _all_steps(first: str) -> Callable[[Path, Sequence[ServedStep]], Answer]:
    return lambda _, steps: answer_with_all_steps(first, steps)


def _person(body: bytes) -> Arrays:
    return {"input": np.array([json.loads(body)], np.float32)}


def _grey(_: Path) -> Callable[[bytes], Arrays]:
    return partial(_pixels, "L")


def _coloured(_: Path) -> Callable[[bytes], Arrays]:
    return partial(_pixels, "RGB")


def _likely(_: Path, outputs: list[Any]) -> dict[str, Any]:
    return {"probabilities": np.ravel(outputs[1]).tolist()}


def _vector(_: Path, outputs: list[Any]) -> dict[str, Any]:
    return {"output": np.ravel(outputs[0]).tolist()}


_digits = partial(_classes, "", 3)
_words = partial(_classes, "labels.txt", 1)

APPLICATIONS = {
    "pictures": Application(
        program="pictures/pictures.py",
        model="pictures",
        framework="PyTorch",
        bodies=partial(_files, "unseen/*/*.png"),
        request=partial(_whole, "image"),
        by_framework=_framework(
            _grey,
            partial(compute_with_torch, lambda: example("pictures/pictures.py").network(), "pictures.pt"),
            _digits,
        ),
        by_engines=_engine(_grey, _digits),
    ),
    "features": Application(
        program="pictures/features.py",
        model="svm",
        framework="PyTorch and scikit-learn",
        bodies=partial(_files, "unseen/[5-9]/*.png"),
        request=partial(_whole, "image"),
        by_framework=tell_with_svm,
        by_engines=_all_steps("image"),
    ),
    "scenes": Application(
        program="scenes/scenes.py",
        model="scenes",
        framework="PyTorch",
        bodies=partial(_files, "unseen/*.png"),
        request=partial(_whole, "image"),
        by_framework=_framework(
            _coloured, partial(compute_with_torch, lambda: example("scenes/scenes.py").Detector(), "scenes.pt"), _boxes
        ),
        by_engines=_engine(_coloured, _boxes),
    ),
    "pages": Application(
        program="pages/pages.py",
        model="pages",
        framework="RapidOCR",
        bodies=_pages,
        request=partial(_whole, "image"),
        by_framework=read_with_rapidocr,
        by_engines=_all_steps("image"),
        environments=("rapidocr",),
    ),
    "words": Application(
        program="speech/words.py",
        model="words",
        framework="PyTorch",
        bodies=partial(_files, "unseen/*/*.wav"),
        request=partial(_whole, "audio"),
        by_framework=_framework(
            _features, partial(compute_with_torch, lambda: example("speech/words.py").network(), "words.pt"), _words
        ),
        by_engines=_engine(_features, _words),
    ),
    "speech": Application(
        program="speech/speech.py",
        model="voice",
        framework="PyTorch",
        bodies=_chunks,
        request=lambda body: {"input": np.frombuffer(body, np.float32)[np.newaxis]},
        by_framework=tell_voices,
        by_engines=_voice,
        is_stream=True,
    ),
    "search": Application(
        program="search/search.py",
        model="sentences",
        framework="sentence-transformers",
        bodies=lambda _: (EXAMPLES / "search" / "corpus.txt").read_bytes().splitlines(),
        request=partial(_whole, "text"),
        by_framework=vectors_of_sentences,
        by_engines=_engine(_tokens, _mean),
        precision="int8 weights",
        environments=("sentence-transformers",),
        fetch=take_minilm,
    ),
    "sentiment": Application(
        program="search/sentiment.py",
        model="sentiment",
        framework="sentence-transformers and scikit-learn",
        bodies=_praise_and_blame,
        request=partial(_whole, "text"),
        by_framework=tell_moods,
        by_engines=_all_steps("text"),
        precision="int8 weights",
        environments=("sentence-transformers",),
        fetch=take_minilm,
    ),
    "tabular": Application(
        program="tabular/tabular.py",
        model="customers",
        framework="LightGBM",
        bodies=_customers,
        request=_row,
        by_framework=_framework(lambda _: _row, compute_with_lightgbm, _likely),
        by_engines=_engine(lambda _: _row, _likely),
    ),
    "recommend": Application(
        program="recommend/recommend.py",
        model="person",
        framework="PyTorch",
        bodies=_people,
        request=_person,
        by_framework=_framework(
            lambda _: _person,
            partial(compute_with_torch, lambda: example("recommend/recommend.py").tower(), "person.pt"),
            _vector,
        ),
        by_engines=_engine(lambda _: _person, _vector),
    ),
}
