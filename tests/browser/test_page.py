"""The front end in a real browser, on the page: the same `chat.js` as in the notebook, over an assistant this process can slow down."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from csproto.store import Ticket

pytestmark = pytest.mark.long

HUMAN = "I want to talk to a human agent"  # a message that writes a ticket each time
HOSTILE = [
    "<script>window.__xss=1</script>",
    "<img src=x onerror=window.__xss=1>",
    "<svg onload=window.__xss=1>",
    "<svg><script>window.__xss=1</script></svg>",
    "<body onload=window.__xss=1>",
    "<iframe src=javascript:window.__xss=1></iframe>",
    "<iframe srcdoc='<script>parent.__xss=1</script>'></iframe>",
    "<a href=javascript:window.__xss=1>click</a>",
    "<details open ontoggle=window.__xss=1>",
    "<input autofocus onfocus=window.__xss=1>",
    "<select autofocus onfocus=window.__xss=1>",
    "<video><source onerror=window.__xss=1></video>",
    "<audio src=x onerror=window.__xss=1>",
    "<marquee onstart=window.__xss=1>",
    "<math><mtext></mtext><script>window.__xss=1</script></math>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>",
    "<form action=//evil.example><button>go</button></form>",
    "<object data=javascript:window.__xss=1></object>",
    "<embed src=javascript:window.__xss=1>",
    '"><script>window.__xss=1</script>',
    "' onmouseover='window.__xss=1",
    "</textarea><script>window.__xss=1</script>",
    "</div></article><img src=x onerror=window.__xss=1>",
    "javascript:window.__xss=1",
    "${window.__xss=1} {{constructor.constructor('window.__xss=1')()}}",
    "&lt;script&gt;window.__xss=1&lt;/script&gt;",
    "\u202e<img src=x onerror=window.__xss=1>\u0000\u2028",
]


@pytest.fixture
def page(site, new_page) -> Any:
    page = new_page(locale="en-GB")
    page.goto(site.url)
    page.wait_for_selector(".csp-input")
    yield page
    assert not page.external, page.external
    assert not page.failures, page.failures


def say(page: Any, text: str, wait: bool = True) -> None:
    page.fill(".csp-input", text)
    page.press(".csp-input", "Enter")
    if wait:
        idle(page)


def idle(page: Any) -> None:
    """Wait until the last message has its end and the input is free."""
    page.wait_for_function(
        "() => document.querySelector('.csp-turn:last-of-type')?.dataset.state !== 'running' && !document.querySelector('.csp-send').hidden"
    )


def turns(page: Any) -> list[tuple[str, str]]:
    return page.eval_on_selector_all(
        ".csp-turn", "nodes => nodes.map(n => [n.querySelector('.csp-user').innerText, n.dataset.state])"
    )


def test_an_answer_its_trace_and_its_figures(page, screenshots) -> None:
    say(page, "我的订单到哪了?")
    assert page.inner_text(".csp-bot .csp-text")
    badges = page.inner_text(".csp-badges")
    assert all(word in badges for word in ("first words", "all", "prompt tokens", "from cache"))
    page.click(".csp-trace summary")
    trace = page.inner_text(".csp-trace-body")
    assert '"intent"' in trace
    assert "service guide" in trace or "Law" in trace or "shop promise" in trace
    assert page.get_attribute(".csp-log", "aria-busy") == "false"
    page.locator(".csp").screenshot(path=str(screenshots / "page-light.png"))


def test_both_languages(page) -> None:
    assert page.inner_text(".csp-send") == "Send"
    page.click(".csp-do-language")
    assert page.inner_text(".csp-send") == "发送"
    assert page.get_attribute(".csp", "lang") == "zh-CN"
    page.reload()
    page.wait_for_selector(".csp-input")
    assert page.inner_text(".csp-send") == "发送"


def test_example_chips_send(page) -> None:
    chip = page.locator(".csp-chip").first
    text = chip.inner_text()
    chip.click()
    page.wait_for_selector(".csp-turn")
    idle(page)
    assert turns(page) == [[text, "done"]]
    assert page.locator(".csp-chips").is_hidden()


def test_stop_before_the_first_word_and_after(page, site) -> None:
    site.assistant.orders.faults.latency = 1.5
    say(page, "我要退换货,订单号123456", wait=False)
    page.wait_for_selector(".csp-stop:not([hidden])")
    page.click(".csp-stop")
    idle(page)
    assert turns(page)[-1][1] == "stopped"
    site.assistant.orders.faults.latency = 0
    say(page, "你好")
    assert turns(page)[-1][1] == "done"


def test_the_text_grows_while_it_comes(page, site) -> None:
    """A message with two wishes and a slow order system: the first answer must be there before the second is."""
    site.assistant.orders.faults.latency = 0.8
    say(page, "快递单号多少,另外帮我开发票", wait=False)
    lengths, deadline = set(), time.monotonic() + 40
    while time.monotonic() < deadline:
        lengths.add(page.evaluate("() => document.querySelector('.csp-bot .csp-text')?.innerText.length ?? 0"))
        if page.evaluate("() => document.querySelector('.csp-turn')?.dataset.state") == "done":
            break
        time.sleep(0.02)
    if page.locator(".csp-rule").count() < 2:
        pytest.skip("this model sees one wish only")
    assert len(lengths) >= 3, lengths


def test_retry_undo_edit(page, site) -> None:
    say(page, HUMAN)
    page.click(".csp-do-retry")
    page.wait_for_selector(".csp-notice")
    idle(page)
    with Session(site.engine) as session:
        assert session.scalar(select(func.count()).where(Ticket.kind == "handoff")) == 1
    assert "hand-off ticket" in page.inner_text(".csp-notice")
    page.click(".csp-do-edit")
    assert page.input_value(".csp-input") == HUMAN
    page.press(".csp-input", "Escape")
    assert page.input_value(".csp-input") == ""
    page.click(".csp-do-edit")
    say(page, "你好")
    page.wait_for_function("() => document.querySelectorAll('.csp-turn').length === 1")
    idle(page)
    assert turns(page) == [["你好", "done"]]
    page.click(".csp-do-undo")
    page.wait_for_function("() => document.querySelectorAll('.csp-turn').length === 0")


def test_thumbs_copy_export_customer_and_new(page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    say(page, "我的订单到哪了?")
    page.click(".csp-do-up")
    page.wait_for_selector(".csp-do-up[aria-pressed=true]")
    page.click(".csp-bot + .csp-actions .csp-do-copy")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.inner_text(".csp-bot .csp-text")
    for form, ending in (("json", ".json"), ("markdown", ".md")):
        with page.expect_download() as download:
            page.click(f".csp-do-{form}")
        assert download.value.suggested_filename.endswith(ending)
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert json.loads(text)["messages"] if form == "json" else "我的订单到哪了" in text
    page.select_option(".csp-customer", "C002")
    page.wait_for_function("() => document.querySelectorAll('.csp-turn').length === 0")
    assert page.input_value(".csp-customer") == "C002"
    page.reload()
    page.wait_for_function("() => document.querySelector('.csp-customer')?.value === 'C002'")


def test_a_reload_keeps_the_chat(page) -> None:
    say(page, "你好")
    before = page.inner_text(".csp-log")
    page.reload()
    page.wait_for_selector(".csp-turn")
    assert page.inner_text(".csp-log") == before


def test_enter_shift_enter_and_composing(page) -> None:
    page.click(".csp-input")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value(".csp-input") == "one\ntwo"
    page.fill(".csp-input", "")
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    key = {"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
    session.send("Input.dispatchKeyEvent", key)
    session.send("Input.insertText", {"text": "你好"})
    page.wait_for_timeout(300)
    assert page.locator(".csp-turn").count() == 0
    page.press(".csp-input", "Enter")
    page.wait_for_selector(".csp-turn")
    idle(page)
    assert turns(page)[0][0] == "你好"


def test_the_keyboard_alone_reaches_everything(page) -> None:
    page.focus(".csp-input")
    page.keyboard.type("你好")
    page.keyboard.press("Enter")
    page.wait_for_selector(".csp-turn")
    idle(page)
    page.focus(".csp-do-language")
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement?.className || document.activeElement?.tagName"))
    for name in (
        "csp-log",
        "csp-do-edit",
        "csp-do-undo",
        "csp-do-retry",
        "csp-do-up",
        "csp-input",
        "csp-send",
        "SUMMARY",
    ):
        assert any(name in r for r in reached), (name, reached)


def test_scrolling_yields_to_the_reader(page) -> None:
    for number in range(4):
        say(page, f"你好 {number}\n" + "\n".join("行" for _ in range(12)))
    assert page.locator(".csp-newest").is_hidden()
    page.hover(".csp-log")
    page.mouse.wheel(0, -400)
    page.wait_for_selector(".csp-newest:not([hidden])")
    place = page.eval_on_selector(".csp-log", "e => e.scrollTop")
    page.eval_on_selector(".csp-do-language", "e => e.click()")
    page.wait_for_timeout(200)
    assert page.eval_on_selector(".csp-log", "e => e.scrollTop") == pytest.approx(place, abs=60)
    page.click(".csp-newest")
    page.wait_for_selector(".csp-newest", state="hidden")
    assert page.eval_on_selector(".csp-log", "e => e.scrollHeight - e.scrollTop - e.clientHeight") < 50


def test_the_engine_goes_and_comes_back(page, site) -> None:
    say(page, "你好")
    site.gate.shut()
    try:
        page.evaluate("() => document.querySelector('.csp-input').blur()")
        page.wait_for_timeout(5100)
        page.focus(".csp-input")
        page.wait_for_selector(".csp-down")
        say(page, HUMAN)
        assert turns(page)[-1][1] == "failed"
        assert "cannot be reached" in page.inner_text(".csp-error")
        assert "127.0.0.1" not in page.inner_text(".csp")
    finally:
        site.gate.open()
    page.wait_for_function("() => !document.querySelector('.csp').classList.contains('csp-down')")
    page.click(".csp-do-retry")
    page.wait_for_function("() => document.querySelectorAll('.csp-turn[data-state=failed]').length === 0")
    idle(page)
    assert [state for _, state in turns(page)] == ["done", "done"]


@pytest.mark.parametrize("start", range(0, 30, 10))
def test_hostile_user_text_is_text(page, start: int) -> None:
    page.evaluate("() => { window.__xss = 0 }")
    for text in HOSTILE[start : start + 10 : 5]:
        say(page, text)
        assert page.locator(".csp-user .csp-text").last.inner_text() == text.replace("\u0000", "�") or "\u0000" in text
    assert page.evaluate("() => window.__xss") == 0
    assert page.locator(".csp-bubble script, .csp-bubble img, .csp-bubble svg, .csp-bubble iframe").count() == 0


def test_hostile_text_in_every_field_is_text(page) -> None:
    """User text, model text, facts, reasons and names: whatever the front end is given, all thirty strings stay text."""
    got = page.evaluate(
        """async (hostile) => {
            window.__xss = 0;
            const { createChat } = await import('/static/chat.js');
            const words = await (await fetch('/static/words.json')).json();
            const root = document.createElement('div');
            document.body.append(root);
            const chat = createChat(root, { kind: 'page', words, language: 'en', send() {}, setLanguage() {} });
            const part = (x) => ({ action: x, rule: x, source: x, facts: { [x]: x }, grounded: false, rejected: [x], fallback: false });
            const messages = hostile.flatMap((x, i) => [
                { kind: 'turn', id: `m${i}`, at: new Date().toISOString(), text: x, state: 'failed', triage: { intent: x, reason: x }, parts: [part(x)],
                  reply: x, usage: null, error: { code: x, reason: x }, rating: 0 },
                { kind: 'notice', id: `n${i}`, code: 'kept', writes: [{ kind: x, order_id: x, rule: x }] }]);
            chat.receive({ type: 'info', info: { customer: hostile[0], customers: hostile.map((x) => ({ id: x, name: x })), busy: false, engine: { ok: true, model: hostile[1] } } });
            chat.receive({ type: 'messages', messages });
            await new Promise((done) => setTimeout(done, 800));
            root.querySelectorAll('details').forEach((d) => { d.open = true; });
            await new Promise((done) => setTimeout(done, 300));
            return { xss: window.__xss, tags: [...new Set([...root.querySelectorAll('*')].map((e) => e.tagName))],
                     replies: [...root.querySelectorAll('.csp-bot > .csp-text')].map((e) => e.textContent) };
        }""",
        HOSTILE,
    )
    assert got["xss"] == 0
    assert not {"SCRIPT", "IMG", "SVG", "IFRAME", "STYLE", "LINK", "META", "BASE", "OBJECT", "EMBED", "VIDEO"} & set(
        got["tags"]
    )
    assert got["replies"] == HOSTILE


def test_the_browser_puts_steps_together_as_the_kernel_does(page) -> None:
    from csproto.panel.messages import apply, new_message

    part = {"action": "a", "rule": "r", "source": "s", "facts": {}, "grounded": True, "rejected": [], "fallback": False}
    triage = {"intent": "other"}
    turn = {"triage": triage, "decision": part, "also": [part], "reply": "x y z", "usage": {"ttft_ms": 1}}
    steps: list[dict[str, Any]] = [
        {"step": "triage", "triage": triage},
        {"step": "decision", "part": part},
        {"step": "token", "text": "x"},
        {"step": "decision", "part": part},
        {"step": "token", "text": "y"},
    ]
    ends: list[dict[str, Any]] = [
        {"step": "done", "turn": turn},
        {"step": "stopped"},
        {"step": "failed", "code": "c", "reason": "r"},
    ]
    for end in ends:
        message = new_message(1, "hello")
        got = page.evaluate(
            "async ([m, steps]) => { const { applyStep } = await import('/static/chat.js'); steps.forEach((s) => applyStep(m, s)); return m; }",
            [message, [*steps, end]],
        )
        for step in [*json.loads(json.dumps(steps)), end]:
            apply(message, step)
        assert got == message


@pytest.mark.parametrize(
    ("name", "viewport", "scheme"), [("dark", (1000, 800), "dark"), ("narrow", (340, 640), "light")]
)
def test_dark_and_narrow(site, new_page, screenshots, name: str, viewport: tuple[int, int], scheme: Any) -> None:
    page = new_page(viewport=viewport, color_scheme=scheme, locale="zh-CN")
    page.goto(site.url)
    page.wait_for_selector(".csp-input")
    say(page, "我要退换货,订单号123456,衣服尺码偏小")
    page.click(".csp-trace summary")
    page.locator(".csp").screenshot(path=str(screenshots / f"page-{name}.png"))
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), (
        "nothing sticks out sideways"
    )
    back = page.eval_on_selector(".csp", "e => getComputedStyle(e).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core from npm; a machine without npm or its registry skips the audit."""
    if not shutil.which("npm"):
        pytest.skip("no npm to fetch axe-core with")
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(
            ["npm", "pack", "--silent", "axe-core@4"], cwd=folder, check=True, capture_output=True, timeout=60
        )
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"axe-core cannot be fetched from npm ({type(error).__name__})")
    archive = next(folder.glob("*.tgz"))
    subprocess.run(["tar", "xzf", archive.name], cwd=folder, check=True)
    return (folder / "package" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, new_page, axe: str, scheme: Any) -> None:
    page = new_page(color_scheme=scheme, locale="en-GB", bypass_csp=True)
    page.goto(site.url)
    page.wait_for_selector(".csp-input")
    say(page, "我的订单到哪了?")
    page.click(".csp-trace summary")
    page.evaluate(axe)
    found = page.evaluate(
        "async () => (await axe.run()).violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 120))])"
    )
    assert not found, json.dumps(found, indent=1)


def test_the_documentation_needs_nothing_from_elsewhere(site, new_page) -> None:
    page = new_page()
    page.goto(f"{site.url}/docs")
    page.wait_for_selector("text=POST /api/chat/stream")
    assert not page.external
    assert not page.failures
