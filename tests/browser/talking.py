"""Talking to the chat as a person would. Waits are for states, never for times."""

from typing import Any

IDLE = """(last) => {
    const turns = chat().querySelectorAll('.csp-turn');
    const turn = turns[turns.length - 1];
    const ended = turn?.dataset.id !== last && turn?.dataset.state !== 'running';
    return ended && !chat().querySelector('.csp-send').hidden;
}"""


def say(page: Any, text: str, wait: bool = True) -> None:
    """Write a message and send it; wait until it is answered or has failed."""
    last = last_id(page)
    page.fill(".csp-input", text)
    page.press(".csp-input", "Enter")
    if wait:
        page.wait_for_function(IDLE, arg=last)


def idle(page: Any) -> None:
    """Wait until the last message has its end and the input is free."""
    page.wait_for_function(IDLE, arg="")


def last_id(page: Any) -> str:
    """The last message's id; each further one, a repeated one too, has a new id."""
    ids = page.eval_on_selector_all(".csp-turn", "nodes => nodes.map((n) => n.dataset.id)")
    return ids[-1] if ids else ""


def compose(page: Any, text: str) -> None:
    """Write with an input method, and press Enter while it is still composing."""
    keyboard = page.context.new_cdp_session(page)
    keyboard.send(
        "Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6}
    )
    enter = {"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
    keyboard.send("Input.dispatchKeyEvent", enter)
    keyboard.send("Input.insertText", {"text": text})
    page.wait_for_timeout(300)


def states(page: Any) -> list[str]:
    """How each message stands."""
    return page.eval_on_selector_all(".csp-turn", "nodes => nodes.map((n) => n.dataset.state)")


def wait_for_turns(page: Any, count: int) -> None:
    """Wait until so many messages are shown."""
    page.wait_for_function(
        "(count) => chat().querySelectorAll('.csp-turn').length === count", arg=count
    )


def turns(page: Any) -> list[list[str]]:
    """What the customer said, and how each message stands."""
    return page.eval_on_selector_all(
        ".csp-turn",
        "nodes => nodes.map(n => [n.querySelector('.csp-user').innerText, n.dataset.state])",
    )


def open_chat(page: Any, url: str, face: str = "") -> None:
    """Open the page, as a builder sees it or a customer, and wait until the orders are there."""
    if face:
        page.add_init_script(f"localStorage.setItem('csproto-page-face', '{face}')")
    page.goto(url)
    page.wait_for_selector(".csp-input")
    page.wait_for_selector(".csp-order", state="attached")
