"""A customer asks for a human; staff sign in, take the ticket and close it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import Session
from support import NOW
from talking import open_chat, say

from csproto.engine.endpoint import Endpoint
from csproto.shop.facts import Write
from csproto.shop.store import Ticket

TOKEN = "a-token-for-tests-only"
HUMAN = "I want to talk to a human agent"
HOSTILE = "<img src=x onerror=window.__xss=1><script>window.__xss=1</script>"


@pytest.fixture
def shop(server: Any, engine: Any, serve_page: Any) -> Iterator[SimpleNamespace]:
    """The real page with staff, over the real desk."""
    with serve_page(Endpoint(*server), engine, staff_token=TOKEN) as (url, app):
        orders = app.state.site.assistant.orders
        orders.write("k", "C007", Write("trace", "", f"order: none\n- {HOSTILE}"), NOW, "rule")
        yield SimpleNamespace(url=url, engine=engine, orders=orders)


def sign_in(page: Any, url: str, name: str = "Anna", token: str = TOKEN) -> None:
    """By keyboard, as anybody would."""
    page.goto(f"{url}/staff")
    page.fill("#name", name)
    page.fill("#token", token)
    page.keyboard.press("Enter")


def notes(page: Any) -> list[str]:
    """What the customer's chat says about tickets."""
    return page.locator(".csp-notes li").all_inner_texts()


def ticket(shop: Any, number: int) -> Ticket:
    with Session(shop.engine) as session:
        return session.get_one(Ticket, number)


def test_from_asking_for_a_human_to_the_end(shop, new_page, screenshots) -> None:
    customer = new_page(locale="en-GB")
    open_chat(customer, shop.url)
    say(customer, HUMAN)
    assert "T00002" in customer.inner_text(".csp-bot")
    assert notes(customer) == [], "the reply has said that it is open"

    staff = new_page(locale="en-GB")
    sign_in(staff, shop.url, token="wrong")
    staff.wait_for_selector("#said.staff-bad:has-text('The token is wrong')")
    assert staff.input_value("#token") == ""
    sign_in(staff, shop.url)
    staff.wait_for_selector("#desk:visible")
    assert staff.inner_text("#who") == "Anna"
    assert TOKEN not in staff.url + staff.evaluate("() => document.cookie + localStorage")
    first = staff.locator("#tickets li").first
    for words in ("hand-off ticket", "T00002", "C001", "urgent", "nobody has it"):
        assert words in first.inner_text()
    first.locator("button").focus()
    staff.keyboard.press("Enter")
    staff.wait_for_selector(f"#conversations .csp-user:has-text('{HUMAN}')")
    assert staff.evaluate("() => document.activeElement.id") == "number"
    assert "T00002" in staff.inner_text("#conversations .csp-bot")
    assert "林晓" in staff.inner_text("#facts")
    staff.screenshot(path=str(screenshots / "staff.png"))

    staff.keyboard.press("Tab")
    staff.keyboard.type("called back")
    staff.click("#take")
    staff.wait_for_selector("#said:has-text('T00002 is yours now')")
    assert staff.input_value("#note") == "called back", "what was written is not lost"
    customer.wait_for_selector(".csp-notes li:has-text('a colleague is working on it')")
    customer.screenshot(path=str(screenshots / "staff-customer.png"))
    staff.click("#close")
    staff.wait_for_selector("#said:has-text('T00002 is closed')")
    customer.wait_for_selector(".csp-notes li:has-text('closed')")
    assert [note.split(" · ")[0] for note in notes(customer)] == ["T00002"]
    kept = ticket(shop, 2)
    assert (kept.taken_by, kept.closed_by, kept.note) == ("Anna", "Anna", "called back")
    assert "called back" not in customer.inner_text(".csp")

    customer.reload()
    customer.wait_for_selector(".csp-notes li:has-text('closed')")
    staff.wait_for_selector("#tickets li >> nth=0")
    assert staff.locator("#tickets li").count() == 1
    for page in (customer, staff):
        assert not page.external
        assert not page.failures


def test_two_staff_and_a_customer_whose_words_are_markup(shop, new_page) -> None:
    anna, bo = new_page(locale="en-GB"), new_page(locale="zh-CN")
    for page, name in ((anna, "Anna"), (bo, "Bo")):
        sign_in(page, shop.url, name)
        page.click("#tickets button")
        page.wait_for_selector("#ticket:visible")
        assert HOSTILE in page.inner_text("#summary")
        assert page.evaluate("() => window.__xss") is None
    anna.click("#take")
    anna.wait_for_selector("#said:has-text('yours')")
    bo.click("#take")
    bo.wait_for_selector("#said.staff-bad:has-text('已由 Anna 接单')")
    bo.wait_for_selector("#number:has-text('Anna 已接单')")
    assert bo.locator("#take").is_hidden()
    shop.orders.write("l", "C008", Write("handoff", "", "new"), NOW, "rule")
    bo.wait_for_selector("#tickets li:has-text('T00002')")  # the list is looked at again
    bo.click("#sign-out")
    bo.wait_for_selector("#sign-in:visible")
    assert HOSTILE not in bo.inner_text("body")
    bo.reload()
    bo.wait_for_selector("#sign-in:visible")
    assert ticket(shop, 1).taken_by == "Anna"
    assert not anna.failures + bo.failures


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [(1000, 800), (360, 700)])
def test_axe_finds_nothing_for_the_staff(
    shop, new_page, axe, scheme: Any, viewport: Any, screenshots
) -> None:
    """Before and after the sign-in, with an error, a ticket and a long word."""
    shop.orders.write("m", "C007", Write("complaint", "", "x" * 300), NOW, "rule")
    page = new_page(viewport=viewport, color_scheme=scheme, locale="en-GB", bypass_csp=True)
    sign_in(page, shop.url, token="wrong")
    page.wait_for_selector(".staff-bad")
    axe(page)
    sign_in(page, shop.url)
    page.wait_for_selector("#desk:visible")
    axe(page)
    page.click("#tickets button >> nth=0")
    page.wait_for_selector("#ticket:visible")
    axe(page)
    page.screenshot(path=str(screenshots / f"staff-{scheme}-{viewport[0]}.png"))
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    back = page.eval_on_selector(".csp", "e => getComputedStyle(e).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
