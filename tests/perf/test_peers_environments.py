"""The environments that peers are installed in: made once, whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peers.environments import REQUIREMENTS, make_environment
from peers.foreign_servers import FOREIGN_SERVERS, SAME_ENGINE
from plansmith_perf.comparing.peer import PeerUnavailable
from plansmith_perf.comparing.peers import PEERS

ZEROS = "0" * 64
MAKE = "import sys, pathlib; from peers.environments import make_environment as make; "
MAKE += "make(pathlib.Path(sys.argv[1]), cache=pathlib.Path(sys.argv[2]))"


@pytest.fixture
def impossible(tmp_path):
    """Requirements that no package index can satisfy: the file has another hash."""
    file = tmp_path / "impossible.txt"
    file.write_text(f"h11==0.16.0 --hash=sha256:{ZEROS}\n")
    return file


def test_an_environment_is_made_once_and_has_the_pinned_packages():
    environment = make_environment(REQUIREMENTS / "fastapi.txt")
    made = environment.python.stat().st_ino, environment.python.parent.stat().st_mtime_ns
    again = make_environment(REQUIREMENTS / "fastapi.txt")
    assert (again.python.stat().st_ino, again.python.parent.stat().st_mtime_ns) == made
    said = subprocess.run(
        [environment.python, "-c", "import fastapi, onnxruntime; print(fastapi.__version__, onnxruntime.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert said == [environment.versions["fastapi"], environment.versions["onnxruntime"]]
    assert environment.python.is_relative_to(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def test_what_cannot_be_installed_is_a_sentence_and_leaves_nothing_where_the_user_keeps_caches(
    impossible, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(PeerUnavailable, match="cannot be installed"):
        make_environment(impossible)
    assert list((tmp_path / "cache" / "plansmith" / "peers").iterdir()) == []


def test_an_interrupted_installation_leaves_nothing_that_looks_whole(tmp_path):
    cache = tmp_path / "cache"
    words = [sys.executable, "-c", MAKE, REQUIREMENTS / "fastapi.txt", cache]
    place = {**os.environ, "PYTHONPATH": str(REQUIREMENTS.parents[1])}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=place) as maker:
        deadline = time.monotonic() + 60
        while not list(cache.glob(".fastapi-*/pyvenv.cfg")):
            assert maker.poll() is None, maker.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        maker.send_signal(signal.SIGINT)
        complaints = maker.communicate(timeout=60)[1]
    assert maker.returncode != 0
    assert "KeyboardInterrupt" in complaints
    assert list(cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(PeerUnavailable, match="cache"):
        make_environment(REQUIREMENTS / "fastapi.txt", cache=tmp_path / "cache")


def test_every_requirement_is_pinned_with_its_hash():
    files = sorted(REQUIREMENTS.glob("*.txt"))
    assert [file.stem for file in files] == [
        "bentoml",
        "fastapi-openvino",
        "fastapi",
        "litserve",
        "mlserver",
        "pytriton",
        "rapidocr",
        "sentence-transformers",
    ]
    for file in files:
        lines = [line for line in file.read_text().splitlines() if line and not line.lstrip().startswith("#")]
        pins = [line for line in lines if not line.startswith(" ")]
        assert all("==" in line for line in pins), file
        assert sum("--hash=sha256:" in line for line in lines) >= len(pins), file
        assert not any("://" in line for line in lines), file


def test_every_server_of_others_names_the_page_that_recommends_its_setup():
    peers = [*PEERS, *FOREIGN_SERVERS, *SAME_ENGINE]
    assert all(peer.source.startswith("https://") for peer in peers if peer.kind == "server")
    assert len({peer.name for peer in peers}) == len({peer.key for peer in peers}) == len(peers)
