"""Finding what is wrong in any model repository, whoever wrote it, before a server does.

A configuration for a GPU machine is checked on a machine without one: tables list the fields and parameters that each
backend knows, and so what it would refuse when it loads the model.
"""

from __future__ import annotations

from plansmith_build.repository.linting.findings import Finding, Severity
from plansmith_build.repository.linting.repository import lint_repository

__all__ = ["Finding", "Severity", "lint_repository"]
