"""The panel inside a real JupyterLab: live steps through the widget's channel, reload, a restarted kernel, an engine that goes and comes back."""

import urllib.request
from typing import Any

import pytest

OPEN = """
import os
from csproto import ChatPanel
from csproto.assistant import Assistant
from csproto.endpoint import Endpoint
from csproto.orders import Faults, OrderApi
from csproto.shop import open_database

pytestmark = pytest.mark.long
faults = Faults()
assistant = Assistant(Endpoint(os.environ["CSPROTO_BASE_URL"], os.environ.get("CSPROTO_API_KEY")), OrderApi(open_database(), faults, budget=10.0))
panel = ChatPanel(assistant, language="en")
panel
"""


def say(page: Any, text: str, wait: bool = True) -> None:
    page.fill(".csp-input", text)
    page.press(".csp-input", "Enter")
    if wait:
        idle(page)


def idle(page: Any) -> None:
    page.wait_for_function(
        """() => { const turns = document.querySelectorAll('.csp-turn');
            return turns.length && turns[turns.length - 1].dataset.state !== 'running' && !document.querySelector('.csp-send').hidden; }"""
    )


def states(page: Any) -> list[str]:
    return page.eval_on_selector_all(".csp-turn", "nodes => nodes.map((n) => n.dataset.state)")


def test_the_panel_in_jupyterlab(open_notebook, lab, screenshots) -> None:
    """One kernel for the whole story, because starting one takes longer than everything else."""
    page = open_notebook("panel", OPEN)
    page.wait_for_selector(".csp-input")
    page.wait_for_function("() => document.querySelector('.csp-engine')?.innerText")

    say(page, "我的订单到哪了?")
    assert states(page) == ["done"]
    assert page.inner_text(".csp-bot .csp-text")
    assert "from cache" in page.inner_text(".csp-badges")

    # the notebook's shortcuts stay out: `dd` on a button would delete the cell
    page.focus(".csp-do-up")
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert page.locator(".csp-input").count() == 1

    # a reload of the page finds everything again
    before = page.inner_text(".csp-log")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1500)
    page.goto(page.url.split("?")[0])
    page.wait_for_selector(".csp-turn")
    assert page.inner_text(".csp-log") == before
    say(page, "你好")
    assert states(page) == ["done", "done"]

    # the engine goes and comes back, and no cell is run again
    lab.gate.shut()
    try:
        say(page, "I want to talk to a human agent")
        assert states(page)[-1] == "failed"
        page.wait_for_selector(".csp-down")
    finally:
        lab.gate.open()
    page.wait_for_function("() => !document.querySelector('.csp').classList.contains('csp-down')")
    page.click(".csp-do-retry")
    page.wait_for_function("() => document.querySelectorAll('.csp-turn[data-state=failed]').length === 0")
    idle(page)
    assert states(page) == ["done", "done", "done"]

    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function(
        "() => getComputedStyle(document.querySelector('.csp')).backgroundColor !== 'rgb(255, 255, 255)'"
    )
    page.locator(".csp").screenshot(path=str(screenshots / "notebook-dark.png"))
    assert not page.external, page.external
    assert not page.failures, page.failures


def test_stop_and_what_a_restarted_kernel_looks_like(open_notebook, lab, kernel_idle) -> None:
    page = open_notebook("stop", OPEN, "faults.latency = 1.5")
    page.wait_for_selector(".csp-input")
    kernel_idle(page)
    say(page, "我要退换货,订单号123456", wait=False)
    page.wait_for_selector(".csp-stop:not([hidden])")
    page.wait_for_selector(".csp-turn")
    page.click(".csp-stop")
    idle(page)
    assert states(page) == ["stopped"]

    kernel = page.evaluate("() => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.id")
    request = urllib.request.Request(f"{lab.url}/api/kernels/{kernel}/restart", method="POST", data=b"{}")
    urllib.request.urlopen(request, timeout=60)
    page.wait_for_function("() => document.querySelector('.csp-status')?.innerText.includes('kernel')", timeout=60_000)
    assert page.locator(".csp-send").is_disabled()
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function("() => document.querySelector('.csp-send') && !document.querySelector('.csp-send').disabled")


@pytest.mark.parametrize("text", ["<img src=x onerror=window.__xss=1>", "</div><script>window.__xss=1</script>"])
def test_hostile_text_in_the_notebook_is_text(open_notebook, text: str) -> None:
    page = open_notebook("hostile", OPEN)
    page.wait_for_selector(".csp-input")
    page.evaluate("() => { window.__xss = 0 }")
    say(page, text)
    assert page.locator(".csp-user .csp-text").inner_text() == text
    assert page.evaluate("() => window.__xss") == 0
    assert page.locator(".csp-bubble img, .csp-bubble script").count() == 0
