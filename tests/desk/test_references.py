"""Which numbers in a message can be an order."""

from datetime import UTC, datetime

import pytest

from csproto.desk.references import canonical, foreign_numbers, matches, numbers_in
from csproto.shop.facts import OrderView

OWN = ["123456", "789012", "JD202611050017", "7301", "A20261"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("订单号123456,衣服尺码偏小", ["123456"]),
        ("order #789012 please", ["789012"]),
        ("JD-2026 1105 0017", ["JD-2026 1105 0017"]),
        ("https://shop.example/item/99887766?x=123456 这个", []),
        ("two of them", []),
        ("phone +86 138 0013 8000", ["+86 138 0013 8000"]),
    ],
)
def test_numbers_are_found_as_typed(text: str, numbers: list[str]) -> None:
    assert numbers_in(text) == numbers


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("123456", []),
        ("订单号是12345", ["12345"]),  # the beginning of an id is another number
        ("尾号3456那个", []),
        ("202611050017到哪了", []),  # an id without its letters
        ("jd202611050017", []),
        ("a20261", []),
        ("order 7301", []),
        ("order 7302", ["7302"]),
        ("cancel 999999 and 123456", ["999999"]),
        ("2026", ["2026"]),
        ("in 3 days", []),
        ("12 34 56", []),
    ],
)
def test_what_is_not_theirs_is_foreign(text: str, foreign: list[str]) -> None:
    assert foreign_numbers(text, OWN) == foreign


def test_spaced_pieces_are_read_whole_and_apart() -> None:
    found = foreign_numbers("6610 2930 1188", OWN)
    assert "661029301188" in found
    assert {"6610", "2930", "1188"} <= set(found)


def test_canonical_form() -> None:
    assert canonical("jd-123 456") == "JD123456"


def order(number: str, item: str, names: str = "") -> OrderView:
    return OrderView(
        number, item, "home", "paid", 100, datetime(2026, 1, 1, tzinfo=UTC), names=names
    )


ORDERS = [
    order("610233", "rain boots"),
    order("58120477", "电饭煲", "rice cooker"),
    order("B77310", "运动鞋"),
]


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("尾号0477到哪了", {"58120477": "0477"}),
        ("5812 0477", {"58120477": "58120477"}),
        ("the one with 610", {"610233": "610"}),
        ("order 61023", {}),  # the beginning of an id is another number
        ("is my boot there", {"610233": "boot"}),
        ("that rice-cooker", {"58120477": "cooker"}),
        ("饭煲坏了", {"58120477": "饭煲"}),
        ("那双鞋", {"B77310": "鞋"}),
        ("我要运费", {}),  # one character counts only at the end of a name
        ("看https://shop.example/610233", {}),
        ("in 10 days", {}),
        ("hello", {}),
    ],
)
def test_what_a_message_shares_with_orders(text: str, shared: dict[str, str]) -> None:
    assert dict(matches(text, ORDERS)) == shared
