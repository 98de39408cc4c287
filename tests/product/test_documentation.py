"""What the documentation shows is run: every `console` and `python` block of the README, of docs/ and of the members.

The blocks of a page run one after the other in one empty folder, with the committed repository beside them and a
server on free ports in place of localhost:8000 and localhost:8001. A block that cannot run in a test stands behind a
comment `<!-- not run: the reason -->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from plansmith.demo.picture import save_images

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
    ],
    key=lambda page: (len(page.parts), page),
)
FENCE = re.compile(r"(?P<before>[^\n]*)\n+```(?P<language>\w*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
# What stands in brackets may be a picture.
LINK = re.compile(r"\]\((?!https?://|#|mailto:)(?P<target>[^)#\s]+)[^)]*\)")


@dataclass(frozen=True)
class Block:
    language: str
    body: str

    def program(self) -> list[str]:
        if self.language == "python":
            return [sys.executable, "-W", "error", "-c", self.body]
        commands = [line.removeprefix("$ ") for line in self.body.splitlines() if line.startswith("$ ")]
        assert commands, f"a console block without a command: {self.body}"
        return ["bash", "-euo", "pipefail", "-c", "\n".join(commands)]


def blocks(page: Path) -> list[Block]:
    return [
        Block(found["language"], found["body"])
        for found in FENCE.finditer(page.read_text(encoding="utf-8"))
        if found["language"] in ("console", "python") and not found["before"].startswith("<!-- not run: ")
    ]


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page, committed_server, held_out_file, tmp_path):
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    for name in ("examples", "perf"):
        (tmp_path / name).symlink_to(ROOT / name)
    save_images(np.load(held_out_file)["images"], np.load(held_out_file)["labels"], tmp_path)
    for name in ("digits.onnx", "held_out.npz", "labels.txt"):
        shutil.copy(held_out_file.with_name(name), tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "plansmith").symlink_to(Path(sys.executable).with_name("plansmith"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    for block in blocks(page):
        here = Block(
            block.language,
            block.body.replace("http://localhost:8000", committed_server.http_url)
            .replace("localhost:8000", committed_server.http_url.removeprefix("http://"))
            .replace("localhost:8001", committed_server.grpc_url),
        )
        environment["PLANSMITH_URL"] = committed_server.grpc_url
        done = subprocess.run(
            here.program(), check=False, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600
        )
        assert done.returncode == 0, f"{block.body}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    targets = [found["target"] for found in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []
