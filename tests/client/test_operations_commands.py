"""`plansmith stats`, `load` and `unload`, and pictures and text for `infer`, as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from client_servers import triton_with
from PIL import Image
from settled_counts import settled

from plansmith_client import Client, InvalidInput, TensorSpec
from plansmith_client.commands.image_files import IMAGE_SUFFIXES, ImagePreparation, array_from_image
from plansmith_client.commands.input_files import read_inputs


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with triton_with(("double", "every_type", "labelled", "picky"), tmp_path_factory.mktemp("operated")) as running:
        yield running


@pytest.fixture
def command(plansmith, server, tmp_path):
    def run(*words, expect=0, url=server.grpc_url):
        return plansmith(*words, "--url", url, expect=expect, cwd=tmp_path)

    run.folder = tmp_path
    return run


def test_statistics_as_one_document(command, server):
    with Client(server.grpc_url) as client:
        client.model("double")(np.ones((3, 4), np.float32))
        settled(client.model("double").statistics)
    for url in (server.grpc_url, server.http_url):
        document = json.loads(command("stats", "--json", url=url).stdout)
        double = next(entry for entry in document["models"] if entry["name"] == "double")
        assert double["inferences"] >= 3
        assert double["success"]["count"] >= 1
        assert double["last_inference"].endswith("+00:00")
    (only,) = json.loads(command("stats", "picky", "--json").stdout)["models"]
    assert only["name"] == "picky"


def test_statistics_as_a_table_of_rates(command):
    done = command("stats", "--interval", "0.2")
    for word in ("model", "requests/s", "queue ms", "double", "picky"):
        assert word in done.stdout
    # Whoever has sent requests must not read that none was counted.
    assert "No requests in 0.2 s: --interval measures for longer, --json has the totals." in done.stdout


def test_a_watched_table_goes_on_until_ctrl_c(server):
    words = [
        Path(sys.executable).with_name("plansmith"),
        "stats",
        "--watch",
        "--interval",
        "0.2",
        "--url",
        server.grpc_url,
    ]
    # As in a terminal, where the table is shown while it goes on.
    reader, writer = pty.openpty()
    with subprocess.Popen(words, stdout=writer, stderr=subprocess.PIPE, env=os.environ) as watching:
        os.close(writer)
        said = b""
        while b"double" not in said:
            said += os.read(reader, 4096)
        watching.send_signal(signal.SIGINT)
        complaint = watching.communicate(timeout=60)[1].decode()
    os.close(reader)
    assert watching.returncode == 130, complaint
    assert "Traceback" not in complaint


def test_a_model_is_loaded_changed_and_unloaded(command, server):
    assert "twice is loaded" in command("load", "twice").stdout
    with Client(server.grpc_url) as client:
        config = {**client.model("twice").config(), "max_batch_size": 2}
        (command.folder / "changed.json").write_text(json.dumps(config))
        document = json.loads(command("load", "twice", "--config", "changed.json", "--json").stdout)
        assert document == {"url": server.grpc_url, "model": "twice", "versions": ["1"]}
        assert client.model("twice").metadata.max_batch_size == 2
        assert "twice is unloaded" in command("unload", "twice", "--dependents").stdout
        end = time.monotonic() + 20
        while client.model("twice").is_ready() and time.monotonic() < end:
            time.sleep(0.05)
        assert not client.model("twice").is_ready()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("load", "nope"), "the repository has no such model"),
        (("load", "double", "--config", "missing.json"), "missing.json cannot be read"),
        (("load", "double", "--config", "broken.json"), "broken.json is not JSON"),
        (("stats", "nope"), "the server has"),
        (("ui", "nope"), "the server has"),
        (("stats", "--json", "--watch"), "leave out --watch"),
    ],
)
def test_what_cannot_be_done_is_one_clear_sentence(command, words, message):
    (command.folder / "broken.json").write_text("{")
    assert message in command(*words, expect=2).stderr


# Pictures and text.


def test_lines_of_text_are_rows(command):
    (command.folder / "words.txt").write_bytes("täglich\r\nzwei\n".encode())
    (command.folder / "numbers.npy").write_bytes(b"")
    np.save(command.folder / "numbers.npy", np.ones((2, 1), np.float32))
    done = command("infer", "picky", "--input", "text=words.txt", "--input", "x=numbers.npy", "--json")
    outputs = json.loads(done.stdout)["outputs"]
    assert outputs["upper"]["data"] == [["TÄGLICH"], ["ZWEI"]]


def test_a_picture_is_classified(plansmith, committed_server, held_out, tmp_path):
    images = held_out["images"][:3]
    for number, pixels in enumerate(images):
        Image.fromarray(np.uint8(pixels * 15)).save(tmp_path / f"digit-{number}.png")
    words = [word for number in range(3) for word in ("--input", f"digit-{number}.png")]
    # The model knows pixels from 0 to 16.
    done = plansmith(
        *("infer", "digits", *words, "--image-scale", str(1 / 15), "--json", "--url", committed_server.grpc_url),
        cwd=tmp_path,
    )
    answer = np.array(json.loads(done.stdout)["outputs"]["probabilities"]["data"])
    assert answer.argmax(axis=1).tolist() == held_out["labels"][:3].reshape(-1).tolist()


def test_the_classes_of_a_model_with_labels_are_shown_by_name(command):
    np.save(command.folder / "scores.npy", np.array([[0.05, 0.9, 0.03, 0.02], [7, -1, 2, 5]], np.float32))
    shown = command("infer", "labelled", "--input", "scores.npy").stdout
    assert "named, row 0: east: rising, 90 %; north, 5 %; south, 3 %" in shown
    assert "named, row 1: north, 7; west, 5; south, 2" in shown
    assert "unnamed, row" not in shown
    assert "named, row 1: north, 7\n" in command("infer", "labelled", "--input", "scores.npy", "--top", "1").stdout
    # Without labels the classes are places; by themselves they are not shown.
    assert "row 0" not in command("infer", "double", "--random").stdout
    assert "y, row 0: class " in command("infer", "double", "--random", "--top", "2").stdout
    for words in (("--json",), ("--output", "out.npz")):
        assert "--top is for the table" in command("infer", "double", "--random", "--top", "2", *words, expect=2).stderr


def test_the_file_of_the_build_is_taken_without_its_labels(command):
    rows = np.ones((3, 4), np.float32)
    np.savez(command.folder / "held_out.npz", images=rows, labels=np.array([1, 0, 1]))
    answer = json.loads(command("infer", "double", "--input", "held_out.npz", "--json").stdout)
    assert answer["outputs"]["y"]["data"] == (rows * 2).tolist()


def test_a_folder_of_images_is_one_batch_by_name(tmp_path):
    spec = TensorSpec("image", "UINT8", (-1, 2, 2, 1))
    for place, name in enumerate(("b/2.png", "a/3.png", "a/1.JPG".lower())):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2), 100 * place).save(tmp_path / name)
    batch = read_inputs([str(tmp_path)], [spec])["image"]
    assert batch[:, 0, 0, 0].tolist() == [200, 100, 0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="a folder without images"):
        read_inputs([str(tmp_path / "empty")], [spec])


def test_a_photo_that_its_camera_turned_is_turned_back(tmp_path):
    photo = Image.new("L", (4, 2))
    photo.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo.save(tmp_path / "photo.png", exif=exif)
    array = array_from_image(tmp_path / "photo.png", TensorSpec("x", "UINT8", (-1, -1, -1, 1)), ImagePreparation())
    assert array.shape == (1, 4, 2, 1)
    assert np.argwhere(array[0, :, :, 0] == 255).tolist() == [[0, 1]]


@pytest.fixture
def picture(tmp_path):
    pixels = np.zeros((6, 4, 3), np.uint8)
    pixels[..., 0], pixels[:3, :, 1] = 255, 51
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((-1, 3, 6, 4), (1, 3, 6, 4)),
        ((-1, 6, 4, 3), (1, 6, 4, 3)),
        ((3, -1, -1), (3, 6, 4)),
        ((-1, 3, 12, 8), (1, 3, 12, 8)),
        ((-1, 1, 6, 4), (1, 1, 6, 4)),
        ((-1, 6, 5), (1, 6, 5)),
        ((6, 4), (6, 4)),
    ],
)
def test_pictures_take_the_layout_that_the_model_declares(picture, shape, wanted):
    array = array_from_image(picture, TensorSpec("image", "FP32", shape), ImagePreparation())
    assert (array.shape, array.dtype) == (wanted, np.float32)
    assert 0 <= array.min() <= array.max() <= 1


def test_pixels_are_scaled_shifted_and_divided_for_each_channel(picture):
    spec = TensorSpec("image", "FP32", (-1, 3, 6, 4))
    array = array_from_image(picture, spec, ImagePreparation(1 / 255, (0.5, 0.2, 0.0), (0.5, 0.1, 1.0)))
    np.testing.assert_allclose(array[0, :, 0, 0], [1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(array[0, :, 5, 0], [1.0, -2.0, 0.0], atol=1e-6)
    raw = array_from_image(picture, TensorSpec("image", "UINT8", (-1, 6, 4, 3)), ImagePreparation())
    assert raw[0, 0, 0].tolist() == [255, 51, 0]
    whole = array_from_image(picture, TensorSpec("image", "BYTES", (-1, 1)), ImagePreparation())
    assert whole.tolist() == [[picture.read_bytes()]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("uint8=broken.png", "not an image that can be read"),
        ("uint8=truncated.png", "is damaged: .*truncated"),
        ("uint8=bomb.bmp", "has too many pixels"),
        ("uint8=column.bmp", "has 1 x 70000 pixels, and 100,000,000 are allowed, 65,535 on a side"),
        ("fp32=words.txt", "which only BYTES inputs take"),
        ("string=empty.txt", "is empty: write one line for each item"),
        ("nope=words.txt", "that the model does not have"),
        ("truncated.png", "does not say which input"),
        ("missing.png", "cannot be read"),
    ],
)
def test_pictures_and_text_that_do_not_fit_are_refused(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "truncated.png")
    whole = (tmp_path / "truncated.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    # A header that promises more pixels than any photograph has.
    Image.new("RGB", (1, 1)).save(tmp_path / "bomb.bmp")
    small = (tmp_path / "bomb.bmp").read_bytes()
    (tmp_path / "bomb.bmp").write_bytes(small[:18] + np.array([60000, 40000], "<i4").tobytes() + small[26:])
    (tmp_path / "column.bmp").write_bytes(small[:18] + np.array([1, 70000], "<i4").tobytes() + small[26:])
    (tmp_path / "words.txt").write_text("one\n")
    (tmp_path / "empty.txt").write_text("")
    specs = [TensorSpec(kind.lower(), kind, (-1, -1)) for kind in ("UINT8", "FP32")]
    with pytest.raises(InvalidInput, match=message):
        read_inputs([word], [*specs, TensorSpec("string", "BYTES", (-1, -1))])


@pytest.mark.parametrize("option", [("--image-std", "0"), ("--image-mean", "a,b")])
def test_numbers_for_pictures_that_make_no_sense_are_refused(command, option):
    assert option[0] in command("infer", "every_type", "--input", "uint8=x.png", *option, expect=2).stderr


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program called gs, first on PATH, and the file that it writes when it is run."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path / 'run'}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "run"


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 4 4
%%EndComments
showpage
%%EOF
"""


