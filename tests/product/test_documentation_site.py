"""The documentation site is built from what is here, loads nothing from elsewhere, and has every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plansmith_client.cli import KNOWN_COMMANDS

ROOT = Path(__file__).parents[2]


def build(output: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    command = [
        Path(sys.executable).with_name("mkdocs"),
        "build",
        "--config-file",
        config,
        "--site-dir",
        output,
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    output = tmp_path_factory.mktemp("documentation") / "site"
    done = build(output)
    assert done.returncode == 0, done.stderr
    return output


def test_every_command_stands_in_the_reference(site):
    page = (site / "commands.html").read_text()
    for name in KNOWN_COMMANDS:
        assert f">plansmith {name}<" in page
    assert "--max-drop" in page
    assert "Default: 0.5%." in page


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.glob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.?(https?://[^\s\">]+)", page.read_text())
        assert not loaded, page


def test_programs_that_read_find_what_each_page_is_about(site):
    lines = [line for line in (site / "llms.txt").read_text().splitlines() if line.startswith("- ")]
    for title, page, about in (re.fullmatch(r"- \[(.+?)\]\((.+?)\): (.*)", line).groups() for line in lines):
        assert (site / page).is_file()
        assert title
        assert about, page


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A page\n\n[nowhere](missing.md)\n")
    text = (ROOT / "mkdocs.yml").read_text()
    text = text[: text.index("nav:\n")].replace("hooks: [docs_site/pages.py]\n", "")
    assert "hooks" not in text
    (tmp_path / "mkdocs.yml").write_text(text)
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "missing.md" in done.stderr
