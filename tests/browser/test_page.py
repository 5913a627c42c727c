"""The front end in a real browser, on the page. The notebook has the same front end."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from support import running_requests
from talking import compose, idle, open_chat, say, turns, wait_for_turns

from csproto.shop.store import Order, Ticket

HUMAN = "I want to talk to a human agent"  # a message that writes a ticket
RETURN = "我要退换货,订单号123456,衣服尺码偏小"
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
    "\u202e\u2028<img src=x onerror=window.__xss=1>\u0000",
]


def test_an_answer_its_trace_and_its_figures(page, screenshots) -> None:
    say(page, "我的订单到哪了?")
    assert page.inner_text(".csp-bot .csp-text")
    badges = page.inner_text(".csp-badges")
    assert all(word in badges for word in ("first words", "all", "prompt tokens", "from cache"))
    page.click(".csp-trace summary")
    trace = page.inner_text(".csp-trace-body")
    assert "sure" in trace
    assert "service guide" in trace
    assert "Written to the order system" in trace
    assert page.get_attribute(".csp-log", "aria-busy") == "false"
    page.locator(".csp").screenshot(path=str(screenshots / "page-light.png"))


def test_the_trace_is_a_picture_that_scrolls_into_view(page) -> None:
    """Five stages with their times, the slots marked in the message, two bars."""
    say(page, "你好\n" * 20)
    say(page, RETURN)
    page.click(".csp-turn:last-child .csp-trace > summary")
    page.wait_for_function(
        """() => {
            const { top } = chat().querySelector('.csp-trace[open]').getBoundingClientRect();
            const log = chat().querySelector('.csp-log').getBoundingClientRect();
            return top >= log.top - 1 && top < log.bottom - 100;
        }"""
    )
    stages = page.locator(".csp-trace[open] .csp-stages > li")
    names = [text.split("\n")[0] for text in stages.all_inner_texts()]
    assert names == ["Facts", "Understood", "Rule", "Written", "Said"]
    assert all(re.search(r"\d (ms|s)$", text.strip()) for text in stages.all_inner_texts())
    assert "confirm_return" in stages.nth(2).inner_text()
    marks = page.locator(".csp-trace[open] mark")
    assert "123456" in marks.all_text_contents()
    assert marks.first.get_attribute("data-slot") == "order"
    assert RETURN in page.locator(".csp-marked").last.text_content()
    sure = page.locator(".csp-trace[open] .csp-bar > span").nth(5)
    assert sure.evaluate("e => parseFloat(e.style.width)") > 50
    assert '"intent":"return_exchange"' in page.inner_text(".csp-trace[open] .csp-json")


def test_both_languages(page) -> None:
    assert page.inner_text(".csp-send") == "Send"
    page.click(".csp-do-language")
    assert page.inner_text(".csp-send") == "发送"
    assert page.get_attribute(".csp", "lang") == page.get_attribute("html", "lang") == "zh-CN"
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
    assert page.locator(".csp-welcome").is_hidden()


def test_buttons_answer_a_question(page, site) -> None:
    """Pressed by keyboard; the conversation reads as if the answer had been typed."""
    say(page, RETURN)
    chips = page.locator(".csp-choices .csp-chip")
    assert chips.all_inner_texts() == ["是", "否"]
    assert page.get_attribute(".csp-choices", "aria-label") == "Choose an answer"
    chips.first.focus()
    page.keyboard.press("Enter")
    wait_for_turns(page, 2)
    idle(page)
    assert turns(page) == [[RETURN, "done"], ["是", "done"]]
    assert chips.count() == 0, "the question is answered"
    assert "csp-input" in page.evaluate("() => chat().activeElement.className")
    with Session(site.engine) as session:
        assert session.scalar(select(func.count()).where(Ticket.kind == "return")) == 1


def test_buttons_go_when_anything_else_is_sent(page, site) -> None:
    say(page, RETURN)
    assert page.locator(".csp-choices .csp-chip").count() == 2
    page.reload()
    page.wait_for_selector(".csp-choices .csp-chip")
    with site.orders_held():
        say(page, "你好", wait=False)
        wait_for_turns(page, 2)
        assert page.locator(".csp-choices .csp-chip").count() == 0
    idle(page)
    assert page.locator(".csp-turn").first.locator(".csp-chip").count() == 0


def test_a_button_shows_its_label_and_sends_its_text(page) -> None:
    sent = page.evaluate(
        """async () => {
            const { createChat } = await import('/static/chat.js');
            const words = await (await fetch('/static/words.json')).json();
            const root = document.createElement('div');
            document.body.append(root);
            const sent = [];
            const host = { kind: 'page', words, styles: '', language: 'en', setLanguage() {} };
            host.send = (command) => sent.push(command);
            const chat = createChat(root, host);
            chat.receive({ type: 'messages', messages: [{
                id: 'm1', at: null, text: 'return it', state: 'done', triage: null, sure: null,
                runner_up: null, decisions: [], waiting: null, reply: 'Which order?', usage: null,
                choices: [{ kind: 'order', label: 'shirt · 123456', text: '123456' }],
                error: null, rating: 0 }] });
            await new Promise((done) => setTimeout(done, 300));
            const button = root.shadowRoot.querySelector('.csp-choices button');
            button.click();
            return [button.textContent, ...sent];
        }"""
    )
    assert sent == ["shirt · 123456", {"type": "send", "text": "123456"}]


def test_stop_before_the_writes_frees_the_engine_and_writes_nothing(page, site, endpoint) -> None:
    with site.orders_held():
        say(page, HUMAN, wait=False)
        wait_for_turns(page, 1)
        page.click(".csp-stop")
    idle(page)
    assert turns(page) == [[HUMAN, "stopped"]]
    assert running_requests(endpoint) == 0
    assert handoffs(site) == 0
    page.click(".csp-do-retry")
    page.wait_for_selector(".csp-turn[data-state=done]")
    idle(page)
    assert turns(page) == [[HUMAN, "done"]], "it takes the place of the stopped one"
    assert handoffs(site) == 1


def handoffs(site) -> int:
    with Session(site.engine) as session:
        return session.scalar(select(func.count()).where(Ticket.kind == "handoff")) or 0


def test_stop_before_the_server_knows_of_the_message_keeps_it(page) -> None:
    page.route("**/api/chat/stream", lambda route: None)  # it is on its way for ever
    say(page, "你好", wait=False)
    assert turns(page) == [["你好", "running"]], "shown at once"
    page.click(".csp-stop")
    idle(page)
    assert turns(page) == [["你好", "stopped"]]
    page.unroute("**/api/chat/stream")
    page.click(".csp-do-retry")
    page.wait_for_selector(".csp-turn[data-state=done]")
    idle(page)
    assert turns(page) == [["你好", "done"]]


def test_the_steps_are_shown_as_they_come(page, site) -> None:
    """First what was understood; then, once it is written, the decision and the reply."""
    waits = iter([False, False, True])  # only the third call, the write, is held up
    faults, go_on = site.assistant.orders.faults, threading.Event()
    before = faults.before
    faults.before = lambda patience: (
        go_on.wait(100) if next(waits, False) else 0,
        before(patience),
    )
    say(page, HUMAN, wait=False)
    page.wait_for_selector(".csp-trace:not([hidden])")
    assert page.locator(".csp-bot > .csp-text").inner_text() == ""
    assert page.locator(".csp-part").count() == 0
    assert page.get_attribute(".csp-log", "aria-busy") == "true"
    go_on.set()
    idle(page)
    faults.before = before
    assert "human.handoff" in page.inner_text(".csp-trace summary")
    assert page.inner_text(".csp-bot > .csp-text")


def test_a_conversation_is_taken_up_again_after_a_restart(page, site) -> None:
    say(page, "你好")
    say(page, RETURN)
    site.restarted()
    page.reload()
    page.wait_for_selector(".csp-choices .csp-chip")
    assert turns(page) == [["你好", "done"], [RETURN, "done"]]
    page.click(".csp-choices .csp-chip >> text=是")
    wait_for_turns(page, 3)
    idle(page)
    with Session(site.engine) as session:
        assert session.scalar(select(func.count()).where(Ticket.kind == "return")) == 1
    page.click(".csp-do-new")
    page.click(".csp-ask .csp-chip >> nth=0")
    wait_for_turns(page, 0)
    page.reload()
    page.wait_for_selector(".csp-input")
    assert turns(page) == [], "a new conversation stays a new one"


def test_thumbs_copy_export_customer_and_new(page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    say(page, "我的订单到哪了?")
    page.click(".csp-do-up")
    page.wait_for_selector(".csp-do-up[aria-pressed=true]")
    page.click(".csp-choices + .csp-actions .csp-do-copy")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.inner_text(
        ".csp-bot .csp-text"
    )
    for form, ending in (("json", ".json"), ("markdown", ".md")):
        page.click(".csp-do-menu")
        with page.expect_download() as download:
            page.click(f".csp-do-{form}")
        assert download.value.suggested_filename.endswith(ending)
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert json.loads(text)["messages"] if form == "json" else "我的订单到哪了" in text
    page.select_option(".csp-customer", "C002")
    page.click(".csp-ask .csp-chip >> nth=0")
    wait_for_turns(page, 0)
    assert page.input_value(".csp-customer") == "C002"
    page.reload()
    page.wait_for_function("() => chat().querySelector('.csp-customer')?.value === 'C002'")


def test_a_reload_keeps_the_chat(page) -> None:
    say(page, "你好")
    before = page.inner_text(".csp-log")
    page.reload()
    page.wait_for_selector(".csp-turn")
    assert page.inner_text(".csp-log") == before


def test_a_reload_in_the_midst_of_an_answer_stops_it(page, site, endpoint) -> None:
    say(page, "你好")
    with site.orders_held():
        say(page, "订单123456到哪了?", wait=False)
        wait_for_turns(page, 2)
        page.reload()
        page.wait_for_selector(".csp-turn[data-state=running]")
    page.wait_for_selector(".csp-turn[data-state=stopped]")
    idle(page)
    assert running_requests(endpoint) == 0
    say(page, "你好")
    assert [state for _, state in turns(page)] == ["done", "stopped", "done"]


def test_an_answer_in_another_tab_is_shown_when_it_is_there(page, site) -> None:
    say(page, "你好")
    with site.orders_held():
        say(page, "订单123456到哪了?", wait=False)
        wait_for_turns(page, 2)
        other = page.context.new_page()
        other.set_default_timeout(120_000)
        other.goto(site.url)
        other.wait_for_selector(".csp-turn[data-state=running]")
        assert other.locator(".csp-stop").is_visible()
    idle(page)
    idle(other)
    assert turns(other) == turns(page)
    assert turns(page)[-1][1] == "done"


def test_enter_shift_enter_and_composing(page) -> None:
    page.click(".csp-input")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value(".csp-input") == "one\ntwo"
    page.fill(".csp-input", "")
    compose(page, "你好")
    assert page.locator(".csp-turn").count() == 0
    page.press(".csp-input", "Enter")
    page.wait_for_selector(".csp-turn")
    idle(page)
    assert turns(page)[0][0] == "你好"


def test_the_keyboard_alone_reaches_everything(page) -> None:
    page.focus(".csp-input")
    page.keyboard.type(RETURN)
    page.keyboard.press("Enter")
    page.wait_for_selector(".csp-turn")
    idle(page)
    page.focus(".csp-do-language")
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(
            # Nothing of the chat has the focus once it has wandered out of it.
            page.evaluate("() => ((e) => e?.className || e?.tagName || '')(chat().activeElement)")
        )
    for name in (
        "csp-log",
        "csp-do-copy",
        "csp-chip",
        "csp-do-up",
        "csp-input",
        "csp-send",
        "SUMMARY",
    ):
        assert any(name in r for r in reached), (name, reached)


def test_the_focus_is_never_lost(page) -> None:
    """Buttons are made anew when something changes, and the focus stays where it was."""
    say(page, "你好")
    page.focus(".csp-do-up")
    page.keyboard.press("Enter")
    page.wait_for_selector(".csp-do-up[aria-pressed=true]")
    assert "csp-do-up" in page.evaluate("() => chat().activeElement.className")
    page.focus(".csp-do-language")
    page.keyboard.press("Enter")
    assert "csp-do-language" in page.evaluate("() => chat().activeElement.className")
    page.focus(".csp-do-new")
    page.keyboard.press("Enter")
    assert page.evaluate("() => chat().activeElement.textContent") == "是的"
    page.keyboard.press("Enter")
    wait_for_turns(page, 0)
    page.focus(".csp-welcome .csp-chip >> nth=0")
    page.keyboard.press("Enter")
    wait_for_turns(page, 1)
    idle(page)
    assert "csp-input" in page.evaluate("() => chat().activeElement.className")


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
    assert (
        page.eval_on_selector(".csp-log", "e => e.scrollHeight - e.scrollTop - e.clientHeight") < 50
    )


def test_the_engine_goes_and_comes_back(page, site) -> None:
    say(page, "你好")
    site.gate.shut()
    try:
        page.evaluate("() => chat().querySelector('.csp-input').blur()")
        page.wait_for_timeout(5100)
        page.focus(".csp-input")
        page.wait_for_selector(".csp-down")
        say(page, HUMAN)
        assert turns(page)[-1][1] == "failed"
        assert "cannot be reached" in page.locator(".csp-error").last.inner_text()
        assert "127.0.0.1" not in page.inner_text(".csp")
    finally:
        site.gate.open()
    page.wait_for_function("() => !chat().querySelector('.csp').classList.contains('csp-down')")
    page.click(".csp-do-retry")
    page.wait_for_function(
        "() => chat().querySelectorAll('.csp-turn[data-state=failed]').length === 0"
    )
    idle(page)
    assert [state for _, state in turns(page)] == ["done", "done"]


def harmless(page: Any) -> None:
    """No string has run, and none has become anything but text."""
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.__xss") == 0
    tags = set(
        page.evaluate(
            "() => [...chat().querySelectorAll('.csp-log *')].map((e) => e.tagName.toLowerCase())"
        )
    )
    plain = "article div ul ol li time button svg path details summary h2 dl dt dd p code span"
    plain += " strong mark"
    assert tags <= set(plain.split())


def test_hostile_user_text_is_text(page, site) -> None:
    """All thirty while the engine is away, as no answer is needed; then one is answered."""
    page.evaluate("() => { window.__xss = 0 }")
    site.gate.shut()
    try:
        for text in HOSTILE:
            say(page, text)
    finally:
        site.gate.open()
    say(page, HOSTILE[1])
    shown = page.eval_on_selector_all(
        ".csp-user > .csp-text", "nodes => nodes.map((n) => n.textContent)"
    )
    assert shown == [*HOSTILE, HOSTILE[1]]
    page.reload()
    page.wait_for_selector(".csp-turn")
    assert (
        page.eval_on_selector_all(
            ".csp-user > .csp-text", "nodes => nodes.map((n) => n.textContent)"
        )
        == shown
    )
    page.evaluate("() => { window.__xss = 0 }")
    harmless(page)


def test_hostile_order_records_are_text(page, site) -> None:
    """The strings stand in an order's item; reply and trace quote them."""
    page.evaluate("() => { window.__xss = 0 }")
    quoted = set()
    for number in range(0, 30, 2):
        batch = HOSTILE[number : number + 2]
        with Session(site.engine) as session, session.begin():
            order = session.get_one(Order, "789012")
            order.item = order.note = order.address = " ".join(batch)
        say(page, "订单789012到哪了?")
        page.locator(".csp-trace summary").last.click()
        shown = page.locator(".csp-turn").last.evaluate("node => node.textContent")
        quoted |= {text for text in batch if text in shown}
        harmless(page)
    assert len(quoted) >= 25, quoted


