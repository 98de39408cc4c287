"""Everything that plansmith-build raises.

BuildError                     base; `exit_code` is what the `plansmith` command exits with
├── InvalidModel               the file is not an ONNX model, is damaged, or holds what Triton cannot serve
│   ├── UnsupportedOperator    the graph uses an operator that ONNX Runtime does not have
│   └── UnsafeExternalData     a weight file is missing, or is not where a model may point
├── InvalidOption              a name, a repository, labels or another option cannot be used
├── ModelNotFound              the repository has no such model or version
├── VerificationFailed         the model could not be run, or a version does not compute what its source computes
│   ├── InputsNeeded           the model runs on no random input: give some of your own
│   └── BudgetNotMet           no candidate is accurate enough
└── PublishFailed              the disk, its permissions or its file system did not let a version be written
"""

from __future__ import annotations

__all__ = [
    "BudgetNotMet",
    "BuildError",
    "InputsNeeded",
    "InvalidModel",
    "InvalidOption",
    "ModelNotFound",
    "PublishFailed",
    "UnsafeExternalData",
    "UnsupportedOperator",
    "VerificationFailed",
]


class BuildError(Exception):
    """Base of the family."""

    exit_code = 1


class InvalidModel(BuildError):
    """The file is not an ONNX model, is damaged, or holds what Triton cannot serve."""

    exit_code = 2


class UnsupportedOperator(InvalidModel):
    """The graph uses an operator that the installed ONNX Runtime does not have."""


class UnsafeExternalData(InvalidModel):
    """An external weight file is missing, too short, or lies where a model may not point."""


class InvalidOption(BuildError):
    """A name, a repository, a label file or another option cannot be used."""

    exit_code = 2


class ModelNotFound(BuildError):
    """The repository has no such model, or the model no such version."""

    exit_code = 2


class VerificationFailed(BuildError):
    """The model could not be run on the sample inputs, or a version computes something else than its source."""

    exit_code = 3


class InputsNeeded(VerificationFailed):
    """The model reports an error for every kind of random input: it needs inputs of the user's own."""


class BudgetNotMet(VerificationFailed):
    """No candidate is inside the accuracy budget, or none could be made at all."""


class PublishFailed(BuildError):
    """The disk, its permissions or its file system did not let a version be written."""
