"""examples/quickstart.ipynb as a reader runs it: from its own images to a certified picture."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lrsegformer.hub.sections import CARD

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(cells):
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_it_is_kept_without_outputs_and_in_short_cells(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)
        assert len(cell.source.splitlines()) <= 35
        assert all(len(line) <= 140 for line in cell.source.splitlines())


def test_what_it_imports_is_there(notebook):
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code" and "%" not in cell.source[:1])
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imported if node.module.startswith("lrsegformer")]
    assert len(ours) > 5
    for node in ours:
        module = importlib.import_module(node.module)
        assert [name.name for name in node.names if not hasattr(module, name.name)] == [], node.module


@pytest.mark.slow
def test_it_runs_to_a_certified_picture(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    text = printed(notebook.cells)
    changed = float(re.search(r"PGD changes ([\d.]+)% of the pixels", text)[1])
    certified = float(re.search(r"([\d.]+)% of the pixels are certified at 36/255", text)[1])
    # What no attack can change, none has; and the network has learned enough for that to mean something.
    assert changed <= 100 - certified and certified > 50
    assert "guaranteed" in text and (tmp_path / "quickstart" / "run" / CARD).is_file()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
