"""Which order numbers a message may mean.

The customer's own, or a number that the customer typed.
"""

import re
from collections.abc import Sequence

NUMBERS_KEPT = 6  # of one message

# "https://shop.example/p/123456" matches, "123456" does not: digits in a link are no order.
LINK = re.compile(r"(?:https?://|www\.)\S+", re.I)

# "789012", "JD-2026 1105", "A20261" match, "two" does not: digits, perhaps with letters before and
# separators within.
NUMBER = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]{1,4}[- ]?)?\+?\d[0-9A-Za-z]*(?:[ -]\d[0-9A-Za-z]*)*")


def canonical(number: str) -> str:
    """Only letters and digits, upper case: `jd-123 456` and `JD123456` are one number."""
    return re.sub(r"[^0-9A-Z]", "", number.upper())


def numbers_in(text: str) -> list[str]:
    """What in a message could be a number of some kind, as typed, in order of appearance."""
    return list(dict.fromkeys(match[0] for match in NUMBER.finditer(LINK.sub(" ", text))))


def copies(text: str) -> list[str]:
    """The numbers of a message as a slot may copy them: with the letters before them, and without.

    "my number is 138..." must not have to copy "is 138...".
    """
    found = [part for typed in numbers_in(text) for part in (typed, _without_letters(typed))]
    return list(dict.fromkeys(found))


def foreign_numbers(text: str, own: Sequence[str]) -> list[str]:
    """The numbers in a message that could be an order and are none of the customer's, canonical.

    A number of four or more digits that is the end of one of their ids (尾号0008, or an id without
    its letters) means that order, so it is not foreign. The beginning of an id is: 12345 is not
    123456.
    """
    found: list[str] = []
    for typed in numbers_in(text):
        readings = _readings(typed)
        if not any(_means(reading, own) for reading in readings):
            found += [r for r in readings if _digits(r) >= 4 and len(r) <= 32]
        elif len(pieces := re.split("[ -]", typed)) > 1:
            rest = [canonical(p) for p in pieces if not _means(canonical(p), own)]
            found += (
                [r for r in rest if _digits(r) >= 4] if not _means(canonical(typed), own) else []
            )
    return list(dict.fromkeys(found))[:NUMBERS_KEPT]


def _readings(typed: str) -> list[str]:
    """A typed number as a whole, without letters before it, and each piece of it."""
    without = _without_letters(typed)
    return list(dict.fromkeys(map(canonical, [typed, without, *re.split("[ -]", without)])))


def _without_letters(typed: str) -> str:
    return re.sub(r"^[A-Za-z]+[ -]?", "", typed)


def _means(number: str, own: Sequence[str]) -> bool:
    return _digits(number) >= 4 and any(order.endswith(number) for order in own)


def _digits(number: str) -> int:
    return sum(c.isdigit() for c in number)
