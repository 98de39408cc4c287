"""Artifacts of OCI, in a folder or in a registry: their files, each checked against its digest and its size.

A registry is asked over HTTPS, and on this machine over HTTP. The credentials are those of `docker login`, passwords
and identity tokens. They go to the registry and to the token service that it names, and not where either redirects to.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import subprocess
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener, parse_http_list, parse_keqv_list

from plansmith_build.errors import InvalidModel, InvalidOption
from plansmith_client.transports.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["pull", "unpack_layout"]

_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)/"
    r"(?P<repository>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# What Docker calls its Hub, where that is, and what it calls the login there.
_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_HOST, _HUB_LOGIN = "registry-1.docker.io", "https://index.docker.io/v1/"
# What helpers for credentials say instead of a user's name.
_IDENTITY = "<token>"
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_TITLE = "org.opencontainers.image.title"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_LARGEST_DOCUMENT = 2**22
_CHUNK = 2**20
_SECONDS = 60.0
_UNAUTHORIZED = 401
# What registries answer to those who may not read, and for what is not there.
_REFUSED = {401: "it needs a login", 403: "this login may not read it", 404: "there is no such artifact"}
# Fields of other types, titles that are no names of files, what the network did, and helpers for credentials.
_WRONG = (
    *(AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError),
    *(http.client.HTTPException, subprocess.SubprocessError),
)


def unpack_layout(layout: Path, folder: Path) -> Path:
    """Copy the files of an artifact in a folder in the OCI image layout.

    Returns:
        The ONNX file among them.

    Raises:
        InvalidModel: the folder holds no such artifact, or what it holds is not what its digests say.
    """

    def opened(digest: str) -> IO[bytes]:
        path = layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
        if path.is_symlink():
            raise InvalidModel(f"{path} is a link: name a layout with the blobs in it")
        return path.open("rb")

    with _explained(str(layout)):
        with (layout / "index.json").open("rb") as text:
            index = _document(text)
        manifests = [entry for entry in index.get("manifests", []) if isinstance(entry, dict)]
        if len(manifests) != 1:
            raise InvalidModel(
                f"{layout} holds {len(manifests)} manifests: name a layout with one, such as `oras copy` writes"
            )
        with opened(_digest_of(manifests[0])) as file:
            manifest = _document(file, _digest_of(manifests[0]))
        return _unpack(manifest, opened, str(layout), folder)


def pull(reference: str, folder: Path) -> tuple[Path, str]:
    """Fetch the files of an artifact in a registry.

    Args:
        reference: `host[:port]/repository:tag` or `host[:port]/repository@sha256:...`.
        folder: where to put them.

    Returns:
        The ONNX file among them, and the last part of the repository's name.

    Raises:
        InvalidModel: there is no such artifact, it may not be read, or it is not what its digests say.
        InvalidOption: the reference is not one.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InvalidOption(
            f"oci://{reference.partition('?')[0]} does not name an artifact: write oci://host/repository:tag, or "
            "@sha256:... for :tag"
        )
    shown = f"oci://{reference}"
    registry = _Registry(found["host"], found["repository"])
    with _explained(shown):
        with registry.open(f"manifests/{found['tag'] or found['digest']}") as answer:
            manifest = _document(answer, found["digest"])
        file = _unpack(manifest, lambda digest: registry.open(f"blobs/{digest}"), shown, folder)
    return file, PurePosixPath(found["repository"]).name


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        error.close()
        why = _REFUSED.get(error.code, str(error))
        host = urlsplit(shown).netloc
        hint = f": docker login {'' if host in _HUB else host}".rstrip() if error.code == _UNAUTHORIZED else ""
        raise InvalidModel(f"{shown} cannot be fetched: {why}{hint}") from error
    except _WRONG as error:
        raise InvalidModel(f"{shown} cannot be read as an OCI artifact: {error}") from error


def _unpack(manifest: dict[str, Any], opened: Callable[[str], IO[bytes]], shown: str, folder: Path) -> Path:
    """Write the files that a manifest names, and tell which is the model."""
    written = []
    for layer in manifest.get("layers", []):
        title = str((layer.get("annotations") or {}).get(_TITLE, ""))
        if not title:
            continue
        if PurePosixPath(title).is_absolute() or ".." in PurePosixPath(title).parts:
            raise InvalidModel(f"a layer of {shown} is called {title!r}, which leads out of its folder")
        target = folder / title
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(_digest_of(layer)) as blob, target.open("wb") as file:
            _copy(blob, file, layer)
        written.append(target)
    found = [path for path in written if path.suffix == ".onnx"]
    if len(found) != 1:
        raise InvalidModel(f"{shown} holds {len(found)} files that end in .onnx, and one is needed")
    return found[0]


def _copy(blob: IO[bytes], file: IO[bytes], entry: dict[str, Any]) -> None:
    """Copy a blob; one that is longer than its entry says is not read to its end."""
    sha256, left = hashlib.sha256(), int(entry["size"])
    while left >= 0 and (chunk := blob.read(_CHUNK)):
        sha256.update(chunk)
        file.write(chunk)
        left -= len(chunk)
    if left != 0 or f"sha256:{sha256.hexdigest()}" != entry["digest"]:
        raise InvalidModel(
            f"the blob {entry['digest']} does not have the content that its digest says, or not its size: fetch the "
            "artifact again"
        )


