"""Signatures of versions, made and verified by the model-signing package (OpenSSF Model Signing).

A signature covers every file of a version's folder, the manifest included. Keys are elliptic-curve keys in PEM files;
the password of an encrypted one comes from the environment, never from the command line.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plansmith_build.errors import BuildError, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = [
    "PASSWORD_VARIABLE",
    "SIGNATURE",
    "SignatureInvalid",
    "public_key_of",
    "require_private_key",
    "require_public_key",
    "sign_version",
    "verify_signature",
]

SIGNATURE = "model.sig"
PASSWORD_VARIABLE = "PLANSMITH_KEY_PASSWORD"  # noqa: S105 - the name of a variable, not a password


class SignatureInvalid(BuildError):
    """A version is not signed, not by this key, or not as it is now."""

    exit_code = 3


def require_private_key(private_key: Path) -> None:
    """Whether versions can be signed by a key, as far as that is known without its password.

    Raises:
        InvalidOption: the package is missing, or the key cannot be read.
    """
    _model_signing()
    _read(private_key, "private key")


def public_key_of(private_key: Path) -> bytes:
    """The public key (PEM) of a private one.

    Raises:
        InvalidOption: the key cannot be read or used.
    """
    # They come with model-signing, which is optional.
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415

    with _explained(private_key):
        password = os.environ.get(PASSWORD_VARIABLE)
        key = serialization.load_pem_private_key(
            _read(private_key, "private key"), None if password is None else password.encode()
        )
        if not isinstance(key, EllipticCurvePrivateKey):
            raise TypeError("it is of another kind")
        return key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def require_public_key(model: RepositoryModel, public_key: Path | None) -> None:
    """Refuse to sign again, unverified, what is signed: it may have been changed since.

    Where any version is signed, another without a signature may have lost it together with what it was.

    Raises:
        InvalidOption: the model has a signed version, and there is no key to verify it by.
    """
    signed = [version for version in model.versions if os.path.lexists(model.path / str(version) / SIGNATURE)]
    if signed and public_key is None:
        raise InvalidOption(
            f"version {signed[-1]} of {model.name!r} is signed, and what is signed again is verified first: "
            "name the public key with --public-key"
        )


def sign_version(folder: Path, private_key: Path) -> None:
    """Write `model.sig` into a version's folder.

    Args:
        folder: the version, complete.
        private_key: an elliptic-curve key, PEM; its password, if it has one, in `PLANSMITH_KEY_PASSWORD`.

    Raises:
        InvalidOption: the package is missing, or the key cannot be used.
    """
    library = _model_signing()
    _read(private_key, "private key")
    signature = folder / SIGNATURE
    with _explained(private_key):
        config = library.signing.Config().use_elliptic_key_signer(
            private_key=private_key, password=os.environ.get(PASSWORD_VARIABLE)
        )
        config.set_hashing_config(_hashing(library, signature)).sign(folder, signature)


@contextmanager
def _explained(private_key: Path) -> Iterator[None]:
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        # AttributeError is how the package meets a key that is not of an elliptic curve.
        raise InvalidOption(
            f"the key {private_key} cannot be used: {error}. It has to be an elliptic-curve key in PEM form, and the "
            f"password of an encrypted one is read from {PASSWORD_VARIABLE}"
        ) from error


def verify_signature(folder: Path, public_key: Path, *, subject: str = "") -> None:
    """Verify that a version is as it was when it was signed, by the owner of a key.

    Args:
        folder: the version's.
        public_key: the owner's key, PEM.
        subject: what errors call it; by default by its model and version.

    Raises:
        InvalidOption: the package is missing, or the key cannot be read.
        SignatureInvalid: there is no signature, it is of another key, or a file is not what was signed.
    """
    library = _model_signing()
    if b"-----BEGIN PUBLIC KEY-----" not in _read(public_key, "public key"):
        raise InvalidOption(
            f"{public_key} is not a public key (PEM): `openssl ec -in PRIVATE.pem -pubout` writes that of a private key"
        )
    signature = folder / SIGNATURE
    where = subject or f"{folder.parent.name}/{folder.name}"
    if not signature.is_file():
        raise SignatureInvalid(f"{where} is not signed")
    try:
        config = library.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing(library, signature)).verify(folder, signature)
    except Exception as error:
        # The package raises ValueError, and whatever the cryptography library raises.
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise SignatureInvalid(f"the signature of {where} does not hold for {public_key}: {said}") from error


def _hashing(library: ModuleType, signature: Path) -> object:
    return library.hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidOption(f"the {what} {path} cannot be read: {error.strerror}") from error


def _model_signing() -> ModuleType:
    try:
        with warnings.catch_warnings(action="ignore"):
            import model_signing  # noqa: PLC0415 - optional, and a second of imports
    except ImportError as error:
        raise InvalidOption("signatures need the model-signing package: plansmith[signing] brings it") from error
    module: ModuleType = model_signing
    return module
