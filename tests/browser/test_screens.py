"""Pictures of the chat in eight states, two themes and two widths.

They are drawn into `build/screenshots`, and into `docs/screens` if CSPROTO_SCREENS is 1.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from talking import open_chat, say

SIZES = {"wide": (1280, 800), "narrow": (390, 844)}
LARGEST = 120_000  # bytes
# By theme: the language, and what a customer writes.
STORIES: dict[str, dict[str, str]] = {
    "light": {
        "locale": "en-GB",
        "customer": "C014",
        "order": "140007",
        "return": "The wool scarf is too short, I want to return it",
    },
    "dark": {
        "locale": "zh-CN",
        "customer": "C001",
        "order": "123456",
        "return": "我要退换货,订单号123456,衣服尺码偏小",
    },
}


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("theme", STORIES)
def test_eight_states(site, new_page, keep_screen, theme: Any, width: str) -> None:
    story = STORIES[theme]
    page = new_page(
        viewport=SIZES[width],
        color_scheme=theme,
        locale=story["locale"],
        has_touch=width == "narrow",
        reduced_motion="reduce",
    )
    open_chat(page, site.url)
    page.select_option(".csp-customer", story["customer"])
    page.wait_for_selector(f".csp-order[data-id='{story['order']}']", state="attached")
    for state in states(page, site, story, narrow=width == "narrow"):
        page.wait_for_timeout(200)
        kept = keep_screen(page.screenshot(), f"{state}-{theme}-{width}.png")
        assert kept.stat().st_size <= LARGEST
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), (
            f"{state}: something sticks out sideways"
        )


def states(page: Any, site: Any, story: dict[str, str], *, narrow: bool) -> Iterator[str]:
    """Bring the chat from one state to the next, and yield the name of each."""
    yield "first"
    say(page, story["return"])
    yield "question"
    order = f".csp-order[data-id='{story['order']}']"
    if narrow:
        page.click(".csp-do-orders")
    page.click(f"{order} .csp-order-head")
    yield "orders"
    page.click(f"{order} .csp-order-head")
    page.keyboard.press("Escape")
    page.click(".csp-choices .csp-chip >> nth=0")
    page.wait_for_selector(f"{order} .csp-order-open", state="attached")
    yield "written"
    page.click(".csp-do-menu")
    yield "menu"
    page.click(".csp-do-face")
    page.locator(".csp-trace > summary").first.click()
    yield "trace"
    page.locator(".csp-trace > summary").first.click()
    page.locator(".csp-do-down").last.click()
    page.click(".csp-do-new")
    yield "asked"
    page.keyboard.press("Escape")
    page.click(".csp-do-menu")
    page.click(".csp-do-face")
    site.gate.shut()
    try:
        say(page, "转人工" if story["locale"] == "zh-CN" else "I want to talk to a person")
        page.wait_for_selector(".csp-down")
        yield "failed"
    finally:
        site.gate.open()
