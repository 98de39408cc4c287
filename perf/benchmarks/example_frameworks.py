# mypy: disable-error-code="import-not-found, no-untyped-call"
"""The frameworks of the examples, as their own documentation has them answer: weights from the example's folder."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from example_answers import answer_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from example_answers import Answer, Arrays

__all__ = [
    "EXAMPLES",
    "compute_with_lightgbm",
    "compute_with_torch",
    "example",
    "read_with_rapidocr",
    "tell_moods",
    "tell_voices",
    "tell_with_svm",
    "vectors_of_sentences",
]

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Any:
    """The module of a program in examples/."""
    path = EXAMPLES / name
    sys.path.insert(0, str(path.parent))
    return __import__(path.stem)


def _network(module: Callable[[], Any], weights: Path) -> Any:
    import torch  # noqa: PLC0415 - only for the framework's own contestant

    network = module()
    network.load_state_dict(torch.load(weights, weights_only=True))
    # Callers share the cores: a thread for each call.
    torch.set_num_threads(1)
    return network.eval()


def compute_with_torch(module: Callable[[], Any], weights: str, folder: Path) -> Callable[[Arrays], list[Any]]:
    """With the weights that the example has saved in a file of its folder."""
    import torch  # noqa: PLC0415 - the same

    network = _network(module, folder / weights)

    def compute(arrays: Arrays) -> list[Any]:
        with torch.inference_mode():
            return [network(torch.from_numpy(next(iter(arrays.values())))).numpy()]

    return compute


def compute_with_lightgbm(folder: Path) -> Callable[[Arrays], list[Any]]:
    """With the trees that the example has saved; columns are those of its graph."""
    import lightgbm  # noqa: PLC0415 - only for the framework's own contestant

    booster = lightgbm.Booster(model_file=folder / "customers.txt")
    codes = example("tabular/tabular.py").codes

    def compute(arrays: Arrays) -> list[Any]:
        likely: Any = booster.predict(np.hstack([arrays["numbers"], codes(arrays["city"])]), num_threads=1)
        return [None, np.stack([1 - likely, likely], axis=1)]

    return compute


def tell_voices(folder: Path) -> Answer:
    """The network of Silero in TorchScript, out of its wheel in the folder."""
    import torch  # noqa: PLC0415 - as above

    (wheel,) = folder.glob("silero_vad-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        # What it holds for 16,000 samples a second; the whole remembers one stream, this one none.
        network = torch.jit.load(io.BytesIO(archive.read("silero_vad/data/silero_vad.jit")))._model  # noqa: SLF001
    torch.set_num_threads(1)

    def compute(chunk: np.ndarray[Any, Any], state: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            probable, after = network(torch.from_numpy(chunk.copy()), state)
        return probable.numpy(), after

    return answer_streams(compute, torch.zeros(0))


def read_with_rapidocr(_: Path) -> Answer:
    """The package that the models of the example come from."""
    from rapidocr_onnxruntime import RapidOCR  # noqa: PLC0415 - only for the framework's own contestant

    read = RapidOCR()

    def answer(body: bytes, _: Mapping[str, str]) -> dict[str, Any]:
        lines, _seconds = read(body)
        return {"label": [text for _box, text, _score in lines or []]}

    return answer


def tell_with_svm(folder: Path) -> Answer:
    """The network of features.py in PyTorch, and scikit-learn's classifier, which learns again what it has learnt."""
    import torch  # noqa: PLC0415 - as above

    features, pictures = example("pictures/features.py"), example("pictures/pictures.py")
    eyes = _network(lambda: pictures.network()[:-1], folder / "eyes.pt")
    head, _ = features.HEADS["svm"]
    words = (folder / "labels.txt").read_text().split()
    few = features.few_of(sorted((folder / "learn").glob("*/*.png")))

    def seen(pixels: np.ndarray[Any, Any]) -> Any:
        with torch.inference_mode():
            return eyes(torch.from_numpy(pixels)).numpy()

    head.fit(seen(features.pixels_of(few)), features.digits_of(few))

    def answer(body: bytes, _: Mapping[str, str]) -> dict[str, Any]:
        return {"label": [words[head.predict(seen(features.pixels_of([io.BytesIO(body)])))[0]]]}

    return answer


def _sentences(folder: Path) -> Callable[[Sequence[str]], Any]:
    import torch  # noqa: PLC0415 - as above
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - the same

    torch.set_num_threads(1)
    model = SentenceTransformer(str(folder / "minilm"), device="cpu")
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def vectors_of_sentences(folder: Path) -> Answer:
    """sentence-transformers."""
    encode = _sentences(folder)
    return lambda body, _: {"embedding": encode([body.decode()])[0].tolist()}


def tell_moods(folder: Path) -> Answer:
    """sentence-transformers, and scikit-learn's classifier, which learns from its vectors."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as above

    sentiment, encode = example("search/sentiment.py"), _sentences(folder)
    texts, moods = sentiment.made(sentiment.LEARN, sentiment.PHRASES)
    head = LogisticRegression(C=10).fit(encode(texts), moods)
    return lambda body, _: {"label": [sentiment.MOODS[head.predict(encode([body.decode()]))[0]]]}
