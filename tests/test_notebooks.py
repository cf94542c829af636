"""The notebooks run from top to bottom, twice in one kernel, and their outputs are committed."""

import ast
import os
import pathlib

import pytest

import funcnets as fn

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = pathlib.Path(fn.__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 600_000


def test_there_are_notebooks_and_the_reading_order_names_each():
    order = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert all(f"({path.name})" in order for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "not run from top to bottom"
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) / 3
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    assert path.stat().st_size < MOST_BYTES
    assert str(ROOT) not in path.read_text(encoding="utf-8")


COUNT = """
import jax

_compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: _compilations.append(event) if event.endswith("backend_compile_duration") else None
)
"""


def defines_a_function(source):
    """Whether a cell makes a function, which is compiled anew: one of its own, a transformed one, an optimiser."""
    kinds = ast.FunctionDef | ast.Lambda | ast.ClassDef
    makers = ("jit", "grad", "value_and_grad", "vmap", "make_step", "evaluate", "check", "capture")
    code = "".join(line for line in source.splitlines(keepends=True) if not line.startswith(("%", "!")))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, kinds):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            at = ast.unparse(node.func)
            if at.startswith("optax.") or at.rpartition(".")[2] in makers:
                return True
    return False


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_runs_again_without_compiling_again(path, monkeypatch):
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    cells = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    with client.setup_kernel():

        def ask(code):
            cell = client.execute_cell(nbformat.v4.new_code_cell(code), 0)
            return "".join(output.get("text", "") for output in cell.outputs)

        for index, cell in cells:
            client.execute_cell(cell, index)  # raises what the cell raises
        ask(COUNT)
        again = {}
        for index, cell in cells:
            client.execute_cell(cell, index)
            if not defines_a_function(cell.source):  # once more, after what it calls was defined anew
                ask("_compilations.clear()")
                client.execute_cell(cell, index)
                again[cell.source] = int(ask("print(len(_compilations))"))
    assert len(again) >= len(cells) / 3
    assert {source: count for source, count in again.items() if count} == {}
