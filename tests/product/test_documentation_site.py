"""The documentation site is built from what is here, loads nothing from elsewhere, and has every command."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browsing import chromium
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

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


@pytest.mark.parametrize(
    ("page", "modules"),
    [
        ("api-client.html", ("plansmith_client", "plansmith_client.errors", "plansmith_client.testing")),
        ("api-build.html", ("plansmith_build", "plansmith_build.exporting", "plansmith_build.accuracy")),
        ("api-server.html", ("plansmith_server", "plansmith_server.pytest_plugin")),
        ("api-perf.html", ("plansmith_perf.report",)),
    ],
)
def test_every_public_name_stands_in_the_reference_with_its_docstring(site, page, modules):
    text = (site / page).read_text()
    for module in modules:
        for name in importlib.import_module(module).__all__:
            described = text.partition(f'id="{module}.{name}"')[2].partition(" id=")[0]
            assert "<p>" in described, f"{module}.{name}"
    assert "Raises:" in text
    assert not re.search(rf'id="{modules[0]}\.[\w.]*\b_[a-z]', text)


def test_every_link_inside_the_site_leads_to_a_page_and_a_place_in_it(site):
    # The page for what is missing is shown at any address, and names the pages from the root.
    pages = [page for page in site.glob("*.html") if page.name != "404.html"]
    places = {page.name: set(re.findall(r'\bid="?([^\s">]+)', page.read_text())) for page in pages}
    astray = set()
    for page in places:
        for link in re.findall(r'<a\b[^>]*\bhref="?([^\s">]+)', (site / page).read_text()):
            target = urlsplit(link)
            name = target.path.removeprefix("./") or page
            if target.scheme or name == ".":
                continue
            known = unquote(target.fragment) in places[name] | {""} if name in places else (site / name).is_file()
            astray |= set() if known else {(page, link)}
    assert astray == set()


def test_the_search_finds_a_word_without_a_network_or_a_server(site):
    with chromium() as browser:
        browser.get(f"{site.as_uri()}/index.html")
        browser.find_element(By.CSS_SELECTOR, "label.md-header__button[for=__search]").click()
        browser.find_element(By.CSS_SELECTOR, "input.md-search__input").send_keys("quantization")
        found = WebDriverWait(browser, 120).until(
            lambda browser: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item a")
        )
        pages = {Path(unquote(urlsplit(link.get_attribute("href")).path)) for link in found}
        assert site / "guides.html" in pages
        assert all(page.is_file() and page.is_relative_to(site) for page in pages)
        asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = {each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"}
        assert {urlsplit(url).scheme for url in urls} <= {"file", "data", "blob"}


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
