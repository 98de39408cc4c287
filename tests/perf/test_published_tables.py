"""The figures in the README and in docs/ are those of the committed results."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path("perf/benchmarks/published_tables.py")
PAGES = ("README.md", "docs/comparison.md", "docs/tuning.md", "docs/reading-a-load-test.md", "docs/tensorrt.md")


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / PROGRAM, "--check"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    """The pages, the results and the program, to be changed."""
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    (tmp_path / PROGRAM).parent.mkdir(parents=True)
    shutil.copy(ROOT / PROGRAM, tmp_path / PROGRAM)
    shutil.copytree(ROOT / "perf/results", tmp_path / "perf/results")
    return tmp_path


def test_every_table_says_what_the_results_say():
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_a_figure_that_was_typed_is_noticed_and_written_over(copy):
    readme = copy / "README.md"
    text = readme.read_text(encoding="utf-8")
    start = text.index("<!-- table summary -->")
    typed = text[:start] + text[start:].replace("perf_analyzer |", "perf_analyzer | 1", 1)
    assert typed != text
    readme.write_text(typed, encoding="utf-8")
    done = check(copy)
    assert done.returncode == 1
    assert "README.md" in done.stderr
    subprocess.run([sys.executable, copy / PROGRAM], check=True)
    assert readme.read_text(encoding="utf-8") == text


def test_each_page_has_its_tables():
    for page in PAGES:
        assert "<!-- table " in (ROOT / page).read_text(encoding="utf-8")
