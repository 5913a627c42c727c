"""The notebooks are tests.

Their form, their committed outputs (nbval), other parameters (papermill), and copies
that are broken on purpose.

`notebooks.yaml` says how each is run; notebooks are found by glob, and one without an entry fails.
"""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import yaml
from support import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
PLANS: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "tests" / "notebooks.yaml").read_text(encoding="utf-8")
)
# The first set of other parameters of each notebook in every run, the rest in the long suites.
RUNS = [
    pytest.param(name, number, marks=[pytest.mark.long] if number else [])
    for name, plan in PLANS.items()
    for number in range(len(plan["runs"]))
]
MUTATIONS = [
    (name, number) for name, plan in PLANS.items() for number in range(len(plan["mutations"]))
]
SWEEPS = {name for name, plan in PLANS.items() if plan.get("sweep")}
SECONDS = 300  # for one cell; there is no limit otherwise

every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@cache
def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def python(cell: nbformat.NotebookNode) -> ast.Module:
    return ast.parse("" if cell.source.startswith("%%") else cell.source)


def parameters(name: str) -> dict[str, Any]:
    """The one tagged cell; literals only, because papermill injects its values after it."""
    (cell,) = [cell for cell in code(name) if "parameters" in cell.metadata.get("tags", [])]
    return {s.targets[0].id: ast.literal_eval(s.value) for s in python(cell).body}


def assertions(name: str) -> list[str]:
    """The source of each assertion of a notebook."""
    cells = [(cell.source, python(cell)) for cell in code(name)]
    return [
        ast.get_source_segment(s, n)
        for s, tree in cells
        for n in tree.body
        if isinstance(n, ast.Assert)
    ]


# -- form


@every_notebook
def test_form(name: str) -> None:
    notebook, cells = read(name), code(name)
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    lengths = sorted(len(cell.source.splitlines()) for cell in cells)
    functions = [
        n for cell in cells for n in ast.walk(python(cell)) if isinstance(n, ast.FunctionDef)
    ]
    assert len(notebook.cells) <= 30
    assert lengths[-1] <= 25
    assert lengths[len(lengths) // 2] <= 8
    assert 2 * len(text) >= len(cells)
    assert 250 <= sum(len(source.split()) for source in text) <= 900
    assert len(functions) <= 2, "the logic lives in the package"
    assert "How long it takes" in text[0]
    assert "What we learned" in text[-1]
    assert ".ipynb)" in text[-1], "the last cell links the next notebook"
    assert {"BASE_URL", "MODEL"} <= parameters(name).keys(), (
        "it runs against another server and another model"
    )


@every_notebook
def test_committed_executed_and_clean(name: str) -> None:
    cells = code(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "from top to bottom"
    )
    assert not [
        output for cell in cells for output in cell.outputs if output.output_type == "error"
    ]
    assert not [
        output for cell in cells for output in cell.outputs if output.get("name") == "stderr"
    ]
    assert {key for cell in cells for key in cell.metadata} <= {"tags"}
    assert (FOLDER / f"{name}.ipynb").stat().st_size <= 200_000


@every_notebook
def test_every_assertion_has_a_mutation(name: str) -> None:
    assert name in PLANS, f"tests/notebooks.yaml has no entry for {name}"
    plan, found, source = (
        PLANS[name],
        assertions(name),
        "\n".join(cell.source for cell in code(name)),
    )
    assert len(plan["runs"]) >= 2
    assert re.search(rf'save\(\s*"{name}"', source), "results are saved under the notebook's name"
    for mutation in plan["mutations"]:
        assert sum(mutation["breaks"] in line for line in found) <= 1, mutation["breaks"]
        assert source.count(mutation["find"]) == 1, mutation["find"]
    unbroken = [
        line
        for line in found
        if not any(mutation["breaks"] in line for mutation in plan["mutations"])
    ]
    assert found
    assert not unbroken


def test_every_entry_has_its_notebook() -> None:
    assert set(PLANS) == set(NOTEBOOKS)


def test_each_notebook_links_the_next() -> None:
    for name, following in pairwise(name for name in NOTEBOOKS if name[0].isdigit()):
        assert f"]({following}.ipynb)" in read(name).cells[-1].source


# -- runs


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in SWEEPS else n for n in NOTEBOOKS]
)
def test_committed_outputs_still_hold(name: str, server, tmp_path: Path) -> None:
    """nbval with the parameters as committed.

    Any error fails, and so does another output of a cell tagged `nbval-check-
    output`.
    """
    words = [
        "--nbval-lax",
        f"--nbval-cell-timeout={SECONDS}",
        "--nbval-kernel-name=python3",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-o",
            "addopts=",
            *words,
            str(FOLDER / f"{name}.ipynb"),
        ],
        env={**os.environ, "CSPROTO_RESULTS": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize(("name", "number"), RUNS)
def test_runs_with_other_parameters(
    name: str, number: int, tmp_path: Path, monkeypatch, server
) -> None:
    monkeypatch.setenv("CSPROTO_RESULTS", str(tmp_path))
    run(read(name), PLANS[name]["runs"][number], tmp_path)
    assert json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(PLANS))
def test_fails_clearly(name: str, tmp_path: Path, monkeypatch, server) -> None:
    plan = PLANS[name]["must_fail"]
    monkeypatch.setenv("CSPROTO_RESULTS", str(tmp_path))
    with pytest.raises(papermill.PapermillExecutionError, match=plan["with"]):
        run(read(name), PLANS[name].get("small", {}) | plan["parameters"], tmp_path)


@pytest.mark.gpu
@every_notebook
def test_runs_against_a_gpu_server(name: str, tmp_path: Path, monkeypatch, server) -> None:
    monkeypatch.setenv("CSPROTO_RESULTS", str(tmp_path))
    run(read(name), PLANS[name].get("small", {}) | {"BASE_URL": server[0]}, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("name", "number"), MUTATIONS)
def test_a_broken_copy_fails(name: str, number: int, tmp_path: Path, monkeypatch, server) -> None:
    """With the subject of one assertion broken, the copy stops there and nowhere else."""
    mutation = PLANS[name]["mutations"][number]
    copy = nbformat.from_dict(json.loads(json.dumps(read(name))))
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace(mutation["find"], mutation["replace"])
    monkeypatch.setenv("CSPROTO_RESULTS", str(tmp_path))
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        run(copy, PLANS[name].get("small", {}), tmp_path)
    if mutation["breaks"].isidentifier():  # an error's name; an assertion may speak of it too
        assert caught.value.ename == mutation["breaks"]
    else:
        assert caught.value.ename == "AssertionError"
        assert mutation["breaks"] in stopped_at(caught.value)


def stopped_at(error: papermill.PapermillExecutionError) -> str:
    """The line of the notebook that IPython's traceback points at."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    return next(line for line in text.splitlines() if "-->" in line)


def run(notebook: nbformat.NotebookNode, values: dict[str, Any], folder: Path) -> None:
    """Run a notebook with parameters that it has; papermill would only warn about others."""
    source = folder / "in.ipynb"
    nbformat.write(notebook, source)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    known = {target.id for statement in ast.parse(cell.source).body for target in statement.targets}
    assert values.keys() <= known
    papermill.execute_notebook(
        source,
        folder / "out.ipynb",
        parameters=values,
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=SECONDS,
        cwd=FOLDER,
    )
