"""Simulated customers with orders, and the order system that the corpus's own desk asks.

All in memory.
"""

import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from csproto.minimodel.lists import Article, articles, phrases
from csproto.shop.demo import CARRIERS
from csproto.shop.facts import CustomerFacts, OrderView, Write, foreseen
from csproto.shop.orders import OrderMoved

STATES = (
    "unpaid",
    "paid",
    "paid",
    "paid",
    "shipped",
    "shipped",
    "delivered",
    "delivered",
    "delivered",
    "cancelled",
)
AGES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 20, 30)
POLICY_CATEGORIES = {"fresh": "fresh", "custom": "custom", "digital": "digital"}
CATALOGUED = 0.5  # share of customers whose shop has other names for its articles
OWN_PREFIXES = ("JD", "SN", "DD", "TB", "PO", "CN", "OR", "XS", "A", "B", "K", "W")


def order_number(pick: random.Random) -> str:
    """An order id in canonical form: 4 to 20 digits, sometimes with letters."""
    length = pick.choice((4, 5, 6, 6, 6, 6, 7, 8, 9, 10, 10, 11, 12, 12, 13, 14, 15, 16, 18, 20))
    digits = "".join(pick.choice(string.digits) for _ in range(length))
    digits = digits if digits[0] != "0" else pick.choice("123456789") + digits[1:]
    if length == 11 and digits[0] == "1":  # would look like a telephone number
        digits = pick.choice("23456789") + digits[1:]
    if length >= 6 and pick.random() < 0.15:
        return pick.choice(OWN_PREFIXES) + digits[:14]
    return digits


@dataclass
class MemoryShop:
    """An order system for one simulated customer. `articles` tells what each order is of."""

    customer: CustomerFacts
    articles: Mapping[str, Article]
    tickets: int = 0

    def facts(self, customer_id: str) -> CustomerFacts:
        return self.customer

    def leave_ticket(self, key: str, customer_id: str, summary: str, now: datetime) -> int:
        self.tickets += 1
        return self.tickets

    def write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        """Make a change, as the real order system would."""
        order = self.customer.order(write.order_id)
        if write.kind == "cancel" and order and order.status == "cancelled":
            raise OrderMoved("cancelled already")
        self.customer = foreseen(self.customer, write, now)
        return self.leave_ticket(key, customer_id, write.detail, now)


def shop(
    pick: random.Random,
    language: str,
    now: datetime,
    held_out: bool = False,
    catalogued: float = CATALOGUED,
) -> MemoryShop:
    """A customer with up to twelve orders, newest first.

    catalogued: the probability that the shop has other names for its articles.
    """
    count = pick.choices((0, 1, 2, 3, 4, 5, 6, 8, 12), (3, 24, 27, 19, 12, 7, 4, 3, 1))[0]
    chosen = pick.sample(articles(held_out), count)
    named_in = language if pick.random() < 0.88 else {"zh": "en", "en": "zh"}[language]
    words = pick.random() < catalogued
    orders = [_order(pick, article, named_in, now, words) for article in chosen]
    orders = list({order.id: order for order in orders}.values())
    known = {order.id: article for order, article in zip(orders, chosen, strict=False)}
    orders.sort(key=lambda order: order.created_at, reverse=True)
    joined = now - timedelta(days=pick.choice((2, 15, 90, 400, 1500)))
    failed, matches = pick.choice((0, 0, 0, 2, 5)), pick.random() < 0.85
    return MemoryShop(CustomerFacts("C", tuple(orders), joined, failed, matches), known)


def other_names(article: Article) -> str:
    """The article's names in both languages, as a shop's catalogue may hold them."""
    return "|".join(
        name
        for language in ("zh", "en")
        for name in (article.name[language], *article.aliases[language])
    )


def _order(
    pick: random.Random, article: Article, language: str, now: datetime, words: bool
) -> OrderView:
    status, age = pick.choice(STATES), pick.choice(AGES)

    def ago(days: float) -> datetime:
        return now - timedelta(days=days, minutes=pick.randrange(600))

    shipped = status in ("shipped", "delivered")
    refund = "approved" if status == "cancelled" and pick.random() < 0.7 else "none"
    if status == "delivered":
        refund = pick.choices(("none", "requested", "approved", "paid"), (82, 6, 6, 6))[0]
    return OrderView(
        id=order_number(pick),
        item=article.name[language],
        names=other_names(article) if words else "",
        category=POLICY_CATEGORIES.get(article.category, "home"),
        status=status,
        amount=pick.choice((pick.randrange(5, 500) * 100, pick.randrange(500, 900_000))),
        created_at=ago(age + 4),
        opened=pick.random() < 0.5,
        promised_at=ago(pick.choice((-3, -2, -1, 0, 1, 3)))
        if status == "paid" and pick.random() < 0.9
        else None,
        shipped_at=ago(age + 2) if shipped else None,
        delivered_at=ago(age) if status == "delivered" else None,
        cancelled_at=ago(age) if status == "cancelled" else None,
        carrier=pick.choice(CARRIERS[language]) if shipped else "",
        tracking_number=f"SF{pick.randrange(10**10, 10**13)}" if shipped else "",
        payment=pick.choices(("ok", "failed", "duplicate"), (80, 10, 10))[0],
        refund=refund,
        refund_at=ago(pick.choice((0, 1, 3, 6, 10, 14, 17, 25))) if refund != "none" else None,
        invoice=pick.choices(("none", "issued"), (70, 30))[0] if status != "unpaid" else "none",
        recipient=pick.choice(phrases(language, "names")),
        phone=f"1{pick.choice('3456789')}{pick.randrange(10**8, 10**9)}",
        address=pick.choice(phrases(language, "addresses")),
    )
