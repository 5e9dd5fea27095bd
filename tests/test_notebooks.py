"""The notebooks: each is its Python file, has no outputs, and runs from the first cell to the last at toy size."""

import json
import os
import pathlib

import pytest

jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed: pip install -e '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[dev]'")

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
TOY = {  # values of the cell "parameters"
    "1_distil": "EPOCHS, LABELS, TEACHER = 2, 100, 'CNN'",
    "2_your_images": "EACH, EPOCHS, TEACHER, STUDENT, SIDE = 12, 2, 'CNN', 'CNN', 16",
    "3_a_method": "EPOCHS = 2",
    "4_explanations": "EPOCHS, IMAGES, MAPS, TEACHER, STUDENT = 1, 10, ('GradCAM',), 'CNN', 'CNN'",
    "5_tpu": "EPOCHS, TEACHER, STUDENT, BATCH = 1, 'CNN', 'CNN', 400",
}


def cells(notebook) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def test_there_are_five():
    assert [path.stem for path in SOURCES] == list(TOY)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_python_file_and_has_no_outputs(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text())
    written = jupytext.read(source)
    assert cells(notebook) == cells(written), f"jupytext --sync {source}"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs(source, tmp_path, monkeypatch):
    notebook = jupytext.read(source)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells[place].source += f"\n{TOY[source.stem]}"
    for cell in notebook.cells:
        cell.source = cell.source.replace("runs/notebook", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "notebooks")}})
    client.execute(env=os.environ)
    assert any(cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code")
    left = [path.name for path in (ROOT / "notebooks").iterdir() if path.suffix not in (".py", ".ipynb", ".md")]
    assert not left
