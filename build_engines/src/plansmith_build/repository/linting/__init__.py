"""Finding what is wrong in a model repository before a server does, also in one that plansmith did not write.

A configuration for a GPU machine is checked on one without: what a backend would refuse when it loads the model is told
by tables of the fields and parameters that each backend knows.
"""

from __future__ import annotations

from plansmith_build.repository.linting.findings import Finding, Severity
from plansmith_build.repository.linting.repository import lint_repository

__all__ = ["Finding", "Severity", "lint_repository"]
