"""Publishing an old version again, under a new number: numbers only grow, so the content of a version never changes."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel, InvalidOption, PublishFailed
from plansmith_build.reading.regular_files import read_regular, sha256_of
from plansmith_build.repository.companions import models_of_ensemble
from plansmith_build.repository.config import config_from_text, specs_from_config
from plansmith_build.repository.filesystem import explain_os_error, link_or_copy
from plansmith_build.repository.linting.context import model_files
from plansmith_build.repository.manifest import Tensor
from plansmith_build.repository.model_repository import CONFIG, LABELS
from plansmith_build.repository.publishing import Published, Release, publish
from plansmith_build.repository.signing import SignatureInvalid, require_public_key, verify_signature
from plansmith_build.repository.staging import staging_folder
from plansmith_build.repository.warmup import WARMUP

if TYPE_CHECKING:
    from plansmith_build.repository.manifest import Manifest, PublishedFile
    from plansmith_build.repository.model_repository import ModelRepository, RepositoryModel
    from plansmith_build.repository.signed_versions import Signer

__all__ = ["roll_back"]


def roll_back(
    repository: ModelRepository,
    name: str,
    version: int,
    *,
    staging: Path | None = None,
    sign: Signer | None = None,
    public_key: Path | None = None,
) -> Published:
    """Publish an old version, with its own configurations and labels, under the next number.

    Args:
        repository: an existing one.
        name: the model's.
        version: an old version that is still there, unchanged.
        staging: the folder to stage in; see `staging_folder`.
        sign: signs the new version.
        public_key: verify the old version's signature by this key (PEM) first; `sign` needs it where a version of the
            model is signed.

    Raises:
        ModelNotFound: there is no such model or version.
        InvalidOption: the version is the newest one already, or a key is missing or cannot be read.
        InvalidModel: it has no manifest of its own, or its files are not what was published.
        SignatureInvalid: it is not signed by the owner of the key, or not as it is now.
        PublishFailed: the system did not let it be written.
    """
    model = repository.existing_model(name)
    folder = model.version_path(version)
    if sign is not None:
        require_public_key(model, public_key)
    if version == model.versions[-1]:
        raise InvalidOption(f"version {version} of {name!r} is the newest one: there is nothing to roll back to")
    if public_key is not None:
        try:
            verify_signature(folder, public_key)
        except SignatureInvalid as error:
            raise SignatureInvalid(f"{error}: build the old file again with --sign-key") from error
    manifest = model.manifest(version)
    _check_unchanged(model, manifest, version)
    if sign is not None and not manifest.configs:
        raise InvalidModel(
            f"the manifest of version {version} has no copy of its configurations, so it is not known what to sign: "
            "build it again"
        )
    configs = manifest.configs or _present_config(model, manifest)
    missing = models_of_ensemble(configs.get(CONFIG, "")) - set(repository.names())
    if missing:
        raise InvalidModel(
            f"version {version} of {name!r} is a pipeline whose steps are no longer there, "
            f"{', '.join(sorted(missing))}: those of the newest two versions are kept; build it again"
        )
    labels = manifest.labels.encode() if manifest.labels is not None else _present_labels(model, manifest)
    with staging_folder(repository.path, staging) as stage:
        files = _copies(model, manifest, version, stage / "files")

        def describe(number: int, published: tuple[PublishedFile, ...]) -> Manifest:
            return manifest.model_copy(
                update={
                    "version": number,
                    "created": datetime.now(UTC).replace(microsecond=0),
                    "files": published,
                    "rolled_back_from": version,
                }
            )

        release = Release(
            model_files=files,
            labels=labels,
            configure=lambda _: configs,
            describe=describe,
            sign=sign,
        )
        return publish(repository, name, release, staging=stage)


def _check_unchanged(model: RepositoryModel, manifest: Manifest, version: int) -> None:
    for file in manifest.files:
        path = model.path / file.path
        folder = next((name for name in (str(version), WARMUP) if file.path.startswith(f"{name}/")), None)
        if folder is None:
            continue
        if not path.resolve().is_relative_to(model.path / folder):
            raise InvalidModel(f"the manifest of version {version} names a file outside of it: {file.path!r}")
        if not path.is_file() or path.stat().st_size != file.size or sha256_of(path) != file.sha256:
            raise InvalidModel(
                f"{path} is not what was published as version {version}: it cannot be published again. "
                "Build the model again"
            )


def _present_config(model: RepositoryModel, manifest: Manifest) -> dict[str, str]:
    """For versions of before manifests held their configurations: the present one, where it says the same of tensors.

    Raises:
        InvalidModel: it does not.
    """
    path = model.path / CONFIG
    try:
        text = read_regular(path).decode()
        config = config_from_text(text)
    except (OSError, UnicodeDecodeError, InvalidModel) as error:
        raise InvalidModel(f"{path} cannot be read, and the version's manifest has no copy: build it again") from error
    batched = config.max_batch_size > 0
    fits = (
        config.max_batch_size == manifest.batching.max_batch_size
        and tuple(map(Tensor.from_spec, specs_from_config(config.input, batched=batched))) == manifest.inputs
        and tuple(map(Tensor.from_spec, specs_from_config(config.output, batched=batched))) == manifest.outputs
        and all(file.exists() for _, file in model_files(config, model.path / str(manifest.version)))
    )
    if not fits:
        raise InvalidModel(
            f"{path} is not for version {manifest.version}, whose manifest has no copy of its own: build it again"
        )
    return {CONFIG: text}


def _present_labels(model: RepositoryModel, manifest: Manifest) -> bytes | None:
    """Likewise for labels, to the byte; None where the version had none.

    Raises:
        InvalidModel: they are not the ones that the version was published with.
    """
    published = {file.path: file.sha256 for file in manifest.files}.get(LABELS)
    if published is None:
        return None
    path = model.path / LABELS
    try:
        labels = read_regular(path)
    except OSError:
        labels = b""
    if hashlib.sha256(labels).hexdigest() != published:
        raise InvalidModel(
            f"{path} is not what version {manifest.version} was published with, and its manifest has no copy: "
            "put the old labels back, or build it again"
        )
    return labels


def _copies(model: RepositoryModel, manifest: Manifest, version: int, folder: Path) -> tuple[Path, ...]:
    """The version's files in the staging folder, as hard links where the file system has them."""
    folder.mkdir()
    for file in manifest.files:
        if not file.path.startswith(f"{version}/"):
            continue
        source = model.path / file.path
        target = folder / Path(file.path).relative_to(str(version))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, target)
        except OSError as error:
            raise explain_os_error(error, f"copy {source}") from error
    # What the version has on its top level, folders as a whole.
    copies = tuple(sorted(folder.iterdir()))
    if not copies:
        raise PublishFailed(f"version {version} of {model.name!r} has no files")
    return copies