def test_pillow_would_hand_postscript_to_ghostscript(ghostscript, tmp_path):
    (tmp_path / "picture.png").write_bytes(POSTSCRIPT)
    with Image.open(tmp_path / "picture.png") as image, pytest.raises((OSError, subprocess.CalledProcessError)):
        image.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_postscript_called_a_picture_is_refused_and_not_run(ghostscript, tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(InvalidInput, match=r"not an image that can be read: save it as one of BMP, .*PNG"):
        array_from_image(path, TensorSpec("image", "FP32", (-1, 3, 6, 4)), ImagePreparation())
    assert not ghostscript.exists()


def test_the_command_refuses_postscript_in_one_sentence(server, ghostscript, tmp_path):
    (tmp_path / "picture.png").write_bytes(POSTSCRIPT)
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("plansmith"), "infer", "every_type", "--url", server.grpc_url),
            *("--input", "uint8=picture.png"),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "not an image that can be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not ghostscript.exists()


def test_every_suffix_of_a_picture_is_of_a_format_that_is_decoded(tmp_path):
    for suffix in IMAGE_SUFFIXES:
        path = tmp_path / f"picture{suffix}"
        Image.new("RGB", (4, 6), (255, 0, 0)).save(path)
        array = array_from_image(path, TensorSpec("image", "FP32", (-1, 3, 6, 4)), ImagePreparation())
        assert array.shape == (1, 3, 6, 4)
