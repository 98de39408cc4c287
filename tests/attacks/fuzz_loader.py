"""`python fuzz_loader.py RUNS [SEED]`: random changes to ONNX files, which are loaded and described in this process.

Half of the changes are to bytes, which mostly leave no protobuf, half to fields of the messages.

Ends with 1 and the file's bytes in hexadecimal at the first exception that is not plansmith's own.
"""

from __future__ import annotations

import copy
import random
import sys
import tempfile
import time
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from hostile_models import changes, walk, write_models

from plansmith_build.errors import BuildError
from plansmith_build.portable.repair import listed_weights
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.signatures import signature_of

__all__ = ["mutated"]

# Larger seeds are slow to check, and say nothing that small ones do not.
LARGEST_SEED = 5000


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, left out, doubled or put in."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                del changed[place : place + chance.randint(1, 16)]
            case 2:
                changed[place:place] = changed[place : place + chance.randint(1, 64)]
            case 3:
                changed[place:place] = chance.randbytes(chance.randint(1, 8))
            case _:
                changed[place : place + 1] = chance.choice([b"\x00", b"\xff", b"\x7f", b"\x80\x80\x80\x80\x08"])
    return bytes(changed)


def _altered(content: bytes, chance: random.Random) -> bytes:
    """The model with some fields set to odd values, to values of other fields of the type, left out or doubled."""
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        return mutated(content, chance)
    for _ in range(chance.randint(1, 4)):
        if not (places := list(walk(model))):
            break
        _, message, field = chance.choice(places)
        values = getattr(message, field.name)
        _, other, alike = chance.choice([place for place in places if place[2].cpp_type == field.cpp_type])
        taken = getattr(other, alike.name)
        value = chance.choice([*changes(field).values(), chance.choice(taken) if alike.is_repeated else taken])
        try:
            match chance.randrange(6):
                case 0:
                    message.ClearField(field.name)
                case 1 if field.is_repeated:
                    values.append(chance.choice(values))
                case 2 if field.is_repeated:
                    del values[chance.randrange(len(values))]
                case _ if field.message_type is not None:
                    # A copy of it: a message that is copied into itself has no end, and ends the process.
                    (chance.choice(values) if field.is_repeated else values).CopyFrom(copy.deepcopy(value))
                case _ if field.is_repeated:
                    values[chance.randrange(len(values))] = value
                case _:
                    setattr(message, field.name, value)
        except (TypeError, ValueError):
            # The other field is of another message, a number too large for this one, bytes for a string.
            continue
    return model.SerializeToString()


def _main(runs: int, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        seeds = [path.read_bytes() for path in write_models(Path(folder, "models")).values()]
        seeds = [content for content in seeds if len(content) < LARGEST_SEED]
        path = Path(folder, "models", "fuzzed.onnx")
        for run in range(runs):
            content = chance.choice([mutated, _altered])(chance.choice(seeds), chance)
            path.write_bytes(content)
            try:
                model = load_onnx(path).network.model
                signature_of(model, weights=listed_weights(model))
            except BuildError:
                pass
            except BaseException:
                print(f"seed {seed}, run {run}: {content.hex()}", file=sys.stderr)
                raise


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
