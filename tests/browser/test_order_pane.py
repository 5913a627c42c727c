"""Around the conversation: the customer's orders, earlier conversations, the demo's reset."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from talking import idle, open_chat, say, turns, wait_for_turns

from csproto.shop.store import Audit, Order, Ticket

CANCEL = "取消订单789012"


def order_text(page: Any, number: str) -> str:
    return page.inner_text(f".csp-order[data-id='{number}']")


def status_of(site: Any, number: str) -> str:
    with Session(site.engine) as session:
        return session.get_one(Order, number).status


def test_the_orders_follow_each_write(customers_page, site) -> None:
    """The order that changed is marked for a moment, and says what is open."""
    page = customers_page
    assert page.locator(".csp-order").evaluate_all("all => all.map((e) => e.dataset.id)") == [
        "789012",
        "123456",
    ]
    for part in ("电热水壶", "¥129.00", "waiting to be shipped", "8 Mar", "789012"):
        assert part in order_text(page, "789012")
    say(page, CANCEL)
    assert "waiting to be shipped" in order_text(page, "789012"), "nothing before the yes"
    assert page.locator(".csp-changed").count() == 0
    page.click(".csp-choices .csp-chip >> nth=0")
    page.wait_for_selector(".csp-order[data-id='789012'].csp-changed")
    assert "cancelled" in order_text(page, "789012")
    assert "refund approved" in order_text(page, "789012")
    page.wait_for_selector(".csp-changed", state="detached")
    idle(page)
    say(page, "订单123456的衣服破了一个洞")
    page.click(".csp-choices .csp-chip >> nth=0")
    page.wait_for_selector(".csp-order[data-id='123456'] .csp-order-open")


def test_an_order_offers_the_wishes_that_fit_it(customers_page, site) -> None:
    """By keyboard: the suggestion goes out as a message, and the focus goes on."""
    page = customers_page
    page.focus(".csp-order[data-id='123456'] .csp-order-head")
    page.keyboard.press("Enter")
    offers = page.locator(".csp-order[data-id='123456'] .csp-chip")
    assert offers.all_inner_texts() == ["Return, exchange or repair", "Not received", "Invoice"]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_turns(page, 1)
    idle(page)
    assert turns(page) == [["I want to return order 123456 (纯棉衬衫)", "done"]]
    assert page.locator(".csp-choices .csp-chip").count() == 2
    with Session(site.engine) as session:
        assert session.scalar(select(func.count()).where(Ticket.kind == "return")) == 0


def test_the_examples_are_about_the_customers_own_orders(customers_page) -> None:
    page = customers_page
    page.select_option(".csp-customer", "C002")
    page.wait_for_selector(".csp-order[data-id='901234']")
    assert "Emma Clark" in page.inner_text(".csp-hello")
    chips = page.locator(".csp-welcome .csp-chip").all_inner_texts()
    assert any("901234" in text for text in chips)
    assert not any("123456" in text for text in chips)


def test_on_a_narrow_screen_the_orders_are_a_drawer(site, new_page) -> None:
    page = new_page(viewport=(390, 844), locale="en-GB", has_touch=True)
    open_chat(page, site.url)
    assert page.locator(".csp-side").is_hidden()
    page.click(".csp-do-orders")
    assert page.locator(".csp-side").is_visible()
    assert page.evaluate("() => chat().activeElement.className").endswith("csp-do-close")
    page.keyboard.press("Escape")
    assert page.locator(".csp-side").is_hidden()
    assert "csp-do-orders" in page.evaluate("() => chat().activeElement.className")
    page.click(".csp-do-orders")
    page.click(".csp-order-head >> nth=0")
    page.click(".csp-order .csp-chip:visible >> nth=0")
    assert page.locator(".csp-side").is_hidden(), "the answer is what one wants to see now"
    wait_for_turns(page, 1)
    idle(page)
    small = page.evaluate(
        """() => [...chat().querySelectorAll('button, select, summary, textarea')]
            .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 40)
            .map((e) => e.className)"""
    )
    assert not small, "a finger needs 40 pixels"
    size = page.eval_on_selector(".csp-input", "e => getComputedStyle(e).fontSize")
    assert size == "16px", "a phone zooms in on a smaller one"


def test_earlier_conversations_are_listed_opened_and_gone_on_with(customers_page, site) -> None:
    page = customers_page
    say(page, CANCEL)
    page.click(".csp-do-new")
    page.click(".csp-ask .csp-chip >> text=No")
    assert turns(page) == [[CANCEL, "done"]], "it is not thrown away"
    page.click(".csp-do-new")
    page.click(".csp-ask .csp-chip >> text=Yes")
    wait_for_turns(page, 0)
    page.click(".csp-do-menu")
    page.click(f".csp-earlier:has-text('{CANCEL}')")
    wait_for_turns(page, 1)
    page.click(".csp-choices .csp-chip >> nth=0")
    page.wait_for_selector(".csp-order[data-id='789012'].csp-changed")
    idle(page)
    assert status_of(site, "789012") == "cancelled"


def test_another_customer_is_asked_about_first(customers_page) -> None:
    page = customers_page
    say(page, "你好")
    page.select_option(".csp-customer", "C002")
    page.keyboard.press("Escape")
    page.wait_for_function("() => chat().querySelector('.csp-customer').value === 'C001'")
    assert turns(page) == [["你好", "done"]]


def test_the_demo_is_reset_after_a_question(customers_page, site) -> None:
    page = customers_page
    say(page, CANCEL)
    page.click(".csp-choices .csp-chip >> nth=0")
    page.wait_for_selector(".csp-order[data-id='789012'] .csp-order-open")
    idle(page)
    page.click(".csp-do-menu")
    page.click(".csp-do-reset")
    assert status_of(site, "789012") == "cancelled"
    page.click(".csp-ask .csp-chip >> text=Yes")
    wait_for_turns(page, 0)
    page.wait_for_function(
        "() => !chat().querySelector('.csp-order[data-id=\"789012\"] .csp-order-open')"
    )
    assert status_of(site, "789012") == "paid"


def test_a_thumbs_down_asks_why(customers_page, site) -> None:
    page = customers_page
    say(page, "你好")
    page.click(".csp-do-down")
    page.click(".csp-whys .csp-chip >> text=It does not help")
    page.wait_for_selector(".csp-whys", state="hidden")
    assert page.get_attribute(".csp-do-down", "aria-pressed") == "true"
    with Session(site.engine) as session:
        rows = session.scalars(
            select(Audit.detail).where(Audit.action == "thumbs_down").order_by(Audit.key)
        )
        assert list(rows) == ["", "unhelpful"]
