"""Which numbers in a message can be an order."""

import pytest

from csproto.desk.references import canonical, foreign_numbers, numbers_in

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
