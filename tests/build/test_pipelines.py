"""`plansmith build --pipeline`: images and text in, labels, vectors and boxes out, through a real Triton."""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession
from PIL import Image
from pipeline_models import (
    COLOURS,
    VECTORS,
    WORDS,
    colour_classifier,
    column,
    detector,
    picture,
    pitch_classifier,
    sentiment,
    tiled_picture,
    tokenizer,
    tone,
    word_vectors,
)

from plansmith_build import BuildOptions, InvalidModel, InvalidOption, ModelNotFound, build_pipeline
from plansmith_build.datasets import read_preprocessing
from plansmith_build.pipelines.graphs import GRAPHS
from plansmith_build.pipelines.verification import output_errors
from plansmith_build.portable.comparison import OutputComparison
from plansmith_build.repository.companions import companions_in_place
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.linting.signatures import check_signatures
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.rollback import roll_back
from plansmith_build.search.search import SearchOptions
from plansmith_build.search.targets import Precision, Target
from plansmith_client import Client, InvalidInput
from plansmith_client.tensors import numpy_dtype_from_datatype
from plansmith_server import ServerOptions, TritonServer

SCENES = """
[[step]]
kind = "image"
preprocess = "zero-to-one"
max_pixels = 10_000

[[step]]
kind = "model"

[[step]]
kind = "classes"
labels = "labels.txt"
top = 2
"""
SEARCH = """
samples = ["a great film", "this is a book"]

[[step]]
kind = "text"
max_length = 6
too_long = "refuse"
max_bytes = 1000
pad = [4]
instances = 2

[[step]]
kind = "model"

[[step]]
kind = "embedding"
"""
SENTIMENT = """
[[step]]
kind = "text"

[[step]]
kind = "model"

[[step]]
kind = "classes"
labels = "moods.txt"
"""
MOODS = SENTIMENT[SENTIMENT.index('[[step]]\nkind = "model"') :]
PITCH = """
[[step]]
kind = "audio"
rate = 8000

[[step]]
kind = "model"

[[step]]
kind = "classes"
labels = "pitches.txt"
"""
FINDER = """
[[step]]
kind = "image"
preprocess = "zero-to-one,fit=pad"

[[step]]
kind = "model"

[[step]]
kind = "boxes"
labels = "things.txt"
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    colour_classifier(folder / "colours.onnx")
    word_vectors(folder / "words.onnx")
    detector(folder / "detector.onnx")
    sentiment(folder / "moods.onnx")
    pitch_classifier(folder / "tones.onnx")
    (folder / "pitches.txt").write_text("low\nhigh\n")
    (folder / "moods.txt").write_text("negative\npositive\n")
    tokenizer(folder / "tokenizer.json")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    (folder / "things.txt").write_text("cup\nspoon\n")
    for name, text in {
        "scenes": SCENES,
        "search": SEARCH,
        "finder": FINDER,
        "sentiment": SENTIMENT,
        "moods": MOODS,
        "pitch": PITCH,
    }.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def repository(files, plansmith):
    """Six pipelines, the first of them tried on a Triton by the command."""
    repository = files / "models"
    words = ("--pipeline", files / "scenes.toml", "--repository", repository)
    said = plansmith("build", files / "colours.onnx", *words).stdout
    assert "a pipeline, image -> model -> classes" in said
    models = {"search": "words", "finder": "detector", "sentiment": "moods", "moods": "moods", "pitch": "tones"}
    for name, model in models.items():
        options = BuildOptions(repository, serve=False, max_queue_size=100)
        build_pipeline(files / f"{model}.onnx", files / f"{name}.toml", options)
    return repository


@pytest.fixture(scope="module")
def client(repository):
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, strict=True)
    with TritonServer(options) as server, Client(server.grpc_url, timeout=60) as client:
        yield client


def test_image_files_are_answered_with_the_names_and_probabilities_of_their_classes(client):
    pictures = [picture((255, 0, 0)), picture((0, 0, 255), (90, 20), "BMP"), picture((0, 0, 0), form="WEBP")]
    answer = client.model("scenes").infer({"image": column(*pictures)})
    assert answer["label"][:, 0].tolist() == [b"red", b"blue", b"dark"]
    scores = np.array([8, 0, 0, -4])
    assert answer["probability"][0] == pytest.approx((np.exp(scores) / np.exp(scores).sum())[:2], abs=1e-5)


def test_texts_are_answered_with_vectors_of_unit_length_whatever_they_are_padded_to(client):
    model = client.model("search")
    together = model.infer({"text": column(b"great film", b"this is a great book", b"")})["embedding"]
    for text, row in {"great film": together[0], "this is a great book": together[1]}.items():
        mean = VECTORS[[WORDS.index(word) for word in text.split()]].mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
        np.testing.assert_allclose(model.infer({"text": column(text.encode())})["embedding"][0], row, atol=1e-6)
    # A text without a word has no direction.
    assert not together[2].any()
    # Who has no mask answers otherwise: filling up is for what makes the ids, and no option of a bare model.
    ids = [WORDS.index("great"), WORDS.index("film")]
    rows = [np.array([ids]), np.array([[*ids, 0, 0]])]
    short, filled = (client.model("search.1.model").infer({"input_ids": row})["vectors"].mean(axis=1) for row in rows)
    assert np.abs(short - filled).max() > 0.1


def test_recordings_are_answered_by_what_is_heard_whatever_their_channels_and_length(client, tmp_path, plansmith):
    heard = [tone(300), tone(3500), tone(3500, channels=2, seconds=0.2)]
    answer = client.model("pitch").infer({"audio": column(*heard)})
    assert answer["label"].tolist() == [[b"low"], [b"high"], [b"high"]]
    (tmp_path / "whistle.wav").write_bytes(heard[1])
    said = plansmith("infer", "pitch", "whistle.wav", "--url", client.url, cwd=tmp_path).stdout
    assert said.startswith("whistle.wav: high, ")


def test_boxes_are_those_of_the_image_and_overlapping_ones_are_left_out(client):
    # 64 x 32 pixels, padded above and below to a square and halved.
    answer = client.model("finder").infer({"image": column(picture((255, 255, 255), (64, 32)), picture((0, 0, 0)))})
    assert answer["label"].tolist() == [[b"cup", b"cup", b"spoon"], [b"", b"", b""]]
    # A half of the row is padding, so it is half as bright.
    assert answer["probability"][0] == pytest.approx([0.45, 0.35, 0.3], abs=1e-3)
    assert not answer["probability"][1].any()
    # Rows of the model's 8 above and 8 below are not the image's.
    np.testing.assert_allclose(answer["box"][0], [[8, 0, 24, 8], [32, 16, 64, 32], [8, 0, 24, 8]])


BAD_IMAGES = {
    "the file of 0 bytes is not an image": b"",
    "the file of 9 bytes is not an image": b"not image",
    "has 101 x 100 pixels, and 10,000 are allowed": picture((1, 2, 3), (101, 100)),
    "has tiles of 2048 x 2048 pixels": tiled_picture(64, 2048),
    "the file of 2,000 bytes is damaged": picture((1, 2, 3), (90, 90), "BMP")[:2000],
    "more than 8 bits a channel": b"P5 2 2 65535\n" + bytes(8),
}
BAD_TEXTS = {
    "the text is not UTF-8": b"\xff\xfe",
    "the text has 7 tokens, and the model takes 6": b"a a a a a a a",
    "the text has 1,001 bytes, and 1,000 are allowed": b"a" * 1001,
}


BAD_AUDIO = {
    "4 bytes are not a WAV file of 16-bit PCM: it is cut off": b"RIFF",
    "the audio has 16,000 samples a second, and the model takes 8,000": tone(300, rate=16_000),
    "the audio is silent": tone(300, level=1e-4),
    "32 bits a sample": tone(300, width=4),
    "the audio has 4,000 samples": tone(300, seconds=0.5),
    "the audio is cut off": tone(300)[:-100],
    "268435.46 s": tone(300)[:40] + b"\xff" * 4 + tone(300)[44:],
}


@pytest.mark.parametrize(
    ("pipeline", "bad", "why"),
    [
        *(("scenes", bad, why) for why, bad in BAD_IMAGES.items()),
        *(("search", bad, why) for why, bad in BAD_TEXTS.items()),
        *(("pitch", bad, why) for why, bad in BAD_AUDIO.items()),
    ],
    ids=[*BAD_IMAGES, *BAD_TEXTS, *BAD_AUDIO],
)
def test_a_bad_item_is_refused_for_what_it_is_and_its_neighbours_are_answered(client, pipeline, bad, why):
    model = client.model(pipeline)
    goods = {"scenes": ("image", picture((0, 255, 0))), "search": ("text", b"a film"), "pitch": ("audio", tone(300))}
    name, good = goods[pipeline]
    items = [good, bad, good, good, bad, good]

    def ask(item):
        try:
            return model.infer({name: column(item)})
        except InvalidInput as error:
            return str(error)

    with ThreadPoolExecutor(len(items)) as pool:
        answers = list(pool.map(ask, items))
    for item, answer in zip(items, answers, strict=True):
        assert (why in answer) if item == bad else len(next(iter(answer.values()))) == 1
    # `map` finds the one at fault.
    failed = [item.index for item in model.map([[item] for item in items]) if item.error is not None]
    assert failed == [1, 4]
    # In one request of several rows, the bad one is named.
    with pytest.raises(InvalidInput, match=f"row 1: .*{why}"):
        model.infer({name: column(good, bad)})


def test_an_image_is_refused_by_its_header_before_it_is_decoded(client):
    # 100 megapixels, of which there are no data at all.
    for sides, why in {"10000 10000": "has 10000 x 10000 pixels", "90000 90000": "has too many pixels"}.items():
        with pytest.raises(InvalidInput, match=why):
            client.model("scenes").infer({"image": column(f"P5 {sides} 255\n".encode())})


def test_the_command_prints_what_images_and_texts_are(client, plansmith, tmp_path):
    for name, colour in {"sky": (0, 0, 255), "rose": (255, 0, 0)}.items():
        (tmp_path / f"{name}.png").write_bytes(picture(colour))

    def said(*words, **options):
        return plansmith("infer", *words, "--url", client.url, cwd=tmp_path, **options)

    assert said("scenes", "sky.png", "rose.png").stdout.splitlines() == [
        "sky.png: blue, 100 %",
        "rose.png: red, 100 %",
    ]
    assert said("sentiment", "--text", "great film", "--text", "this is a poor book").stdout.splitlines() == [
        "great film: positive, 98 %",
        "this is a poor book: negative, 98 %",
    ]
    assert "embedding" in said("search", "--text", "great film", "--text", "a book").stdout
    assert json.loads(said("scenes", "sky.png", "--json").stdout)["outputs"]["label"]["data"] == [["blue", "red"]]
    assert "not an image" in said("scenes", "--text", "words", expect=2).stderr
    assert "either FILE" in said("search", "sky.png", "--text", "a", expect=2).stderr


def test_boxes_are_drawn_into_the_image(client, plansmith, tmp_path):
    (tmp_path / "table.png").write_bytes(picture((255, 255, 255), (640, 320)))
    (tmp_path / "night.png").write_bytes(picture((0, 0, 0)))
    words = ("--url", client.url, "--draw", "found.png")
    done = plansmith("infer", "finder", "table.png", *words, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "table.png: cup, 45 % at 80,0,240,80"
    drawn = np.asarray(Image.open(tmp_path / "found.png"))
    assert drawn.shape == (320, 640, 3)
    # The last box is the right half, from the middle down.
    assert drawn[240, 320].min() < 200
    assert drawn[160, 600].min() < 200
    assert (drawn[180:300, 400:600] == 255).all()
    assert plansmith("infer", "finder", "night.png", *words, cwd=tmp_path).stdout == "night.png: nothing\n"
    assert (
        "--draw needs a model that gives boxes"
        in plansmith("infer", "scenes", "night.png", *words, cwd=tmp_path, expect=2).stderr
    )
    for mistake in (("night.png", "table.png"), ("night.png", "--draw", "found.txt")):
        plansmith("infer", "finder", *mistake, *(words if len(mistake) == 2 else words[:2]), cwd=tmp_path, expect=2)


def test_verify_finds_nothing_wrong_and_notices_a_changed_step(repository, tmp_path):
    assert not [f for f in lint_repository(ModelRepository.at(repository)) if f.severity is Severity.ERROR]
    changed = shutil.copytree(repository, tmp_path / "models")
    step = changed / "search.1.text" / "1" / "step.json"
    step.write_text(step.read_text().replace('"max_length": 6', '"max_length": 5'))
    errors = [f for f in lint_repository(ModelRepository.at(changed)) if f.severity is Severity.ERROR]
    assert [error.path for error in errors] == ["search.1.text/1/step.json"]


def test_images_are_prepared_as_the_calibration_did(files, tmp_path):
    for number in range(12):
        for colour in ("red", "blue"):
            path = tmp_path / "pictures" / colour / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture((250 - number, 0, 0) if colour == "red" else (0, 0, 250 - number)))
    recipe = read_preprocessing("zero-to-one,fit=stretch,mean=0.1")
    search = SearchOptions(
        str(tmp_path / "pictures"),
        preprocessing=recipe,
        targets=(Target.ONNXRUNTIME,),
        precisions=(Precision.FP32,),
        labels_key=None,
    )
    options = BuildOptions(tmp_path / "models", serve=False, search=search)
    (files / "plain.toml").write_text(SCENES.replace('preprocess = "zero-to-one"\n', ""))
    result = build_pipeline(files / "colours.onnx", files / "plain.toml", options)
    step = json.loads((tmp_path / "models" / "plain.1.image" / "1" / "step.json").read_text())["options"]["recipe"]
    assert step == {**recipe.model_dump(mode="json"), "size": [16, 16], "dtype": "float32"}
    assert result.version == 1
    with pytest.raises(InvalidOption, match="leave preprocess out"):
        build_pipeline(files / "colours.onnx", files / "scenes.toml", options)


def test_versions_are_exchanged_whole_and_the_steps_of_two_stay(files, tmp_path, plansmith):
    repository = ModelRepository.at(tmp_path / "models")

    def publish(text=SCENES, **options):
        (files / "changing.toml").write_text(text)
        return build_pipeline(
            files / "colours.onnx", files / "changing.toml", BuildOptions(repository.path, serve=False, **options)
        )

    def steps():
        return [name for name in repository.names() if name.startswith("changing.")]

    publish()
    manifests = [repository.existing_model(name).manifest(1) for name in ("changing", "changing.1.model")]
    sources = tuple(manifest.source.sha256 for manifest in manifests)
    for source in sources:
        with pytest.raises(InvalidModel, match="is expected: put the file back"):
            publish(source_sha256=(source,))
    (repository.path / "changing.1.mine").mkdir()
    made = publish(recipe=("colours.onnx",), source_sha256=sources)
    assert made.manifest.recipe == ("colours.onnx",)
    assert not repository.existing_model("changing.2.model").manifest(1).recipe
    assert [name[:10] for name in steps()] == ["changing.1"] * 4 + ["changing.2"] * 3
    with pytest.raises(InvalidOption, match=r"output 'box' is new|output 'label' is gone|is another model"):
        publish(SCENES[: SCENES.index('[[step]]\nkind = "classes"')])
    assert len(steps()) == 7
    publish()
    assert {name[:10] for name in steps()} == {"changing.1", "changing.2", "changing.3"}
    assert "changing.1.mine" in steps()
    (repository.path / "changing.1.mine").rmdir()
    with pytest.raises(InvalidModel, match=r"whose steps are no longer there, changing\.1\.classes"):
        roll_back(repository, "changing", 1)
    assert roll_back(repository, "changing", 2).version == 4
    assert not [f for f in lint_repository(repository) if f.severity is Severity.ERROR]
    # The steps of version 3 go with it.
    said = plansmith("prune", "--all", "--keep", "1", "--repository", repository.path).stdout.splitlines()
    assert said == ["changing: removed 1, 2, 3", *(f"{name}: removed nothing" for name in steps())]
    assert {name[:10] for name in steps()} == {"changing.2"}
    publish()
    with pytest.raises(ModelNotFound, match="no version 1"):
        roll_back(repository, "changing", 1)


def test_a_pipeline_of_arrays_is_served_by_onnx_files_of_standard_operators_alone(client, repository):
    names = ["moods.1.classes", "moods.1.model"]
    assert sorted(path.name for path in repository.glob("moods.*")) == names
    for name in names:
        assert config_from_text((repository / name / "config.pbtxt").read_text()).backend == "onnxruntime"
        graph = onnx.load(repository / name / "1" / "model.onnx").graph
        assert {node.domain for node in graph.node} == {""}
    ids = np.array([[WORDS.index("great"), WORDS.index("film")], [WORDS.index("poor"), WORDS.index("book")]])
    answer = client.model("moods").infer({"input_ids": ids})
    assert answer["label"].tolist() == [[b"positive"], [b"negative"]]
    np.testing.assert_allclose(answer["probability"], 1 / (1 + np.exp(-4)), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "none"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("datatype", ["INT32", "FP32", "FP64", "BOOL"])
def test_vectors_are_pooled_over_the_tokens_that_the_mask_keeps(pooling, normalize, datatype):
    options = {"size": 5, "pooling": pooling, "normalize": normalize, "datatype": datatype}
    session = InferenceSession(GRAPHS["embedding"](**options).SerializeToString(), providers=["CPUExecutionProvider"])
    tokens = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32) - 2
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], numpy_dtype_from_datatype(datatype))
    tokens[mask == 0] = np.nan
    vectors = tokens[:2, 1]
    filled = np.nan_to_num(tokens, nan=7)
    given = {"vector": vectors} if pooling == "none" else {"tokens": filled, "attention_mask": mask}
    (made,) = session.run(None, given)
    if pooling != "none":
        pool = {"mean": np.nanmean, "max": np.nanmax, "first": lambda rows, axis: rows.take(0, axis)}[pooling]
        vectors = np.concatenate([pool(tokens[:2], axis=1), np.zeros((1, 5))])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(made, vectors / np.maximum(lengths, 1e-12) if normalize else vectors, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_classes_come_by_probability_and_equal_ones_by_their_number(activation):
    graph = GRAPHS["classes"](labels=["a", "ł", "c", "d"], top=3, activation=activation)
    session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = np.array([[0, 2, 2, -1], [-20, 20, 0, 1]], np.float32)
    label, probability = session.run(None, {"scores": scores})
    assert label.tolist() == [["ł", "c", "a"], ["ł", "d", "c"]]
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    expected = {
        "softmax": powers / powers.sum(axis=1, keepdims=True),
        "sigmoid": np.tanh(scores.astype(np.float64) / 2) / 2 + 0.5,
        "none": scores,
    }[activation]
    np.testing.assert_allclose(probability, np.sort(expected)[:, ::-1][:, :3], atol=1e-6)


def test_a_step_runs_in_as_many_processes_as_it_says(repository):
    counts = {
        name: config_from_text((repository / name / "config.pbtxt").read_text()).instance_group[0].count
        for name in ("search.1.text", "search.1.embedding", "scenes.1.image")
    }
    # A step with a bound of its queue has two.
    assert counts == {"search.1.text": 2, "search.1.embedding": 2, "scenes.1.image": 1}


def test_requests_are_joined_in_the_steps_whose_answers_do_not_depend_on_neighbours(repository):
    kinds = dict.fromkeys(("image", "audio", "classes", "embedding"), True) | dict.fromkeys(("text", "boxes"), False)
    configs = {
        kind: config_from_text(path.read_text())
        for path in repository.glob("*.1.*/config.pbtxt")
        if (kind := path.parent.name.partition(".1.")[2]) in kinds
    }
    # Tokens are padded to the longest text of a request, boxes to the fullest image.
    assert {kind: config.HasField("dynamic_batching") for kind, config in configs.items()} == kinds
    assert configs["audio"].dynamic_batching.default_queue_policy.max_queue_size == 100


def test_a_signed_pipeline_is_signed_in_every_step(files, tmp_path):
    keys = {name: tmp_path / f"{name}.pem" for name in ("private", "public")}
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", keys["private"]], check=True
    )
    subprocess.run(["openssl", "ec", "-in", keys["private"], "-pubout", "-out", keys["public"]], check=True)
    repository = ModelRepository.at(tmp_path / "models")
    options = BuildOptions(repository.path, serve=False, sign_key=keys["private"])
    build_pipeline(files / "colours.onnx", files / "scenes.toml", options)
    assert len(repository.names()) == 4
    assert list(check_signatures(repository, keys["public"])) == []


def test_the_greatest_error_of_each_output_is_told_in_the_declared_order():
    errors = [("boxes", 0.1), ("scores", 0.0), ("boxes", 0.3), ("scores", 0.01), ("boxes", 0.2)]
    told = output_errors([OutputComparison(name, "FP32", 0.0, error, 1 / len(name)) for name, error in errors])
    assert [(one.name, one.max_relative_error) for one in told] == [("boxes", 0.3), ("scores", 0.01)]


def test_steps_are_taken_back_where_their_pipeline_cannot_be_published(tmp_path):
    live = ModelRepository.at(tmp_path / "models").model("scenes")
    live.path.parent.mkdir()

    def staged(number):
        folder = tmp_path / str(number) / "scenes.1.image"
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(f"# {number}")
        return folder

    def fail():
        with companions_in_place((staged(0),), live):
            assert [path.name for path in live.path.parent.iterdir()] == ["scenes.1.image"]
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert not list(live.path.parent.iterdir())
    # What a killed builder left is replaced; what somebody else made is not.
    with companions_in_place((staged(1),), live):
        pass
    with companions_in_place((staged(2),), live):
        assert (live.path.parent / "scenes.1.image" / "config.pbtxt").read_text() == "# 2"
    (live.path.parent / "scenes.1.image" / "companion.json").unlink()
    with pytest.raises(FileExistsError), companions_in_place((staged(3),), live):
        pass


def test_a_tokenizer_of_another_model_is_noticed(files, tmp_path):
    tokenizer(tmp_path / "tokenizer.json", (*WORDS, "unknown"))
    (tmp_path / "search.toml").write_text(SEARCH)
    with pytest.raises(InvalidOption, match="does not fit the model, which does not run on 6 tokens with the id 9"):
        build_pipeline(files / "words.onnx", tmp_path / "search.toml", BuildOptions(tmp_path / "m", serve=False))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(InvalidOption, match="is not a tokenizer"):
        build_pipeline(files / "words.onnx", tmp_path / "search.toml", BuildOptions(tmp_path / "m", serve=False))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("step = 3", "step: Input should be a valid tuple"),
        ("[[step]", "is not TOML"),
        (
            SCENES.replace("image", "audio").replace('preprocess = "zero-to-one"\nmax_pixels = 10_000', ""),
            "not take log-mel",
        ),
        ('[[step]]\nkind = "sound"\n[[step]]\nkind = "model"', "step 1: Input tag 'sound'"),
        (SCENES.replace("top = 2", "tpo = 2"), "step 3 classes tpo: Extra inputs are not permitted"),
        (SCENES.replace('"model"', '"boxes"'), "has 0 steps for the model that is built"),
        (SCENES.replace('preprocess = "zero-to-one"', ""), "does not say how images become pixels"),
        (SCENES.replace('"zero-to-one"', '"sixteen"'), "there is no preset 'sixteen'"),
        (SCENES.replace("max_pixels = 10_000", 'formats = ["EPS"]'), "'EPS' is not one of BMP, GIF"),
        (SCENES.replace("labels.txt", "things.txt"), "there are 2 labels, and the tensor scores .* has 4 classes"),
        (SCENES.replace('labels = "labels.txt"', ""), "the pipeline has no labels"),
        (SCENES.replace("top = 2", 'inputs = {scores = "logits"}'), "the tensors before it are image, pixels"),
        (SCENES.replace("zero-to-one", "zero-to-one,size=8"), r"takes images .*, and the tensor 'pixels' is FP32"),
        ('samples = ["gone.png"]' + SCENES, "the sample .*gone.png cannot be read"),
    ],
)
def test_a_description_that_cannot_be_used_says_what_is_wrong(files, tmp_path, text, why):
    for name in ("labels.txt", "things.txt"):
        shutil.copy(files / name, tmp_path)
    (tmp_path / "scenes.toml").write_text(text)
    with pytest.raises(InvalidOption, match=why):
        build_pipeline(files / "colours.onnx", tmp_path / "scenes.toml", BuildOptions(tmp_path / "m", serve=False))
    assert not (tmp_path / "m").exists()


def test_geometry_leads_from_the_row_back_to_the_image(tmp_path):
    from plansmith_server.backends.pipeline_step.images import ImageStep  # noqa: PLC0415

    # A white square of 20 x 20 pixels at 60, 30.
    image = Image.new("RGB", (120, 80))
    image.paste((255, 255, 255), (60, 30, 80, 50))
    image.save(tmp_path / "square.png")
    for words in ("fit=pad", "fit=stretch", "fit=crop", "fit=crop,resize=100"):
        fields = read_preprocessing(f"zero-to-one,size=80,{words}").model_dump(mode="json")
        step = ImageStep(recipe={**fields, "dtype": "float32"}, formats=["PNG"], max_pixels=10**6)
        made = step.run({"image": column((tmp_path / "square.png").read_bytes())})
        rows, columns = np.nonzero(made["pixels"][0, 0] > 0.5)
        factor_x, factor_y, left, top, width, height = made["geometry"][0]
        assert (width, height) == (120, 80)
        found = [columns.min() * factor_x + left, (columns.max() + 1) * factor_x + left]
        found += [rows.min() * factor_y + top, (rows.max() + 1) * factor_y + top]
        assert found == pytest.approx([60, 80, 30, 50], abs=1.5), words
