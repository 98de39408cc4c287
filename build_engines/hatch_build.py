"""Names this distribution's sibling members so that plain pip can install it from a checkout.

pip knows nothing of workspaces: in a checkout a sibling must be a direct reference to its folder, while the metadata
of a released wheel names it by version, which is the same for all. PLANSMITH_RELEASE=1 asks for the latter.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SiblingDependencies(MetadataHookInterface):
    """Sets `project.dependencies` from this hook's `dependencies` and `siblings`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Complete the project metadata in place."""
        siblings = [self._requirement(sibling, metadata["version"]) for sibling in self.config["siblings"]]
        metadata["dependencies"] = [*siblings, *self.config["dependencies"]]

    def _requirement(self, sibling: str, version: str) -> str:
        folder, bracket, extras = sibling.partition("[")
        pyproject = Path(self.root).parent / folder / "pyproject.toml"
        if not pyproject.is_file() or os.environ.get("PLANSMITH_RELEASE") == "1":
            released = {"client": "plansmith-client", "build_engines": "plansmith-build", "server": "plansmith-server"}
            return f"{released[folder]}{bracket}{extras}=={version}"
        name = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["name"]
        return f"{name}{bracket}{extras} @ {pyproject.parent.as_uri()}"
