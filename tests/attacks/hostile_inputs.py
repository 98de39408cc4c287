"""Hostile inputs: arrays, archives, pictures, JSON and text that are not what they seem, or overreach."""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hostile_repositories import EVIL, KINDS
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = np.linspace(-1, 1, 32 * 4, dtype=np.float32).reshape(32, 4)


def _npy(array: Any) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def _npz(arrays: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", kind) as archive:
        warnings.simplefilter("ignore")
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return written.getvalue()


def _header(text: str, version: bytes = b"\x01\x00", body: bytes = bytes(64)) -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + body


class _Runs:
    """What a pickle would run, were it loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path("PWNED").touch, ()


def _headers() -> Iterator[tuple[str, bytes]]:
    """Files of one array whose header lies."""
    shapes = {
        "negative": "(-1, 4)", "huge": f"({2**62}, 4)", "overflow": f"({2**33}, {2**33})", "large": "(3000000000, 4)",
        "text": "('a',)", "nothing": "None", "nested": "((1,),)", "float": "(1.5,)", "true": "(True, 4)",
        "many": f"({'1, ' * 40})",
    }  # fmt: skip
    for name, shape in shapes.items():
        yield f"shape_{name}", _header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n")
    for name, kind in {"object": "|O", "evil": EVIL, "structure": "<f4,<f4", "long": f"<U{2**31}", "none": ""}.items():
        yield f"type_{name}", _header(f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': (1, 4)}}\n")
    yield "call", _header("__import__('pathlib').Path('PWNED').touch()\n")
    yield "deep", _header("(" * 60_000)
    yield "keys", _header("{'descr': '<f4', 'shape': (1, 4)}\n")
    yield "version_9", _header("{}\n", b"\x09\x09")
    yield "header_beyond_the_end", b"\x93NUMPY\x01\x00\xff\xff{"
    yield "magic_alone", b"\x93NUMPY"
    yield "cut", _npy(GOOD)[:-7]
    yield "tail", _npy(GOOD) + b"more"
    yield "pickle", _npy(np.array([_Runs()], dtype=object))
    yield "pickle_alone", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch PWNED\x85R."


def _arrays() -> Iterator[tuple[str, bytes]]:
    """Arrays that are no rows of the model's."""
    values = {
        "nan": np.full((32, 4), np.nan, np.float32), "infinite": np.full((32, 4), np.inf, np.float32),
        "largest": np.full((32, 4), 3e38, np.float32), "beyond": np.full((32, 4), 1e300), "empty": GOOD[:0],
        "no_columns": GOOD[:, :0], "one_number": np.float32(1), "flat": GOOD[0], "wide": np.ones((32, 5), np.float32),
        "many_dimensions": np.ones((1,) * 32, np.float32), "text": np.array([["a"] * 4] * 32),
        "bytes": np.array([[b"\xff"] * 4]),
        "complex": GOOD * 1j, "time": np.zeros((32, 4), "M8[s]"), "bool": GOOD > 0, "void": np.zeros((32, 4), "V3"),
        "big_endian": GOOD.astype(">f4"), "fortran": np.asfortranarray(GOOD), "half": GOOD.astype(np.float16),
        "large_integers": np.full((32, 4), 2**62), "one_row": GOOD[:1],
    }  # fmt: skip
    for name, array in values.items():
        yield name, _npy(array)


def _archives() -> Iterator[tuple[str, bytes]]:
    good = _npy(GOOD)
    for name, content in [*_headers(), *_arrays()]:
        yield name, _npz({"x": content})
    names = {
        "evil": EVIL,
        "above": "../../x",
        "absolute": "/x",
        "nul": "x\0y",
        "long": "n" * 60_000,
        "other": "z",
    }
    for name, word in {**names, "": ""}.items():
        yield f"name_{name}", _npz({word: good})
    yield "two", _npz({"x": good, "z": good})
    yield "nothing", _npz({})
    yield "labels_more", _npz({"x": good, "labels": _npy(np.arange(33))})
    yield "labels_negative", _npz({"x": good, "labels": _npy(np.full(32, -1))})
    yield "labels_beyond", _npz({"x": good, "labels": _npy(np.full(32, 2**62))})
    yield "labels_text", _npz({"x": good, "labels": _npy(np.array([EVIL] * 32))})
    yield "labels_pickle", _npz({"x": good, "labels": _npy(np.array([_Runs()] * 32, dtype=object))})
    bomb = _header("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000, 4)}\n", body=bytes(2**27))
    yield "bomb", _npz({"x": bomb}, zipfile.ZIP_DEFLATED)
    stored = _npz({"x": good})
    yield "cut_archive", stored[: len(stored) // 2]
    yield "cut_directory", stored[:-10]
    yield "no_archive", b"PK\x03\x04" + bytes(100)
    yield "text_alone", b"hello"
    yield "empty_file", b""
    yield "member_longer_than_the_archive", stored.replace(struct.pack("<I", len(good)), struct.pack("<I", 2**31))
    yield "sum_wrong", stored.replace(good[-8:], bytes(8))
    yield (
        "encrypted",
        stored.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        ),
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, *more: bytes) -> bytes:
    begin = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return begin + b"".join(more) + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def _pictures() -> Iterator[tuple[str, bytes]]:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(PWNED) (w) file\n"
    yield "postscript.png", postscript
    yield "postscript.jpg", postscript
    yield "bomb.png", _png(65_500, 65_500)
    yield "line.png", _png(10_000_000, 1)
    yield "column.png", _png(1, 1_000_000)
    yield "zero.png", _png(0, 0)
    yield "no_end.png", _png(8, 8)[:40]
    yield "text_bomb.png", _png(8, 8, _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26))))
    yield "profile.png", _png(8, 8, _chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\xff" * 1000)))
    yield "vector.png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "empty.png", b""
    yield "words.jpeg", b"\xff\xd8\xff" + bytes(100)
    yield "strip.tiff", b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(200)
    yield "loop.tiff", b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00"
    for ending in ("bmp", "gif", "webp"):
        written = io.BytesIO()
        Image.new("RGB", (8, 8)).save(written, ending)
        yield f"cut.{ending}", written.getvalue()[:30]


def _texts() -> Iterator[tuple[str, bytes]]:
    yield "deep.json", b"[" * 100_000
    yield "nan.json", b"[[NaN, Infinity, -Infinity, 1]]"
    yield "digits.json", b"[[" + b"9" * 100_000 + b"]]"
    yield "ragged.json", b"[[1, 2], [3]]"
    yield "not_utf8.json", b'["\xff"]'
    yield "surrogate.json", b'["\\ud800"]'
    yield "twice.json", b'{"x": 1, "x": 2}'
    yield "other.json", json.dumps({EVIL: [1]}).encode()
    yield "null.json", b"null"
    yield "mixed.json", b'[[1, "a", null, {}]]'
    yield "cut.json", b'{"x": ['
    yield "words.txt", b"\xff\xfe\x00" + b"a" * 1000
    yield "evil.txt", EVIL.encode()
    yield "table.csv", b"x,y\n1,=1+1\n"


def write_inputs(folder: Path) -> dict[str, Path]:
    """Write all of them, arrays and pictures also into a folder of their own each; by name."""
    folder.mkdir(parents=True)
    found = {}
    contents = [*((f"array_{name}.npy", content) for name, content in [*_headers(), *_arrays()])]
    contents += [(f"archive_{name}.npz", content) for name, content in _archives()]
    contents += [*_pictures(), *_texts()]
    assert len(dict(contents)) == len(contents)
    for name, content in contents:
        found[name] = folder / f"{len(found):03d}{Path(name).suffix}"
        found[name].write_bytes(content)
    for make, ending in itertools.product(KINDS, ("npz", "npy", "png", "json", "txt", "toml")):
        if make.__name__ != "_secret":
            name = f"file{make.__name__}.{ending}"
            found[name] = folder / name
            make(found[name])
    for name, inside in list(found.items()):
        if inside.suffix in {".npy", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tiff"} and inside.is_file():
            found[f"folder {name}"] = folder / inside.stem
            found[f"folder {name}"].mkdir(exist_ok=True)
            os.link(inside, found[f"folder {name}"] / inside.name)
    return found
