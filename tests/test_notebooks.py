"""The notebooks run, cell by cell, in a process of their own.

``python -m tests.test_notebooks`` runs them and writes their outputs.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel, of the extra dev")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel, of the extra dev")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel, of the extra dev")

FOLDER = Path(__file__).parents[1] / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 60_000


def executed(path: Path, folder: Path) -> Any:
    """A notebook with new outputs, without what was written to the error output.

    Args:
        path: The notebook.
        folder: The kernel's working folder.
    """
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def working_folder(path: Path, scratch: Path) -> Path:
    """Where a notebook runs: beside itself if it reads the repository's records, else where nothing is."""
    return FOLDER if "leaderboard/results" in path.read_text(encoding="utf-8") else scratch


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]))
    before = set(FOLDER.iterdir())
    notebook = executed(path, working_folder(path, elsewhere))
    assert set(FOLDER.iterdir()) == before
    # The last cell of each shows something, which is how its reader knows that it is done.
    assert notebook.cells[-1].outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_small_and_tells_nothing_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < MOST_BYTES
    assert not re.search(r"/(home|Users|tmp|root|work)/", text)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)


def test_there_are_notebooks() -> None:
    page = (FOLDER.parent / "api.md").read_text(encoding="utf-8")
    assert {path.name for path in NOTEBOOKS} == set(re.findall(r"notebooks/(\w+\.ipynb)", page))


if __name__ == "__main__":
    for each in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as place:
            made = executed(each, working_folder(each, Path(place)))
        each.write_text(nbformat.writes(made) + "\n", encoding="utf-8")
