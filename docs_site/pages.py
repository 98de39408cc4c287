"""Hooks of MkDocs: pages that stand elsewhere in the repository, the reference of commands and Python, and llms.txt.

Links of a page are written for the repository, so that they work where it is browsed, too: here they are turned to the
pages of the site. What is no page of it, such as a program, stays as text.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

# MkDocs loads this file by its path.
sys.path.insert(0, str(Path(__file__).parent))

import commands
import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# By the name of the page.
ELSEWHERE = {
    "index.md": "README.md",
    "client.md": "client/README.md",
    "build_engines.md": "build_engines/README.md",
    "server.md": "server/README.md",
    "perf.md": "perf/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
# What stands in the brackets of a link may be a picture.
LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:!\[[^\]]*\]\([^)]*\)|[^\]])*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name, path in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    for name, content in _made():
        files.append(File.generated(config, name, content=content))
    script = Path(__file__).with_name("iframe_worker.js")
    files.append(File.generated(config, "assets/iframe-worker.js", abs_src_path=str(script)))
    return files


def _made() -> Iterator[tuple[str, str]]:
    """Pages that are made from the code: name and text."""
    yield "commands.md", commands.page()
    yield from interfaces.pages()


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of the repository to those of the site."""
    source = Path(ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    return LINK.sub(lambda found: _link(found, source), markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Write llms.txt: what each page is about, for programs that read (https://llmstxt.org)."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for kind, pages in _nav(config.nav):
        lines += ["", f"## {kind}", ""]
        lines += [f"- [{title}]({page.removesuffix('.md')}.html): {first}" for page, title, first in pages]
    (Path(config.site_dir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _nav(nav: list[Any]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    for entry in nav:
        ((kind, pages),) = entry.items()
        yield kind, [_summary(page) for page in pages]


def _summary(name: str) -> tuple[str, str, str]:
    """A page's name, title and first sentence."""
    path = ROOT / ELSEWHERE.get(name, f"docs/{name}")
    text = path.read_text(encoding="utf-8") if path.exists() else dict(_made())[name]
    title, *paragraphs = re.split(r"\n{2,}", text.strip())
    # Not comments, pictures, tables and headings.
    first = next((found for found in paragraphs if found[0].isalpha() or found[0] == "`" != found[1]), "")
    words = " ".join(LINK.sub(r"\g<text>", first).split())
    return name, title.removeprefix("# "), re.split(r"(?<=[.:]) ", words)[0]


def _link(found: re.Match[str], source: Path) -> str:
    target, anchor = found["target"], found["anchor"] or ""
    text = LINK.sub(lambda inside: _link(inside, source), found["text"])
    if "://" in target or not target:
        return f"{found['image']}[{text}]({target}{anchor})"
    path = os.path.normpath(source.parent / target)
    pages = {path: name for name, path in ELSEWHERE.items()}
    name = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
    return f"{found['image']}[{text}]({name}{anchor})" if name else text