def test_hostile_text_in_every_field_is_text(page) -> None:
    """Whatever the front end is given, all thirty strings stay text."""
    got = page.evaluate(
        """async (hostile) => {
            window.__xss = 0;
            const { createChat } = await import('/static/chat.js');
            const words = await (await fetch('/static/words.json')).json();
            const root = document.createElement('div');
            document.body.append(root);
            const host = { kind: 'page', words, styles: '', language: 'en', setLanguage() {} };
            host.send = () => {};
            const chat = createChat(root, host);
            const decision = (x) => ({
                intent: x, order: x, action: x, rule: x, source: x, facts: { [x]: x }, write: x });
            const choices = hostile.map((x) => ({ kind: x, label: x, text: x }));
            const messages = hostile.map((x, i) => ({
                id: `m${i}`, at: new Date().toISOString(), text: x,
                state: i === hostile.length - 1 ? 'done' : 'failed',
                triage: { act: x, wishes: [{ intent: x, orders: [x], [x]: x }] },
                sure: 0.5, runner_up: x, decisions: [decision(x)], waiting: null, choices,
                reply: x, usage: null, error: { code: x, reason: x }, rating: 0 }));
            const customers = hostile.map((x) => ({ id: x, name: x }));
            const engine = { ok: true, model: hostile[1] };
            const info = { customer: hostile[0], customers, busy: false, engine };
            chat.receive({ type: 'info', info });
            chat.receive({ type: 'orders', orders: hostile.map((x) => ({
                id: x, item: x, status: x, refund: x, day: x, amount: x, open: [x],
                wishes: [{ intent: x, text: { en: x, zh: x } }] })) });
            chat.receive({ type: 'conversations', conversations: hostile.map((x) => ({
                id: x, title: x, at: new Date().toISOString(), turns: 1 })) });
            chat.receive({ type: 'messages', messages });
            await new Promise((done) => setTimeout(done, 800));
            const inside = root.shadowRoot;
            inside.querySelectorAll('details').forEach((d) => { d.open = true; });
            await new Promise((done) => setTimeout(done, 300));
            const texts = (css) => [...inside.querySelectorAll(css)].map((e) => e.textContent);
            const tags = new Set([...inside.querySelectorAll('*')].map((e) => e.tagName));
            return { xss: window.__xss, tags: [...tags], chips: texts('.csp-choices button'),
                     replies: texts('.csp-bot > .csp-text'), orders: texts('.csp-order-item'),
                     earlier: texts('.csp-earlier-title') };
        }""",
        HOSTILE,
    )
    assert got["xss"] == 0
    assert not page.external
    assert not {
        "SCRIPT",
        "IMG",
        "SVG",
        "IFRAME",
        "STYLE",
        "LINK",
        "META",
        "BASE",
        "OBJECT",
        "EMBED",
        "VIDEO",
    } & set(got["tags"])
    assert got["replies"] == got["chips"] == got["orders"] == got["earlier"] == HOSTILE


