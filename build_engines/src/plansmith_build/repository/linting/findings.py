"""What a check reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Severity", "error", "warning"]


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: an error keeps a model from loading, or means that it is not what it claims to be; a warning may be
            intended.
        path: the file or folder, relative to the repository.
        message: what is wrong.
        fix: what to do.
        rule: the check that found it, such as `tensors` or `warmup`.
    """

    severity: Severity
    path: str
    message: str
    fix: str
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.severity}: {self.message}: {self.fix}"


def error(path: str, message: str, fix: str) -> Finding:
    """A finding that must be fixed."""
    return Finding(Severity.ERROR, path, message, fix)


def warning(path: str, message: str, fix: str) -> Finding:
    """A finding that may be intended."""
    return Finding(Severity.WARNING, path, message, fix)
