"""What a crash, a race or an erasure in the midst of a turn leaves behind: the database of a turn that nothing happened to."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rehearsal import HonestRun, Rehearsal
from sqlalchemy import delete, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from support import NOW
from test_dialogue import MESSAGES, customers
from test_orders import rows
from test_policy import CANCEL, RETURN, YES, I, an_order, customer, says

from csproto.assistant import Part, Token, Turn
from csproto.bounds import Bounds, MessageRefused
from csproto.conversation import Conversation, resume
from csproto.engine.endpoint import StopSignal
from csproto.shop.migrations import migrate
from csproto.shop.orders import CustomerFacts, CustomerUnknown, OrderApi, OrderSystemDown, OrderView, Write
from csproto.shop.store import Audit, Base, ConversationRow, Customer, Order, Ticket, open_engine
from csproto.triage import Act, Triage

CUSTOMER = "C"


def order_row(order: OrderView) -> Order:
    """The order of a view, with times that give it its status."""
    same = {c.name: getattr(order, c.name) for c in Order.__table__.columns if hasattr(order, c.name)}
    paid = None if order.status == "unpaid" else order.created_at
    left = order.status in ("shipped", "delivered")
    times = {"shipped_at": order.shipped_at if left else None, "cancelled_at": order.cancelled_at}
    return Order(**same | times, customer_id=CUSTOMER, paid_at=paid)


@cache
def in_memory() -> Engine:
    """One database for all examples: making one takes longer than most conversations."""
    engine = open_engine("sqlite://")
    migrate(engine)
    return engine


def shop_of(facts: CustomerFacts) -> Engine:
    """A database in memory that says of a customer exactly these facts, and nothing else."""
    engine = in_memory()
    with Session(engine) as session, session.begin():
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(delete(table))
        session.add(
            Customer(
                id=CUSTOMER,
                name="",
                language="zh",
                joined_at=facts.joined_at,
                failed_payments=facts.failed_payments,
                address_matches=facts.address_matches,
            )
        )
        session.flush()
        session.add_all(order_row(order) for order in facts.orders)
        session.add_all(
            Ticket(customer_id=CUSTOMER, order_id=order_id, kind="urge", created_at=at)
            for order_id, at in facts.urged_at.items()
        )
    return engine


def everything(engine: Engine) -> dict[str, list]:
    """The whole database, without what was said."""
    with engine.connect() as connection:
        return {
            table.name: [
                {name: value for name, value in row.items() if name != "transcript"}
                for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in Base.metadata.sorted_tables
        }


# -- crashes


class Crash(BaseException):
    """The process is gone."""


class Fate:
    """At which instants of a conversation the process dies."""

    def __init__(self, instants: Iterable[int] = ()) -> None:
        self.instants, self.now, self.dead = set(instants), 0, False

    def tick(self) -> None:
        self.now += 1
        if self.now in self.instants:
            self.dead = True
            raise Crash


class MortalApi(OrderApi):
    fate: Fate

    def write(self, *arguments: object) -> int:
        self.fate.tick()
        number = super().write(*arguments)
        self.fate.tick()
        return number


class MortalRun(HonestRun):
    def _reply(self, part: Part) -> Iterator[Token]:
        self.assistant.orders.fate.tick()
        yield from super()._reply(part)

    def _close(self, turn: Turn) -> None:
        if not self.assistant.orders.fate.dead:  # the dead tidy nothing up
            self.assistant.orders.fate.tick()
            super()._close(turn)


class Mortal(Rehearsal):
    run = MortalRun


def lived(facts: CustomerFacts, messages: list[Triage], fate: Fate) -> dict[str, list]:
    """The database after a conversation. After a crash it is taken up where the database says it stands, and the same message is sent again."""
    engine = shop_of(facts)
    orders = MortalApi(engine)
    orders.fate = fate
    conversation = Conversation(CUSTOMER, NOW, id="one")

    def clock() -> datetime:
        return NOW + timedelta(minutes=conversation.turns)

    while conversation.turns < len(messages):
        desk = Mortal(orders, lambda conversation, _: messages[conversation.turns], clock=clock)
        try:
            desk.turn(conversation, f"message {conversation.turns} {messages[conversation.turns].to_wire()}")
        except Crash:
            fate.dead = False
            with Session(engine) as session:
                known = session.get(ConversationRow, "one")
            conversation = resume(engine, "one", CUSTOMER) if known else Conversation(CUSTOMER, NOW, id="one")
    return everything(engine)


@given(customers(), MESSAGES, st.sets(st.integers(1, 24), min_size=1, max_size=4))
def test_a_crash_anywhere_ends_in_the_same_database(
    facts: CustomerFacts, groups: list[tuple[Triage, ...]], instants: set[int]
) -> None:
    messages = [message for group in groups for message in group]
    assert lived(facts, messages, Fate(instants)) == lived(facts, messages, Fate())


PAID, HERE, OTHER = an_order("paid", id="100001"), an_order(id="300001"), an_order(id="300002")


@pytest.mark.parametrize("instant", range(1, 11))
def test_a_decision_that_its_own_write_would_change_is_not_taken_again(instant: int) -> None:
    """One order has no invoice: it is meant. After the write none has, the question would be which one, and the complaint would come later, again."""
    facts = customer(HERE, replace(OTHER, invoice="issued"))
    messages = [Triage(intent=I.INVOICE, more=[I.COMPLAINT]), says(I.OTHER, Act.DENY)]
    plain = lived(facts, messages, Fate())
    assert sorted(row["action"] for row in plain["audit"]) == ["complaint", "invoice"]
    assert lived(facts, messages, Fate({instant})) == plain


def test_another_message_after_the_crash_has_its_own_write() -> None:
    engine = shop_of(customer(HERE))
    orders = MortalApi(engine)
    orders.fate = Fate({2})  # after the write, before the reply
    desk = Mortal(orders, lambda _, text: Triage(intent=I.COMPLAINT, reason=text))
    conversation = Conversation(CUSTOMER, NOW)
    with pytest.raises(Crash):
        desk.turn(conversation, "too slow")
    orders.fate = Fate()
    desk.turn(resume(engine, conversation.id, CUSTOMER), "rude as well")
    (ticket,) = rows(engine, Ticket)  # one complaint is open, and it has both
    assert "too slow" in ticket.summary
    assert "rude as well" in ticket.summary
    assert len(rows(engine, Audit)) == 2


# -- races


class Racing(OrderApi):
    """An order system in which something happens between facts and write."""

    meanwhile: Callable[[Order], None]
    times = 1

    def _write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        if self.times and write.order_id:
            self.times -= 1
            with Session(self.engine) as session, session.begin():
                self.meanwhile(session.get_one(Order, write.order_id))
        return super()._write(key, customer_id, write, now, why)


def raced(order: OrderView, messages: list[Triage], meanwhile: Callable[[Order], None], times: int = 1) -> tuple:
    engine = shop_of(customer(order))
    orders = Racing(engine)
    orders.meanwhile, orders.times = meanwhile, times
    desk = Rehearsal(orders, lambda conversation, _: messages[conversation.turns])
    conversation = desk.open(CUSTOMER)
    turns = [desk.turn(conversation, f"message {place}") for place in range(len(messages))]
    return engine, turns[-1], conversation


def ships(order: Order) -> None:
    order.shipped_at = NOW


@pytest.mark.parametrize(
    ("wish", "rule"),
    [(CANCEL, "cancel.locked"), (says(I.CHANGE_ADDRESS, address="5 Pine Row"), "address.locked")],
    ids=["cancel", "address"],
)
def test_an_order_that_ships_before_the_write_is_told_as_shipped(wish: Triage, rule: str) -> None:
    engine, turn, conversation = raced(PAID, [wish, YES], ships)
    assert turn.decision.rule == rule
    assert turn.decision.write is None
    assert not conversation.state.waiting
    (order,) = rows(engine, Order)
    assert (order.cancelled_at, order.address) == (None, "")
    assert rows(engine, Audit) == []


def test_a_return_asked_for_elsewhere_meanwhile_is_found_open() -> None:
    def asks(order: Order) -> None:
        order.refund, order.refund_at = "requested", NOW

    engine, turn, _ = raced(HERE, [RETURN], asks)
    assert turn.decision.rule == "return.already_open"
    assert (rows(engine, Audit), rows(engine, Ticket)) == ([], [])


def test_an_order_that_never_holds_still_goes_to_a_human() -> None:
    def toggles(order: Order) -> None:
        order.invoice = "issued"

    class Restless(Racing):
        def facts(self, customer_id: str) -> CustomerFacts:
            with Session(self.engine) as session, session.begin():
                session.scalars(select(Order)).one().invoice = "none"
            return super().facts(customer_id)

    orders = Restless(shop_of(customer(HERE)))
    orders.meanwhile, orders.times = toggles, 100
    desk = Rehearsal(orders, lambda *_: says(I.INVOICE))
    turn = desk.turn(desk.open(CUSTOMER), "发票")
    assert turn.decision.action == "unavailable"
    assert [t.kind for t in rows(orders.engine, Ticket)] == ["unavailable"]


# -- erasure


def test_a_customer_erased_between_two_messages_is_told_nothing_more(engine: Engine) -> None:
    desk = Rehearsal(OrderApi(engine), lambda *_: says(I.OTHER))
    conversation = desk.open("C001")
    desk.turn(conversation, "你好")
    desk.orders.forget("C001")
    with pytest.raises(CustomerUnknown):
        desk.turn(conversation, "你好")
    assert rows(engine, ConversationRow, customer_id="C001") == []


def test_a_customer_erased_in_the_midst_of_an_answer_is_not_written_again(engine: Engine) -> None:
    desk = Rehearsal(OrderApi(engine), lambda *_: says(I.OTHER))
    events = desk.stream(desk.open("C001"), "你好")
    next(events)
    desk.orders.forget("C001")
    list(events)
    assert rows(engine, ConversationRow, customer_id="C001") == []


def test_a_database_that_is_gone_is_said_in_one_line(tmp_path) -> None:
    desk = Rehearsal(OrderApi(open_engine(f"sqlite:///{tmp_path / 'nothing.db'}")), lambda *_: says(I.OTHER))
    with pytest.raises(OrderSystemDown, match="cannot be used"):
        desk.turn(Conversation("C001", NOW), "你好")


# -- bounds


def a_desk(messages_per_minute: int | None = None) -> Rehearsal:
    engine = open_engine("sqlite://")
    migrate(engine)
    with Session(engine) as session, session.begin():
        for name in ("C", "D"):
            session.add(Customer(id=name, name="", language="zh", joined_at=NOW))
    return Rehearsal(OrderApi(engine), lambda *_: says(I.OTHER), messages_per_minute=messages_per_minute)


def test_a_conversation_runs_one_turn_at_a_time_and_others_beside_it() -> None:
    desk = a_desk()
    first, second = desk.open("C"), desk.open("C")
    under_way = desk.stream(first, "你好")
    next(under_way)
    with pytest.raises(MessageRefused, match="still being answered") as caught:
        desk.turn(first, "在吗")
    assert caught.value.retry_after > 0
    with pytest.raises(MessageRefused):
        desk.turn(replace(first), "在吗")  # the same conversation, taken up a second time
    desk.turn(second, "在吗")
    list(under_way)
    desk.turn(first, "在吗")
    assert (first.turns, second.turns) == (2, 1)


def test_an_answer_nobody_reads_to_its_end_frees_the_conversation() -> None:
    desk = a_desk()
    conversation = desk.open("C")
    events = desk.stream(conversation, "你好", StopSignal())
    next(events)
    events.close()
    assert desk.turn(conversation, "你好").reply


def test_a_customer_who_writes_too_fast_is_told_when_to_come_back() -> None:
    clock = iter([0.0, 10.0, 20.0, 24.5, 24.5, 60.0, 60.0, 70.0, 80.0])
    bounds = Bounds(3, clock=lambda: next(clock))
    first, second, other = (Conversation(customer_id, NOW) for customer_id in ("C", "C", "D"))

    def send(conversation: Conversation) -> None:
        with bounds.admitted(conversation, "hi"):
            pass

    for conversation in (first, second, first):  # over all conversations
        send(conversation)
    with pytest.raises(MessageRefused, match=r"3 are the most. Send it again in 36 s") as caught:
        send(second)
    assert caught.value.retry_after == 35.5
    send(other)
    send(second)
    with pytest.raises(MessageRefused, match="again in 11 s"):
        send(second)
    for conversation in (first, second):
        send(conversation)


def test_the_assistant_keeps_the_rate() -> None:
    desk = a_desk(messages_per_minute=2)
    for _ in range(2):
        desk.turn(desk.open("C"), "你好")
    with pytest.raises(MessageRefused, match="2 are the most"):
        desk.turn(desk.open("C"), "你好")
    desk.turn(desk.open("D"), "你好")


# -- many at once


def test_results_come_in_the_order_of_the_batch_and_single_failures_among_them(engine: Engine) -> None:
    desk = Rehearsal(OrderApi(engine), lambda *_: says(I.OTHER))
    names = ["C001", "C002", "C003", "C004"]
    batch = [(desk.open(name), f"hello from {name}") for name in names]
    batch.insert(2, (desk.open("C005"), "   "))
    batch.append((Conversation("C999", NOW), "hello"))
    results = desk.turns(batch, workers=3, progress=False)
    assert [r.text if isinstance(r, Turn) else type(r) for r in results] == [
        "hello from C001",
        "hello from C002",
        MessageRefused,
        "hello from C003",
        "hello from C004",
        CustomerUnknown,
    ]


def test_messages_of_one_conversation_keep_their_order_in_a_batch(engine: Engine) -> None:
    desk = Rehearsal(OrderApi(engine), lambda *_: says(I.OTHER))
    talks = [desk.open("C001"), desk.open("C002")]
    batch = [(talks[place % 2], f"message {place}") for place in range(12)]
    results = desk.turns(batch, workers=8, progress=False)
    assert [turn.text for turn in results] == [text for _, text in batch]
    for place, talk in enumerate(talks):
        said = [m.content for m in talk.transcript if m.role == "user"]
        assert said == [f"message {n}" for n in range(place, 12, 2)]


def test_conversations_of_a_batch_run_at_the_same_time(engine: Engine) -> None:
    """Each waits until all are there."""
    barrier = threading.Barrier(4, timeout=20)

    def label(*_: object) -> Triage:
        barrier.wait()
        return says(I.OTHER)

    desk = Rehearsal(OrderApi(engine), label)
    results = desk.turns([(desk.open("C001"), "你好") for _ in range(4)], workers=4, progress=False)
    assert [type(result) for result in results] == [Turn] * 4


def test_a_batch_shows_how_far_it_is(engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    desk = Rehearsal(OrderApi(engine), lambda *_: says(I.OTHER))
    desk.turns([(desk.open("C001"), "你好")], progress=True)
    assert "answering" in capsys.readouterr().err
    desk.turns([(desk.open("C001"), "你好")], progress=False)
    assert capsys.readouterr().err == ""


# -- what is logged


def test_a_turn_leaves_one_line_and_nothing_personal_in_it(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    said = "20261105000178改到南京市鼓楼区汉口路22号3栋501室，电话13800138000，邮箱li.lei@example.com"
    desk = Rehearsal(
        OrderApi(engine),
        lambda *_: Triage(
            intent=I.CHANGE_ADDRESS, act=Act.ASK, order_id="20261105000178", address="南京市鼓楼区汉口路22号3栋501室"
        ),
    )
    with caplog.at_level(logging.DEBUG, logger="csproto"):
        desk.turn(desk.open("C015"), said)
    (record,) = [r for r in caplog.records if r.name.startswith("csproto")]
    line = record.getMessage()
    for part in ("20261105000178", "change_address", "address_locked by address.locked"):
        assert part in line
    for part in ("13800138000", "li.lei", "汉口路", "501"):
        assert part not in line


def test_eight_threads_may_use_one_assistant(engine: Engine) -> None:
    desk = Rehearsal(OrderApi(engine), lambda *_: says(I.COMPLAINT))
    with ThreadPoolExecutor(8) as pool:
        turns = list(pool.map(lambda place: desk.turn(desk.open("C001"), f"complaint {place}"), range(24)))
    assert len({part.facts["ticket"] for turn in turns for part in turn.parts}) == 1  # one open complaint