def test_the_browser_puts_steps_together_as_the_kernel_does(page) -> None:
    from csproto.chat.messages import apply, new_message

    decision = {"intent": "other", "order": None, "action": "a", "rule": "r", "source": "s"}
    decision |= {"facts": {}, "write": None}
    known = {"triage": {"act": "ask", "wishes": []}, "sure": 0.9, "runner_up": "invoice"}
    turn = known | {"decisions": [decision], "waiting": None, "reply": "x y"}
    turn |= {"choices": [{"kind": "yes_no", "label": "是", "text": "是"}], "usage": {"ttft_ms": 1}}
    steps: list[dict[str, Any]] = [
        {"step": "triage"} | known,
        {"step": "decision", "decision": decision},
        {"step": "token", "text": "x"},
        {"step": "decision", "decision": decision},
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
            """async ([m, steps]) => {
                const { applyStep } = await import('/static/chat.js');
                steps.forEach((s) => applyStep(m, s));
                return m;
            }""",
            [message, [*steps, end]],
        )
        for step in [*json.loads(json.dumps(steps)), end]:
            apply(message, step)
        assert got == message


@pytest.mark.parametrize(
    ("name", "viewport", "scheme"), [("dark", (1000, 800), "dark"), ("narrow", (340, 640), "light")]
)
def test_dark_and_narrow(
    site, new_page, screenshots, name: str, viewport: tuple[int, int], scheme: Any
) -> None:
    page = new_page(viewport=viewport, color_scheme=scheme, locale="zh-CN")
    open_chat(page, site.url, face="builder")
    say(page, RETURN)
    page.click(".csp-trace summary")
    page.locator(".csp").screenshot(path=str(screenshots / f"page-{name}.png"))
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), (
        "nothing sticks out sideways"
    )
    back = page.eval_on_selector(".csp", "e => getComputedStyle(e).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("face", ["customer", "builder"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site, new_page, axe, scheme: Any, face: str) -> None:
    """Audited empty, under way, with all that can be open, and with a failed answer."""
    page = new_page(color_scheme=scheme, locale="en-GB", bypass_csp=True)
    open_chat(page, site.url, face=face)
    axe(page)
    say(page, RETURN)
    page.click(".csp-trace summary")
    page.click(".csp-do-down")
    page.click(".csp-order-head >> nth=0")
    page.click(".csp-do-new")
    axe(page)
    page.keyboard.press("Escape")
    page.click(".csp-do-menu")
    axe(page)
    page.keyboard.press("Escape")
    with site.orders_held():
        say(page, "我的订单到哪了?", wait=False)
        wait_for_turns(page, 2)
        axe(page)
    idle(page)
    site.gate.shut()
    try:
        say(page, "你好")
        page.wait_for_selector(".csp-down")
        axe(page)
    finally:
        site.gate.open()


def test_the_documentation_needs_nothing_from_elsewhere(site, new_page) -> None:
    page = new_page()
    page.goto(f"{site.url}/docs")
    page.wait_for_selector("text=POST /api/chat/stream")
    assert not page.external
    assert not page.failures
