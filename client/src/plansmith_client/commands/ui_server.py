"""The server behind `plansmith ui`: one page, and what it asks of the models of a Triton, on loopback alone.

A request must name this server as its host, and all but the page itself needs the token, which pages of other sites can
neither read nor send: it stands in the fragment of the address, and is sent in a header that no form has.
"""

from __future__ import annotations

import http.client
import json
import secrets
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from plansmith_client.commands.classes import classified, labelled_outputs, written
from plansmith_client.commands.file_limits import Upload
from plansmith_client.commands.image_files import IMAGE_SUFFIXES, ImagePreparation, served_preparation
from plansmith_client.commands.input_files import input_from, texts_as_inputs
from plansmith_client.commands.predictions import prediction_lines
from plansmith_client.commands.tensor_json import json_from_array, json_from_result
from plansmith_client.errors import ClientError, InvalidInput
from plansmith_client.sampling import random_inputs
from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from plansmith_client.faces.client import Client
    from plansmith_client.faces.model import Model

__all__ = ["PageServer"]

_MOST_BYTES = 64 * 2**20
_CLASSES = 5
_MOST_ROWS = 20
_MOST_VALUES = 2_000


class PageServer(ThreadingHTTPServer):
    """Serves the page until it is closed.

    Attributes:
        address: what to open in a browser; the token stands in its fragment.
    """

    daemon_threads = True

    def __init__(self, client: Client, port: int, model: str | None = None) -> None:
        """Bind to 127.0.0.1; the page opens with the named model, or with the first.

        Raises:
            InvalidInput: the port is taken.
        """
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise InvalidInput(f"--port {port} cannot be used: {error.strerror}; 0 takes a free one") from error
        self.client = client
        self.token = secrets.token_urlsafe(32)
        names = {"127.0.0.1", "localhost"}
        self.hosts = {f"{name}:{self.server_port}" for name in names}
        if self.server_port == http.client.HTTP_PORT:
            # Browsers leave it out.
            self.hosts |= names
        query = f"?{urlencode({'model': model})}" if model else ""
        self.address = f"http://127.0.0.1:{self.server_port}/{query}#{self.token}"
        page = files("plansmith_client.commands").joinpath("ui_page.html").read_text(encoding="utf-8")
        self.page = page.replace("MOST_BYTES", str(_MOST_BYTES))

    def handle_error(self, *_: Any) -> None:
        """A browser that leaves is no fault; what else could fail is answered."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    # A browser that opens a connection and says nothing does not keep a thread for ever.
    timeout = 60

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if self._host_is_ours() and address.path == "/":
            self._send_page()
        elif address.path == "/models":
            self._answer(lambda: _ready_models(self.server.client))
        else:
            self._answer(lambda: _described(self._model(address.query)))

    def do_POST(self) -> None:
        address = urlsplit(self.path)
        self._answer(lambda: self._inferred(address.query))

    def _inferred(self, query: str) -> dict[str, Any]:
        kind = parse_qs(query).get("kind", [""])[0]
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= _MOST_BYTES:
            raise InvalidInput(f"an input may have {_MOST_BYTES} bytes here, and this one has {length}")
        return _answered(self._model(query), kind, self.rfile.read(length))

    def _model(self, query: str) -> Model:
        return self.server.client.model(parse_qs(query).get("model", [""])[0])

    def _host_is_ours(self) -> bool:
        # A name of somebody else that leads to 127.0.0.1 is another site to the browser.
        return self.headers.get("Host", "") in self.server.hosts

    def _answer(self, work: Callable[[], Any]) -> None:
        given = self.headers.get("Authorization", "").encode(errors="replace")
        if not self._host_is_ours() or not secrets.compare_digest(given, f"Bearer {self.server.token}".encode()):
            self._send(HTTPStatus.FORBIDDEN, {"error": "open the address that plansmith ui printed, with its token"})
            return
        try:
            self._send(HTTPStatus.OK, work())
        except (ClientError, ValueError) as error:
            self._send(HTTPStatus.BAD_REQUEST, {"error": visible(str(error))})
        except Exception as error:  # noqa: BLE001 - a fault is shown where it was met
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": visible(f"{type(error).__name__}: {error}")})

    def _send(self, status: HTTPStatus, document: Any) -> None:
        self._write(status, "application/json", json.dumps(document).encode(), "default-src 'none'")

    def _send_page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        page = self.server.page.replace("NONCE", nonce)
        self._write(HTTPStatus.OK, "text/html; charset=utf-8", page.encode(), policy)

    def _write(self, status: HTTPStatus, kind: str, body: bytes, policy: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests."""


def _ready_models(client: Client) -> list[str]:
    return sorted({found.name for found in client.models() if found.state == "READY"})


def _described(model: Model) -> dict[str, Any]:
    metadata = model.metadata
    found = _if_allowed(model.statistics) or ()
    return {
        "version": ", ".join(each.version for each in found),
        "inputs": [{"name": spec.name, "type": str(spec)} for spec in metadata.inputs],
        "outputs": [{"name": spec.name, "type": str(spec)} for spec in metadata.outputs],
        "statistics": {
            "requests": sum(each.success.count for each in found),
            "failed": sum(each.fail.count for each in found),
            "rows": sum(each.inferences for each in found),
            "executions": sum(each.executions for each in found),
            "queue, ms": ", ".join(f"{each.queue.mean * 1e3:.3f}" for each in found),
            "compute, ms": ", ".join(f"{each.compute_infer.mean * 1e3:.3f}" for each in found),
        },
        "config": _if_allowed(model.config),
    }


def _if_allowed(read: Callable[[], Any]) -> Any:
    # Both are extensions of Triton, and access may be restricted.
    try:
        return read()
    except ClientError:
        return None


def _answered(model: Model, kind: str, body: bytes) -> dict[str, Any]:
    specs = model.metadata.inputs
    if kind == "random":
        arrays: dict[str, Any] = dict(random_inputs(specs, seed=secrets.randbelow(2**31)))
    elif kind == "text":
        arrays = texts_as_inputs(body.decode().splitlines(), specs)
    else:
        arrays = _from_file(model, kind.lower(), body)
    started = time.monotonic()
    result = model.infer(arrays)
    seconds = time.monotonic() - started
    lines = prediction_lines(result, [])
    outputs = labelled_outputs(model) if not lines else ()
    for name, rows in classified(model, arrays, outputs, _CLASSES).items():
        lines += [f"{name}, row {place}: {written(row, whole=False)}" for place, row in enumerate(rows[:_MOST_ROWS])]
    document = json_from_result(result, data=False)
    for name, array in result.items():
        values = array if array.size <= _MOST_VALUES else array.reshape(-1)[:_MOST_VALUES]
        document["outputs"][name] |= {"data": json_from_array(values), "left_out": array.size - values.size}
    return {"milliseconds": round(seconds * 1e3, 2), "lines": [*map(visible, lines)], **document}


def _from_file(model: Model, suffix: str, body: bytes) -> dict[str, Any]:
    # What the browser says of a file is no path: only its ending counts.
    known = next((each for each in (".json", ".npy", ".npz", ".txt", *IMAGE_SUFFIXES) if each == suffix), None)
    if known is None:
        raise InvalidInput(
            f"a file that ends in {suffix!r} cannot be used as an input: give .json, .npy, .npz, .txt or an image"
        )
    preparation = served_preparation(model) if known in IMAGE_SUFFIXES else ImagePreparation()
    return input_from(Upload(known, body), model.metadata.inputs, preparation)
