"""The language of a reply, and facts as the customer reads them."""

from datetime import date

import pytest

from csproto.desk.case import Day, Decision, Fact, Label, Parts
from csproto.desk.handbook import Language, default_handbook
from csproto.desk.reply import alternatives, language_of, shown
from csproto.desk.state import Outcome, State

HANDBOOK = default_handbook()


@pytest.mark.parametrize(
    ("text", "before", "language"),
    [
        ("你好", "en", "zh"),
        ("訂單在哪", "en", "zh"),
        ("hello", "zh", "en"),
        ("where is 123456", "zh", "en"),
        ("où est ma commande", "zh", "en"),
        ("注文はどこですか", "zh", "en"),
        ("주문 어디", "zh", "en"),
        ("订单 JD202611050017 where is it", "en", "zh"),
        ("ok thanks", "zh", "en"),
        # no words: the language before
        ("123456", "zh", "zh"),
        ("123456", "en", "en"),
        ("JD202611050017", "zh", "zh"),
        ("#A20261", "en", "en"),
        ("?", "zh", "zh"),
        ("👍", "en", "en"),
        ("OK", "zh", "zh"),
        ("Yes.", "zh", "zh"),
        ("no", "zh", "zh"),
    ],
)
def test_language_of_a_message(text: str, before: Language, language: str) -> None:
    assert language_of(text, before) == language


@pytest.mark.parametrize(
    ("fact", "zh", "en"),
    [
        (Day(date(2026, 3, 1)), "3月1日", "1 March"),
        (Day(date(2024, 2, 29)), "2月29日", "29 February"),
        (Label("status", "unpaid"), "待付款", "waiting for payment"),
        (Label("category", "fresh"), "生鲜商品", "fresh goods"),
        (Parts(("Li Lei", "5 Pine Row")), "Li Lei，5 Pine Row", "Li Lei, 5 Pine Row"),
        (0, "¥0.00", "¥0.00"),
        (12345, "¥123.45", "¥123.45"),
        (899_900, "¥8999.00", "¥8999.00"),
        ("123456", "123456", "123456"),
    ],
)
def test_facts_in_the_customers_language(fact: Fact, zh: str, en: str) -> None:
    assert shown({"x": fact, "empty": ""}, HANDBOOK, "zh") == {"x": zh}
    assert shown({"x": fact, "empty": ""}, HANDBOOK, "en") == {"x": en}


def test_braces_in_a_fact_are_only_text() -> None:
    facts = {"order": "123456", "item": "{order} {0} {__class__}", "ticket": "T00001"}
    outcome = Outcome((Decision("urge_shipment", "123456", "urge.paid", facts),), State())
    for language in ("zh", "en"):
        assert "{order} {0} {__class__}" in alternatives(outcome, HANDBOOK, language)[0]
