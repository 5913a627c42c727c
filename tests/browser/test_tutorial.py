"""Every notebook of the tutorial, run from top to bottom in JupyterLab."""

import shutil
from typing import Any

import pytest
from support import ROOT

pytestmark = pytest.mark.long

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
CODE_CELLS = """() => window.jupyterapp.shell.currentWidget.context.model.toJSON().cells
    .filter((cell) => cell.cell_type === 'code' && cell.source.length)"""


def cells_of(page: Any) -> list[dict[str, Any]]:
    return page.evaluate(CODE_CELLS)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_in_jupyterlab_without_an_error_cell(
    name: str, lab, new_page, kernel_idle, screenshots
) -> None:
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", lab.root)
    page = new_page()
    page.goto(f"{lab.url}/lab/tree/{name}.ipynb?reset")
    kernel_idle(page)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate(
        """() => {
            window.done = false;
            const ran = window.jupyterapp.commands.execute('notebook:run-all-cells');
            ran.then(() => { window.done = true; });
        }"""
    )
    page.wait_for_function("() => window.done", timeout=1_000_000)
    page.screenshot(path=str(screenshots / f"notebook-{name}.png"))
    cells = cells_of(page)
    errors = [
        output["evalue"]
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]
    assert not errors
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    if name == "05_chat_panel":
        page.locator(".jp-CodeCell:has-text('ChatPanel(desk')").first.scroll_into_view_if_needed()
        page.wait_for_selector(".csp-send:enabled")  # its panel is live after the last cell
    assert not page.failures, page.failures
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.sessionContext.shutdown()")
