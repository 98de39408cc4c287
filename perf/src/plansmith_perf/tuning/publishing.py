"""Publishes what was found: a new version with the tuned configuration, and the evidence in its manifest."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel, PublishFailed
from plansmith_build.repository.filesystem import explain_os_error, mirror
from plansmith_build.repository.linting.findings import Severity
from plansmith_build.repository.linting.hashes import check_hashes
from plansmith_build.repository.linting.signatures import check_signatures
from plansmith_build.repository.manifest import Manifest
from plansmith_build.repository.model_repository import CONFIG, MANIFEST, ModelRepository
from plansmith_build.repository.publishing import Published, Release, publish
from plansmith_build.repository.signing import SIGNATURE
from plansmith_build.repository.staging import staging_folder
from plansmith_perf.tuning.records import TuningRecord  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.manifest import PublishedFile
    from plansmith_build.repository.model_repository import RepositoryModel
    from plansmith_build.repository.signed_versions import Signer

__all__ = ["TunedManifest", "check_publishable", "publish_tuned"]


class TunedManifest(Manifest):
    """A manifest with the evidence of a tuning run."""

    tuning: TuningRecord


def check_publishable(model: RepositoryModel, version: int, public_key: Path | None = None) -> None:
    """Find out before the work, and not after it, that a version cannot be republished.

    Raises:
        InvalidModel: it has no manifest, its files are not what was published, or not what was signed.
    """
    if not (model.path / str(version) / MANIFEST).is_file():
        raise InvalidModel(
            f"version {version} of {model.name!r} has no manifest, so plansmith has not published it and cannot "
            "republish it: build it with `plansmith build`, or look at the result with --dry-run"
        )
    own = f"{model.name}/{version}/"
    found = [finding for finding in check_hashes(model) if finding.path.startswith(own)]
    if public_key is not None:
        found += check_signatures(ModelRepository(model.path.parent), public_key, [model.name])
    for finding in found:
        if finding.severity is Severity.ERROR:
            raise InvalidModel(f"{finding.path}: {finding.message}; build the model again, or use --dry-run")


def publish_tuned(
    repository: ModelRepository,
    manifest: Manifest,
    record: TuningRecord,
    text: str,
    *,
    staging: Path | None,
    sign: Signer | None,
    public_key: Path | None = None,
) -> Published:
    """Publish the tuned version's files under the next number, with one configuration replaced.

    The other configurations stay as they are; those that a person wrote are never changed.

    Raises:
        InvalidModel: the version is not what was published or signed, or another one was published meanwhile.
        PublishFailed: the system did not let it be written; the repository is as it was.
    """
    model = repository.existing_model(manifest.model)
    check_publishable(model, manifest.version, public_key)
    expected = model.next_version
    ours = model.history.config_sha256s

    def configure(_: bytes | None) -> dict[str, str]:
        texts = {path: file.read_bytes() for path, file in model.configurations.items()}
        stay = {
            path: content.decode()
            for path, content in texts.items()
            if path == CONFIG or hashlib.sha256(content).hexdigest() in ours
        }
        return {**stay, record.config: text}

    def describe(number: int, published: tuple[PublishedFile, ...]) -> Manifest:
        if number != expected or model.versions[-1] != manifest.version:
            raise InvalidModel(
                f"another version of {model.name!r} was published while version {manifest.version} was tuned: "
                "nothing was changed, tune again"
            )
        return TunedManifest(
            **{
                **{name: getattr(manifest, name) for name in Manifest.model_fields},
                "version": number,
                "created": datetime.now(UTC).replace(microsecond=0),
                "files": published,
                "rolled_back_from": None,
                "tuning": record,
            }
        )

    with staging_folder(repository.path, staging) as stage:
        files = stage / "files"
        try:
            mirror(model.version_path(manifest.version), files)
            for name in (MANIFEST, SIGNATURE):
                (files / name).unlink(missing_ok=True)
        except OSError as error:
            raise explain_os_error(error, f"copy version {manifest.version}") from error
        if not any(files.iterdir()):
            raise PublishFailed(f"version {manifest.version} of {model.name!r} has no files")
        release = Release(
            model_files=tuple(sorted(files.iterdir())), labels=None, configure=configure, describe=describe, sign=sign
        )
        return publish(repository, model.name, release, staging=stage)
