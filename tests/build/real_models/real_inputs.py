"""What the models are made for: pages and lines of text, sounds, files, sentences, each as its package prepares it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_WORDS = ("the", "server", "answers", "each", "row", "as", "if", "it", "were", "alone", "a", "batch", "of", "many")
_RATE = 22050


def page(height: int, width: int, seed: int) -> np.ndarray:
    """A page with lines of words, as the detectors take it: FP32 [1, 3, height, width]."""
    rng = np.random.default_rng(seed)
    size = max(9, height // 12)
    image = Image.new("RGB", (width, height), (250, 248, 245))
    draw = ImageDraw.Draw(image)
    for top in range(size // 2, height - size, int(size * 1.8)):
        draw.text((rng.integers(2, 10), top), " ".join(rng.choice(_WORDS, 12)), (10, 10, 30), _font(size))
    pixels = np.asarray(image, np.float32) / 255
    normal = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return normal.transpose(2, 0, 1)[np.newaxis].astype(np.float32)


def line(width: int, seed: int, *, height: int = 48, upside_down: bool = False) -> np.ndarray:
    """A line of words, as the recogniser and the classifier take it: FP32 [1, 3, height, width]."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (255, 255, 255))
    text = " ".join(rng.choice(_WORDS, 1 + width // 80))
    ImageDraw.Draw(image).text((4, height // 6), text, (0, 0, 0), _font(height // 2))
    pixels = np.asarray(image.rotate(180) if upside_down else image, np.float32)
    return (pixels.transpose(2, 0, 1)[np.newaxis] / 127.5 - 1).astype(np.float32)


def speech(rows: int, samples: int, rate: int, seed: int) -> dict[str, np.ndarray]:
    """Voiced sound with a fresh state, as Silero takes it: FP32 [rows, samples] beside the rate."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    pitch = rng.uniform(90, 220, (rows, 1))
    harmonics = sum(np.sin(2 * np.pi * pitch * number * time) / number for number in range(1, 12))
    sound = 0.1 * harmonics + 0.003 * rng.standard_normal((rows, samples))
    return {
        "input": sound.astype(np.float32),
        "state": np.zeros((2, rows, 128), np.float32),
        "sr": np.asarray(rate, np.int64),
    }


def notes(rows: int, seed: int) -> np.ndarray:
    """Two seconds of chords, as basic-pitch takes them: FP32 [rows, 43844, 1]."""
    rng = np.random.default_rng(seed)
    time = np.arange(43844) / _RATE
    keys, starts = rng.integers(48, 84, (3, rows, 1)), rng.uniform(0, 1, (3, rows, 1))
    tones = np.sin(2 * np.pi * 440 * 2 ** ((keys - 69) / 12) * time)
    sound = np.sum(np.where(time > starts, np.exp(starts - time), 0) * tones, axis=0)
    return (0.2 * sound).astype(np.float32)[..., np.newaxis]


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


def sentences(rows: int, tokens: int, seed: int) -> dict[str, np.ndarray]:
    """Token numbers between [CLS] and [SEP], the last of each row padded, as BERT takes them: INT64 [rows, tokens]."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1996, 12000, (rows, tokens))
    ids[:, 0] = 101
    ends = rng.integers(max(2, tokens // 2), tokens, rows)
    positions = np.arange(tokens)
    ids[positions == ends[:, np.newaxis]] = 102
    mask = positions <= ends[:, np.newaxis]
    return {"input_ids": np.where(mask, ids, 0).astype(np.int64), "attention_mask": mask.astype(np.int64)}


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@cache
def _files() -> list[Path]:
    folder = Path(np.__file__).parent
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 64)[::7]
