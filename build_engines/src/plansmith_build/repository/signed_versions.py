"""`signed.json`: which versions a repository has, signed, so that one that was removed or put back is noticed.

It lies beside the models, where servers read no files, and is written by whoever signs a version or removes one.
"""

from __future__ import annotations

import os
import shlex
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from plansmith_build.errors import PublishFailed
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.filesystem import sync_file, write_new
from plansmith_build.repository.locking import locked_folder
from plansmith_build.repository.model_repository import ModelRepository, RepositoryModel
from plansmith_build.repository.signing import (
    SIGNATURE,
    SignatureInvalid,
    public_key_of,
    require_private_key,
    sign_version,
    verify_signature,
)
from plansmith_build.repository.staging import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SIGNED", "Signer", "command_to_list", "signed_versions", "signer_for"]

SIGNED = "signed.json"

_Versions = frozenset[tuple[str, int]]


class _Document(BaseModel):
    models: dict[str, tuple[int, ...]]
    signature: str


@dataclass(frozen=True)
class Signer:
    """Signs versions, and the list of them.

    Attributes:
        private_key: an elliptic-curve key (PEM); its password, if it has one, in `PLANSMITH_KEY_PASSWORD`.

    Raises:
        InvalidOption: the model-signing package is missing, or the key cannot be read.
    """

    private_key: Path

    def __post_init__(self) -> None:
        require_private_key(self.private_key)

    def sign(self, folder: Path) -> None:
        """Sign a complete version's folder."""
        sign_version(folder, self.private_key)

    def list_anew(self, repository: Path) -> dict[str, tuple[int, ...]]:
        """List every signed version that is there, whatever was listed before.

        Returns:
            The versions that are listed now, by model.

        Raises:
            InvalidOption: the key cannot be used.
            PublishFailed: the list cannot be written.
        """
        try:
            with locked_folder(repository):
                return self._write(repository, _present(repository))
        except OSError as error:
            raise PublishFailed(f"{repository / SIGNED} cannot be written: {error.strerror}") from error

    def listed(self, repository: Path) -> _Versions:
        """The models and versions that are listed; none in a repository without signed versions.

        Raises:
            InvalidOption: the key cannot be used.
            SignatureInvalid: the list is not what this key has signed, or is missing where versions are signed.
        """
        with temporary_folder() as folder:
            public_key = folder / "key.pub"
            public_key.write_bytes(public_key_of(self.private_key))
            try:
                listed = signed_versions(repository, public_key)
            except SignatureInvalid as error:
                raise SignatureInvalid(str(error).replace(str(public_key), str(self.private_key))) from error
        if listed is None and _present(repository):
            raise SignatureInvalid(
                f"{repository / SIGNED} is missing, so it is not known which versions were signed: look at what is "
                f"there, and list it with {command_to_list(repository, self.private_key)}"
            )
        return listed or frozenset()

    @contextmanager
    def listing(self, repository: Path) -> Iterator[None]:
        """List the versions that come, and no longer those that go, while this is open, also where it ends in an error.

        What somebody else has removed stays listed. The caller holds the repository's lock.

        Raises:
            InvalidOption, SignatureInvalid: see `listed`.
            PublishFailed: the list cannot be written.
        """
        listed, before, failed = self.listed(repository), _present(repository), ""
        try:
            yield
        except BaseException as error:
            failed = str(error)
            raise
        finally:
            after = _present(repository)
            try:
                if before != after:
                    self._write(repository, (listed | (after - before)) - (before - after))
            except OSError as error:
                done = failed or ("the version is published" if after - before else "the versions are removed")
                raise PublishFailed(
                    f"{done}, but {repository / SIGNED} cannot be written ({error.strerror}): write it with "
                    f"{command_to_list(repository, self.private_key)}"
                ) from error

    def _write(self, repository: Path, versions: _Versions) -> dict[str, tuple[int, ...]]:
        models: dict[str, tuple[int, ...]] = {}
        for name, version in sorted(versions):
            models[name] = (*models.get(name, ()), version)
        with temporary_folder() as folder:
            document = _Document(models=models, signature="")
            (folder / SIGNED).write_text(document.model_dump_json(), encoding="utf-8")
            sign_version(folder, self.private_key)
            document.signature = (folder / SIGNATURE).read_text(encoding="utf-8")
        written = repository / f".{SIGNED}.{token_hex(8)}"
        try:
            write_new(written, (document.model_dump_json(indent=2) + "\n").encode())
            sync_file(written)
            written.replace(repository / SIGNED)
        finally:
            written.unlink(missing_ok=True)
        # A file system that cannot sync a folder must not make that look like a failure.
        with suppress(OSError):
            sync_file(repository)
        return models


def signer_for(repository: Path, private_key: Path | None) -> Signer | None:
    """A signer whose key fits the repository's list, before work that takes long; None without a key.

    Raises:
        InvalidOption: the model-signing package is missing, or the key cannot be used.
        SignatureInvalid: see `Signer.listed`.
    """
    if private_key is None:
        return None
    signer = Signer(private_key)
    signer.listed(repository)
    return signer


def command_to_list(repository: Path, private_key: Path = Path("key.pem")) -> str:
    """The command that lists anew what is there."""
    return shlex.join(["plansmith", "prune", "--all", "--sign-key", str(private_key), "--repository", str(repository)])


def signed_versions(repository: Path, public_key: Path) -> _Versions | None:
    """The models and versions that are listed; None where there is no list.

    Raises:
        InvalidOption: the model-signing package is missing, or the key cannot be read.
        SignatureInvalid: the list cannot be read, or is not what the owner of the key has signed.
    """
    try:
        document = _Document.model_validate_json(read_regular(repository / SIGNED, follow=False))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise SignatureInvalid(f"{repository / SIGNED} cannot be read") from error
    with temporary_folder() as folder:
        (folder / SIGNATURE).write_text(document.signature, encoding="utf-8")
        document.signature = ""
        (folder / SIGNED).write_text(document.model_dump_json(), encoding="utf-8")
        verify_signature(folder, public_key, subject=str(repository / SIGNED))
    return frozenset((name, version) for name, versions in document.models.items() for version in versions)


def _present(repository: Path) -> _Versions:
    models = [RepositoryModel(repository / name) for name in ModelRepository(repository).names()]
    return frozenset(
        (model.name, version)
        for model in models
        for version in model.versions
        if os.path.lexists(model.path / str(version) / SIGNATURE)
    )
