"""Every notebook runs on a small table, defines nothing, and is committed without output."""

import ast

import nbformat
import pytest
import torch
from found import found
from nbclient import NotebookClient

from diptych.base.files import ROOT
from diptych.tasks.embeddings import write_table

NOTEBOOKS = found(ROOT / "notebooks", "*.ipynb")


@pytest.fixture
def embeddings(tmp_path):
    """Three styles of twenty concepts, the text a little beside the picture."""
    generator = torch.Generator().manual_seed(0)
    styles, concepts = ["flat", "outline", "photo"], [f"concept {i}" for i in range(20)]
    base = torch.randn(20, 8, generator=generator)
    image = torch.cat([base + 0.3 * torch.randn(20, 8, generator=generator) for _ in styles])
    keys = [f"{style}/{i:04x}" for style in styles for i in range(20)]
    captions = [f"a drawing of {concept}" for concept in concepts] * 3
    write_table(tmp_path / "a.parquet", keys, captions, concepts * 3, image, base.repeat(3, 1) + 0.5)
    return tmp_path


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, embeddings, monkeypatch):
    monkeypatch.setenv("DIPTYCH_EMBEDDINGS", str(embeddings))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_and_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in code(notebook):
        assert not cell.outputs and cell.execution_count is None
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda}


def test_there_is_a_notebook():
    assert NOTEBOOKS
