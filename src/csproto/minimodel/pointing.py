"""How customers point at their orders: by number, article, place in the list, part of a number."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from csproto.desk.references import canonical
from csproto.minimodel.customers import MemoryShop, order_number
from csproto.minimodel.lists import BLANK, Segment, articles, lists
from csproto.shop.facts import OrderView

REFERENCES = {  # kinds of reference phrases, with how often each is drawn
    "item": 22,
    "nth": 16,
    "both": 14,
    "all": 10,
    "tail": 10,
    "state": 9,
    "last": 6,
    "newest": 5,
    "oldest": 4,
    "head": 4,
}
FOREIGN = 0.14  # share of typed numbers that are none of the customer's
CUT_SHORT = 0.3  # share of these that are the beginning of one of the customer's


@cache
def references(language: str, kind: str) -> list[Segment]:
    """The reference phrases of a kind, such as `nth`."""
    phrases = (line[0] for line in lists(language)["references"])
    return [p for p in phrases if (p.labels[0] if p.labels else "item").split("=")[0] == kind]


@dataclass
class Filled:
    """A segment with its blanks filled."""

    text: str = ""
    orders: list[str] = field(default_factory=list)
    slots: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)  # texts that typing slips must not touch
    main: OrderView | None = None  # what {order} and {item} of one segment both mean


class Pointing:
    """One customer's way of pointing at orders.

    offered: the orders shown in a question that is open, if any.
    """

    def __init__(self, language: str, pick: random.Random, shop: MemoryShop) -> None:
        self.language, self.pick, self.shop = language, pick, shop
        self.offered: Sequence[OrderView] = ()

    def _order(self, taken: set[str]) -> OrderView | None:
        """An order to speak of: of those on offer, else any; not one spoken of already."""
        orders = [o for o in self.offered or self.shop.customer.orders if o.id not in taken]
        return self.pick.choice(orders) if orders else None

    def _number(self, filled: Filled, taken: set[str]) -> str:
        order = self._order(taken) if self.pick.random() >= FOREIGN else None
        number = order.id if order else self._foreign_number()
        filled.main = filled.main or order
        filled.orders.append(number)
        taken.add(number)
        return typed(number, self.pick, own=order is not None)

    def _foreign_number(self) -> str:
        """A number that is none of theirs, often one of theirs with its end missing."""
        own = [o.id for o in self.shop.customer.orders if len(o.id) > 5]
        if not own or self.pick.random() >= CUT_SHORT:
            return order_number(self.pick)
        whole = self.pick.choice(own)
        part = whole[: -self.pick.choice((1, 1, 2))]
        return order_number(self.pick) if any(o.endswith(part) for o in own) else part

    def _item(self, filled: Filled, taken: set[str]) -> str:
        order = self._order(taken) if self.pick.random() > 0.06 else None
        name = self._alias(order) if order else ""
        if order is None or not name:
            return self.pick.choice(self.pick.choice(articles()).aliases[self.language])
        filled.main = filled.main or order
        filled.orders.append(order.id)
        taken.add(order.id)
        return name

    def _alias(self, order: OrderView) -> str:
        """A name of an order's article that fits none of the customer's other orders."""
        others = [o for o in self.shop.customer.orders if o.id != order.id]
        foreign = {name.lower() for o in others for name in names_of(self.shop, o, self.language)}
        own = [a for a in names_of(self.shop, order, self.language) if a.lower() not in foreign]
        own = [a for a in own if not any(stands(a.lower(), o.item.lower()) for o in others)]
        return self.pick.choice(own) if own else ""

    def _reference(self, filled: Filled, taken: set[str]) -> str:
        for _ in range(8):
            kind = self.pick.choices(list(REFERENCES), list(REFERENCES.values()))[0]
            phrase = self.pick.choice(references(self.language, kind))
            text = self._resolved(phrase, filled, taken)
            if text:
                return text
        return self._number(filled, taken)

    def _resolved(self, segment: Segment, filled: Filled, taken: set[str]) -> str:
        """A reference phrase with the orders that it means; empty when it means none of theirs."""
        kind = segment.labels[0] if segment.labels else "item"
        orders = list(self.offered or self.shop.customer.orders)
        if kind == "order":
            return BLANK.sub(lambda _: self._number(filled, taken), segment.text)
        if kind == "item":
            return BLANK.sub(lambda _: self._item(filled, taken), segment.text)
        if kind in ("tail", "head"):
            return self._part_of_number(kind, segment.text, orders, filled, taken)
        meant = self._meant(kind, orders)
        if not meant or any(order.id in taken for order in meant):
            return ""
        filled.orders += [order.id for order in meant]
        taken |= {order.id for order in meant}
        return segment.text

    def _meant(self, kind: str, orders: list[OrderView]) -> list[OrderView]:
        by_age = sorted(orders, key=lambda order: order.created_at)
        if kind.startswith("nth="):
            place = int(kind[4:])
            return orders[place - 1 : place] if len(orders) > 1 else []
        if kind.startswith("state="):
            found = [order for order in orders if order.status == kind[6:]]
            return found if len(found) == 1 else []
        choices = {"last": orders[-1:], "newest": by_age[-1:], "oldest": by_age[:1], "all": orders}
        if kind == "both":
            return orders if len(orders) == 2 else []
        return choices.get(kind, []) if len(orders) > 1 else []

    def _part_of_number(
        self, kind: str, text: str, orders: list[OrderView], filled: Filled, taken: set[str]
    ) -> str:
        order = self._order(taken)
        size = self.pick.choice((4, 4, 4, 3, 5))
        if order is None or len(order.id) <= size:
            return ""
        part = order.id[-size:] if kind == "tail" else order.id[:size]
        if (
            sum(o.id.endswith(part) if kind == "tail" else o.id.startswith(part) for o in orders)
            != 1
        ):
            return ""
        filled.orders.append(order.id)
        taken.add(order.id)
        return BLANK.sub(part, text)


def names_of(shop: MemoryShop, order: OrderView, language: str) -> list[str]:
    article = shop.articles[order.id]
    return [article.name[language], *article.aliases[language]]


def stands(name: str, text: str) -> bool:
    """Whether a name stands in a text, as a whole word where it is Latin."""
    if name.isascii():
        return bool(re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", text))
    return name in text


def typed(number: str, pick: random.Random, own: bool) -> str:
    """An order id as a customer may type it."""
    chance = pick.random()
    letters = len(number) - len(number.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    if chance < 0.70:
        return number
    if chance < 0.78:
        return "#" + number
    if chance < 0.82:
        return number.lower()
    if chance < 0.88 and len(number) >= 8:
        size, gap = pick.choice((3, 4)), pick.choice((" ", "-"))
        return gap.join(number[i : i + size] for i in range(0, len(number), size))
    if chance < 0.93 and letters:
        return (
            number[letters:]
            if own and pick.random() < 0.7
            else number[:letters] + "-" + number[letters:]
        )
    if chance < 0.96:
        return "".join(chr(ord(c) + 0xFEE0) for c in number)
    return "No." + number if canonical(number).isdigit() else number
