"""The two faces of the chat, its colours, and what it says when something is wrong."""

from typing import Any

from talking import idle, open_chat, say, wait_for_turns

RETURN = "我要退换货,订单号123456,衣服尺码偏小"
BACK = "() => getComputedStyle(chat().querySelector('.csp')).backgroundColor"
WHITE = "rgb(255, 255, 255)"


def test_a_customer_sees_no_diagnostics_and_a_builder_all(customers_page, site) -> None:
    page = customers_page
    model = site.assistant.reader(None).endpoint.model_name
    say(page, RETURN)
    page.click(".csp-trace > summary")
    seen = page.inner_text(".csp")
    for word in ("return.no_reason", "confirm_return", "return_exchange", model, " ms", "cache"):
        assert word not in seen, word
    assert "seven days without a reason" in seen, "why, in plain words"
    page.click(".csp-do-menu")
    assert page.locator(".csp-do-json").count() == 0
    assert page.get_attribute(".csp-do-face", "aria-checked") == "false"
    page.click(".csp-do-face")
    page.wait_for_selector(".csp-badges:visible")
    seen = page.inner_text(".csp")
    for word in ("return.no_reason", "confirm_return", "return_exchange", model, "from cache"):
        assert word in seen, word
    page.reload()
    page.wait_for_selector(".csp-badges:visible")
    page.click(".csp-do-menu")
    assert page.locator(".csp-do-json").is_visible()
    assert page.get_attribute(".csp-do-face", "aria-checked") == "true"


def test_the_theme_follows_the_system_until_one_is_chosen(site, new_page) -> None:
    page = new_page(color_scheme="light", locale="en-GB")
    open_chat(page, site.url)
    assert page.evaluate(BACK) == WHITE
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => ({BACK})() !== '{WHITE}'")
    page.click(".csp-do-menu")
    page.click(".csp-do-light")
    assert page.evaluate(BACK) == WHITE
    page.reload()
    page.wait_for_selector(".csp-input")
    assert page.evaluate(BACK) == WHITE, "remembered"
    assert page.get_attribute("html", "data-theme") == "light"
    page.click(".csp-do-menu")
    page.click(".csp-do-dark")
    page.keyboard.press("Escape")
    assert page.evaluate(BACK) != WHITE
    assert "csp-do-menu" in page.evaluate("() => chat().activeElement.className")


def test_the_hosts_styles_stay_out(page) -> None:
    """A host that squares all buttons and floats all lists, as JupyterLab's styles do."""
    say(page, RETURN)
    page.click(".csp-trace > summary")
    look = """() => ['button.csp-chip', '.csp-facts dt', '.csp-title', '.csp-input'].map((css) => {
        const { borderRadius, float, fontSize, color, textTransform } =
            getComputedStyle(chat().querySelector(css));
        return [borderRadius, float, fontSize, color, textTransform].join();
    })"""
    before = page.evaluate(look)
    page.evaluate(
        """() => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(`* { border-radius: 0 !important; float: left !important;
                font-size: 9px !important; color: red !important }
                body { text-transform: uppercase; letter-spacing: 9px; font-size: 30px }`);
            document.adoptedStyleSheets = [sheet];
        }"""
    )
    assert page.evaluate(look) == before


def test_only_the_last_failed_message_says_what_to_do(customers_page, site) -> None:
    page = customers_page
    site.gate.shut()
    try:
        say(page, "你好")
        say(page, "转人工")
    finally:
        site.gate.open()
    errors = page.locator(".csp-error").all_inner_texts()
    assert ["Retry" in text for text in errors] == [False, True]
    assert not any("engine" in text.lower() for text in errors)


def test_the_status_line_is_translated_and_a_stop_ends(customers_page, site) -> None:
    page = customers_page
    with site.orders_held():
        say(page, RETURN, wait=False)
        wait_for_turns(page, 1)
        page.click(".csp-stop")
    idle(page)
    assert page.inner_text(".csp-status") == "Stopped"
    page.click(".csp-do-language")
    assert page.inner_text(".csp-status") == "已停止"


def test_what_cannot_be_exported_is_not_offered(page: Any) -> None:
    page.click(".csp-do-menu")
    assert page.locator(".csp-do-json").is_disabled()
    assert page.locator(".csp-do-markdown").is_disabled()
