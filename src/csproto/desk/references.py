"""Finds what a message has in common with the customer's orders.

Numbers that may be orders or that a slot may copy, and words of the articles' names.
"""

import re
from collections.abc import Sequence
from typing import Protocol

MAX_NUMBERS = 6  # of one message; further ones are ignored

# Digits in a link are no order number: "https://shop.example/p/123456" matches,
# "123456" does not.
LINK = re.compile(r"(?:https?://|www\.)\S+", re.I)

# Digits, perhaps with letters before them and separators between them: "789012",
# "JD-2026 1105" and "A20261" match, "two" does not.
NUMBER = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]{1,4}[- ]?)?\+?\d[0-9A-Za-z]*(?:[ -]\d[0-9A-Za-z]*)*")


HAN = re.compile(r"[\u4e00-\u9fff]+")
WORD = re.compile(r"[a-z]{3,}")


class Named(Protocol):
    """What a message is compared with: an order, or one of an example."""

    @property
    def id(self) -> str:
        """The id."""

    @property
    def item(self) -> str:
        """The article's name."""

    @property
    def names(self) -> str:
        """Other names of the article, with | between them."""


def canonical(number: str) -> str:
    """Return a number with only letters and digits, in upper case.

    `jd-123 456` and `JD123456` then are the same number.
    """
    return re.sub(r"[^0-9A-Z]", "", number.upper())


def numbers_in(text: str) -> list[str]:
    """Return the numbers in a message as they are typed. Links are left out."""
    return list(dict.fromkeys(match[0] for match in NUMBER.finditer(LINK.sub(" ", text))))


def copies(text: str) -> list[str]:
    """Return the numbers in a message that a slot may copy.

    A number with letters before it is in the list twice, with and without the letters:
    from "my number is 138..." the model must be able to copy "138..." and not only "is
    138...".
    """
    found = [part for typed in numbers_in(text) for part in (typed, _without_letters(typed))]
    return list(dict.fromkeys(found))


def foreign_numbers(text: str, own: Sequence[str]) -> list[str]:
    """Return the numbers that could be orders, but are none of this customer's.

    own: the ids of the customer's orders. The numbers are returned in canonical form.

    A number of at least four digits means an order of the customer if that order's id
    ends with it: 尾号0008, or an id without its letters. The beginning of an id means no
    order: 12345 is foreign to a customer with the order 123456.
    """
    found: list[str] = []
    for typed in numbers_in(text):
        readings = _readings(typed)
        if not any(_is_end_of_own(reading, own) for reading in readings):
            found += [r for r in readings if _count_digits(r) >= 4 and len(r) <= 32]
        elif len(pieces := re.split("[ -]", typed)) > 1:
            # One piece is an order of the customer, but another piece may be foreign.
            rest = [canonical(p) for p in pieces if not _is_end_of_own(canonical(p), own)]
            found += (
                [r for r in rest if _count_digits(r) >= 4]
                if not _is_end_of_own(canonical(typed), own)
                else []
            )
    return list(dict.fromkeys(found))[:MAX_NUMBERS]


def _readings(typed: str) -> list[str]:
    """Return what a typed number may stand for, in canonical form.

    That is the whole number, the number without the letters before it, and each piece
    between spaces and hyphens.
    """
    without = _without_letters(typed)
    digits = re.match(r"\+?\d*", without)  # of "789012cancel": a space was forgotten
    pieces = [typed, without, *re.split("[ -]", without), digits[0] if digits else ""]
    return list(dict.fromkeys(filter(None, map(canonical, pieces))))


def _without_letters(typed: str) -> str:
    """Return a typed number without the letters before it."""
    return re.sub(r"^[A-Za-z]+[ -]?", "", typed)


def _is_end_of_own(number: str, own: Sequence[str]) -> bool:
    """Return whether a number is the end of an id of the customer's orders."""
    return _count_digits(number) >= 4 and any(order.endswith(number) for order in own)


def _count_digits(number: str) -> int:
    """Count the digits in a number."""
    return sum(c.isdigit() for c in number)


def matches(text: str, orders: Sequence[Named]) -> list[tuple[str, str]]:
    """Return the orders that share something with a message, each with what it shares.

    That is a number of at least three digits with which the order's id ends, three with
    which it begins (more would be another number, see `foreign_numbers`), or else a
    word of the article's name or of one of its other names. The model reads it before
    the message and judges what it is worth: a word can be there by chance.
    """
    lowered, numbers = LINK.sub(" ", text).lower(), _parts_of_ids(text)
    short = [number for number in numbers if _count_digits(number) < 4]
    found = []
    for order in orders:
        names = [order.item.lower(), *filter(None, order.names.lower().split("|"))]
        shared = next(filter(order.id.endswith, numbers), "")
        shared = shared or next((n for n in short if order.id.startswith(n)), "")
        shared = shared or max((_shared(lowered, name) for name in names), key=len)
        if shared:
            found.append((order.id, shared))
    return found


def _parts_of_ids(text: str) -> list[str]:
    """Return the numbers of a message, and their pieces, that can be parts of an id."""
    found = [reading for typed in numbers_in(text) for reading in _readings(typed)]
    return [number for number in dict.fromkeys(found) if _count_digits(number) >= 3]


def _shared(text: str, name: str) -> str:
    """Return the longest part of an article's name that a text shares, or "".

    Two or more Chinese characters in a row, or a word of three letters or more, whose
    ending may differ by two letters ("shoe", "shoes"). One Chinese character counts only
    if the name ends with it, because there stands what the article is: 鞋, 灯, 锅.
    """
    runs = [
        run[a:b]
        for run in HAN.findall(name)
        for a in range(len(run))
        for b in range(a + 1, len(run) + 1)
    ]
    han = max((run for run in runs if run in text), key=len, default="")
    if len(han) >= 2 or (han and name.endswith(han)):
        return han
    words = WORD.findall(text)
    return max(
        (w for v in WORD.findall(name) for w in words if _same_word(w, v)), key=len, default=""
    )


def _same_word(one: str, other: str) -> bool:
    """Return whether two words are the same but for an ending."""
    short, long = sorted((one, other), key=len)
    return long.startswith(short) and len(long) - len(short) <= 2
