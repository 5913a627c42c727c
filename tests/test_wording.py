"""The words around a decision: language, dates and amounts, and a wording for everything that can be decided."""

import re
from dataclasses import replace
from datetime import date, datetime

import pytest
from support import NOW
from test_policy import ROWS, SHANGHAI, Row, an_order, says
from test_reply import LANGUAGES, facts_of, facts_under

from csproto.dialogue import DialogueState
from csproto.policy import RULE_IDS, Decision, Label, Wish
from csproto.triage import Intent
from csproto.wording import facts_shown, fitting, language_of, missing, note, template, wordings


@pytest.mark.parametrize(
    ("text", "before", "language"),
    [
        ("你好", "en", "zh"),
        ("hello", "zh", "en"),
        ("订单 JD202611050017 where is it", "en", "zh"),
        ("退款 refund please now", "en", "zh"),
        ("where is 123456", "zh", "en"),
        ("123456", "zh", "zh"),
        ("123456", "en", "en"),
        ("JD202611050017", "zh", "zh"),
        ("SN88231047", "zh", "zh"),
        ("#A20261", "en", "en"),
        ("?", "zh", "zh"),
        ("👍", "en", "en"),
        ("a", "zh", "zh"),
        ("OK", "zh", "zh"),
        ("ok!", "zh", "zh"),
        ("OK", "en", "en"),
        ("Yes.", "zh", "zh"),
        ("no", "zh", "zh"),
        ("ok thanks", "zh", "en"),
        ("yes please", "zh", "en"),
        ("訂單在哪", "en", "zh"),
        ("", "en", "en"),
    ],
)
def test_language_of_a_message(text: str, before: str, language: str) -> None:
    assert language_of(text, before) == language


@pytest.mark.parametrize(
    ("value", "zh", "en"),
    [
        (date(2026, 3, 1), "3月1日", "1 March"),
        (date(2024, 2, 29), "2月29日", "29 February"),
        (date(2026, 12, 31), "12月31日", "31 December"),
        (datetime(2026, 3, 9, 23, 30, tzinfo=SHANGHAI), "3月9日", "9 March"),
        (Label("status", "unpaid"), "待付款", "unpaid"),
        (Label("refund", "paid"), "已退款", "already paid out"),
        (Label("category", "fresh"), "生鲜商品", "fresh goods"),
        ("123456", "123456", "123456"),
    ],
)
def test_facts_in_the_customers_language(value: object, zh: str, en: str) -> None:
    assert facts_shown({"x": value}, "zh") == {"x": zh}
    assert facts_shown({"x": value}, "en") == {"x": en}


@pytest.mark.parametrize(
    ("cents", "shown"), [(0, "¥0.00"), (1, "¥0.01"), (19900, "¥199.00"), (12345, "¥123.45"), (899_900, "¥8999.00")]
)
def test_amounts_are_cents(cents: int, shown: str) -> None:
    for language in LANGUAGES:
        assert facts_shown({"amount": cents}, language) == {"amount": shown}


def test_what_is_not_known_is_left_out() -> None:
    assert facts_shown({"carrier": "", "order": "1"}, "zh") == {"order": "1"}


def test_orders_are_listed_with_their_goods() -> None:
    orders = [an_order(id="1", item="lamp"), an_order(id="2", item="mat")]
    assert facts_shown({"orders": orders}, "en") == {"orders": "1 (lamp), 2 (mat)"}
    assert facts_shown({"orders": orders}, "zh") == {"orders": "1(lamp)、2(mat)"}


# -- every decision has words


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_decision_has_a_fitting_template(row: Row) -> None:
    for language in LANGUAGES:
        its_template_fits(row.decided()[0], language)


def its_template_fits(decision: Decision, language: str) -> None:
    facts = facts_of(decision, language)
    words = template(decision, language, facts)
    assert "{" not in words
    assert set(re.findall(r"\d+", words)) <= set(re.findall(r"\d+", " ".join(facts.values())))
    if "order" in facts and decision.rule not in ("complaint.ticket", "pending.dropped"):
        assert facts["order"] in words


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_template_needs_no_fact_that_may_be_missing(language: str) -> None:
    """Orders of which the shop knows the least: no promise, no moments, no carrier."""
    bare = {
        "promised_at": None,
        "shipped_at": None,
        "cancelled_at": None,
        "carrier": "",
        "tracking_number": "",
        "item": "",
    }
    for row in ROWS:
        if row.order is None:
            continue
        decision, _ = replace(row, order=replace(row.order, **bare)).decided()
        assert fitting(decision.rule, language, facts_of(decision, language)), row.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_unavailable_has_words_without_any_fact(language: str) -> None:
    assert template(Decision("unavailable", "system.unavailable"), language, {})


def test_every_rule_has_six_wordings_in_both_languages_and_no_digit_of_its_own() -> None:
    assert wordings()["rules"].keys() == RULE_IDS - {"other.small_talk"}
    for rule, by_language in wordings()["rules"].items():
        for language in LANGUAGES:
            texts = by_language[language]
            assert len(set(texts)) == len(texts) >= 6, rule
            assert not any(re.search(r"\d", text) for text in texts), rule


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("rule", sorted(RULE_IDS - {"other.small_talk"}))
def test_no_placeholder_is_without_its_fact(rule: str, language: str) -> None:
    """Each wording can be reached: the policy gives every fact it names."""
    facts = facts_under(rule, language)
    for text in wordings()["rules"][rule][language]:
        assert set(re.findall(r"\{(\w+)\}", text)) <= facts.keys()


def test_a_reply_says_what_one_of_the_wordings_says() -> None:
    facts = {"orders": "100001(手机壳)、200001(跳绳)"}
    assert missing("order.which", "zh", facts, "您说的是100001(手机壳)、200001(跳绳)中的哪个？") == []
    assert missing("order.which", "zh", facts, "您说的是100001(手机壳)、100001(跳绳)中的哪个？") == ["orders"]
    assert missing("other.small_talk", "zh", {}, "你好") == []


def test_braces_in_a_fact_are_only_text() -> None:
    facts = {"order": "123456", "address": "{order} {0} {__class__}"}
    assert "{order} {0} {__class__}" in fitting("address.confirm", "en", facts)[0]


# -- notes


YES = DialogueState(waiting="yes", open_wish=Wish(Intent.CANCEL_ORDER, "123456"))


@pytest.mark.parametrize(
    ("had", "state", "queue", "action", "which"),
    [
        ("yes", YES, [], "give_status", "reminder"),
        ("yes", YES, [], "small_talk", None),
        ("yes", YES, [], "confirm_cancel", None),
        ("yes", YES, [], "unavailable", None),
        ("", YES, [], "confirm_cancel", None),
        ("yes", DialogueState(), [], "cancelled", None),
        ("order", replace(YES, waiting="order"), [], "small_talk", None),
        ("", YES, [Intent.INVOICE], "confirm_cancel", "more_noted"),
        ("yes", YES, [Intent.INVOICE], "give_status", "more_noted"),
    ],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_notes(
    had: str, state: DialogueState, queue: list[Intent], action: str, which: str | None, language: str
) -> None:
    expected = wordings()[which][language] if which else ""
    assert note(had, state, queue, Decision(action, ""), language) == expected


def test_a_date_is_the_day_in_the_shop_whatever_the_zone_of_the_record() -> None:
    late = datetime(2026, 3, 5, 23, 30, tzinfo=SHANGHAI)
    row = Row("", says(Intent.ORDER_STATUS), an_order(delivered_at=late.astimezone(NOW.tzinfo)), "", "")
    assert facts_shown(row.decided()[0].say, "en")["date"] == "5 March"
