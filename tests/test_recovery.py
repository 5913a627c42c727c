"""What a crash, a race or an erasure in the midst of a turn leaves behind.

The database of a turn that nothing happened to.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import NO, YES, Script, lose_the_end, says, scripted
from sqlalchemy import delete, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from support import NOW
from test_orders import rows

from csproto.desk.admission import MessageRefused
from csproto.desk.conversation import Conversation, resume
from csproto.desk.handbook import default_handbook
from csproto.desk.triage import Triage, Wish
from csproto.desk.turn import Decided, Turn
from csproto.shop.facts import CustomerFacts, OrderView, Write
from csproto.shop.migrations import migrate
from csproto.shop.orders import CustomerUnknown, OrderApi, OrderSystemDown
from csproto.shop.store import Audit, Base, ConversationRow, Customer, Order, Ticket, open_engine

CUSTOMER, NONCE = "C", "1" * 15
HANDBOOK = default_handbook()


def an_order(number: str, status: str = "delivered", **fields: object) -> OrderView:
    """A shirt, paid four days ago, sent three and delivered two days ago."""

    def ago(days: int) -> datetime:
        return NOW - timedelta(days=days)

    sent = (
        {"carrier": "SF", "tracking_number": f"SF{number}"}
        if status in ("shipped", "delivered")
        else {}
    )
    return OrderView(
        number,
        "shirt",
        "clothing",
        status,
        19900,
        ago(4),
        shipped_at=ago(3) if sent else None,
        delivered_at=ago(2) if status == "delivered" else None,
        **sent,
        **fields,
    )


def facts_of(*orders: OrderView) -> CustomerFacts:
    return CustomerFacts(CUSTOMER, orders, NOW - timedelta(days=900))


def order_row(order: OrderView) -> Order:
    """The order of a view, with times that give it its status."""
    same = {
        c.name: getattr(order, c.name) for c in Order.__table__.columns if hasattr(order, c.name)
    }
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
    """A database in memory that has exactly these facts of a customer, and nothing else."""
    engine = in_memory()
    with Session(engine) as session, session.begin():
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(delete(table))
        session.add(
            Customer(
                id=CUSTOMER,
                name="",
                language=facts.language,
                joined_at=facts.joined_at,
                failed_payments=facts.failed_payments,
                address_matches=facts.address_matches,
            )
        )
        session.flush()
        session.add_all(order_row(order) for order in facts.orders)
    return engine


def everything(engine: Engine) -> dict[str, list]:
    """The whole database, without what the model was told.

    After a crash it hears of a changed order sooner.
    """
    with engine.connect() as connection:
        found = {
            table.name: [
                dict(row)
                for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in Base.metadata.sorted_tables
        }
    for row in found[ConversationRow.__tablename__]:
        del row["transcript"]
        del row["state"]["seen"]
    return found


# -- crashes


@dataclass(frozen=True)
class Message:
    text: str
    means: Triage


class Crash(BaseException):
    """The process is gone."""


class Fate:
    """At which instants of a conversation the process dies."""

    def __init__(self, instants: Iterable[int] = ()) -> None:
        self.instants, self.now = set(instants), 0

    def tick(self) -> None:
        self.now += 1
        if self.now in self.instants:
            raise Crash


class MortalApi(OrderApi):
    """An order system that the process may lose before and after each write."""

    def __init__(self, engine: Engine, fate: Fate) -> None:
        super().__init__(engine)
        self.fate = fate

    def write(self, *arguments: object) -> int:
        self.fate.tick()
        number = super().write(*arguments)
        self.fate.tick()
        return number


def mortal_desk(orders: MortalApi, means: Callable[[str], Triage], **options: object):
    """A desk whose process may die around each write, at each saving and before each reply."""

    def keep(conversation: Conversation) -> None:
        orders.fate.tick()
        conversation.save(orders.engine)
        orders.fate.tick()

    class MortalScript(Script):
        def choose(self, *arguments):
            orders.fate.tick()
            return super().choose(*arguments)

    return scripted(orders, means, script=MortalScript, keep=keep, **options)


def lived(facts: CustomerFacts, messages: list[Message], fate: Fate) -> dict[str, list]:
    """The database after a conversation, and by which rules each message was answered.

    After a crash the conversation goes on from where the database has it, and the
    same message is sent again.
    """
    answered: dict[int, list[str]] = {}
    engine = shop_of(facts)
    orders = MortalApi(engine, fate)

    def begin() -> Conversation:
        opened = scripted(orders, Triage()).open(CUSTOMER, nonce=NONCE)
        return replace(opened, id="one", started_at=NOW)

    conversation = begin()

    def means(_: str) -> Triage:
        means, open_question = messages[conversation.turns].means, conversation.state.question
        if open_question or means.act in ("ask", "correct"):
            return means
        return replace(
            means, act="ask", wishes=means.wishes or (Wish("other"),)
        )  # all that the grammar allows

    def clock() -> datetime:
        return NOW + timedelta(minutes=conversation.turns)

    while conversation.turns < len(messages):
        desk = mortal_desk(orders, means, clock=clock)
        try:
            for event in desk.stream(conversation, messages[place := conversation.turns].text):
                if isinstance(event, Decided):
                    answered[place] = [decision.rule for decision in event.turn.decisions]
        except Crash:
            with Session(engine) as session:
                known = session.get(ConversationRow, "one")
            conversation = resume(engine, "one", CUSTOMER) if known else begin()
    return everything(engine) | {"answered": [answered[place] for place in sorted(answered)]}


PAID, HERE, SENT = an_order("100001", "paid"), an_order("300001"), an_order("200001", "shipped")
FACTS = (
    facts_of(PAID, HERE),
    facts_of(HERE, an_order("300002", refund="requested", refund_at=NOW - timedelta(days=1))),
    facts_of(replace(PAID, payment="duplicate"), SENT, an_order("900001", "unpaid")),
)
# Each after the wish that it answers, most of the time.
ANSWERS = (
    Message("是的", YES),
    Message("yes, and I complain", replace(YES, wishes=(Wish("complaint"),))),
    Message("no", NO),
)
INTENTS = sorted(set(HANDBOOK.intents) - {"shop_question"})


@st.composite
def wishes(draw, facts: CustomerFacts) -> Message:
    """One or two wishes, each about an order or none."""
    numbers = [order.id for order in facts.orders]
    found = []
    for intent in draw(st.lists(st.sampled_from(INTENTS), min_size=1, max_size=2, unique=True)):
        orders = draw(st.sampled_from([(), *((number,) for number in numbers), tuple(numbers)]))
        slots = {"address": "5 Pine Row"} if intent == "change_address" else {}
        found.append(Wish(intent, orders, slots))
    return Message(
        f"please {found}"[:200],
        Triage(draw(st.sampled_from(["ask", "ask", "correct"])), tuple(found)),
    )


@st.composite
def conversations(draw) -> tuple[CustomerFacts, list[Message]]:
    facts = draw(st.sampled_from(FACTS))
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(draw(wishes(facts)))
        messages += draw(st.lists(st.sampled_from(ANSWERS), max_size=2))
    return facts, messages


@given(conversations(), st.sets(st.integers(1, 40), min_size=1, max_size=4))
def test_a_crash_anywhere_ends_in_the_same_database(
    conversation: tuple[CustomerFacts, list[Message]], instants: set[int]
) -> None:
    assert lived(*conversation, Fate(instants)) == lived(*conversation, Fate())


@pytest.mark.parametrize("instant", range(1, 16))
def test_a_decision_that_its_own_write_would_change_is_not_taken_again(instant: int) -> None:
    """Once the first order has its invoice, the same yes would no longer be about both."""
    facts = facts_of(HERE, PAID)
    messages = [
        Message("invoices please", says("invoice", HERE.id, PAID.id)),
        Message("yes, and I complain", replace(YES, wishes=(Wish("complaint"),))),
        Message("thanks", says("other")),
    ]
    plain = lived(facts, messages, Fate())
    assert sorted(row["action"] for row in plain["audit"]) == ["complaint", "invoice", "invoice"]
    assert plain["answered"][1] == ["invoice.done", "invoice.done", "complaint.ticket"]
    assert lived(facts, messages, Fate({instant})) == plain


def test_another_message_after_the_crash_has_its_own_write() -> None:
    fate = Fate({4})  # 1 and 2: the decisions are saved; 3 and 4: the write
    orders = MortalApi(shop_of(facts_of(HERE)), fate)
    desk = mortal_desk(orders, lambda _: says("complaint"))
    conversation = desk.open(CUSTOMER)
    with pytest.raises(Crash):
        desk.turn(conversation, "too slow")
    assert len(rows(orders.engine, Audit)) == 1
    desk.turn(resume(orders.engine, conversation.id, CUSTOMER), "rude as well")
    (ticket,) = rows(orders.engine, Ticket)  # one complaint is open
    assert "too slow" in ticket.summary


# -- races


class Racing(OrderApi):
    """An order system in which something happens between reading an order and writing to it."""

    def __init__(self, engine: Engine, meanwhile: Callable[[Order], None], times: int = 1) -> None:
        super().__init__(engine)
        self.meanwhile, self.times = meanwhile, times

    def _write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        if self.times and write.order_id:
            self.times -= 1
            with Session(self.engine) as session, session.begin():
                self.meanwhile(session.get_one(Order, write.order_id))
        return super()._write(key, customer_id, write, now, why)


def raced(
    order: OrderView, wish: Triage, meanwhile: Callable[[Order], None]
) -> tuple[Engine, Turn, Conversation]:
    """A wish and the yes to its question, while something happens to the order."""
    orders, said = Racing(shop_of(facts_of(order)), meanwhile), {"please": wish, "yes": YES}
    desk = scripted(orders, lambda text: said[text])
    conversation = desk.open(CUSTOMER)
    turns = [desk.turn(conversation, text) for text in said]
    assert turns[0].question is not None
    return orders.engine, turns[-1], conversation


def ships(order: Order) -> None:
    order.shipped_at = NOW


@pytest.mark.parametrize(
    ("wish", "rule"),
    [
        (says("cancel_order", PAID.id), "cancel.locked"),
        (says("change_address", PAID.id, address="5 Pine Row"), "address.locked"),
    ],
    ids=["cancel", "address"],
)
def test_an_order_that_ships_before_the_write_is_told_as_shipped(wish: Triage, rule: str) -> None:
    engine, turn, conversation = raced(PAID, wish, ships)
    (decision,) = turn.decisions
    assert (decision.rule, decision.write) == (rule, None)
    assert conversation.state.question is None
    (order,) = rows(engine, Order)
    assert (order.cancelled_at, order.address) == (None, "")
    assert rows(engine, Audit) == []


def test_a_return_asked_for_elsewhere_meanwhile_is_found_open() -> None:
    def asks(order: Order) -> None:
        order.refund, order.refund_at = "requested", NOW

    engine, turn, _ = raced(HERE, says("return_exchange", HERE.id, cause="size"), asks)
    assert [decision.rule for decision in turn.decisions] == ["return.already_open"]
    assert (rows(engine, Audit), rows(engine, Ticket)) == ([], [])


def test_an_order_that_never_holds_still_is_told_so_and_the_yes_can_be_sent_again() -> None:
    def is_sent_to_and_fro(order: Order) -> None:
        order.invoice = "issued"

    class Restless(Racing):
        def facts(self, customer_id: str) -> CustomerFacts:
            with Session(self.engine) as session, session.begin():
                session.scalars(select(Order)).one().invoice = "none"
            return super().facts(customer_id)

    orders = Restless(shop_of(facts_of(HERE)), is_sent_to_and_fro, times=100)
    said = {"please": says("invoice", HERE.id), "yes": YES}
    desk = scripted(orders, lambda text: said[text])
    conversation = desk.open(CUSTOMER)
    desk.turn(conversation, "please")
    with pytest.raises(OrderSystemDown, match="changed each time"):
        desk.turn(conversation, "yes")
    assert rows(orders.engine, Audit) == []
    orders.times = 0
    desk.turn(conversation, "yes")
    assert [audit.action for audit in rows(orders.engine, Audit)] == ["invoice"]


def test_a_question_asked_anew_is_not_about_what_is_written_already() -> None:
    two = facts_of(an_order("110001"), an_order("110002"))

    class RacingSecond(Racing):
        """The second order changes between the two writes."""

        def _write(self, key: str, customer_id: str, write: Write, *rest: object) -> int:
            self.times = 1 if write.order_id == "110002" and not rows(engine, Audit)[1:] else 0
            return super()._write(key, customer_id, write, *rest)

    engine = shop_of(two)
    orders = RacingSecond(engine, lambda order: setattr(order, "invoice", "issued"), times=0)
    both = Triage(wishes=(Wish("invoice", ("110001", "110002"), {}),))
    desk = scripted(orders, lambda text: {"please": both, "yes": YES}[text])
    conversation = desk.open(CUSTOMER)
    desk.turn(conversation, "please")
    turn = desk.turn(conversation, "yes")
    assert [d.rule for d in turn.decisions] == ["invoice.done", "invoice.issued"]
    assert conversation.state.question is None, "the first invoice is made, the second was there"


class Dying(OrderApi):
    """An order system of which one part stops answering."""

    writes_left, tickets_left = 1, 0

    def write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        if not self.writes_left:
            raise OrderSystemDown("gone")
        self.writes_left -= 1
        return super().write(key, customer_id, write, now, why)

    def leave_ticket(self, key: str, customer_id: str, summary: str, now: datetime) -> int:
        if self.tickets_left <= 0:
            self.tickets_left += 1
            raise OrderSystemDown("gone")
        return super().leave_ticket(key, customer_id, summary, now)


def test_the_ticket_about_what_is_left_names_the_order_also_at_the_second_attempt() -> None:
    orders = Dying(shop_of(facts_of(an_order("110001"), an_order("110002"))))
    both = Triage(wishes=(Wish("complaint", ("110001", "110002"), {}),))
    turn = scripted(orders, both).turn(scripted(orders, both).open(CUSTOMER), "both are bad")
    assert [d.rule for d in turn.decisions] == ["complaint.ticket", "system.unavailable"]
    (left,) = rows(orders.engine, Ticket, kind="unavailable")
    assert "complaint 110002" in left.summary
    assert "check whether" in left.summary, "the write may have happened all the same"


def test_a_message_sent_again_after_a_lost_end_stands_once_in_the_transcript() -> None:
    orders = OrderApi(shop_of(facts_of(HERE)))
    desk = scripted(orders, says("complaint", HERE.id))
    conversation = desk.open(CUSTOMER)
    keep = desk.keep
    lose_the_end(desk)
    with pytest.raises(OrderSystemDown):
        desk.turn(conversation, "it is bad")
    desk.keep = keep
    desk.turn(conversation, "it is bad")
    assert [m.content for m in conversation.transcript if m.role == "user"] == ["it is bad"]
    assert len(rows(orders.engine, Ticket)) == 1


# -- erasure


def test_a_customer_erased_between_two_messages_is_told_nothing_more(engine: Engine) -> None:
    desk = scripted(OrderApi(engine), says("other"))
    conversation = desk.open("C001")
    desk.turn(conversation, "你好")
    desk.orders.forget("C001")
    with pytest.raises(CustomerUnknown):
        desk.turn(conversation, "你好")
    assert rows(engine, ConversationRow, customer_id="C001") == []


@pytest.mark.parametrize("intent", ["other", "complaint"])
def test_a_customer_erased_in_the_midst_of_an_answer_is_not_written_again(
    engine: Engine, intent: str
) -> None:
    desk = scripted(OrderApi(engine), says(intent))
    events = desk.stream(desk.open("C001"), "你好")
    next(events)
    desk.orders.forget("C001")
    if intent == "complaint":
        with pytest.raises(CustomerUnknown):
            list(events)
    else:
        list(events)
    for table in (ConversationRow, Ticket, Audit):
        assert rows(engine, table, customer_id="C001") == []


# -- many at once


def test_results_come_in_the_order_of_the_batch_with_single_failures_among_them(
    engine: Engine,
) -> None:
    desk = scripted(OrderApi(engine), says("other"))
    names = ["C001", "C002", "C003", "C004"]
    batch = [(desk.open(name), f"hello from {name}") for name in names]
    batch.insert(2, (desk.open("C005"), "   "))
    batch.append((Conversation("C999", NOW), "hello"))
    results = desk.turns(batch, workers=3)
    assert [r.text if isinstance(r, Turn) else type(r) for r in results] == [
        "hello from C001",
        "hello from C002",
        MessageRefused,
        "hello from C003",
        "hello from C004",
        CustomerUnknown,
    ]


def test_messages_of_one_conversation_keep_their_order_in_a_batch(engine: Engine) -> None:
    desk = scripted(OrderApi(engine), says("other"))
    talks = [desk.open("C001"), desk.open("C002")]
    batch = [(talks[place % 2], f"message {place}") for place in range(12)]
    assert [turn.text for turn in desk.turns(batch, workers=8)] == [text for _, text in batch]
    for place, talk in enumerate(talks):
        said = [m.content for m in talk.transcript if m.role == "user"]
        assert said == [f"message {n}" for n in range(place, 12, 2)]


def test_conversations_of_a_batch_run_at_the_same_time(engine: Engine) -> None:
    """Each waits until all are there."""
    barrier = threading.Barrier(4, timeout=20)

    def means(_: str) -> Triage:
        barrier.wait()
        return says("other")

    desk = scripted(OrderApi(engine), means)
    results = desk.turns([(desk.open("C001"), "你好") for _ in range(4)], workers=4)
    assert [type(result) for result in results] == [Turn] * 4


def test_many_threads_may_use_one_desk(engine: Engine) -> None:
    desk = scripted(OrderApi(engine), says("complaint"))
    turns = desk.turns(
        [(desk.open("C001"), f"complaint {place}") for place in range(24)], workers=8
    )
    assert all(turn.reply for turn in turns)
    assert len(rows(engine, Ticket)) == 1  # one open complaint


# -- what is logged


def test_a_turn_leaves_one_line_with_nothing_of_the_customer_in_it(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    said = "789012改到南京市鼓楼区汉口路22号3栋501室，电话13800138000，邮箱li.lei@example.com"
    wish = says(
        "change_address", "789012", address="南京市鼓楼区汉口路22号3栋501室", phone="13800138000"
    )
    desk = scripted(OrderApi(engine), wish)
    conversation = desk.open("C001")
    with caplog.at_level(logging.DEBUG, logger="csproto"):
        desk.turn(conversation, said)
    (record,) = [r for r in caplog.records if r.name.startswith("csproto")]
    line = record.getMessage()
    for part in (conversation.id, "address.confirm", f"{len(said)} characters"):
        assert part in line
    for part in ("13800138000", "li.lei", "汉口路", "501室", "C001"):
        assert part not in line
