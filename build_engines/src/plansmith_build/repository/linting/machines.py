"""Whether this machine is of the kind of the one that chose a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel, ModelNotFound
from plansmith_build.repository.environment import missing_here
from plansmith_build.repository.linting.findings import warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.repository.linting.findings import Finding
    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = ["check_machine"]


def check_machine(model: RepositoryModel) -> Iterator[Finding]:
    """Each configuration of the newest version that was measured on a machine which had more than this one."""
    try:
        manifest = model.manifest(model.versions[-1])
    except (IndexError, ModelNotFound, InvalidModel, OSError):
        # Said by the check of hashes.
        return
    chosen_on = manifest.environment
    for candidate in manifest.search.candidates if manifest.search is not None else ():
        measured = candidate.config in model.configurations and candidate.rows_per_second
        missing = measured and missing_here(chosen_on, candidate.device)
        if missing:
            machine = chosen_on.cpu if candidate.device == "cpu" else ", ".join(chosen_on.gpus)
            yield warning(
                f"{model.name}/{candidate.config}",
                f"it was chosen on another kind of machine ({machine}), and {missing}: it may be slower and less "
                "accurate here than its manifest says",
                "build on the kind of machine that serves it, or serve the portable model with --config-name none",
            )
