"""The version of this distribution, as in its pyproject.toml: importlib.metadata takes long to import."""

from __future__ import annotations

__all__ = ["USER_AGENT", "__version__"]

__version__ = "0.1.0"
USER_AGENT = f"plansmith-client/{__version__}"
