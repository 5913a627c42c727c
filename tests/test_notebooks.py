"""The notebooks: form checked statically, then run with other parameters against the one server."""

import ast
from pathlib import Path

import nbformat
import papermill
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PARAMETER_SETS = {
    "01_quickstart": [
        {},
        {
            "CUSTOMER": "C001",
            "RETURN_TEXT": "我要退换货,订单号123456,颜色不喜欢",
            "URGE_TEXT": "789012 怎么还不发 快点",
        },
    ],
}
MUST_FAIL = {"01_quickstart": {"RETURN_TEXT": "谢谢"}}


def source(cell) -> str:
    return cell.source


def parameters(notebook) -> ast.Module:
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return ast.parse(cell.source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    text = [c for c in notebook.cells if c.cell_type == "markdown"]
    lengths = sorted(len(c.source.splitlines()) for c in code)
    assert len(notebook.cells) <= 30
    assert lengths[-1] <= 25
    assert lengths[len(lengths) // 2] <= 8
    assert 2 * len(text) >= len(code)
    assert 250 <= sum(len(c.source.split()) for c in text) <= 900
    assert sum(c.source.count("\ndef ") + c.source.startswith("def ") for c in code) <= 2
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1)), "committed executed, from top to bottom"
    assert not [o for c in code for o in c.outputs if o.output_type == "error"]
    assert path.stat().st_size <= 200_000
    assert "assert" in code[-1].source or "assert" in code[-2].source
    assert path.stem in PARAMETER_SETS, "every notebook is run with at least two parameter sets"
    assert len(PARAMETER_SETS[path.stem]) >= 2
    for statement in parameters(notebook).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [(name, values) for name, sets in PARAMETER_SETS.items() for values in sets],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "defaults",
)
def test_runs_with_other_parameters(name: str, values: dict, tmp_path: Path, server) -> None:
    _run(name, values, tmp_path)


@pytest.mark.parametrize("name", sorted(MUST_FAIL))
def test_a_broken_subject_fails_its_assertion(name: str, tmp_path: Path, server) -> None:
    with pytest.raises(papermill.PapermillExecutionError, match="AssertionError"):
        _run(name, MUST_FAIL[name], tmp_path)


def _run(name: str, values: dict, tmp_path: Path) -> None:
    known = {t.id for s in parameters(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)).body for t in s.targets}
    assert values.keys() <= known, "papermill would only warn about an unknown parameter"
    papermill.execute_notebook(
        FOLDER / f"{name}.ipynb",
        tmp_path / "out.ipynb",
        parameters=values,
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=300,
        cwd=FOLDER,
    )
