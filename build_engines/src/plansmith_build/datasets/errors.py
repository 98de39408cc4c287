"""What is wrong with calibration or validation data.

InvalidOption                  of plansmith_build.errors
└── InvalidData                there is no such data, it cannot be read, or it does not fit the model's inputs
    ├── InvalidLabels          the labels do not fit the rows or the classes
    ├── InvalidPreprocessing   the declared preprocessing cannot be understood, or is needed and not there
    ├── TooFewRows             there are not enough different rows for calibration and validation apart
    └── DataFunctionFailed     the user's function cannot be found, raised an exception or gave something else
"""

from __future__ import annotations

from plansmith_build.errors import InvalidOption

__all__ = ["DataFunctionFailed", "InvalidData", "InvalidLabels", "InvalidPreprocessing", "TooFewRows"]


class InvalidData(InvalidOption):
    """There is no such data, it cannot be read, or it does not fit the model's inputs."""


class InvalidLabels(InvalidData):
    """The labels do not fit the rows or the classes."""


class InvalidPreprocessing(InvalidData):
    """The declared preprocessing cannot be understood, or is needed and not there."""


class TooFewRows(InvalidData):
    """There are not enough different rows for calibration and validation apart."""


class DataFunctionFailed(InvalidData):
    """The user's function cannot be found, raised an exception or returned something that is not data."""
