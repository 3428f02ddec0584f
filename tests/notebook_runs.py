"""The notebooks, run from top to bottom."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def run_notebook(name: str, temporary: Path) -> None:
    """Run every cell, in a process whose temporary files are in a folder; no output is stored in the file (outputs keep data)."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(env={**os.environ, "TMPDIR": str(temporary)})
