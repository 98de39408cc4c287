"""Write the blocking faces of the client from the asynchronous ones: run it after a change to one of these.

The asynchronous source is the only one that is edited. Names, keywords and examples follow from RULES, sentences that
hold for one kind alone from SENTENCES. `--check` writes nothing and fails where a committed file is another.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

FACES = Path(__file__).parent / "src" / "plansmith_client" / "faces"
SOURCES = {
    "async_client.py": "client.py",
    "async_model.py": "model.py",
    "async_sequences.py": "sequences.py",
    "async_streaming.py": "streaming.py",
}

RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"AsyncDriver", "SyncDriver"),
        (r"AsyncIterable\[Any\] \| ", ""),
        (r"\bAsync([A-Z]\w+)", r"\1"),
        (r"\bAwaitable\[(\w+)\]", r"\1"),
        (r"\b(open_)?async_(client|model|sequences|streaming|transport)\b", r"\1\2"),
        (r"\basync (def|for|with)\b", r"\1"),
        # What was in parentheses only to be awaited before its attribute or its item is taken.
        (r"\(await (.+)\)(?=[.\[])", r"\1"),
        (r"\bawait ", ""),
        (r"\b__a(enter|exit)__\b", r"__\1__"),
        (r"\baclose\b", "close"),
    )
]

SENTENCES = (
    ("token: str | Callable[[], str | Awaitable[str]] | None", "token: str | Callable[[], str] | None"),
    (
        """\
        token: a bearer token, or a function, `async` or not, that gives one for each call; by default that of the
            environment variable PLANSMITH_TOKEN, or of the file that PLANSMITH_TOKEN_FILE names.
""",
        """\
        token: a bearer token, or a function that gives one for each call; by default that of the environment variable
            PLANSMITH_TOKEN, or of the file that PLANSMITH_TOKEN_FILE names.
""",
    ),
    ("from asyncio import Future", "from concurrent.futures import Future"),
    (
        "Begin to run the model, and go on: the task, which is awaited for the result and has `cancel()`.",
        "Begin to run the model, and go on: a future that has `result()` and `cancel()`, which ends the request.",
    ),
    ("(await pending).array", "pending.result().array"),
    (
        """\
    For the tasks of an event loop, of one loop at a time: in another one the client opens connections of its own.
    Nothing is connected before the first call; `await close()`, or leaving the `async with` block, ends it. Proxies
    named in the environment are not used. Every method that asks a server takes `timeout`: seconds that the call may
    take in total; the client's by default.
""",
        """\
    Safe to use from many threads at once, and in the child of a fork, which gets connections of its own; over gRPC only
    where no other thread is in a call at the moment of the fork, which gRPC itself does not support. Nothing is
    connected before the first call; `close()`, or leaving the `with` block, ends it. Proxies named in the environment
    are not used. Every method that asks a server takes `timeout`: seconds that the call may take in total; the client's
    by default.
""",
    ),
    ("The client for an event loop.", "The client for code that blocks."),
    (", for an event loop.", "."),
    ("await it with arrays.", "call it with arrays."),
    ("; for the tasks of one event loop.", "; safe to use from many threads at once."),
    ("; for one task at a time.", "; for one thread at a time."),
    ("outputs, to be awaited.", "outputs."),
    (
        """\
        Closing the iterator with `aclose()` cancels the request. Each call has a stream of its own, so that any number
        can be in flight at once. Over HTTP it is Triton's generate extension (`generate_stream`), whose JSON has no
        shapes, FP16 or BF16: of an input's free dimensions, all but the last must be 1.
""",
        """\
        Closing the iterator, or leaving the loop and dropping it, cancels the request. Each call has a stream of its
        own, so that any number can be in flight at once. Over HTTP it is Triton's generate extension
        (`generate_stream`), whose JSON has no shapes, FP16 or BF16: of an input's free dimensions, all but the last
        must be 1.
""",
    ),
    (
        """\
            source: an array [items, ...], arrays by name, or anything that can be iterated, asynchronously too: each
                item an array without the batch dimension, a tuple of them in the order of the inputs, or a mapping by
                name. A data frame has a column for each input, or the features of the only one. Of a model that does
                not batch, each item is a whole request.
""",
        """\
            source: an array [items, ...], arrays by name, or anything that can be iterated: each item an array without
                the batch dimension, a tuple of them in the order of the inputs, or a mapping by name. A data frame has
                a column for each input, or the features of the only one. Of a model that does not batch, each item is a
                whole request.
""",
    ),
    ("many tasks", "many threads"),
)


def main() -> int:
    """Write the files, or check them; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not up to date")
    check = parser.parse_args().check
    sources = {name: (FACES / name).read_text(encoding="utf-8") for name in SOURCES}
    unused = [sentence for sentence, _ in SENTENCES if not any(sentence in source for source in sources.values())]
    if unused:
        sys.stderr.write(f"no source has this sentence any more: change it in SENTENCES too\n{unused[0]}\n")
        return 1
    stale = []
    for name, target in SOURCES.items():
        path = FACES / target
        written = blocking(sources[name], name, path)
        if path.exists() and path.read_text(encoding="utf-8") == written:
            continue
        stale.append(target)
        if not check:
            path.write_text(written, encoding="utf-8")
    if check and stale:
        sys.stderr.write(f"not what client/unasync.py writes: {', '.join(stale)}; run `make unasync`\n")
    return int(check and bool(stale))


def blocking(source: str, name: str, target: Path) -> str:
    """The blocking counterpart of an asynchronous module.

    Args:
        source: the text of the module.
        name: the name of its file.
        target: the file that the result is for, whose place decides on the formatter's settings.
    """
    for sentence, other in SENTENCES:
        source = source.replace(sentence, other)
    for pattern, replacement in RULES:
        source = pattern.sub(replacement, source)
    source = f"# Written by client/unasync.py from {name}: edit that file, and run `make unasync`.\n{source}"
    # Sorted again, and without what only the asynchronous module imports.
    source = _ruff(source, target, "check", "--select", "F401,I001", "--fix", "--quiet")
    return _ruff(source, target, "format", "--quiet")


def _ruff(source: str, target: Path, *words: str) -> str:
    command = [sys.executable, "-m", "ruff", *words, "--stdin-filename", str(target), "-"]
    return subprocess.run(command, input=source, capture_output=True, encoding="utf-8", check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
