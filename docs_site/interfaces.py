"""The reference of the Python interfaces as pages: what each distribution exports, from its own docstrings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pages"]

# By the name of the page: the modules that users import, each with an `__all__`.
MODULES = {
    "api-client.md": (
        *("plansmith_client", "plansmith_client.errors", "plansmith_client.testing", "plansmith_client.telemetry"),
        *(
            "plansmith_client.metrics",
            "plansmith_client.bulk",
            "plansmith_client.spark",
            "plansmith_client.dask",
            "plansmith_client.ray",
        ),
    ),
    "api-build.md": (
        *("plansmith_build", "plansmith_build.exporting", "plansmith_build.datasets", "plansmith_build.accuracy"),
    ),
    "api-server.md": ("plansmith_server", "plansmith_server.pytest_plugin"),
    "api-perf.md": ("plansmith_perf.report",),
}


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page; mkdocstrings puts the docstrings in the place of the lines that begin with `:::`."""
    for name, modules in MODULES.items():
        package = modules[0].partition(".")[0]
        about = f"Every class, function and error of `{package}` that is meant to be imported, from its docstrings."
        yield name, "\n\n".join([f"# Python: {package}", about, *(f"::: {module}" for module in modules)]) + "\n"
