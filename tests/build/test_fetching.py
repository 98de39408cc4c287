"""Models where they are: folders of Hugging Face and MLflow, OCI layouts and registries, URLs; each is checked."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import ssl
import subprocess
import threading
from functools import partial

import onnx
import pytest
from oci_registry import IDENTITY, PASSWORD, USER, Front, Registry, registry_program
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
    with pytest.raises(InvalidModel, match="is a link"):
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
        ("https://me:secret@[example.org/model.onnx", InvalidOption, "is not a valid URL"),
        ("oci://me@example.org/colours:1?secret", InvalidOption, "does not name an artifact"),
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


@pytest.fixture(scope="module")
def registries(tmp_path_factory, pytestconfig):
    """One registry for all, and one of the same artifacts that asks for a login."""
    program, folder = registry_program(pytestconfig.cache.mkdir("docker-registry")), tmp_path_factory.mktemp("registry")
    with Registry(program, folder, login=False) as anyone, Registry(program, folder, login=True) as closed:
        yield anyone, closed


@pytest.fixture
def logins(tmp_path, monkeypatch):
    """Writes the configuration of Docker; given a registry, a user and a secret, the helper `tests` knows these."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_AUTH_CONFIG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def write(*known, **settings):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        if known:
            program, answer = (
                tmp_path / "docker-credential-tests",
                json.dumps({"Username": known[1], "Secret": known[2]}),
            )
            program.write_text(f"#!/bin/sh\n[ \"$1 $(cat)\" = 'get {known[0]}' ] && echo '{answer}'\n")
            program.chmod(0o755)

    return write


def login(password=PASSWORD):
    return {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}


def test_an_artifact_in_a_registry_is_fetched_with_its_weights_by_tag_and_by_digest(
    registries, logins, model, tmp_path, fetched
):
    folder = weights_beside(model, tmp_path / "made")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = registries[0].push("models/colours", "1.0", files)
    sha256 = digest(files["net.onnx"])
    for end in (":1.0", f"@{manifest}", f":1.0#sha256={sha256}"):
        path, name = local_model(f"oci://{registries[0].host}/models/colours{end}", fetched)
        assert (path.parent, name) == (fetched, "colours")
        assert {file.name: file.read_bytes() for file in fetched.iterdir()} == files


@pytest.mark.parametrize(
    ("names", "end", "why"),
    [
        (("model.onnx",), "colours:2", "there is no such artifact"),
        (("model.onnx",), f"colours@sha256:{'0' * 64}", "there is no such artifact"),
        (("a.onnx", "b.onnx"), "colours:1", "holds 2 files that end in .onnx, and one is needed"),
        (("../model.onnx",), "colours:1", "leads out of its folder"),
        (("model.onnx",), f"colours:1#sha256={'0' * 64}", "has the SHA-256"),
        (("model.onnx",), "colours", "write oci://host/repository:tag, or @sha256:... for :tag"),
    ],
)
def test_what_is_not_one_model_in_a_registry_is_refused(registries, names, end, why, fetched):
    registries[0].push("colours", "1", dict.fromkeys(names, b"any"))
    with pytest.raises((InvalidModel, InvalidOption), match=why):
        local_model(f"oci://{registries[0].host}/{end}", fetched)


def test_a_registry_that_asks_for_a_login_gets_that_of_docker(registries, model, logins, fetched, monkeypatch):
    registries[0].push("colours", "1", {"model.onnx": model.read_bytes()})
    host = registries[1].host
    source = f"oci://{host}/colours:1"
    for settings in ({}, {"auths": {host: login("wrong")}}):
        logins(**settings)
        with pytest.raises(InvalidModel, match=f"it needs a login: docker login {host}"):
            local_model(source, fetched)
    logins(auths={host: login()})
    assert local_model(source, fetched)[1] == "colours"
    logins(host, USER, PASSWORD, credHelpers={host: "tests"})
    assert local_model(source, fetched)[1] == "colours"
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {host: login()}}))
    logins()
    assert local_model(source, fetched)[1] == "colours"


