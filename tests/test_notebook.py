"""At stake: the notebook that a newcomer opens runs from a clean kernel, and holds nobody's outputs or paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "demo.ipynb"


def test_the_notebook_is_stored_without_outputs_and_paths():
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/Users/", "/work/"))


@pytest.mark.slow
def test_the_notebook_runs_and_draws_its_curves(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the notebook's run goes to a folder that is cleaned up
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    words = "".join(output.get("text", "") for output in outputs)
    assert "federated_dp" in words
    assert "epsilon" in words
