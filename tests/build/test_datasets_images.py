"""Data from folders of images, through a declared preprocessing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets_signatures import PAIR, PICTURES, signature
from PIL import Image

from plansmith_build.datasets import (
    InvalidData,
    InvalidLabels,
    InvalidPreprocessing,
    Preprocessing,
    load_dataset,
    read_preprocessing,
)

PIXELS = read_preprocessing("pixels")
RED, GREEN, BLUE = (200, 0, 0), (0, 100, 0), (0, 0, 50)


def picture(path, colour=RED, size=(32, 32), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def refused(folder, sentence, wanted=PICTURES, *, error=InvalidData, preprocessing=PIXELS, **options):
    with pytest.raises(error, match=sentence) as caught:
        load_dataset(str(folder), wanted, preprocessing=preprocessing, **options)
    assert caught.value.exit_code == 2


def test_images_become_rows_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        picture(tmp_path / f"{number}.png", (number, 0, 0))
    dataset = load_dataset(str(tmp_path), PICTURES, preprocessing=PIXELS)
    assert dataset.inputs["pictures"].shape == (3, 3, 32, 32)
    assert dataset.inputs["pictures"].dtype == np.float32
    assert dataset.inputs["pictures"][:, 0, 0, 0].tolist() == [1, 9, 10]
    assert (dataset.kind, dataset.labels) == ("images", None)


def test_values_are_scaled_then_shifted_then_divided_for_each_channel(tmp_path):
    picture(tmp_path / "a.png", (200, 100, 50))
    declared = read_preprocessing("imagenet,size=32")
    row = load_dataset(str(tmp_path), PICTURES, preprocessing=declared).inputs["pictures"][0, :, 5, 5]
    wanted = (np.array([200, 100, 50]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(row, wanted, rtol=1e-6)
    declared = read_preprocessing("minus-one-to-one,channels=BGR")
    row = load_dataset(str(tmp_path), PICTURES, preprocessing=declared).inputs["pictures"][0, :, 5, 5]
    np.testing.assert_allclose(row, np.array([50, 100, 200]) / 127.5 - 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "layout", "shape"),
    [("float[N, 32, 32, 3]", "NHWC", (32, 32, 3)), ("float[N, 32, 32]", "NHW,channels=GRAY", (32, 32))],
)
def test_the_order_of_the_dimensions_is_declared(tmp_path, text, layout, shape):
    picture(tmp_path / "a.png")
    model = signature(f"m ({text} x) => ({text} y) {{ y = Relu (x) }}")
    declared = read_preprocessing(f"pixels,layout={layout}")
    assert load_dataset(str(tmp_path), model, preprocessing=declared).inputs["x"].shape == (1, *shape)


def test_the_middle_is_cut_out_after_the_shorter_side_is_resized(tmp_path):
    # A red band left and right, green in the middle: 80 x 40, so that the middle 40 x 40 is green.
    image = Image.new("RGB", (80, 40), RED)
    image.paste(GREEN, (20, 0, 60, 40))
    image.save(tmp_path / "a.png")
    loaded = load_dataset(str(tmp_path), PICTURES, preprocessing=PIXELS).inputs["pictures"][0]
    assert (loaded[0] > 0).mean() < 0.1
    assert (loaded[1, 2:-2, 2:-2] == 100).all()
    wide = load_dataset(str(tmp_path), PICTURES, preprocessing=Preprocessing(scale=(1.0,), fit="stretch"))
    assert wide.inputs["pictures"][0, 0, 16, 0] == 200
    padded = load_dataset(str(tmp_path), PICTURES, preprocessing=Preprocessing(scale=(1.0,), fit="pad", fill=7))
    assert padded.inputs["pictures"][0, 2, 0, 16] == 7


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.new("RGB", (32, 32), RED)
    image.paste(GREEN, (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    row = load_dataset(str(tmp_path), PICTURES, preprocessing=PIXELS).inputs["pictures"][0]
    assert row[:, 2, 2].tolist() == list(RED)
    assert row[:, 30, 2].tolist() == list(GREEN)


def test_class_sub_folders_are_labels_in_sorted_order_or_by_a_list(tmp_path):
    for name, colour in {"cat": RED, "ant": GREEN, "dog": BLUE}.items():
        for number in range(2):
            picture(tmp_path / "data" / name / f"{number}.jpg", colour)
    folder = str(tmp_path / "data")
    assert load_dataset(folder, PICTURES, preprocessing=PIXELS).labels.tolist() == [0, 0, 1, 1, 2, 2]
    given = ["dog", "cat", "emu", "ant"]
    assert load_dataset(folder, PICTURES, preprocessing=PIXELS, class_names=given).labels.tolist() == [3, 3, 1, 1, 0, 0]
    (tmp_path / "data" / "labels.txt").write_text("dog\ncat\n")
    refused(folder, "data/ant has the name of none of the classes", error=InvalidLabels)
    (tmp_path / "data" / "labels.txt").write_text("dog\ncat\nant\n")
    assert load_dataset(folder, PICTURES, preprocessing=PIXELS).labels.tolist() == [2, 2, 1, 1, 0, 0]


def test_numbered_sub_folders_whose_order_is_not_clear_are_refused(tmp_path):
    for number in (0, 1, 2, 10):
        picture(tmp_path / str(number) / "a.png")
    refused(tmp_path, r"another order by number than by text \(0, 1, 10, 2, ...\).*labels.txt", error=InvalidLabels)
    names = [str(number) for number in range(11)]
    assert load_dataset(str(tmp_path), PICTURES, preprocessing=PIXELS, class_names=names).labels.tolist() == [
        0,
        1,
        10,
        2,
    ]


def test_fewer_images_than_there_are_keep_their_own_labels(tmp_path):
    for name, count in {"a": 6, "b": 2}.items():
        for number in range(count):
            picture(tmp_path / name / f"{number}.png", (number, 0, 0))
    dataset = load_dataset(str(tmp_path), PICTURES, preprocessing=PIXELS, max_rows=7)
    assert len(dataset) == 7
    assert np.bincount(dataset.labels).tolist() in ([5, 2], [6, 1])


def test_broken_and_hostile_images_are_named(tmp_path):
    good = picture(tmp_path / "good" / "a.jpg", quality=95).read_bytes()
    for name, content, sentence in (
        ("text", b"not an image", "b.jpg is not an image that can be read"),
        ("truncated", good[: len(good) // 2], "b.jpg is damaged: .*(?i:truncated)"),
        ("empty", b"", "b.jpg is not an image"),
    ):
        picture(tmp_path / name / "a.png")
        (tmp_path / name / "b.jpg").write_bytes(content)
        refused(tmp_path / name, sentence)
    # A header that promises more pixels than any photograph has, in a file of a few bytes.
    bomb = tmp_path / "bomb" / "b.bmp"
    small = picture(bomb, size=(1, 1)).read_bytes()
    bomb.write_bytes(small[:18] + np.array([60000, 40000], "<i4").tobytes() + small[26:])
    refused(tmp_path / "bomb", "b.bmp has too many pixels: .*decompression bomb")


def test_images_of_more_than_8_bits_are_refused_because_their_scale_is_not_known(tmp_path):
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(tmp_path / "a.png")
    refused(tmp_path, r"a.png has more than 8 bits a channel \(I;16\)")


def test_palettes_gray_and_transparency_are_images_too(tmp_path):
    Image.new("RGB", (32, 32), RED).convert("P").save(tmp_path / "a.png")
    Image.new("L", (32, 32), 77).save(tmp_path / "b.png")
    Image.new("RGBA", (32, 32), (*BLUE, 10)).save(tmp_path / "c.png")
    rows = load_dataset(str(tmp_path), PICTURES, preprocessing=PIXELS).inputs["pictures"][:, :, 3, 3]
    assert rows[1:].tolist() == [[77, 77, 77], [0, 0, 50]]
    assert abs(rows[0, 0] - 200) <= 10


def test_folders_that_are_no_folders_of_images(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    refused(tmp_path / "notes", "neither images nor .npy files: it has .txt")
    picture(tmp_path / "mixed" / "a.png")
    picture(tmp_path / "mixed" / "cat" / "a.png")
    refused(tmp_path / "mixed", "images next to its sub-folders, such as a.png")
    picture(tmp_path / "deep" / "cat" / "black" / "a.png")
    refused(tmp_path / "deep", "deep/cat/black is a folder in the folder of a class")
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    refused(tmp_path / "hollow", "no images in its sub-folders cat")
    picture(tmp_path / "good" / "a.png")
    refused(tmp_path / "good", "the model has 2 inputs", PAIR)


def test_a_preprocessing_is_needed_and_must_give_what_the_model_takes(tmp_path):
    picture(tmp_path / "a.png")
    refused(tmp_path, "is not declared: add --preprocess imagenet", preprocessing=None, error=InvalidPreprocessing)
    wrong = read_preprocessing("imagenet")
    refused(
        tmp_path,
        r"gives images of \[3, 224, 224\] \(NCHW RGB\), and input 'pictures' wants FP32 \[N, 3, 32, 32\]",
        preprocessing=wrong,
        error=InvalidPreprocessing,
    )
    free = signature("m (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu (x) }")
    refused(tmp_path, "does not say the size of the images", free, error=InvalidPreprocessing)
    whole = signature("m (uint8[N, 3, 32, 32] x) => (uint8[N, 3, 32, 32] y) { y = Identity (x) }")
    refused(tmp_path, "gives fractions, which uint8 cannot hold", whole, preprocessing=Preprocessing())
    assert load_dataset(str(tmp_path), whole, preprocessing=PIXELS).inputs["x"].dtype == np.uint8


def test_the_same_preprocessing_as_text_toml_and_json(tmp_path):
    text = read_preprocessing("size=224x320,resize=256,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,scale=1/255")
    assert text.size == (224, 320)
    assert text.scale == (1 / 255,)
    (tmp_path / "p.toml").write_text(
        "size = [224, 320]\nresize = 256\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
    )
    (tmp_path / "p.json").write_text(json.dumps(text.model_dump()))
    assert read_preprocessing(str(tmp_path / "p.toml")) == text
    assert read_preprocessing(str(tmp_path / "p.json")) == text


def test_a_preset_can_be_changed_and_keeps_its_margin():
    assert read_preprocessing("imagenet").resize == 256
    assert read_preprocessing("imagenet,size=299").resize == 342
    assert read_preprocessing("imagenet,size=299,resize=299").resize == 299
    assert read_preprocessing("preset=imagenet,channels=BGR").mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("imagenett", "there is no preset 'imagenett': one of imagenet, "),
        ("size=224,sise=3", "there is no field 'sise': one of preset, size, resize"),
        ("size=224,size=3", "'size' is given twice"),
        ("size=big", "size='big'"),
        ("size=0", "size='0'"),
        ("size=224,224", "'224' is not a field=value pair"),
        ("mean=0.5:0.5", "mean has 2 numbers for 3 channels"),
        ("mean=nan", "mean='nan'"),
        ("std=0", "std has a 0 to divide by"),
        ("layout=HWC", "layout='HWC'"),
        ("layout=NHW", "NHW has no place for the channels RGB"),
        ("size=224,resize=200", "resize=200 leaves too little to cut 224x224 out of"),
        ("fit=pad,resize=200", "resize is for fit=crop"),
        ("nosuch.toml", "nosuch.toml cannot be read"),
    ],
)
def test_a_preprocessing_that_cannot_be_understood_is_refused(text, sentence):
    with pytest.raises(InvalidPreprocessing, match=sentence):
        read_preprocessing(text)


def test_a_damaged_preprocessing_file_is_refused(tmp_path):
    for name, content, sentence in (
        ("a.toml", "size = ", "a.toml cannot be used as TOML"),
        ("a.json", "{", "a.json cannot be used as JSON"),
        ("b.json", "[1]", "does not hold an object"),
        ("c.json", '{"preset": 3}', "no preset 3"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InvalidPreprocessing, match=sentence):
            read_preprocessing(str(tmp_path / name))