def test_credentials_go_to_the_service_of_tokens_and_not_where_blobs_are(registries, model, logins, fetched):
    registries[0].push("colours", "1", {"model.onnx": model.read_bytes()})
    with Front(registries[0]) as front:
        logins(auths={front.host: login()})
        assert local_model(f"oci://{front.host}/colours:1", fetched)[0].read_bytes() == model.read_bytes()
        assert [value for _, value in front.seen("/token")] == [f"Basic {login()['auth']}"]
        assert {value for port, value in front.seen("/blobs/") if port == front.storage} == {None}
        front.storage_asks = True
        with pytest.raises(InvalidModel, match="cannot be fetched: it needs a login"):
            local_model(f"oci://{front.host}/colours:1", fetched)
        assert front.seen("/another-token") == []
        front.storage_asks = False
        front.instead["blobs"] = b"x" * len(model.read_bytes())
        with pytest.raises(InvalidModel, match="does not have the content that its digest says"):
            local_model(f"oci://{front.host}/colours:1", fetched)
        front.instead["manifests"] = b"{}"
        with pytest.raises(InvalidModel, match="its manifest does not have the content that its digest says"):
            local_model(f"oci://{front.host}/colours@sha256:{'0' * 64}", fetched)


def test_an_identity_token_goes_to_the_service_of_tokens_alone(registries, model, logins, fetched):
    registries[0].push("colours", "1", {"model.onnx": model.read_bytes()})
    with Front(registries[0]) as front:
        no_user = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
        for settings in (
            {"credsStore": "tests"},
            {"auths": {front.host: {"auth": no_user, "identitytoken": IDENTITY}}},
        ):
            logins(front.host, "<token>", IDENTITY, **settings)
            assert local_model(f"oci://{front.host}/colours:1", fetched)[1] == "colours"
        logins(auths={front.host: {"identitytoken": "of-yesterday"}})
        with pytest.raises(InvalidModel, match=f"it needs a login: docker login {front.host}"):
            local_model(f"oci://{front.host}/colours:1", fetched)
    assert len(front.seen("/token")) == 3
    assert all(not given or given == "Bearer a-token" for _, given in front.seen("/"))


def test_docker_hub_is_asked_under_its_own_names_with_the_login_that_docker_keeps(
    registries, model, logins, fetched, monkeypatch
):
    folder = fetched.parent
    registries[0].push("library/colours", "1", {"model.onnx": model.read_bytes()})
    names = "subjectAltName=DNS:registry-1.docker.io,DNS:auth.docker.io"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hub -addext"
    files = ("-keyout", folder / "hub.key", "-out", folder / "hub.pem")
    subprocess.run(["openssl", *request.split(), names, *files], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "hub.pem", folder / "hub.key")
    with Front(registries[0], tls=tls) as front:
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "hub.pem"))
        monkeypatch.setenv("https_proxy", f"http://{front.host}")
        logins(auths={"https://index.docker.io/v1/": login()})
        assert local_model("oci://docker.io/colours:1", fetched)[1] == "colours"
        places = {path.partition(":")[0] for _, path, _ in front.requests if path.endswith(":443")}
        assert places == {"registry-1.docker.io", "auth.docker.io"}
        assert [value for _, value in front.seen("/token")] == [f"Basic {login()['auth']}"]


def test_a_registry_elsewhere_is_asked_over_https_alone(registries, model, logins, fetched):
    registries[0].push("colours", "1", {"model.onnx": model.read_bytes()})
    # Another name of this machine, which does not say so.
    with pytest.raises(InvalidModel, match="SSL"):
        local_model(f"oci://127.1:{registries[0].host.rpartition(':')[2]}/colours:1", fetched)
    with Front(registries[0], redirect="http://192.0.2.1") as front:
        logins(auths={front.host: login()})
        with pytest.raises(InvalidModel, match=r"leads to http://192\.0\.2\.1, which is not HTTPS"):
            local_model(f"oci://{front.host}/colours:1", fetched)
