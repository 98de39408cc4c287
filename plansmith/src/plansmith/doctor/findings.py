"""What a look at one thing found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status"]

Status = Literal["ok", "absent", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing of this machine.

    Attributes:
        name: what was looked at.
        status: "absent" for what is optional and not there; "failed" for what is needed, or there and does not work.
        detail: what was found.
        remedy: what to do; empty where nothing is to do.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
