"""`plansmith infer`, `models` and `health`, run as a user runs them against a real Triton."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plansmith_build.datasets.images import read_image
from plansmith_build.datasets.preprocessing import Preprocessing
from plansmith_client import InferResult, InvalidInput, TensorSpec
from plansmith_client.commands.image_files import ImagePreparation, array_from_image, recorded_preparation
from plansmith_client.commands.input_files import read_inputs, sources_of, texts_as_inputs
from plansmith_client.commands.output_files import write_output_file
from plansmith_client.commands.predictions import draw_boxes, prediction_lines
from plansmith_client.commands.tensor_json import json_from_result
from plansmith_client.image_rows import ImageRecipe
from plansmith_server import ServerOptions, TritonServer

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "models_python"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a model that could not be loaded, so that it is live and not ready."""
    repository = tmp_path_factory.mktemp("served") / "models"
    for name in ("add", "broken", "double", "every_type", "failing"):
        shutil.copytree(MODELS / name, repository / name)
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with TritonServer(options) as running:
        yield running


@pytest.fixture
def command(plansmith, server, tmp_path):
    """The command in an empty folder, with this module's server unless told otherwise."""

    def run(*words, expect=0):
        url = () if "--url" in words else ("--url", server.grpc_url)
        return plansmith(*words, *url, expect=expect, cwd=tmp_path)

    run.folder = tmp_path
    return run


