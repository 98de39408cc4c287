"""The notebooks of docs/notebooks run from the first cell to the last, shortened, and are kept without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
# Set after the cell with the tag `parameters`.
SHORTENED = {
    "deployment": 'EPOCHS, ROUNDS, TARGETS = 4, 3, ("onnxruntime",)',
    "quantization": "ITERATIONS = 30",
    "load_test": "SECONDS, ROUNDS = 0.5, 2",
}


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == SHORTENED.keys()


@pytest.mark.parametrize("name", SHORTENED)
def test_a_notebook_runs_from_the_first_cell_to_the_last(name, tmp_path, monkeypatch):
    if name == "deployment":
        pytest.importorskip("torch", reason="docs/notebooks/deployment.ipynb needs PyTorch")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    (place,) = [number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SHORTENED[name]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    # The kernel of this environment, whatever a `python3` kernel of the user's is.
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in printed)
    assert len(printed) > 2
