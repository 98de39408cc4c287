"""The version of this distribution."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["USER_AGENT", "__version__"]

__version__ = version("plansmith-client")
USER_AGENT = f"plansmith-client/{__version__}"