@pytest.fixture
def nobody():
    """A URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_random_values_are_answered_in_a_table(command):
    done = command("infer", "double", "--random", "--batch", "3", "--seed", "5")
    assert "double version 1" in done.stdout
    for word in ("y", "FP32", "3 x 4"):
        assert word in done.stdout
    again = command("infer", "double", "--random", "--batch", "3", "--seed", "5")
    assert again.stdout.splitlines()[1:] == done.stdout.splitlines()[1:]


def test_both_protocols_give_the_same_json(command, server):
    documents = [
        json.loads(command("infer", "every_type", "--random", "--json", "--url", url).stdout)
        for url in (server.grpc_url, server.http_url)
    ]
    for document in documents:
        del document["seconds"]
    assert documents[0] == documents[1]
    assert documents[0]["outputs"]["int64_out"]["shape"] == [1, 16]


def test_the_server_can_be_named_by_the_environment(server):
    done = subprocess.run(
        [Path(sys.executable).with_name("plansmith"), "health", "double"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PLANSMITH_URL": server.http_url},
    )
    assert done.stdout == f"model 'double' at {server.http_url} is ready\n"


def test_an_npy_file_goes_to_the_only_input(command):
    # float64, as numpy computes.
    np.save(command.folder / "x.npy", np.arange(8.0).reshape(2, 4))
    document = json.loads(command("infer", "double", "--input", "x.npy", "--json").stdout)
    assert document["outputs"]["y"]["data"] == [[0, 2, 4, 6], [8, 10, 12, 14]]
    assert (document["model"], document["version"]) == ("double", "1")


def test_files_of_every_kind_name_their_inputs(command):
    np.savez(command.folder / "both.npz", a=np.array([[1, 2]]), b=np.array([[10, 20]]))
    (command.folder / "both.json").write_text('{"a": [[1, 2]], "b": [[10, 20]]}')
    (command.folder / "b.json").write_text("[[10, 20]]")
    np.save(command.folder / "a.npy", np.array([[1, 2]], np.int32))
    for words in (["both.npz"], ["both.json"], ["a=a.npy", "b=b.json"], ["a=both.npz", "b=both.json"]):
        inputs = [word for name in words for word in ("--input", name)]
        document = json.loads(command("infer", "add", *inputs, "--json").stdout)
        assert document["outputs"]["sum"]["data"] == [[11, 22]]


def test_outputs_are_written_to_files_that_read_back(command):
    np.save(command.folder / "x.npy", np.array([[1, 2, 3, np.nan]], np.float32))
    for name in ("y.npy", "y.npz", "y.json"):
        assert f"written to {name}" in command("infer", "double", "-i", "x.npy", "-o", name).stdout
    expected = np.array([[2, 4, 6, np.nan]], np.float32)
    np.testing.assert_array_equal(np.load(command.folder / "y.npy", allow_pickle=False), expected)
    with np.load(command.folder / "y.npz", allow_pickle=False) as arrays:
        assert arrays.files == ["y"]
        np.testing.assert_array_equal(arrays["y"], expected)
    assert json.loads((command.folder / "y.json").read_text()) == {"y": [[2, 4, 6, "NaN"]]}
    document = json.loads(command("infer", "double", "-i", "x.npy", "-o", "y.npy", "--json").stdout)
    assert document["file"] == "y.npy"
    assert "data" not in document["outputs"]["y"]


def test_an_image_is_prepared_as_the_manifest_of_the_build_records(tmp_path):
    recorded = {"size": [6, 4], "resize": 8, "channels": "BGR", "layout": "NHWC", "mean": [0.4, 0.5, 0.6], "std": [0.2]}
    manifest, photo = tmp_path / "manifest.json", tmp_path / "photo.png"
    manifest.write_text(json.dumps({"search": {"preprocessing": recorded}}))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    got = array_from_image(photo, TensorSpec("x", "FP32", (-1, 6, 4, 3)), recorded_preparation(manifest))
    built = read_image(photo, Preprocessing(**recorded), (6, 4), "FP32")
    assert got.shape == (1, 6, 4, 3)
    np.testing.assert_array_equal(got[0], built)
    for wrong in (
        {"size": "abc"},
        {"size": 7},
        {"interpolation": 3},
        {"mean": ["a"]},
        {"layout": "NHWC", "mean": [1, 2]},
        {"layout": "NHWC", "std": [0]},
        {"layout": "NHWC", "scale": [float("inf")]},
        {"layout": "NHWC", "size": [60_000, 60_000], "fit": "stretch"},
    ):
        manifest.write_text(json.dumps({"search": {"preprocessing": wrong}}))
        with pytest.raises(InvalidInput, match="recorded preprocessing"):
            array_from_image(photo, TensorSpec("x", "FP32", (-1, 6, 4, 3)), recorded_preparation(manifest))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(photo)
    with pytest.raises(InvalidInput, match="8 bits"):
        array_from_image(photo, TensorSpec("x", "FP32", (-1, 6, 4, 3)), recorded_preparation(manifest))


def test_pixels_that_the_model_cannot_hold_are_refused_and_not_wrapped_around(tmp_path):
    photo, spec = tmp_path / "white.png", TensorSpec("x", "INT8", (1, 2, 2, 1))
    Image.new("L", (2, 2), 255).save(photo)
    for preparation in (ImagePreparation(), ImagePreparation(recipe=ImageRecipe(layout="NHWC", scale=(1,)))):
        with pytest.raises(InvalidInput, match=r"(?i)255.*int8"):
            array_from_image(photo, spec, preparation)
    assert array_from_image(photo, spec, ImagePreparation(scale=1, mean=(128,))).tolist() == [[[[127]] * 2] * 2]
    with pytest.raises(InvalidInput, match="FP16"):
        array_from_image(photo, TensorSpec("x", "FP16", (1, 1, 2, 2)), ImagePreparation(scale=1e6))


def result_of(**outputs) -> InferResult:
    return InferResult(outputs, model_name="m", model_version="1", parameters={"a": [float("nan")], "b": float("inf")})


def test_outputs_that_are_only_called_like_those_of_a_pipeline_are_shown_as_any(tmp_path):
    words, shares = np.array([[b"cat"]], object), np.array([[0.9]], np.float32)
    assert prediction_lines(result_of(label=words, probability=shares), ["a"]) == ["a: cat, 90 %"]
    for label, probability in (
        (np.array([3]), shares),
        (np.array([[3]]), shares),
        (words, shares[0]),
        (words, shares.astype(object)),
        (words, np.zeros((1, 2), np.float32)),
        (words[0, 0], shares),
    ):
        assert prediction_lines(result_of(label=np.asarray(label), probability=probability), ["a"]) == []
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40)).save(photo)
    for box in ([3, 4, 20, 30], [20, 30, 3, 4], [-1e30, 0, 1e30, 9], [np.nan, 0, 1, 1], [0, np.inf, -np.inf, 3]):
        boxes = np.array([[box]], np.float32)
        lines = result_of(label=np.array([[b"a\nb"]], object), probability=shares, box=boxes)
        draw_boxes(photo, lines, tmp_path / "drawn.png")
    with pytest.raises(InvalidInput, match="gives boxes"):
        draw_boxes(photo, result_of(label=words, probability=shares, box=boxes[0]), tmp_path / "drawn.png")


def test_json_has_numbers_of_json_alone_whatever_a_server_adds_to_its_answer():
    document = json_from_result(result_of(y=np.zeros(1)))
    assert json.loads(json.dumps(document, allow_nan=False))["parameters"] == {"a": ["NaN"], "b": "Infinity"}


def test_a_text_that_is_not_of_the_terminals_encoding_is_sent_as_it_was_typed():
    assert texts_as_inputs(["\udcff"], [TensorSpec("x", "BYTES", (-1,))])["x"].tolist() == [b"\xff"]


@pytest.mark.parametrize(
    ("datatype", "scale", "shown"), [("UINT8", 2, "300"), ("FP16", 1e4, "1.5e+06"), ("FP32", 1e38, "inf")]
)
def test_a_pixel_that_the_input_cannot_hold_is_refused_and_never_wrapped(tmp_path, datatype, scale, shown):
    Image.fromarray(np.full((2, 2), 150, np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(InvalidInput, match=re.escape(f"it has {shown}, which input 'x' ({datatype}) cannot hold")):
        array_from_image(tmp_path / "photo.png", TensorSpec("x", datatype, (-1, 2, 2)), ImagePreparation(scale))


def test_hidden_files_of_a_folder_are_left_alone(tmp_path):
    (tmp_path / ".thumbnails").mkdir()
    for name in ("b.png", "a.PNG", "._a.png", ".thumbnails/a.png"):
        (tmp_path / name).write_bytes(b"")
    assert sources_of([str(tmp_path)]) == [str(tmp_path / name) for name in ("a.PNG", "b.png")]


def test_a_manifest_without_a_preprocessing_is_refused(command):
    for content, words in (('{"search": {"preprocessing": null}}', "no preprocessing"), ("[]", "not a manifest")):
        (command.folder / "manifest.json").write_text(content)
        done = command("infer", "double", "--input", "x.png", "--manifest", "manifest.json", expect=2)
        assert words in done.stderr
    command("infer", "double", "--input", "x.png", "--manifest", "manifest.json", "--image-scale", "1", expect=2)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "self", "a/b:0", "y.npy", "größe"])
def test_an_output_may_have_any_name_in_an_npz_file(tmp_path, name):
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    result = InferResult({name: array, "other": array[:0]}, model_name="m", model_version="1")
    write_output_file(tmp_path / "out.npz", result)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays.files == [name, "other"]
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays["other"].shape == (0, 3)


def test_strings_and_bfloat16_are_written_as_what_the_files_know(command):
    (command.folder / "in.json").write_text('{"string": [["grün", ""]], "bf16": [[0.5, -3]]}')
    command("infer", "every_type", "-i", "in.json", "-o", "out.npz")
    with np.load(command.folder / "out.npz", allow_pickle=False) as arrays:
        assert arrays["string_out"].tolist() == [["grün".encode(), b""]]
        assert arrays["bf16_out"].dtype == np.float32
        assert arrays["bf16_out"].tolist() == [[0.5, -3]]
    document = json.loads(command("infer", "every_type", "-i", "in.json", "--json").stdout)
    assert document["outputs"]["string_out"] == {"datatype": "BYTES", "shape": [1, 2], "data": [["grün", ""]]}
    assert document["outputs"]["bf16_out"] == {"datatype": "BF16", "shape": [1, 2], "data": [[0.5, -3]]}


def test_bytes_that_are_no_text_are_base64_in_json_and_refused_where_they_would_be_cut(command):
    (command.folder / "in.json").write_text('{"string": [["a\\u0000"]]}')
    done = command("infer", "every_type", "-i", "in.json", "-o", "out.npy", expect=2)
    assert "write a .json file" in done.stderr
    assert not (command.folder / "out.npy").exists()
    np.savez(command.folder / "in.npz", string=np.array([[b"\xff\xfe"]]))
    document = json.loads(command("infer", "every_type", "-i", "in.npz", "--json").stdout)
    assert document["outputs"]["string_out"]["data"] == [[{"base64": "//4="}]]


def damaged_zip():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.random.default_rng(0).standard_normal((30, 30)))
    content = bytearray(buffer.getvalue())
    content[200:2000] = bytes(1800)
    return bytes(content)


def huge_npy():
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    return buffer.getvalue()


def zip_of_text():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npy", None, "cannot be read: No such file"),
        ("x.csv", b"1 2 3", "does not end in one of"),
        ("x.npy", b"", "not a complete .npy file"),
        ("x.npy", b"hello", "is not a numpy file"),
        ("x.npy", pickled(), "never read because that could run code"),
        ("x.npy", huge_npy(), "not a complete .npy file"),
        ("x.npz", b"PK\x03\x04 cut", "not a complete .npz file"),
        ("x.npz", damaged_zip(), "not a complete .npz file"),
        ("x.npz", zip_of_text(), "some of its members are not arrays"),
        ("x.json", b"{", "is not valid JSON"),
        ("x.json", b"\xff", "is not valid JSON"),
        ("x.json", b"[" * 100_000, "is not valid JSON"),
        ("x.json", b'{"x": [[1,2,3,4]], "x": [[1,2,3,4]]}', "a name occurs twice"),
    ],
)
def test_a_bad_file_is_refused_while_it_is_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=re.escape(message)):
        read_inputs([str(tmp_path / name)], [TensorSpec("x", "FP32", (-1, 4))])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b'{"nope": [[1,2,3,4]]}', "has no input 'nope'"),
        ("x.json", b"[[1,2,3]]", "given float32 [1, 3], expected FP32 [-1, 4]"),
        ("x.json", b'[["a"]]', "holds strings, which FP32 does not take"),
        ("x.json", b"null", "given a NoneType"),
    ],
)
def test_a_bad_file_is_one_clear_sentence(command, name, content, message):
    if content is not None:
        (command.folder / name).write_bytes(content)
    done = command("infer", "double", "--input", name, expect=2)
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either FILE"),
        (["--random", "--input", "a.npy"], "either FILE"),
        (["--input", "a.npy"], "write --input with one of a=a.npy, b=a.npy, bias=a.npy"),
        (["--input", "a=a.npy", "--input", "a=a.npy"], "Input 'a' is given twice"),
        (["--input", "a=a.npy"], "input 'b': missing"),
        (["--input", "q=both.npz"], "has no array 'q'"),
        (["--input", "a=a.npy", "--batch", "2"], "--batch is only for --random"),
        (["--random", "--output", "out.txt"], "does not end in one of"),
        (["--random", "--output", "nowhere/out.npy"], "cannot be written"),
        (["--random", "--output", "out.npy"], "select one by name"),
        (["--random", "--batch", "0"], "expected at least 1"),
        (["--random", "--timeout", "0"], "timeout"),
        (["--random", "--url", "ftp://a:1"], "scheme"),
        (["--random", "--model-version", "x"], "expected a number"),
        (["--random", "--model-version", "9"], "has no version 9"),
    ],
)
def test_a_wrong_command_line_is_one_clear_sentence(command, words, message):
    np.save(command.folder / "a.npy", np.array([[1]]))
    np.savez(command.folder / "both.npz", a=np.array([[1]]))
    done = command("infer", "add", *words, expect=2)
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert sorted(path.name for path in command.folder.iterdir()) == ["a.npy", "both.npz"]


def test_a_failing_model_a_missing_one_and_no_server_have_their_exit_codes(command, nobody):
    (command.folder / "code.json").write_text('["INTERNAL"]')
    assert "the model failed with INTERNAL" in command("infer", "failing", "-i", "code.json", expect=1).stderr
    assert "the server has add, broken, double" in command("infer", "nope", "--random", expect=2).stderr
    for words in (["infer", "double", "--random"], ["models"]):
        assert "Connection refused" in command(*words, "--url", nobody, expect=1).stderr


def test_models_lists_what_the_server_has_and_why_a_model_is_not_ready(command):
    listed = command("models").stdout
    for words in ("add", "bias INT64 [-1, 1] (optional)", "broken", "this model never loads", "x FP32 [-1, 4]"):
        assert words in listed
    document = json.loads(command("models", "--json").stdout)
    by_name = {model["name"]: model for model in document["models"]}
    assert by_name["double"]["state"] == "READY"
    assert by_name["double"]["max_batch_size"] == 8
    assert by_name["double"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "optional": False}]
    assert by_name["broken"]["state"] == "UNAVAILABLE"
    assert "inputs" not in by_name["broken"]


def test_health_tells_ready_not_ready_and_unreachable_apart(command, server, nobody):
    for url in (server.grpc_url, server.http_url):
        assert command("health", "double", "--url", url).stdout == f"model 'double' at {url} is ready\n"
        done = command("health", "--url", url, expect=3)
        assert f"the server at {url} is not ready: broken" in done.stdout
        assert "this model never loads" in command("health", "broken", "--url", url, "--wait", "0.3", expect=3).stdout
        assert "the server has add" in command("health", "nope", "--url", url, expect=3).stdout
    assert "Connection refused" in command("health", "--url", nobody, expect=1).stderr
    # The server of Triton's metrics says yes to whatever it is asked.
    for model in ((), ("double",)):
        done = command("health", *model, "--url", server.metrics_url.removesuffix("/metrics"), expect=1)
        assert "metrics port gives; its HTTP port is 8000 unless set otherwise" in done.stderr


def test_health_with_a_request_tells_a_model_that_answers_from_one_that_is_only_ready(command, server):
    for url in (server.http_url, server.grpc_url):
        assert command("health", "double", "--infer", "--url", url).stdout == f"model 'double' at {url} is ready\n"
        assert "is ready" in command("health", "failing", "--url", url).stdout
        done = command("health", "failing", "--infer", "--url", url, expect=3)
        assert done.stdout.startswith(f"model 'failing' at {url} is not ready: ")


def test_health_with_known_answers_tells_a_model_that_answers_otherwise(command, server, tmp_path):
    url = ("--url", server.grpc_url)
    for model, output in (("double", "before.npz"), ("every_type", "every.npz")):
        command("infer", model, "--random", "--output", tmp_path / output, *url)
        for address in (server.http_url, server.grpc_url):
            assert "is ready" in command("health", model, "--expect", tmp_path / output, "--url", address).stdout
    with np.load(tmp_path / "before.npz") as known:
        (name, values), *_ = known.items()
    # What a server that is not this one would have given.
    wrong = {
        "differs by 0.01": {name: values + 0.01 * np.abs(values).max()},
        "differs by inf": {name: np.full_like(values, np.nan)},
        "instead of [2, 4]": {name: np.concatenate([values, values])},
        "no output 'z'": {"z": values},
    }
    for said, arrays in wrong.items():
        np.savez(tmp_path / "wrong.npz", **arrays)
        done = command("health", "double", "--expect", tmp_path / "wrong.npz", *url, expect=3)
        assert said in done.stdout
    np.savez(tmp_path / "near.npz", **wrong["differs by 0.01"])
    command("health", "double", "--expect", tmp_path / "near.npz", "--tolerance", "0.02", *url)
    with np.load(tmp_path / "every.npz") as known:
        integers = dict(known)
    integers["int32_out"][0][0] += 1
    np.savez(tmp_path / "wrong.npz", **integers)
    done = command("health", "every_type", "--expect", tmp_path / "wrong.npz", *url, expect=3)
    assert "'int32_out' has other values" in done.stdout
    assert "MODEL" in command("health", "--expect", tmp_path / "before.npz", *url, expect=2).stderr
    np.save(tmp_path / "one.npy", values)
    assert "by name" in command("health", "double", "--expect", tmp_path / "one.npy", *url, expect=2).stderr


def test_the_containers_probe_tells_a_model_that_answers_from_one_that_is_only_ready(server, nobody):
    def probe(url, *models):
        command = [sys.executable, "-I", "-S", ROOT / "deploy" / "infer_probe.py", "--url", url, *models]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    assert probe(server.http_url, "double", "every_type").returncode == 0
    assert probe(server.http_url).returncode == 1  # One of its models is not ready.
    failing = probe(server.http_url, "failing")
    assert failing.returncode == 1
    assert "failing" in failing.stderr
    unreachable = probe(f"http://{nobody}")
    assert unreachable.returncode == 1
    assert "Connection refused" in unreachable.stderr


def test_health_as_json(command, nobody):
    assert json.loads(command("health", "double", "--json").stdout) | {"url": ""} == {
        "url": "",
        "model": "double",
        "live": True,
        "ready": True,
        "reason": "",
    }
    not_ready = json.loads(command("health", "--json", expect=3).stdout)
    assert (not_ready["live"], not_ready["ready"]) == (True, False)
    unreachable = json.loads(command("health", "--json", "--url", nobody, expect=1).stdout)
    assert (unreachable["live"], unreachable["ready"]) == (False, False)
    assert "Connection refused" in unreachable["reason"]