def _document(stream: IO[bytes], digest: str | None = None) -> dict[str, Any]:
    content = stream.read(_LARGEST_DOCUMENT + 1)
    if len(content) > _LARGEST_DOCUMENT:
        raise ValueError("a document of it is larger than such may be, 4 MiB")
    if digest is not None and f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise ValueError(f"its manifest does not have the content that its digest says, {digest}")
    document = json.loads(content)
    if not isinstance(document, dict):
        raise TypeError("a document of it is not an object of JSON")
    return document


def _digest_of(entry: dict[str, Any]) -> str:
    digest = str(entry.get("digest"))
    if _DIGEST.fullmatch(digest) is None:
        raise ValueError(f"it names a blob by {digest!r}, and sha256:... is needed")
    return digest


class _Registry:
    """What is read of a repository in a registry."""

    def __init__(self, host: str, repository: str) -> None:
        self._login_name = _HUB_LOGIN if host in _HUB else host
        if host in _HUB:
            host, repository = _HUB_HOST, repository if "/" in repository else f"library/{repository}"
        self._host = host
        self._here = is_loopback(urlsplit(f"//{host}").hostname or "")
        self._url = f"{'http' if self._here else 'https'}://{host}/v2/{repository}/"
        # No proxy leads to this machine.
        self._opener = build_opener(_Redirects(self._require_safe), *([ProxyHandler({})] if self._here else []))
        self._authorization = ""

    def open(self, path: str) -> IO[bytes]:
        """The body of an answer, after a login where the registry asks for one."""
        try:
            return self._get(self._url + path, self._authorization)
        except HTTPError as error:
            # Whom it redirects to may not ask for the login, nor name a service of tokens.
            if error.code != _UNAUTHORIZED or urlsplit(error.url)[:2] != urlsplit(self._url)[:2]:
                raise
            error.close()
            self._authorization = self._log_in(error.headers.get_all("WWW-Authenticate") or ())
            if not self._authorization:
                raise
        return self._get(self._url + path, self._authorization)

    def _get(self, url: str, authorization: str, form: dict[str, str] | None = None) -> IO[bytes]:
        self._require_safe(url)
        body = urlencode(form).encode() if form else None
        request = Request(url, body, {"Accept": f"{_MANIFEST}, */*"})  # noqa: S310 - see _require_safe
        if authorization:
            # The handler of redirects leaves this kind out.
            request.add_unredirected_header("Authorization", authorization)
        answer: IO[bytes] = self._opener.open(request, timeout=_SECONDS)
        return answer

    def _require_safe(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._here and is_loopback(str(parts.hostname))):
            raise ValueError(f"{self._host} leads to {parts.scheme}://{parts.netloc}, which is not HTTPS")

    def _log_in(self, challenges: Sequence[str]) -> str:
        """The header that answers one of the challenges; empty where there is no login for it."""
        user, secret = _login(self._login_name)
        if not (user or secret):
            user, secret = _login(self._host)
        known = bool(user or secret) and user != _IDENTITY
        basic = f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}" if known else ""
        for challenge in challenges:
            kind, _, fields = challenge.partition(" ")
            if kind.lower() == "bearer":
                asked = parse_keqv_list(parse_http_list(fields))
                place = asked["realm"]
                form: dict[str, str] = {key: asked[key] for key in ("service", "scope") if key in asked}
                if user == _IDENTITY:
                    form |= {"grant_type": "refresh_token", "client_id": "plansmith", "refresh_token": secret}
                else:
                    place, form = f"{place}{'&' if '?' in place else '?'}{urlencode(form)}", {}
                with self._get(place, basic, form) as answer:
                    found = _document(answer)
                return f"Bearer {found.get('token') or found['access_token']}"
            if kind.lower() == "basic":
                return basic
        return ""


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to what is safe; credentials go along only within one server."""

    def __init__(self, require_safe: Callable[[str], None]) -> None:
        self._require_safe = require_safe

    def redirect_request(  # noqa: PLR0917 - as the library calls it
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        self._require_safe(newurl)
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            # Not what belongs to a body, which does not go along.
            kept = {name: value for name, value in req.unredirected_hdrs.items() if name == "Authorization"}
            following.unredirected_hdrs.update(kept)
        return following


def _login(host: str) -> tuple[str, str]:
    """User and password for a registry as `docker login` keeps it, `<token>` and an identity token, or nothing."""
    given = os.environ.get("DOCKER_AUTH_CONFIG")
    # A container may know no home.
    folder = Path(os.environ.get("DOCKER_CONFIG") or f"{os.environ.get('HOME', '')}/.docker")
    try:
        settings = _document(BytesIO(given.encode() if given else (folder / "config.json").read_bytes()))
    except FileNotFoundError:
        return "", ""
    helper = settings.get("credHelpers", {}).get(host) or settings.get("credsStore")
    entry = settings.get("auths", {}).get(host) or settings.get("auths", {}).get(f"https://{host}") or {}
    if entry.get("identitytoken"):
        return _IDENTITY, entry["identitytoken"]
    if entry.get("auth"):
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        return user, password
    if not helper or _HELPER.fullmatch(helper) is None:
        return "", ""
    command = [f"docker-credential-{helper}", "get"]
    done = subprocess.run(command, input=host, capture_output=True, text=True, check=False, timeout=_SECONDS)
    # It fails where it knows no login.
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return (found["Username"], found["Secret"]) if found else ("", "")
