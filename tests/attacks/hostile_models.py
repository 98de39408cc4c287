"""Hostile ONNX files: each field of a small model set to what it must not be, damaged bytes, models that overreach."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import onnx
import onnx.parser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADER = '<ir_version: 9, opset_import: ["" : 18, "local" : 1]>'
SEED = f"""{HEADER} seed (float[N, 4] x) => (float[N, 4] y) <float[4] w = {{1, 2, 3, 4}}> {{
  c = Constant <value = float {{2.0}}> ()
  m = Mul (x, w)
  h = local.twice (m)
  y = Mul (h, c)
}}
<domain: "local", opset_import: ["" : 18]> twice (a) => (b) {{ b = Add (a, a) }}"""
EVIL = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\r\n"
TEXTS = {"evil": EVIL, "nul": "a\0b", "long": "n" * 100_000}
NUMBERS = {"negative": -1, "largest": 2**63 - 1}
MANY_FUNCTIONS = 41


def walk(message: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every populated field of a message and of those in it: its path, the message, the descriptor."""
    for field, value in message.ListFields():
        place = f"{path}.{field.name}".lstrip(".")
        yield place, message, field
        if field.message_type is not None:
            for number, inner in enumerate(value if field.is_repeated else [value]):
                yield from walk(inner, f"{place}{number or ''}")


def changes(field: Any) -> dict[str, Any]:
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return {"bytes": b"\xff\xfe\x80"}
        return TEXTS
    if field.cpp_type == field.CPPTYPE_ENUM:
        return {"zero": 0, "last": max(field.enum_type.values_by_number)}
    if field.cpp_type in {field.CPPTYPE_INT64, field.CPPTYPE_INT32}:
        small = field.cpp_type != field.CPPTYPE_INT64
        return {name: max(-(2**31), min(2**31 - 1, value)) if small else value for name, value in NUMBERS.items()}
    if field.cpp_type in {field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE}:
        return {"nan": math.nan}
    return {}


def _seed() -> onnx.ModelProto:
    model = onnx.parser.parse_model(SEED)
    model.producer_name, model.producer_version, model.doc_string = "maker", "1", "words"
    model.metadata_props.add(key="k", value="v")
    return model


def _fields() -> Iterator[tuple[str, bytes]]:
    """The seed with one field changed, left out or doubled."""
    seen = set()
    for place, _, field in list(walk(_seed())):
        general = "".join(character for character in place if not character.isdecimal())
        if general in seen:
            continue
        seen.add(general)
        for name, value in {**changes(field), "missing": None, "doubled": None}.items():
            model = _seed()
            message = next(message for where, message, _ in walk(model) if where == place)
            repeated = field.is_repeated
            if name == "missing":
                message.ClearField(field.name)
            elif name == "doubled":
                if not repeated:
                    continue
                getattr(message, field.name).extend(list(getattr(message, field.name)))
            elif repeated:
                getattr(message, field.name)[0] = value
            else:
                setattr(message, field.name, value)
            yield f"{general}_{name}", model.SerializeToString()


