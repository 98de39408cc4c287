"""The blocking faces of the client are written from the asynchronous ones by client/unasync.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FACES = Path("client", "src", "plansmith_client", "faces")


def unasync(root, *words):
    return subprocess.run(
        [sys.executable, root / "client" / "unasync.py", *words], capture_output=True, text=True, check=False
    )


def test_the_committed_faces_are_what_the_generator_writes():
    done = unasync(ROOT, "--check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the generator reads and writes."""
    shutil.copytree(ROOT / FACES, tmp_path / FACES, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("client/unasync.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_change_of_an_asynchronous_face_is_carried_over(checkout):
    source, target = checkout / FACES / "async_model.py", checkout / FACES / "model.py"
    before = target.read_text()
    method = "    async def again(self) -> list[Any]:\n        return [part async for part in await self.twice()]\n\n"
    place = "    def __repr__"
    source.write_text(source.read_text().replace(place, method + place))

    stale = unasync(checkout, "--check")
    assert (stale.returncode, target.read_text()) == (1, before)
    assert "model.py" in stale.stderr
    assert "make unasync" in stale.stderr

    assert unasync(checkout).returncode == 0
    written = method.replace("async ", "").replace("await ", "")
    assert target.read_text() == before.replace(place, written + place)
    assert unasync(checkout, "--check").returncode == 0


def test_a_sentence_of_one_kind_that_was_reworded_is_not_forgotten(checkout):
    source = checkout / FACES / "async_client.py"
    source.write_text(source.read_text().replace("For the tasks of an event loop, of one", "For one"))
    done = unasync(checkout)
    assert done.returncode == 1
    assert "SENTENCES" in done.stderr
