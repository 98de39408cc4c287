"""From the frameworks to ONNX: each model is written whole, and only if it computes what the framework computes."""

from __future__ import annotations

from plansmith_build.exporting.errors import ExportFailed, MissingPackage, UnsafeModelFile, UnsuitableModel
from plansmith_build.exporting.keras import export_keras
from plansmith_build.exporting.pytorch import export_pytorch
from plansmith_build.exporting.scikit_learn import export_scikit_learn
from plansmith_build.exporting.writing import ExportResult

__all__ = [
    "ExportFailed",
    "ExportResult",
    "MissingPackage",
    "UnsafeModelFile",
    "UnsuitableModel",
    "export_keras",
    "export_pytorch",
    "export_scikit_learn",
]
