"""What each engine will say to an ONNX file, found out in seconds and with nothing published."""

from __future__ import annotations

from plansmith_build.checking.answers import Answer, CheckReport, Verdict
from plansmith_build.checking.check import CheckOptions, check

__all__ = ["Answer", "CheckOptions", "CheckReport", "Verdict", "check"]
