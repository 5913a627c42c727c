"""Sixteen customers at once, while the order system is slow, fails and loses answers.

Every message is answered, the database is true, and nobody's business is mixed.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

import pytest
from scripted import YES, says, scripted
from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from support import NOW
from test_orders import rows

from csproto.desk.assistant import Assistant, Turn
from csproto.desk.conversation import Conversation
from csproto.desk.transcript import clean
from csproto.desk.triage import Triage, Wish
from csproto.shop import demo
from csproto.shop.facts import NO_TICKET
from csproto.shop.orders import Faults, OrderApi, OrderSystemDown
from csproto.shop.store import ONE_OPEN, Audit, Order, Ticket, open_engine

CUSTOMERS = 16


@dataclass
class Troubles(Faults):
    """Faults that are counted."""

    struck: int = field(default=0, init=False)

    def before(self, patience: float) -> None:
        try:
            super().before(patience)
        except OrderSystemDown:
            self.struck += 1
            raise

    def after_write(self) -> None:
        try:
            super().after_write()
        except OrderSystemDown:
            self.struck += 1
            raise


def troubles(seed: int = 1) -> Troubles:
    return Troubles(latency=0.01, error_rate=0.15, timeout_rate=0.1, half_done_rate=0.3, seed=seed)


DEEDS: dict[str, list[tuple[str, Triage]]] = {  # by the state of the order that they are about
    "unpaid": [("取消订单{id}", says("cancel_order")), ("是的，取消", YES)],
    "paid": [
        ("订单{id}改到世纪大道8号", says("change_address", address="世纪大道8号")),
        ("是", YES),
    ],
    "shipped": [("订单{id}快递单号多少", says("tracking_number")), ("谢谢", says("other"))],
    "delivered": [
        ("订单{id}我要退货，尺码偏小", says("return_exchange", cause="size")),
        ("是，退货", YES),
    ],
    "cancelled": [("订单{id}退款什么时候到账", says("refund_status")), ("好的", says("other"))],
}


def messages(order: Order) -> list[tuple[str, Triage]]:
    """Six messages about one order, with what a reader makes of them."""
    said = [("订单{id}现在什么状态", says("order_status")), *DEEDS[order.status]]
    said += [
        ("订单{id}开发票", says("invoice")),
        ("是的，开票", YES),
        ("我要投诉，太慢了", says("complaint")),
    ]
    return [
        (clean(text.format(id=order.id)), about(order.id, label, "{id}" in text))
        for text, label in said
    ]


def about(order_id: str, label: Triage, named: bool) -> Triage:
    wishes = [Wish(wish.intent, (order_id,) if named else (), wish.slots) for wish in label.wishes]
    return Triage(label.act, tuple(wishes))


MESSAGES = 6


def parties(engine: Engine) -> list[Order]:
    """One order each of sixteen customers, the states of an order by turns."""
    with Session(engine, expire_on_commit=False) as session:
        orders = session.scalars(
            select(Order).where(Order.customer_id.startswith("G")).order_by(Order.id)
        ).all()
    states: dict[object, list[Order]] = {}
    for order in orders:
        states.setdefault((order.status, order.delivered_at), []).append(order)
    by_turns = (order for row in zip_longest(*states.values()) for order in row if order)
    first: dict[str, Order] = {}
    for order in by_turns:
        first.setdefault(order.customer_id, order)
    return list(first.values())[:CUSTOMERS]


@dataclass
class Load:
    """What a run was given, and what came of it.

    Turns of a conversation stand in the order they were sent.
    """

    engine: Engine
    before: dict[str, Order]
    talks: list[Conversation]
    turns: list[list[Turn]]


def run(desk: Assistant, orders: list[Order], workers: int, faults: Troubles) -> Load:
    """Open every conversation while all is well, then answer all messages in trouble."""
    engine = desk.orders.engine
    before = {order.id: order for order in rows(engine, Order)}
    talks = [desk.open(order.customer_id) for order in orders]
    desk.orders.faults = faults
    said = [[text for text, _ in messages(order)] for order in orders]
    batch = [
        (talk, texts[place])
        for place in range(MESSAGES)
        for talk, texts in zip(talks, said, strict=True)
    ]
    results = desk.turns(batch, workers=workers)
    failed = [result for result in results if not isinstance(result, Turn)]
    assert failed == []
    assert [turn.text for turn in results] == [text for _, text in batch]
    return Load(engine, before, talks, [results[place::CUSTOMERS] for place in range(CUSTOMERS)])


# -- what must be true, whatever the model made of the messages


def check(load: Load) -> None:
    every_message_is_answered(load)
    every_write_was_decided_and_every_decision_written_once(load)
    tickets_and_audit_agree(load)
    orders_are_as_the_audit_says(load)
    nobody_hears_of_anybody_else(load)


def every_message_is_answered(load: Load) -> None:
    turns = [turn for turns in load.turns for turn in turns]
    assert len(turns) == MESSAGES * CUSTOMERS
    assert all(turn.reply.strip() for turn in turns)
    assert [talk.turns for talk in load.talks] == [MESSAGES] * CUSTOMERS


def keys_of(talk: Conversation, turns: list[Turn]) -> Iterator[tuple[str, bool]]:
    """For each decision that writes its key.

    For each that the order system's troubles undid, the beginning of what it may
    have left.
    """
    for number, turn in enumerate(turns):
        message = hashlib.sha256(turn.text.encode()).hexdigest()[:8]
        for decision in turn.decisions:
            key = f"{talk.id}:{number}:"
            if decision.rule == "system.unavailable":
                yield f"{key}{message}:unavailable:", True
                yield key, False
            elif write := decision.write:
                yield f"{key}{message}:{write.kind}:{write.order_id}", True


def every_write_was_decided_and_every_decision_written_once(load: Load) -> None:
    audit = {row.key: row for row in rows(load.engine, Audit)}
    expected, possible = set(), set()
    for talk, turns in zip(load.talks, load.turns, strict=True):
        for key, certain in keys_of(talk, turns):
            (expected if certain else possible).add(key)
            assert not certain or audit[key].customer_id == talk.customer_id
    lost_answers = (
        audit.keys() - expected
    )  # writes that happened though nobody heard so: their turns said as much
    assert all(any(key.startswith(beginning) for beginning in possible) for key in lost_answers)


def tickets_and_audit_agree(load: Load) -> None:
    tickets = {f"ticket {ticket.id}": ticket for ticket in rows(load.engine, Ticket)}
    named = Counter(row.detail for row in rows(load.engine, Audit) if row.action not in NO_TICKET)
    assert named.keys() == tickets.keys()
    for row in rows(load.engine, Audit):
        if row.action not in NO_TICKET:
            ticket = tickets[row.detail]
            assert (ticket.customer_id, ticket.kind, ticket.order_id) == (
                row.customer_id,
                row.action,
                row.order_id,
            )
            assert named[row.detail] == 1 or row.action in ONE_OPEN


def orders_are_as_the_audit_says(load: Load) -> None:
    done: dict[str, Counter] = {}
    for row in rows(load.engine, Audit):
        done.setdefault(row.order_id, Counter())[row.action] += 1
    for order in rows(load.engine, Order):
        was, writes = load.before[order.id], done.get(order.id, Counter())
        assert max((writes[kind] for kind in ("cancel", "invoice")), default=0) <= 1
        assert (order.cancelled_at != was.cancelled_at) == bool(writes["cancel"])
        assert (order.invoice != was.invoice) == bool(writes["invoice"])
        assert (order.address != was.address) == bool(writes["address"])
        assert writes["return"] - writes["withdraw"] in (0, 1)
        assert (order.refund == "requested") == (
            writes["return"] > writes["withdraw"] or was.refund == "requested"
        )


def nobody_hears_of_anybody_else(load: Load) -> None:
    owners = {order_id: order.customer_id for order_id, order in load.before.items()}
    for talk, turns in zip(load.talks, load.turns, strict=True):
        others = {order_id for order_id, owner in owners.items() if owner != talk.customer_id}
        said = [m.content for m in talk.transcript if m.role == "user"]
        assert said == [turn.text for turn in turns][-len(said) :]
        assert not others & set(
            re.findall(r"[0-9A-Z]{6,}", " ".join(m.content for m in talk.transcript))
        )


# -- without a model, hard; with one, once


@pytest.mark.parametrize("seed", range(3))
def test_sixteen_at_once_with_perfect_understanding(empty_database: str, seed: int) -> None:
    engine = open_engine(empty_database)
    demo.fill(engine, NOW)
    orders = parties(engine)
    labels = {text: label for order in orders for text, label in messages(order)}
    struck = troubles(seed)
    load = run(scripted(OrderApi(engine), labels.__getitem__), orders, 16, struck)
    check(load)
    assert struck.struck > 20
    kinds = Counter(row.action for row in rows(engine, Audit))
    assert {"cancel", "address", "return", "invoice", "complaint"} <= kinds.keys()
    engine.dispose()


def test_sixteen_at_once_on_the_real_server(make_assistant) -> None:
    desk, struck = make_assistant(), troubles()
    load = run(desk, parties(desk.orders.engine), 16, struck)
    check(load)
    assert struck.struck > 20
    assert len(rows(load.engine, Audit)) > 20
