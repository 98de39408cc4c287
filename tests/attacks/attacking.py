"""Many command lines in one process: what each ends with, without starting Python and its engines for each.

`attack` starts this file as a program, which imports what the commands import and then calls the entry point of
`plansmith` for each command line. What loads a file forks by itself, so that one that ends its process ends no
other.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Colours and cursor movements are rich's own on a terminal; here nothing is one.
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Long enough for a busy machine: only what hangs takes longer.
SECONDS = 180


def attack(commands: dict[str, list[str]], folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Run command lines one after the other in a folder.

    Returns:
        The exit code of each, and what is wrong with each that was not held: a wrong exit code, a hang, an unexpected
        exception, a control character in what it prints, several errors at once.
    """
    temporary = folder.with_name("temporary")
    for place in (folder, temporary):
        place.mkdir(exist_ok=True)
    asked = json.dumps(list(commands.values()))
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, __file__], cwd=folder, input=asked, capture_output=True, text=True, check=True, env=environment
    )
    ended = dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))
    codes = {name: code for name, (code, _) in ended.items()}
    return codes, {name: fault for name, (code, said) in ended.items() if (fault := _fault(code, said))}


def _fault(code: int, said: str) -> str:
    if code not in {0, 1, 2, 3}:
        return f"ended with {code}: {said[-300:]}"
    if "Traceback" in said or "fault of plansmith" in said:
        return f"an unexpected exception: {said[-300:]}"
    if code and len(re.findall("^Error: ", said, re.MULTILINE)) > 1:
        return f"more than one error: {said[-300:]}"
    if found := CONTROLS.search(said):
        return f"{found[0]!r} on the terminal: {said[max(0, found.start() - 50) : found.end() + 50]!r}"
    return f"says {len(said)} characters" if len(said) > 20_000 else ""


def _run(words: list[str]) -> tuple[int, str]:
    from plansmith_client.cli import main  # noqa: PLC0415

    with tempfile.TemporaryFile() as output:
        places = [os.dup(descriptor) for descriptor in (1, 2)]
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        signal.alarm(SECONDS)
        try:
            main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        finally:
            signal.alarm(0)
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, place in zip((1, 2), places, strict=True):
                os.dup2(place, descriptor)
                os.close(place)
        output.seek(0)
        return code, output.read().decode(errors="backslashreplace")


def _late(*_: object) -> None:
    raise TimeoutError(f"not ended after {SECONDS} s")


def _program() -> None:
    # Each process that loads a file would import them for itself, which takes longer than most files.
    import onnxslim  # noqa: PLC0415, F401
    import sympy  # noqa: PLC0415, F401

    import plansmith_build.building  # noqa: PLC0415
    import plansmith_build.commands.build  # noqa: PLC0415
    import plansmith_build.commands.inspect  # noqa: PLC0415
    import plansmith_build.commands.verify  # noqa: PLC0415
    import plansmith_build.trial  # noqa: PLC0415, F401
    import plansmith_perf.commands.bench_report  # noqa: PLC0415, F401

    signal.signal(signal.SIGALRM, _late)
    for words in json.load(sys.stdin):
        print(json.dumps(_run(words)), flush=True)


if __name__ == "__main__":
    _program()
