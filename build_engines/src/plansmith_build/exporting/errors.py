"""Why a framework's model could not be written as ONNX.

BuildError                     of plansmith_build.errors
├── ExportFailed               the framework's exporter could not turn this model into ONNX
└── InvalidOption
    └── UnsuitableModel        there is no such model, or it is not something that can be exported
        ├── UnsafeModelFile    the file can only be loaded by running what is in it
        └── MissingPackage     the framework, or its exporter, is not installed
"""

from __future__ import annotations

from plansmith_build.errors import BuildError, InvalidOption

__all__ = ["ExportFailed", "MissingPackage", "UnsafeModelFile", "UnsuitableModel"]


class ExportFailed(BuildError):
    """The framework's exporter could not turn this model into ONNX."""


class UnsuitableModel(InvalidOption):
    """There is no such model, or it is not something that can be exported."""


class UnsafeModelFile(UnsuitableModel):
    """The file can only be loaded by running what is in it."""


class MissingPackage(UnsuitableModel):
    """The framework, or its exporter, is not installed."""
