"""Models where they are: folders of Hugging Face and MLflow, OCI layouts, URLs; each is fetched, checked and built."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from functools import partial

import onnx
import pytest
from pipeline_models import colour_classifier, word_vectors

from plansmith_build import InvalidModel, InvalidOption
from plansmith_build.fetching import local_model, without_secrets


@pytest.fixture
def model(tmp_path):
    return colour_classifier(tmp_path / "model.onnx")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def layout(folder, files: dict[str, bytes]):
    """An OCI image layout as `oras copy --to-oci-layout` writes it."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes) -> dict[str, object]:
        (blobs / digest(content)).write_bytes(content)
        return {"digest": f"sha256:{digest(content)}", "size": len(content)}

    layers = [
        {**put(content), "annotations": {"org.opencontainers.image.title": name}} for name, content in files.items()
    ]
    manifest = put(json.dumps({"schemaVersion": 2, "config": put(b"{}"), "layers": layers}).encode())
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def weights_beside(model, folder):
    """The model, with its weights in a file of their own."""
    folder.mkdir()
    onnx.save(onnx.load(model), folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    return folder


@pytest.fixture
def site(tmp_path):
    """A folder behind a web server."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_folder_with_a_model_is_built_under_the_folders_name(plansmith, tmp_path):
    folder = tmp_path / "tiny-words"
    (folder / "onnx").mkdir(parents=True)
    # As MLflow has it, and then as Hugging Face does.
    (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
    word_vectors(folder / "model.onnx")
    assert local_model(str(folder), tmp_path) == (folder / "model.onnx", "tiny-words")
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    (folder / "MLmodel").unlink()
    (folder / "config.json").write_text("{}")
    said = " ".join(plansmith("build", folder, "--no-serve", cwd=tmp_path).stdout.split())
    assert "published tiny-words version 1" in said
    # No option of the model: Triton sorts requests by their shape before the model sees them.
    assert "up to 32 rows of one length: the step `text` of a pipeline fills texts up (`pad`)" in said


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (("a.onnx", "b.onnx"), r"is a folder with 2 ONNX files: name one of .*a\.onnx"),
        (("model.safetensors", "config.json"), "holds weights and no ONNX file: plansmith export"),
        (("MLmodel", "model.pkl"), "a model of MLflow without the flavor onnx"),
        (("readme.txt",), "a folder without an ONNX file"),
    ],
)
def test_a_folder_without_the_one_model_says_what_it_is(tmp_path, files, why):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InvalidModel, match=why):
        local_model(str(tmp_path), tmp_path)


@pytest.fixture
def fetched(tmp_path):
    folder = tmp_path / "fetched"
    folder.mkdir()
    return folder


def test_an_oci_layout_is_unpacked_with_its_weights(model, tmp_path, fetched):
    folder = weights_beside(model, tmp_path / "made")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    path, name = local_model(str(layout(tmp_path / "artifact", files)), fetched)
    assert (path.parent, name) == (fetched, "artifact")
    assert {file.name: file.read_bytes() for file in fetched.iterdir()} == files


def test_an_oci_layout_that_is_not_what_its_digests_say_is_refused(model, tmp_path, fetched):
    made = layout(tmp_path / "artifact", {"model.onnx": model.read_bytes()})
    (made / "blobs" / "sha256" / digest(model.read_bytes())).write_bytes(b"another")
    with pytest.raises(InvalidModel, match="does not have the content that its digest says"):
        local_model(str(made), fetched)
    (made / "blobs" / "sha256" / digest(model.read_bytes())).unlink()
    (made / "blobs" / "sha256" / digest(model.read_bytes())).symlink_to(model)
    with pytest.raises(InvalidModel, match="does not have the content"):
        local_model(str(made), fetched)
    outside = layout(tmp_path / "outside", {"../model.onnx": model.read_bytes()})
    with pytest.raises(InvalidModel, match="leads out of its folder"):
        local_model(str(outside), fetched)


def test_a_model_behind_a_url_is_fetched_with_its_weights_and_checked(model, site, plansmith, tmp_path, fetched):
    folder, url = site
    weights_beside(model, folder / "colours")
    content = (folder / "colours" / "net.onnx").read_bytes()
    source = f"{url}/colours/net.onnx#sha256={digest(content)}"
    said = plansmith("build", source, "--no-serve", "--json", cwd=tmp_path).stdout
    assert json.loads(said)["name"] == "net"
    with pytest.raises(InvalidModel, match=f"has the SHA-256 {digest(content)}, and 0{{64}} is expected"):
        local_model(f"{url}/colours/net.onnx#sha256={'0' * 64}", fetched)
    (folder / "colours" / "net.data").unlink()
    with pytest.raises(InvalidModel, match=r"colours/net\.data does not exist"):
        local_model(source, fetched)


def test_what_a_hash_was_checked_for_is_not_replaced_by_weights(site, fetched):
    folder, url = site
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    weights = graph.graph.initializer.add(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="./net.onnx")
    content = graph.SerializeToString()
    (folder / "net.onnx").write_bytes(content)
    path, _ = local_model(f"{url}/net.onnx#SHA256={digest(content).upper()}", fetched)
    assert path.read_bytes() == content
    assert [entry.name for entry in fetched.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("fragment", ["sha256=5f7c...", f"sha256={'0' * 63}", "md5=0", ""])
def test_what_is_no_hash_behind_a_url_is_refused_and_not_left_out(fragment, fetched):
    with pytest.raises(InvalidOption, match="64 hexadecimal digits"):
        local_model(f"http://127.0.0.1:9/model.onnx#{fragment}", fetched)


@pytest.mark.parametrize(
    ("key", "value"), [("manifests", None), ("layers", None), ("annotations", [1]), ("title", "."), ("title", "a\0b")]
)
def test_an_oci_layout_with_odd_fields_is_refused(key, value, model, tmp_path, fetched):
    made = layout(tmp_path / "artifact", {"model.onnx": model.read_bytes()})
    index = json.loads((made / "index.json").read_text())
    blobs = made / "blobs" / "sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text())
    if key == "title":
        manifest["layers"][0]["annotations"] = {"org.opencontainers.image.title": value}
    elif key == "annotations":
        manifest["layers"][0][key] = value
    else:
        manifest[key] = value
    content = json.dumps(manifest).encode()
    (blobs / digest(content)).write_bytes(content)
    index["manifests"] = value if key == "manifests" else [{"digest": f"sha256:{digest(content)}"}]
    (made / "index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidModel):
        local_model(str(made), fetched)


@pytest.mark.parametrize(
    ("source", "kind", "why"),
    [
        ("http://127.0.0.1:9/model.onnx", InvalidModel, "cannot be fetched"),
        ("https://me:secret@example.org/model.onnx", InvalidOption, "holds a password"),
        ("nothing://bucket/model.onnx", InvalidOption, "cannot be fetched: Protocol not known: nothing"),
        ("memory://models", InvalidOption, "does not name an ONNX file"),
    ],
)
def test_a_url_that_cannot_be_used_says_why_and_no_secret(source, kind, why, fetched):
    with pytest.raises(kind, match=why) as raised:
        local_model(source, fetched)
    assert "secret" not in str(raised.value)


def test_a_url_is_said_without_what_it_was_signed_with():
    signed = f"https://me@example.org/models/net.onnx?signature=secret#sha256={'0' * 64}"
    assert without_secrets(signed) == "https://example.org/models/net.onnx"
    assert without_secrets("models/what?.onnx") == "models/what?.onnx"
