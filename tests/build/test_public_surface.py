"""What plansmith_build shows to the world: its names, its errors, and how little it loads."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import plansmith_build
from plansmith_build import BuildError, errors

MODULES = [
    importlib.import_module(info.name) for info in pkgutil.walk_packages(plansmith_build.__path__, "plansmith_build.")
]
FAMILY = [getattr(errors, name) for name in errors.__all__]


def test_the_names_of_the_package_are_these_and_no_others():
    assert set(plansmith_build.__all__) == {
        *("build", "build_pipeline", "BuildOptions", "BuildResult", "BuildStep", "SearchOptions"),
        *(kind.__name__ for kind in FAMILY),
    }
    for name in plansmith_build.__all__:
        assert inspect.getdoc(getattr(plansmith_build, name)), name
    with pytest.raises(AttributeError, match="nosuch"):
        _ = plansmith_build.nosuch


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_module_says_what_it_is_and_what_it_offers(module):
    assert module.__doc__
    # A room may offer nothing but its modules.
    if not hasattr(module, "__path__") or hasattr(module, "__all__"):
        assert set(module.__all__) <= set(vars(module))


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_is_of_the_family_drawn_in_its_module_and_has_an_exit_code(kind):
    assert issubclass(kind, BuildError)
    assert kind.__name__ in errors.__doc__
    assert kind.exit_code in {1, 2, 3}


def test_reading_a_repository_loads_neither_onnx_nor_onnx_runtime():
    program = """
import sys
import plansmith_build
import plansmith_build.commands.build
import plansmith_build.commands.inspect
print(sorted({"onnx", "onnxruntime", "onnxslim"} & set(sys.modules)))
plansmith_build.build
print("onnxslim" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "False"]
