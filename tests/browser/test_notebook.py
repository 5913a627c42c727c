"""The panel inside a real JupyterLab and Voila: reload, restarted kernel, lost engine."""

import re
import urllib.request
from typing import Any

import pytest
from support import ROOT
from talking import compose, idle, say, states, wait_for_turns

OPEN = """
import os
from csproto import ChatPanel
from csproto.engine.endpoint import Endpoint
from csproto.opening import desk_on
from csproto.shop.orders import Faults, OrderApi
from csproto.shop.database import open_database

faults = Faults()
endpoint = Endpoint(os.environ["CSPROTO_BASE_URL"], os.environ.get("CSPROTO_API_KEY"))
panel = ChatPanel(desk_on(endpoint, OrderApi(open_database(), faults, budget=10.0)), language="en")
panel
"""
HOSTILE = ["<img src=x onerror=window.__xss=1>", "</div><script>window.__xss=1</script>"]


def save(page: Any) -> None:
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")


@pytest.mark.timeout(900)
def test_the_panel_in_jupyterlab(open_notebook, lab, screenshots, keep_screen, axe) -> None:
    """One kernel for the whole story, because starting one takes longer than everything else."""
    page = open_notebook("panel", OPEN, viewport=(1400, 900))
    page.wait_for_selector(".csp-input")
    page.wait_for_function("() => chat().querySelector('.csp-engine')?.innerText")
    say(page, "我的订单到哪了?")
    assert states(page) == ["done"]
    assert page.inner_text(".csp-bot .csp-text")
    assert "from cache" in page.inner_text(".csp-badges")
    page.click(".csp-trace summary")
    kept = keep_screen(page.locator(".csp").screenshot(), "panel.png")
    assert kept.stat().st_size <= 120_000, "notebook 05 has this picture"
    the_notebooks_keys_stay_out(page)
    a_button_answers_the_question(page)
    a_reload_finds_everything(page)
    hostile_text_is_text(page)
    axe(page, ".csp-host")
    the_engine_goes_and_comes_back(page, lab.gate)
    assert states(page) == ["done"] * 6
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })",
        "JupyterLab Dark",
    )
    page.wait_for_function(
        """() => {
            const { backgroundColor } = getComputedStyle(chat().querySelector('.csp'));
            return backgroundColor !== 'rgb(255, 255, 255)';
        }"""
    )
    page.locator(".csp").screenshot(path=str(screenshots / "notebook-dark.png"))
    axe(page, ".csp-host")
    assert not page.external, page.external
    assert not page.failures, page.failures


def the_notebooks_keys_stay_out(page: Any) -> None:
    """`dd` on a button would delete the cell, and Enter while composing would send."""
    page.focus(".csp-do-up")
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert page.locator(".csp-input").count() == 1
    page.click(".csp-input")
    compose(page, "你好")
    assert page.locator(".csp-turn").count() == 1
    page.fill(".csp-input", "")


def a_button_answers_the_question(page: Any) -> None:
    say(page, "我要退换货,订单号123456,衣服尺码偏小")
    assert page.locator(".csp-choices .csp-chip").all_inner_texts() == ["是", "否"]
    page.click(".csp-choices .csp-chip >> text=否")
    wait_for_turns(page, 3)
    idle(page)
    assert page.locator(".csp-user").last.inner_text() == "否"
    assert page.locator(".csp-choices .csp-chip").count() == 0


def a_reload_finds_everything(page: Any) -> None:
    before = page.inner_text(".csp-log")
    save(page)
    page.goto(page.url.split("?")[0])
    page.wait_for_selector(".csp-turn")
    page.locator(".csp-trace summary").first.click()
    assert page.inner_text(".csp-log") == before


def hostile_text_is_text(page: Any) -> None:
    page.evaluate("() => { window.__xss = 0 }")
    for text in HOSTILE:
        say(page, text)
    said = page.eval_on_selector_all(
        ".csp-user > .csp-text", "nodes => nodes.map((n) => n.textContent)"
    )
    assert said[3:] == HOSTILE
    assert page.evaluate("() => window.__xss") == 0
    assert page.locator(".csp-bubble img, .csp-bubble script").count() == 0


def the_engine_goes_and_comes_back(page: Any, gate: Any) -> None:
    """And no cell is run again."""
    gate.shut()
    try:
        say(page, "I want to talk to a human agent")
        assert states(page)[-1] == "failed"
        page.wait_for_selector(".csp-down")
    finally:
        gate.open()
    page.wait_for_function("() => !chat().querySelector('.csp').classList.contains('csp-down')")
    page.click(".csp-do-retry")
    page.wait_for_function(
        "() => chat().querySelectorAll('.csp-turn[data-state=failed]').length === 0"
    )
    idle(page)


@pytest.mark.timeout(900)
def test_stop_a_reload_under_way_and_a_restarted_kernel(
    open_notebook, lab, kernel_idle, endpoint
) -> None:
    page = open_notebook("stop", OPEN, "faults.latency = 2")
    page.wait_for_selector(".csp-input")
    kernel_idle(page)
    say(page, "我要退换货,订单号123456", wait=False)
    page.wait_for_selector(".csp-turn")
    page.click(".csp-stop")
    idle(page)
    assert states(page) == ["stopped"]

    # reloaded in the midst of an answer, which the kernel goes on with
    save(page)
    say(page, "订单123456到哪了?", wait=False)
    wait_for_turns(page, 2)
    page.goto(page.url.split("?")[0])
    wait_for_turns(page, 2)
    idle(page)
    assert states(page) == ["stopped", "done"]

    kernel = page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.id"
    )
    request = urllib.request.Request(
        f"{lab.url}/api/kernels/{kernel}/restart", method="POST", data=b"{}"
    )
    urllib.request.urlopen(request, timeout=60)
    page.wait_for_function(
        "() => chat().querySelector('.csp-status')?.innerText.includes('kernel')"
    )
    assert page.locator(".csp-send").is_disabled()
    assert states(page) == ["stopped", "done"], "the conversation stays readable"
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(
        "() => chat().querySelector('.csp-send') && !chat().querySelector('.csp-send').disabled"
    )


@pytest.mark.timeout(900)
def test_the_panel_in_voila(voila, new_page, screenshots) -> None:
    """Notebook 05 itself ends with a live panel: the customer goes on where the code stopped.

    Voila's template asks for FontAwesome elsewhere; the panel works without the network.
    """
    page = new_page()
    page.route(re.compile(r"https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
    page.goto(voila(ROOT / "notebooks" / "05_chat_panel.ipynb"))
    page.wait_for_selector(".csp-turn")
    page.wait_for_function("() => chat().querySelector('.csp-engine')?.innerText")
    before = states(page)
    say(page, "Where is my order?")
    assert states(page) == [*before, "done"]
    assert page.inner_text(".csp-bot .csp-text")
    page.screenshot(path=str(screenshots / "voila.png"))
    assert not [url for url in page.external if "fontawesome" not in url], page.external
    assert not page.failures, page.failures
