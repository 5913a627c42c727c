"""Five tasks of a stranger, done by buttons alone and by typing alone."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from talking import idle, say

from csproto.shop.store import Order, Ticket

Steps = list[str]  # each is a text to type, or after ">" a button to press
PHONE = "请把订单789012的电话改成13800138000"
TASKS: dict[str, tuple[Steps, Steps, Callable[[Session], bool]]] = {
    "return an article without knowing its number": (
        [">order 123456", ">Return, exchange or repair", ">choice"],
        ["I want to send the cotton shirt back", "yes"],
        lambda session: tickets(session, "return") == 1,
    ),
    "change a phone number": (  # a number has to be typed: the button only begins it
        [">order 789012", ">Change delivery details", PHONE, ">choice"],
        [PHONE, "是"],
        lambda session: session.get_one(Order, "789012").phone == "13800138000",
    ),
    "cancel one of two": (
        [">order 789012", ">Cancel an order", ">choice"],
        ["Please cancel the kettle", "yes"],
        lambda session: (
            session.get_one(Order, "789012").status == "cancelled"
            and session.get_one(Order, "123456").status == "delivered"
        ),
    ),
    "hand over to a human": (
        [">I want to talk to a person"],
        ["I want to talk to a person"],
        lambda session: tickets(session, "handoff") == 1,
    ),
}


def tickets(session: Session, kind: str) -> int:
    return session.scalar(select(func.count()).where(Ticket.kind == kind)) or 0


def press(page: Any, button: str) -> None:
    """Press a button by keyboard, and wait for the answer if it sends something."""
    if button.startswith("order "):
        target = page.locator(f".csp-order[data-id='{button[6:]}'] .csp-order-head")
        target.focus()
        page.keyboard.press("Enter")
        return
    shown = page.locator(".csp-turn").count()
    css = ".csp-choices .csp-chip" if button == "choice" else f".csp-chip:text-is('{button}')"
    page.locator(css).first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(shown) => chat().querySelectorAll('.csp-turn').length > shown", arg=shown
    )
    idle(page)


@pytest.mark.parametrize("way", ["buttons", "typing"])
@pytest.mark.parametrize("task", TASKS)
def test_a_stranger_gets_it_done(customers_page, site, task: str, way: str) -> None:
    by_buttons, by_typing, is_done = TASKS[task]
    for step in by_buttons if way == "buttons" else by_typing:
        if step.startswith(">"):
            press(customers_page, step[1:])
        else:
            say(customers_page, step)
    with Session(site.engine) as session:
        assert is_done(session), customers_page.inner_text(".csp-log")


def test_a_stranger_finds_out_why(customers_page) -> None:
    """The fifth task: under each answer, by keyboard."""
    say(customers_page, "I want to return order 123456")
    customers_page.focus(".csp-trace > summary")
    customers_page.keyboard.press("Enter")
    assert "article 25" in customers_page.inner_text(".csp-trace-body")