def _bytes() -> Iterator[tuple[str, bytes]]:
    """Files that are no protobuf, or half of one."""
    good = _seed().SerializeToString()
    for share in range(1, 10):
        yield f"cut_at_{share}0_percent", good[: len(good) * share // 10]
    for place in range(1, len(good), len(good) // 12):
        yield f"flipped_byte_{place}", good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
    name = good.index(b"seed")
    yield "name_not_utf8", good[:name] + b"\xff\xc3\x28\x80" + good[name + 4 :]
    yield "zeros", bytes(1000)
    yield "ones", b"\xff" * 1000
    yield "twice", good + good
    yield "with_a_tail", good + b"\x08\x09" * 1000
    yield "length_beyond_the_end", b"\x08\x09\x3a\xff\xff\xff\xff\x07"
    yield "groups_100_000_deep", b"\x08\x09" + b"\x3b" * 100_000
    yield "pickle", b"\x80\x04c" + b"posix\nsystem\n"
    yield "zip", b"PK\x03\x04" + bytes(100)


def _graph(text: str) -> bytes:
    return onnx.parser.parse_model(f"{HEADER} {text}").SerializeToString()


def _texts() -> Iterator[tuple[str, bytes]]:
    """Models that are valid, or nearly, and take more than anybody has."""
    loop = (
        "g (float[N, 4] x) => (float[N, 4] y) {{ {trips} c = Constant <value = bool {{1}}> () y = Loop (n, c, x) <body "
        "= b (int64 i, bool k, float[N, 4] a) => (bool o, float[N, 4] z) {{ o = Identity (k) z = Relu (a) }}> }}"
    )
    yield "loop_2_62_trips", _graph(loop.format(trips="n = Constant <value_int = 4611686018427387904> ()"))
    yield "loop_without_a_count", _graph(loop.format(trips="").replace("(n, c, x)", "( , c, x)"))
    laughs = "g (float[N, 4] x) => (float[N, 4] y) { y = local.f40 (x) }\n"
    laughs += '<domain: "local", opset_import: ["" : 18]> f0 (a) => (b) { b = Relu (a) }\n'
    for number in range(1, MANY_FUNCTIONS):
        laughs += (
            f'<domain: "local", opset_import: ["" : 18, "local" : 1]> f{number} (a) => (b) '
            f"{{ c = local.f{number - 1} (a) b = local.f{number - 1} (c) }}\n"
        )
    yield "laughs", _graph(laughs)
    itself = '<domain: "local", opset_import: ["" : 18, "local" : 1]> f (a) => (b) { b = local.f (a) }'
    yield "function_of_itself", _graph(f"g (float[N, 4] x) => (float[N, 4] y) {{ y = local.f (x) }} {itself}")
    large = "g (float[N, 4] x) => (float[M] y) { s = Constant <value_ints = [%d]> () z = %s y = Add (z, m) }"
    reduced = "ConstantOfShape (s) m = ReduceSum <keepdims = 0> (x)"
    for size in (3_000_000_000, 2**40, 2**62, -1):
        yield f"fill_{size}", _graph(large % (size, reduced))
    yield "tile", _graph(large % (10**9, "Tile (k, s) k = Constant <value_floats = [1.0]> () m = Relu (k)"))
    yield (
        "division_of_the_smallest",
        _graph(
            "g (int64[N, 4] x) => (int64[N, 4] y) { a = Constant <value_int = -9223372036854775808> () "
            "b = Constant <value_int = -1> () c = Div (a, b) y = Add (x, c) }"
        ),
    )
    for name, shape in {
        "2_62": "4611686018427387904",
        "1e9": "1000000000",
        "33_dims": ", ".join("1" * 33),
        "9_free": ", ".join(f"d{number}" for number in range(9)),
        "zero": "0",
        "product_overflows": "4294967296, 4294967296",
    }.items():
        yield f"input_{name}", _graph(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}")
    for operator in ("ScaledTanh", "DynamicSlice", "ATen", "If", "Scan", "Loop", "SequenceAt", "Optional"):
        yield f"operator_{operator}", _graph(f"g (float[N] x) => (float[N] y) {{ y = {operator} (x) }}")
    circle = onnx.parser.parse_model(f"{HEADER} g (float[N] x) => (float[N] y) {{ z = Relu (x) y = Relu (z) }}")
    circle.graph.node[0].input[0] = "y"
    yield "nodes_in_a_circle", circle.SerializeToString()
    deep = onnx.parser.parse_model(f"{HEADER} g (float[N] x, bool c) => (float[N] y) {{ y = Relu (x) }}")
    for number in range(60):
        branch = onnx.GraphProto()
        branch.CopyFrom(deep.graph)
        del branch.input[:]
        branch.output[0].name = branch.node[0].output[0] = f"b{number}"
        node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        if len(branch.SerializeToString()) > 2_000_000:
            break
        del deep.graph.node[:]
        deep.graph.node.append(node)
    yield "if_in_if", deep.SerializeToString()
    wide = (
        "g (float[N] x) => (float[N] y) {"
        + "".join(f" a{number} = Relu (x)" for number in range(5000))
        + " y = Relu (x) }"
    )
    yield "dead_nodes_5_000", _graph(wide)


def _external() -> Iterator[tuple[str, bytes]]:
    """Weights in places where a model may not point."""
    places = {
        "absolute": {"location": "/etc/passwd"},
        "above": {"location": "../weights.bin"},
        "within_and_above": {"location": "a/../../weights.bin"},
        "windows": {"location": "C:\\weights.bin"},
        "device": {"location": "/dev/zero"},
        "folder": {"location": "."},
        "nothing": {"location": ""},
        "missing": {"location": "nowhere.bin"},
        "nul": {"location": "a\0b"},
        "evil": {"location": EVIL},
        "long": {"location": "n" * 300},
        "longer": {"location": "n/" * 3000},
        "link": {"location": "link.bin"},
        "circle": {"location": "circle.bin"},
        "fifo": {"location": "fifo.bin"},
        "hard_link": {"location": "hard.bin"},
        "offset_negative": {"location": "weights.bin", "offset": "-1"},
        "offset_beyond": {"location": "weights.bin", "offset": "10000000000000000000000"},
        "offset_words": {"location": "weights.bin", "offset": "one"},
        "length_beyond": {"location": "weights.bin", "length": "1000000000000"},
        "length_of_another_script": {"location": "weights.bin", "length": "\u0661\u0666"},
        "length_too_short": {"location": "weights.bin", "length": "3"},
    }
    for name, entries in places.items():
        model = _seed()
        tensor = model.graph.initializer[0]
        for field in ("raw_data", "float_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        yield f"external_{name}", model.SerializeToString()


def write_models(folder: Path) -> dict[str, Path]:
    """Write all of them, with what their external data points at; by name."""
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to("/etc/passwd")
    (folder / "circle.bin").symlink_to("circle.bin")
    (folder.parent / "precious.bin").write_bytes(bytes(16))
    os.link(folder.parent / "precious.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo.bin")
    found = {}
    for make in (_fields, _bytes, _texts, _external):
        for name, content in make():
            found[name] = folder / f"{len(found):03d}.onnx"
            found[name].write_bytes(content)
    return found
