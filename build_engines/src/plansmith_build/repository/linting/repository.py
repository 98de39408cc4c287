"""All checks over a repository."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel, ModelNotFound
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting.backends import check_backend
from plansmith_build.repository.linting.context import ConfigContext
from plansmith_build.repository.linting.declarations import check_declarations
from plansmith_build.repository.linting.ensembles import check_ensemble
from plansmith_build.repository.linting.files import check_files
from plansmith_build.repository.linting.findings import error, warning
from plansmith_build.repository.linting.hashes import check_hashes
from plansmith_build.repository.linting.machines import check_machine
from plansmith_build.repository.linting.parameters import check_parameters
from plansmith_build.repository.linting.profiles import check_profiles
from plansmith_build.repository.linting.safety import check_content, check_safety
from plansmith_build.repository.linting.scheduling import check_newer_fields, check_scheduling
from plansmith_build.repository.linting.sequences import check_sequences
from plansmith_build.repository.linting.steps import check_steps
from plansmith_build.repository.linting.tensors import check_tensors
from plansmith_build.repository.linting.warmup import check_warmup
from plansmith_build.repository.model_repository import CONFIG, RepositoryModel

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from plansmith_build.repository.linting.findings import Finding
    from plansmith_build.repository.model_repository import ModelRepository

__all__ = ["lint_repository"]

_CONFIG_CHECKS = (
    check_backend,
    check_declarations,
    check_scheduling,
    check_sequences,
    check_warmup,
    check_newer_fields,
    check_ensemble,
    check_steps,
    check_files,
    check_tensors,
    check_parameters,
    check_profiles,
    check_safety,
)

_DIGITS = re.compile(r"[0-9]{1,255}")
_LARGEST_VERSION = 2**63 - 1


def lint_repository(repository: ModelRepository, models: Collection[str] = ()) -> tuple[Finding, ...]:
    """All findings, model by model; those of all models where none are named.

    Raises:
        ModelNotFound: there is no such model, or no such repository.
    """
    if not repository.path.is_dir():
        raise ModelNotFound(f"there is no repository {repository.path}: name an existing folder")
    names = list(models) or list(repository.names())
    found: list[Finding] = []
    for name in names:
        found += _held("", name, partial(_lint_model, repository, repository.existing_model(name)))
    if not models:
        found += _stray_folders(repository)
    # Two configurations may name the same file; its findings appear once.
    return tuple(dict.fromkeys(found))


def _lint_model(repository: ModelRepository, model: RepositoryModel) -> Iterator[Finding]:
    configurations = model.configurations
    if CONFIG not in configurations:
        yield warning(
            model.name,
            "there is no config.pbtxt, so the server derives one from the model file",
            "write one: plansmith build does",
        )
    for name, path in configurations.items():
        where = f"{model.name}/{name}"
        try:
            config = config_from_text(read_regular(path).decode())
        except InvalidModel as problem:
            yield error(where, str(problem), "correct the field or remove it")
            continue
        except UnicodeDecodeError:
            yield error(where, "it is not UTF-8 text", "save it as UTF-8")
            continue
        except OSError as problem:
            yield error(where, f"it cannot be read: {problem.strerror}", "replace it with a readable file")
            continue
        context = ConfigContext(model, where, config, frozenset(repository.names()))
        for check in _CONFIG_CHECKS:
            rule = check.__name__.removeprefix("check_")
            yield from _held(rule, where, partial(check, context))
    for entry in sorted(model.path.iterdir()):
        if entry.is_dir() and entry.name.isdecimal() and entry.name.startswith("0"):
            yield warning(f"{model.name}/{entry.name}", "the server ignores versions that begin with 0", "rename it")
        elif entry.is_dir() and _DIGITS.fullmatch(entry.name) and int(entry.name) > _LARGEST_VERSION:
            yield error(
                f"{model.name}/{entry.name}",
                "no version can have this number, and a server that finds it ends",
                f"use one of up to {_LARGEST_VERSION}, or remove it",
            )
    yield from _held("hashes", model.name, partial(check_hashes, model))
    yield from _held("machine", model.name, partial(check_machine, model))
    yield from _held("content", model.name, partial(check_content, repository.path, model.path))


def _held(rule: str, where: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; what ends it is one more finding, so that all others are still made."""
    try:
        for finding in check():
            yield finding if finding.rule else replace(finding, rule=rule)
    except (OSError, ValueError, RuntimeError) as problem:
        # Unreadable files, names that no file system takes, links in a circle, folders deeper than Python's stack.
        yield replace(error(where, f"it cannot be checked: {problem}", "remove or replace what is named"), rule=rule)


def _stray_folders(repository: ModelRepository) -> Iterator[Finding]:
    for name in repository.names():
        model = RepositoryModel(repository.path / name)
        # What cannot be looked into is reported above.
        with suppress(OSError):
            if model.configurations or model.versions:
                continue
            yield error(
                name,
                "the server takes this folder for a model, but it has neither a configuration nor a version",
                "move it out of the repository",
            )
