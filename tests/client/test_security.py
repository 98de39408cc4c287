"""TLS, client certificates, tokens, headers and compression, against nginx and Triton's own restricted protocols."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import shutil
import socket
import ssl
import subprocess
import traceback

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of
from client_servers import triton_with
from fault_proxy import fault_proxy
from nginx_proxy import NGINX, PREFIX, TOKEN, nginx_before
from relays import http_proxy, unix_socket

from plansmith_client import (
    AccessDenied,
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    ServerUnavailable,
)

ROWS = np.ones((2, 4), np.float32)
VARIABLES = ("HEADERS", "TOKEN", "TOKEN_FILE", "CA_FILE", "CERTIFICATE_FILE", "KEY_FILE")


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are not both installed: apt-get install nginx openssl")
    with nginx_before(server, tmp_path_factory.mktemp("nginx")) as proxy:
        yield proxy


@pytest.fixture(params=FACES)
def face(request, monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(f"PLANSMITH_{variable}", raising=False)
    return request.param


def works(client) -> bool:
    return client.model("double")(ROWS).array.tolist() == (ROWS * 2).tolist()


def test_a_token_opens_the_door_over_tls(proxy, face):
    options = {"ca_file": proxy.folder / "ca.pem", "timeout": 10}
    with open_client(face, proxy.url(face, "token"), token=TOKEN, **options) as client:
        assert works(client)
        assert works(client)
    # A gateway's prefix, which a path of gRPC cannot have.
    prefixed = proxy.url(face, "token") + PREFIX
    if face.startswith("http"):
        with open_client(face, prefixed, token=TOKEN, **options) as client:
            assert works(client)
    else:
        with pytest.raises(InvalidInput, match="part after the port that is not allowed"):
            Client(prefixed)
    with open_client(face, proxy.url(face, "token"), token=lambda: TOKEN, **options) as client:
        assert works(client)
    # A certificate that is named is trusted, whoever has signed it.
    with open_client(face, proxy.url(face, "token"), token=TOKEN, ca_file=proxy.folder / "server.pem") as client:
        assert works(client)
    for wrong in ("wrong", None):
        with open_client(face, proxy.url(face, "token"), token=wrong, **options) as client:
            with pytest.raises(AccessDenied) as caught:
                client.server_metadata()
            assert "wrong" not in str(caught.value)


def test_token_and_authority_come_from_the_environment_and_a_renewed_token_is_read_anew(
    proxy, face, monkeypatch, tmp_path
):
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("PLANSMITH_TOKEN_FILE", str(token))
    monkeypatch.setenv("PLANSMITH_CA_FILE", str(proxy.folder / "ca.pem"))
    with open_client(face, proxy.url(face, "token"), timeout=10) as client:
        assert works(client)
        token.write_text("expired")
        with pytest.raises(AccessDenied):
            client.server_metadata()
        token.write_text(TOKEN)
        assert works(client)
        token.unlink()
        with pytest.raises(InvalidInput, match="PLANSMITH_TOKEN_FILE"):
            client.server_metadata()
    monkeypatch.delenv("PLANSMITH_TOKEN_FILE")
    monkeypatch.setenv("PLANSMITH_TOKEN", TOKEN)
    with open_client(face, proxy.url(face, "token"), timeout=10) as client:
        assert works(client)
    monkeypatch.setenv("PLANSMITH_TOKEN", "of another server")
    with open_client(face, proxy.url(face, "token"), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert works(client)


def test_a_client_certificate_opens_the_door(proxy, face, monkeypatch):
    own = {"certificate_file": proxy.folder / "client.pem", "key_file": proxy.folder / "client.key"}
    with open_client(face, proxy.url(face, "mutual"), ca_file=proxy.folder / "ca.pem", timeout=10, **own) as client:
        assert works(client)
    with (
        open_client(face, proxy.url(face, "mutual"), ca_file=proxy.folder / "ca.pem", timeout=10) as client,
        pytest.raises(ClientError),
    ):
        works(client)
    for variable, name in (("CA_FILE", "ca.pem"), ("CERTIFICATE_FILE", "client.pem"), ("KEY_FILE", "client.key")):
        monkeypatch.setenv(f"PLANSMITH_{variable}", str(proxy.folder / name))
    with open_client(face, proxy.url(face, "mutual"), timeout=10) as client:
        assert works(client)


def test_tritons_own_tls_opens_to_a_client_certificate_alone(proxy, tmp_path):
    folder = proxy.folder
    files = {"server-cert": "server.pem", "server-key": "server.key", "root-cert": "ca.pem"}
    arguments = (
        *("--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true"),
        *(f"--grpc-{option}={folder / name}" for option, name in files.items()),
    )
    with triton_with(("double",), tmp_path, arguments=arguments) as running:
        options = {"ca_file": folder / "ca.pem", "timeout": 20}
        own = {"certificate_file": folder / "client.pem", "key_file": folder / "client.key"}
        with Client(f"grpcs://{running.grpc_url}", **options, **own) as client:
            assert works(client)
        for url, files, advice in (
            (f"grpcs://{running.grpc_url}", options, "certificate_file="),
            (running.grpc_url, {}, "TLS is grpcs://"),
        ):
            with Client(url, retries=0, **files) as client, pytest.raises(ServerUnavailable, match=advice):
                works(client)


@pytest.mark.parametrize(
    ("wants", "host", "advice"),
    [
        ("token", "127.0.0.1", "ca_file="),
        ("token", "localhost", "server_name="),
        ("expired", "127.0.0.1", "renew"),
    ],
)
def test_a_certificate_that_is_refused_is_told_of_with_the_way_out(proxy, face, wants, host, advice):
    authority = None if advice == "ca_file=" else proxy.folder / "ca.pem"
    url = proxy.url(face, wants).replace("127.0.0.1", host)
    with (
        open_client(face, url, token=TOKEN, timeout=10, retries=0, ca_file=authority) as client,
        pytest.raises(ServerUnavailable, match=advice),
    ):
        client.server_metadata()


def test_a_port_that_has_tls_where_the_url_has_none_or_the_reverse_is_told_of(proxy, server, face):
    secured, scheme = proxy.url(face, "token"), "" if face.startswith("grpc") else "http://"
    ports = [server.grpc_url, server.http_url.removeprefix("http://")]
    wrong = [f"{secured.partition(':')[0]}://{port}" for port in ports]
    for url in wrong:
        with (
            open_client(face, url, timeout=10, retries=0) as client,
            pytest.raises(ServerUnavailable, match="may not speak TLS"),
        ):
            client.server_metadata()
    with (
        open_client(face, f"{scheme}{secured.rpartition('/')[2]}", timeout=10, retries=0) as client,
        pytest.raises(ClientError, match=r"speaks TLS, write https://|TLS is grpcs://"),
    ):
        client.server_metadata()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_authorities_of_the_system_are_trusted_over_both_protocols(proxy, face, variable, monkeypatch, tmp_path):
    for name in ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    authority = proxy.folder / "ca.pem"
    # In a folder OpenSSL finds it by its hash, as in /etc/ssl/certs.
    hashed = subprocess.run(["openssl", "x509", "-noout", "-hash", "-in", authority], check=True, capture_output=True)
    shutil.copy(authority, tmp_path / f"{hashed.stdout.decode().strip()}.0")
    monkeypatch.setenv(variable, str(authority if variable == "SSL_CERT_FILE" else tmp_path))
    with open_client(face, proxy.url(face, "token"), token=TOKEN, timeout=10) as client:
        assert works(client)


def test_the_name_in_the_certificate_may_be_another_than_the_hosts(proxy, face):
    url = proxy.url(face, "token").replace("127.0.0.1", "localhost")
    options = {"ca_file": proxy.folder / "ca.pem", "token": TOKEN, "timeout": 10}
    with open_client(face, url, server_name="models.example", **options) as client:
        assert works(client)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests_are_smaller_and_right(server, face, compression):
    rows = np.zeros((500, 1000), np.float32)
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as counting:
        url = counting.target if face.startswith("grpc") else f"http://{counting.target}"
        with open_client(face, url, compression=compression, shared_memory=False, timeout=20) as client:
            result = client.model("every_type").infer({"fp32": rows})
            np.testing.assert_array_equal(result["fp32_out"], rows)
            assert client.model("every_type").infer({"string": [["täglich"]]})["string_out"].tolist() == [
                ["täglich".encode()]
            ]
        assert counting.request_bytes < rows.nbytes / 20


@pytest.fixture(scope="module")
def restricted(tmp_path_factory):
    arguments = ("--grpc-restricted-protocol=statistics:key=sesame", "--http-restricted-api=statistics:key=sesame")
    with triton_with(("double",), tmp_path_factory.mktemp("restricted"), arguments=arguments) as running:
        yield running


def test_headers_open_what_triton_restricts(restricted, face, monkeypatch):
    url = url_of(face, restricted)
    name = "triton-grpc-protocol-key" if face.startswith("grpc") else "key"
    with open_client(face, url) as client:
        assert works(client)
        with pytest.raises(AccessDenied, match="restrict"):
            client.statistics()
    with open_client(face, url, headers={name: "sesame"}) as client:
        assert {statistics.name for statistics in client.statistics()} == {"double"}
    monkeypatch.setenv("PLANSMITH_HEADERS", json.dumps({name: "sesame"}))
    with open_client(face, url) as client:
        assert client.statistics()
    with open_client(face, url, headers={name: "wrong"}) as client, pytest.raises(AccessDenied):
        client.statistics()
    for wrong in ("sesame", "[1]", '{"a": 1}'):
        monkeypatch.setenv("PLANSMITH_HEADERS", wrong)
        with pytest.raises(InvalidInput) as caught:
            Client("localhost:1")
        assert "sesame" not in str(caught.value)


def test_secrets_stay_out_of_what_is_printed_and_pickled(face):
    secret = "do-not-print-me"
    client = (AsyncClient if face.endswith("async") else Client)(
        "localhost:1" if face.startswith("grpc") else "http://localhost:1", token=secret, headers={"x-key": secret}
    )
    assert secret not in f"{client!r} {client._core!r} {client._core.caller.servers!r}"
    with pytest.raises(InvalidInput) as caught:
        Client("localhost:1", token=f"{secret} with spaces")
    assert secret not in str(caught.value)
    assert secret.encode() not in pickle.dumps(caught.value)


def test_tracebacks_with_local_variables_hold_no_credentials(face, monkeypatch):
    secret = "do-not-print-me"
    monkeypatch.setenv("PLANSMITH_HEADERS", json.dumps({"x-key": secret}))
    scheme = "" if face.startswith("grpc") else "http://"
    # It takes connections, and reads and answers nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        for url, options in (
            (silent_url, {"token": secret}),
            (silent_url, {"token": lambda: secret}),
            (f"{scheme}127.0.0.1:1", {"headers": {"Authorization": f"Bearer {secret}"}}),
            (silent_url, {"token": secret, "hedge_after": -1}),
            (silent_url, {"proxy": f"http://me:{secret}@proxy"}),
            (f"{scheme}127.0.0.1:1", {"proxy": f"http://me:{secret}@{silent_url.removeprefix(scheme)}"}),
            (silent_url, {"token": f"{secret} with spaces"}),
            (silent_url, {"token": lambda: f"{secret} with spaces"}),
            (silent_url, {"token": secret.encode()}),
            (silent_url, {"token": secret.encode}),
            (silent_url, {"headers": [("x-key", secret)]}),
            (f"{scheme}models.example:1", {"headers": {"Authorization": secret}}),
        ):
            with (
                pytest.raises(ClientError) as caught,
                open_client(face, url, timeout=0.3, retries=0, **options) as client,
            ):
                client.load_model("m", files={"file:1/model.onnx": bytes(2**23)})
            assert secret not in "".join(shown_with_locals(caught.value))


def shown_with_locals(error: BaseException | None):
    """The frames of a traceback, and of those behind it, but for the tests' own, which are the caller's."""
    while error is not None:
        for frame in traceback.TracebackException.from_exception(error, capture_locals=True).stack:
            if "/tests/" not in frame.filename:
                yield f"{frame.filename}:{frame.name} {frame.locals}\n"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("url", ["models.example:8001", "http://models.example:8000", "http://10.0.0.1:8000"])
def test_a_token_does_not_leave_the_machine_unencrypted(url):
    with pytest.raises(InvalidInput, match=r"unencrypted.*grpcs:// or https://"):
        Client(url, token=TOKEN)
    with pytest.raises(InvalidInput, match=r"unencrypted.*grpcs:// or https://"):
        Client(url, headers={"Authorization": f"Bearer {TOKEN}"})
    Client(url, token=TOKEN, token_over_plaintext=True).close()
    Client("localhost:1", headers={"authorization": TOKEN}).close()
    Client("localhost:1", token=TOKEN).close()


@pytest.mark.parametrize(
    "url",
    [
        *("htps://me:secret@h:1", "htps//me:secret@h:1", "https:/me:secret@h:1", "http://me:secret@h:1"),
        *(
            "me:sec/secret@h",
            "http://me:secret@h:port",
            "http://h:1?token=secret",
            "http://h:1#secret",
            "h:1\n?secret",
            b"http://me:secret@h",
        ),
    ],
)
def test_a_url_that_is_not_valid_never_prints_its_password(url):
    with pytest.raises(InvalidInput) as caught:
        Client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"token": ""},
        {"token": "a\nb"},
        {"token": "ü"},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"grpc-timeout": "1S"}},
        {"compression": "zip"},
        {"channels": 0},
        {"certificate_file": "/nowhere/client.pem"},
        {"ca_file": "/nowhere/ca.pem"},
        {"balance": "random"},
        {"retries": -1},
        {"hedge_after": -1},
        {"metadata_max_age": "old"},
        {"metadata_max_age": None},
        {"retries": "often"},
        {"retries": True},
        {"breaker": 3},
        {"shared_memory": 10},
        {"server_name": "a\r\nb"},
        {"ssl_context": 3},
        {"ssl_context": ssl.create_default_context()},
        {"proxy": "proxy:3128"},
        {"proxy": "https://proxy:3128"},
        {"proxy": "http://proxy"},
        {"proxy": 3},
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(options):
    if options == {"token": ""}:
        # An empty token is no token: a variable that is set and empty must not lock anybody out.
        Client("localhost:1", **options).close()
        return
    with pytest.raises(InvalidInput):
        Client("localhost:1", **options)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_certificate_without_its_key_and_a_file_that_is_none_are_refused(proxy, scheme, tmp_path):
    url, folder, broken = f"{scheme}://localhost:1", proxy.folder, tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    with pytest.raises(InvalidInput, match="both certificate_file and key_file"):
        Client(url, certificate_file=broken)
    for files in (
        {"ca_file": broken},
        {"certificate_file": broken, "key_file": folder / "client.key"},
        {"certificate_file": folder / "client.pem", "key_file": folder / "server.key"},
    ):
        with pytest.raises(InvalidInput, match=r"\.pem.*PEM"):
            Client(url, **files)


def test_more_channels_than_one_are_used_in_turn(server):
    with fault_proxy(int(server.grpc_url.rpartition(":")[2])) as counting:
        with Client(counting.target, channels=3) as client:
            for _ in range(6):
                assert works(client)
        assert counting.connections == 3


@pytest.mark.parametrize("face", [face for face in FACES if face.endswith("async")])
def test_a_token_may_come_from_an_asynchronous_function(proxy, face):
    async def token():
        await asyncio.sleep(0.01)
        return TOKEN

    async def never():
        await asyncio.sleep(60)

    options = {"ca_file": proxy.folder / "ca.pem", "timeout": 20}
    with open_client(face, proxy.url(face, "token"), token=token, **options) as client:
        assert works(client)
    slow = open_client(face, proxy.url(face, "token"), token=never, **options)
    with slow as client, pytest.raises(DeadlineExceeded, match="token"):
        client.server_metadata(timeout=0.2)
    with Client(proxy.url(face, "token"), token=token, **options) as client:
        with pytest.raises(InvalidInput, match="AsyncClient"):
            client.server_metadata()
        assert client.model("double").submit(ROWS).result().array.tolist() == (ROWS * 2).tolist()


@pytest.mark.parametrize("face", [face for face in FACES if face.startswith("http")])
def test_tls_may_be_set_up_by_the_caller(proxy, face):
    context = ssl.create_default_context(cafile=proxy.folder / "ca.pem")
    context.load_cert_chain(proxy.folder / "client.pem", proxy.folder / "client.key")
    with open_client(face, proxy.url(face, "mutual"), ssl_context=context, timeout=20) as client:
        assert works(client)


@pytest.mark.parametrize("credentials", ["", "me:se%40cret@"])
def test_a_proxy_is_gone_through_with_and_without_tls(proxy, server, face, credentials, monkeypatch):
    # What the caller names is used, whatever the environment says.
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    expected = "Basic " + base64.b64encode(b"me:se@cret").decode() if credentials else None
    with http_proxy(expected) as (address, seen):
        options = {"proxy": f"http://{credentials}{address}", "timeout": 20}
        encrypted = proxy.url(face, "token")
        with open_client(face, encrypted, token=TOKEN, ca_file=proxy.folder / "ca.pem", **options) as client:
            assert works(client)
        assert set(seen) == {f"CONNECT {encrypted.rpartition('/')[2]} HTTP/1.1"}
        other = encrypted.replace("127.0.0.1", "localhost")
        with (
            open_client(face, other, ca_file=proxy.folder / "ca.pem", retries=0, **options) as client,
            pytest.raises(ServerUnavailable, match="server_name="),
        ):
            client.server_metadata()
        seen.clear()
        plain = url_of(face, server)
        with open_client(face, plain, **options) as client:
            assert works(client)
        first = f"GET {plain}/v2/models/double HTTP/1.1" if face.startswith("http") else f"CONNECT {plain} HTTP/1.1"
        assert seen[0] == first


def test_a_proxy_that_refuses_or_is_not_there_is_named_without_its_password(proxy, server, face):
    with http_proxy("Basic other") as (address, _), socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = f"127.0.0.1:{listener.getsockname()[1]}"
        listener.close()
        encrypted, plain = proxy.url(face, "token"), url_of(face, server)
        for url, through in ((encrypted, address), (plain, address), (encrypted, nowhere), (plain, nowhere)):
            options = {"ca_file": proxy.folder / "ca.pem", "retries": 0, "timeout": 20}
            with open_client(face, url, proxy=f"http://me:secret@{through}", **options) as client:
                # What answers a request for an absolute URL may be the proxy or the server.
                with pytest.raises((ServerUnavailable, AccessDenied), match=r"the proxy.*proxy=") as caught:
                    client.server_metadata()
                assert "secret" not in str(caught.value)


def test_a_unix_socket_is_a_server_like_any_other(server, face, tmp_path):
    path = tmp_path / "triton.sock"
    target = url_of(face, server).removeprefix("http://")
    url = f"{'unix' if face.startswith('grpc') else 'http+unix'}://{path}"
    # Nothing of it goes through a proxy, which leads to hosts, and so the token is as safe as on this machine.
    options = {"proxy": "http://proxy.invalid:3128", "token": TOKEN, "resolve": face == "http"}
    with unix_socket(path, target), open_client(face, url, timeout=20, **options) as client:
        assert works(client)
        assert client.is_ready()


@pytest.mark.parametrize("url", ["unix://relative/path", "http+unix:///", "http+unix://host/path", "unix:///a?b"])
def test_a_unix_socket_is_named_by_its_whole_path(url):
    with pytest.raises(InvalidInput, match=r"triton\.sock"):
        Client(url)


def test_a_token_does_not_leave_the_machine_for_a_proxy_unencrypted():
    with pytest.raises(InvalidInput, match="unencrypted"):
        Client("http://localhost:1", token=TOKEN, proxy="http://proxy.example:3128")
    Client("https://localhost:1", token=TOKEN, proxy="http://proxy.example:3128").close()
