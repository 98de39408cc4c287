"""Pipelines that find lines on an image and read each of them: text detection, cutting out, recognition."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pipeline_models import bar_detector, bar_reader, colour_classifier, column, picture

from plansmith_build import BuildOptions, InvalidOption, build_pipeline
from plansmith_build.datasets import read_preprocessing
from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client import Client, InvalidInput
from plansmith_server import ServerOptions, TritonServer

# Bars of colour are the text: red, green and blue are its letters.
COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255)}
SIGNS = """
samples = ["page.png"]

[[step]]
kind = "image"
preprocess = "zero-to-one"
sides = {shorter = 64, longer = 640}

[[step]]
kind = "model"

[[step]]
kind = "lines"
preprocess = "zero-to-one"
unclip = 0.2
max_lines = 4
max_total_width = 1000

[[step]]
kind = "model"
file = "reader.onnx"

[[step]]
kind = "ctc"
characters = "characters.txt"
"""


def page(words: dict[str, tuple[int, int]], *, size=(320, 256), down=False) -> bytes:
    """Words at some places, each letter 60 by 30 pixels, beside each other or one below the other."""
    image = Image.new("RGB", size)
    pen = ImageDraw.Draw(image)
    for word, (left, top) in words.items():
        for number, letter in enumerate(word):
            x, y = (left, top + 60 * number) if down else (left + 60 * number, top)
            wide, high = (30, 60) if down else (60, 30)
            pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=COLOURS[letter])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signs")
    bar_detector(folder / "detector.onnx")
    bar_reader(folder / "reader.onnx")
    (folder / "page.png").write_bytes(page({"rg": (20, 20), "b": (200, 24)}))
    (folder / "characters.txt").write_text("r\ng\nb\n")
    (folder / "signs.toml").write_text(SIGNS)
    return folder


@pytest.fixture(scope="module")
def reader(folder):
    repository = folder / "models"
    build_pipeline(folder / "detector.onnx", folder / "signs.toml", BuildOptions(repository, serve=False))
    assert not [f for f in lint_repository(ModelRepository.at(repository)) if f.severity is Severity.ERROR]
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, strict=True)
    with TritonServer(options) as server, Client(server.grpc_url, timeout=60) as client:
        yield client.model("signs")


def test_lines_are_read_in_order_with_where_they_stand(reader):
    answer = reader.infer({"image": column(page({"gr": (20, 150), "b": (200, 24), "rgb": (10, 20)}))})
    assert answer["label"].tolist() == [[b"rgb", b"b", b"gr"]]
    assert answer["probability"].min() > 0.6
    # Three pixels of what surrounds it belong to a line.
    np.testing.assert_allclose(answer["box"][0, 2], [20, 150, 140, 180], atol=5)


def test_each_image_has_a_size_and_a_number_of_lines_of_its_own(reader):
    pages = [page({"b": (8, 8)}, size=(96, 64)), page({"rg": (500, 300), "gb": (20, 20)}, size=(900, 400))]
    answers = list(reader.map([[content] for content in (*pages, picture((0, 0, 0)))]))
    assert [answer["label"].tolist() for answer in answers] == [[b"b"], [b"gb", b"rg"], [b""]]
    # The second image is made smaller for the detector, and its lines are those of the image itself.
    np.testing.assert_allclose(answers[1]["box"][1], [500, 300, 620, 330], atol=6)


def test_a_line_from_top_to_bottom_is_turned(reader):
    assert reader.infer({"image": column(page({"rgb": (100, 30)}, down=True))})["label"].tolist() == [[b"rgb"]]


def test_an_image_with_too_many_lines_is_refused_and_none_is_left_out(reader):
    crowded = page({"r": (10, 10), "g": (150, 10), "b": (10, 80), "rg": (100, 80), "gb": (10, 150)})
    with pytest.raises(InvalidInput, match="has 5 lines of text, and 4 are allowed"):
        reader.infer({"image": column(crowded)})
    wide = page({"rgb": (10, 10), "grg": (10, 80), "bgb": (10, 150), "r" * 10: (10, 220)}, size=(640, 256))
    with pytest.raises(InvalidInput, match=r"the 4 lines of text, .* pixels wide together, and 1,000 are allowed"):
        reader.infer({"image": column(wide)})
    with pytest.raises(InvalidInput, match="9 bytes is not an image"):
        reader.infer({"image": column(b"not image")})


def test_specks_are_no_lines_however_many_there_are(reader):
    image = Image.open(io.BytesIO(page({"rg": (20, 20)}))).convert("RGB")
    for number in range(1200):
        image.putpixel((4 + 6 * (number % 50), 90 + 6 * (number // 50)), COLOURS["g"])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert reader.infer({"image": column(buffer.getvalue())})["label"].tolist() == [[b"rg"]]


def test_lines_on_their_heads_are_turned_and_what_fills_them_up_stays_behind():
    from plansmith_server.backends.pipeline_step.lines import UprightStep  # noqa: PLC0415

    lines = np.arange(2 * 3 * 2 * 4, dtype=np.float32).reshape(2, 3, 2, 4)
    given = {"lines": lines, "width": np.array([[3], [4]], np.int32), "scores": np.array([[0.05, 0.95], [0.4, 0.6]])}
    made = UprightStep(height=2).run(given)["upright"]
    np.testing.assert_array_equal(made[0, 0], [[6, 5, 4, 3], [2, 1, 0, 7]])
    np.testing.assert_array_equal(made[1], lines[1])


def test_images_keep_about_their_own_size_where_the_model_takes_any():
    from plansmith_server.backends.pipeline_step.images import ImageStep  # noqa: PLC0415

    fields = read_preprocessing("zero-to-one,fit=stretch").model_dump(mode="json")
    sides = {"shorter": 96, "longer": 320, "multiple": 32}
    step = ImageStep(recipe={**fields, "dtype": "float32"}, formats=["PNG"], max_pixels=10**6, sides=sides)
    for size, expected in {
        (200, 130): (128, 192),
        (40, 60): (128, 96),
        (900, 300): (96, 320),
        (9, 900): (320, 32),
    }.items():
        made = step.run({"image": column(picture((1, 2, 3), size))})
        assert made["pixels"].shape == (1, 3, *expected)
        factor_x, factor_y, left, top, width, height = made["geometry"][0]
        assert (left, top, width, height) == (0, 0, *size)
        assert (factor_x * expected[1], factor_y * expected[0]) == pytest.approx(size)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("reader.onnx", "detector.onnx"), "the tensor 'map' is FP32|takes .* and the tensor"),
        (("characters.txt", "page.txt"), "line 2 of the characters .* is 'gb': write one character a line"),
        (("characters.txt", "few.txt"), "there are 2 characters in .*, and the tensor scores .* has 4 scores"),
        (("sides = {shorter = 64, longer = 640}", ""), r"takes images of any size: .* or sides ="),
        (('kind = "ctc"\ncharacters = "characters.txt"', 'kind = "upright"'), r"takes scores FP32 \[-1, 2\]"),
    ],
)
def test_steps_that_do_not_fit_together_are_refused(folder, tmp_path, change, why):
    (folder / "page.txt").write_text("r\ngb\n")
    (folder / "few.txt").write_text("r\ng\n")
    (folder / "changed.toml").write_text(SIGNS.replace(*change))
    with pytest.raises(InvalidOption, match=why):
        build_pipeline(folder / "detector.onnx", folder / "changed.toml", BuildOptions(tmp_path / "m", serve=False))


def test_a_model_of_one_size_takes_no_sides(folder, tmp_path):
    colour_classifier(tmp_path / "colours.onnx")
    (tmp_path / "sizes.toml").write_text(
        '[[step]]\nkind = "image"\npreprocess = "zero-to-one"\nsides = {longer = 64}\n[[step]]\nkind = "model"\n'
    )
    with pytest.raises(InvalidOption, match="the size is set, to 16x16"):
        build_pipeline(tmp_path / "colours.onnx", tmp_path / "sizes.toml", BuildOptions(tmp_path / "m", serve=False))


def test_a_picodets_distances_lead_from_its_places_to_boxes():
    from plansmith_server.backends.pipeline_step.boxes import BoxesStep  # noqa: PLC0415

    options = {"labels": ["text", "title"], "min_score": 0.4, "max_overlap": 0.5, "max_boxes": 10}
    step = BoxesStep(**options, head="picodet", strides=[8, 16], size=[20, 32])
    assert [str(tensor.shape) for tensor in step.inputs[:2]] == ["(-1, 12, 2)", "(-1, 4, 2)"]
    inputs = {"geometry": np.array([[2, 3, 0, 0, 64, 60]], np.float32)}
    for stride, places in ((8, 12), (16, 4)):
        inputs[f"scores_{stride}"] = np.zeros((1, places, 2), np.float32)
        inputs[f"distances_{stride}"] = np.full((1, places, 4 * 3), -50, np.float32)
        # Every distance is one stride, but for the lower one of a place, which is as probably one stride as two.
        inputs[f"distances_{stride}"][:, :, 1::3] = 50
    # The second place of the second row of stride 8: its middle is at 12, 12.
    inputs["scores_8"][0, 5] = 0.1, 0.9
    inputs["distances_8"][0, 5, 11] = 50
    inputs["scores_16"][0, 3] = 0.6, 0.1
    answer = step.run(inputs)
    assert answer["label"].tolist() == [[b"title", b"text"]]
    np.testing.assert_allclose(answer["probability"], [[0.9, 0.6]])
    # Of the second, whose middle is at 24, 24, what is outside of the image is cut off.
    np.testing.assert_allclose(answer["box"], [[[8, 12, 40, 60], [16, 24, 64, 60]]])
