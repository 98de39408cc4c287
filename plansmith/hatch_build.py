"""Names this distribution's sibling members so that plain pip can install it from a checkout.

pip knows nothing of workspaces: in a checkout a sibling must be a direct reference to its folder, while the metadata
of a released wheel names it by version, which is the same for all. PLANSMITH_RELEASE=1 asks for the latter.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SiblingDependencies(MetadataHookInterface):
    """Sets `project.dependencies` from this hook's `dependencies` and `siblings`, and the extras from `extras`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Complete the project metadata in place."""
        version = metadata["version"]
        siblings = [self._requirement(sibling, version) for sibling in self.config["siblings"]]
        metadata["dependencies"] = [*siblings, *self.config["dependencies"]]
        for extra, wanted in self.config.get("extras", {}).items():
            named = [self._requirement(sibling, version) for sibling in wanted]
            metadata.setdefault("optional-dependencies", {})[extra] = named

    def _requirement(self, sibling: str, version: str) -> str:
        folder, bracket, extras = sibling.partition("[")
        name = "plansmith-build" if folder == "build_engines" else f"plansmith-{folder}"
        place = Path(self.root).parent / folder
        if os.environ.get("PLANSMITH_RELEASE") == "1" or not (place / "pyproject.toml").is_file():
            return f"{name}{bracket}{extras}=={version}"
        return f"{name}{bracket}{extras} @ {place.as_uri()}"
