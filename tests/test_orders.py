"""The order store: done once, only for its owner, and honest about failure.

On SQLite, and on PostgreSQL where one is installed.
"""

import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
import yaml
from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from support import NOW, ROOT

from csproto.desk.case import Day, Decision, Label
from csproto.desk.conversation import Conversation, ConversationUnknown, UnderWay, resume
from csproto.desk.state import Outcome, Question, State
from csproto.desk.transcript import Message
from csproto.desk.triage import Wish
from csproto.shop import demo
from csproto.shop.facts import NO_TICKET, Write, foreseen
from csproto.shop.orders import CustomerUnknown, Faults, OrderApi, OrderMoved, OrderSystemDown
from csproto.shop.store import (
    TICKET_SUMMARY,
    Audit,
    Base,
    ConversationRow,
    Customer,
    Order,
    Ticket,
    open_engine,
)
from csproto.shop.tickets import waiting

# -- both databases


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three customers of the demo shop, so that a fresh shop for each test is quickly made."""
    raw = yaml.safe_load((ROOT / "data" / "demo.yaml").read_text(encoding="utf-8"))
    raw["customers"] = {name: raw["customers"][name] for name in ("C001", "C002", "C007", "C008")}
    raw["orders"] = [order for order in raw["orders"] if order["customer"] in raw["customers"]]
    raw["generated"]["customers"] = 0
    path = tmp_path_factory.mktemp("few") / "demo.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, few: Path) -> Iterator[Engine]:
    """A fresh shop, on each database in turn."""
    url = (
        f"sqlite:///{tmp_path / 'shop.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres")
    )
    engine = open_engine(url)
    demo.fill(engine, NOW, few)
    yield engine
    engine.dispose()


@pytest.fixture
def api(engine: Engine) -> OrderApi:
    return OrderApi(engine)


def rows(engine: Engine, table: type[Base], **where: object) -> list:
    with Session(engine, expire_on_commit=False) as session:
        return list(session.scalars(select(table).filter_by(**where)))


RETURN, CANCEL = Write("return", "123456", "broken"), Write("cancel", "789012")
WITHDRAW, OVERDUE, PAYMENT = (
    Write("withdraw", "700001"),
    Write("refund_overdue", "700004"),
    Write("payment", "800002", "score 30"),
)
MOVE = Write("address", "789012", changes={"address": "5 Pine Row", "phone": "13800001111"})
INVOICE = Write("invoice", "123456", changes={"title": "某某公司", "tax_id": "91310000X"})
URGE, TRACE, CHANGE = (
    Write("urge", "789012"),
    Write("trace", "123456"),
    Write("change", "789012", "in blue"),
)
QUALITY = Write("quality", "123456", "a hole")
COMPLAINT = Write("complaint", "", "too slow", escalated=True)
WRITES = [
    RETURN,
    WITHDRAW,
    CANCEL,
    MOVE,
    INVOICE,
    URGE,
    COMPLAINT,
    Write("handoff"),
    PAYMENT,
    OVERDUE,
]
WRITES += [TRACE, CHANGE, QUALITY]


def owner(write: Write) -> str:
    """Whose order it is."""
    return {"7000": "C007", "8000": "C008"}.get(write.order_id[:4], "C001")


# -- what is known


def test_facts_are_the_customers_own_newest_first(api: OrderApi) -> None:
    facts = api.facts("C001")
    assert [o.id for o in facts.orders] == ["789012", "123456"]
    assert facts.order("345678") is None
    shirt = facts.order("123456")
    assert (shirt.status, shirt.item, shirt.amount, shirt.delivered_at) == (
        "delivered",
        "纯棉衬衫",
        19900,
        NOW - timedelta(days=5),
    )
    assert facts.joined_at == NOW - timedelta(days=820)


def test_a_customer_who_is_not_on_the_books_is_said_to_be_unknown(api: OrderApi) -> None:
    for call in (api.known, api.facts):
        with pytest.raises(CustomerUnknown, match="no customer C999"):
            call("C999")


def test_the_last_urge_ticket_of_each_order_is_known(api: OrderApi) -> None:
    for place, now in enumerate((NOW - timedelta(days=2), NOW - timedelta(hours=1))):
        api.write(f"k{place}", "C001", URGE, now, "urge.paid")
    api.write("other", "C001", RETURN, NOW, "return.quality.15d")
    assert api.facts("C001").urged_at == {"789012": NOW - timedelta(hours=1)}


# -- writes


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.kind)
def test_a_write_does_what_the_rules_reckon_with_and_leaves_an_audit_row(
    engine: Engine, api: OrderApi, write: Write
) -> None:
    before = api.facts(owner(write))
    number = api.write("key", owner(write), write, NOW, "the.rule")
    assert api.facts(owner(write)) == foreseen(before, write, NOW)
    (audit,) = rows(engine, Audit)
    assert (audit.key, audit.at, audit.customer_id, audit.order_id) == (
        "key",
        NOW,
        owner(write),
        write.order_id,
    )
    assert (audit.action, audit.rule) == (write.kind, "the.rule")
    tickets = rows(engine, Ticket)
    if write.kind in NO_TICKET:
        assert (number, tickets, audit.detail) == (0, [], "")
    else:
        (ticket,) = tickets
        assert (ticket.id, ticket.kind, ticket.order_id, ticket.summary) == (
            number,
            write.kind,
            write.order_id,
            write.detail,
        )
        assert (ticket.escalated, ticket.closed, ticket.created_at) == (write.escalated, False, NOW)
        assert audit.detail == f"ticket {number}"


def test_an_address_is_changed_in_the_books(engine: Engine, api: OrderApi) -> None:
    api.write("key", "C001", MOVE, NOW, "address.changed")
    (order,) = rows(engine, Order, id="789012")
    assert (order.address, order.phone) == ("5 Pine Row", "13800001111")


def test_an_invoice_has_its_title_and_tax_id_in_the_books(engine: Engine, api: OrderApi) -> None:
    api.write("key", "C001", INVOICE, NOW, "invoice.issued")
    (order,) = rows(engine, Order, id="123456")
    assert (order.invoice, order.invoice_title, order.tax_id) == ("issued", "某某公司", "91310000X")


def test_an_unpaid_order_is_cancelled_without_a_refund(api: OrderApi) -> None:
    api.write("key", "C008", Write("cancel", "800001"), NOW, "cancel.done")
    order = api.facts("C008").order("800001")
    assert (order.status, order.refund, order.cancelled_at) == ("cancelled", "none", NOW)


@pytest.mark.parametrize(
    "write",
    [
        Write("cancel", "123456"),
        Write("address", "123456", changes={"address": "elsewhere"}),
        Write("urge", "123456"),
        Write("return", "789012"),
        Write("return", "700001"),
        Write("withdraw", "123456"),
        Write("withdraw", "700002"),
        Write("invoice", "800001"),
        Write("refund_overdue", "700003"),
    ],
    ids=str,
)
def test_what_has_moved_on_meanwhile_is_said_and_left_alone(
    engine: Engine, api: OrderApi, write: Write
) -> None:
    before = api.facts(owner(write))
    with pytest.raises(OrderMoved, match=write.order_id):
        api.write("key", owner(write), write, NOW, "late")
    assert api.facts(owner(write)) == before
    assert [o.address for o in rows(engine, Order, id=write.order_id)] != ["elsewhere"]
    assert (rows(engine, Audit), rows(engine, Ticket)) == ([], [])


@pytest.mark.parametrize("write", [RETURN, WITHDRAW, CANCEL, INVOICE], ids=lambda write: write.kind)
def test_of_eight_who_want_the_same_at_once_one_gets_it(
    engine: Engine, api: OrderApi, write: Write
) -> None:
    barrier = Barrier(8)

    def go(number: int) -> str:
        barrier.wait()
        try:
            api.write(f"k{number}", owner(write), write, NOW, "rule")
        except OrderMoved:
            return "moved"
        return "written"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(go, range(8))) == ["moved"] * 7 + ["written"]
    assert len(rows(engine, Audit)) == 1


def test_taking_a_return_back_closes_its_ticket_and_no_other(engine: Engine, api: OrderApi) -> None:
    number = api.write("one", "C001", RETURN, NOW, "return.quality.15d")
    complaint = api.write(
        "two", "C001", Write("complaint", "123456", "slow"), NOW, "complaint.ticket"
    )
    api.write("three", "C001", Write("withdraw", "123456"), NOW, "withdraw.done")
    assert {t.id: t.closed for t in rows(engine, Ticket)} == {number: True, complaint: False}
    assert api.write("four", "C001", RETURN, NOW, "return.quality.15d") not in (number, complaint)


@pytest.mark.parametrize("write", [PAYMENT, OVERDUE, COMPLAINT], ids=lambda write: write.kind)
def test_asking_again_adds_to_the_open_ticket(engine: Engine, api: OrderApi, write: Write) -> None:
    first = api.write("k0", owner(write), replace(write, detail="charged twice"), NOW, "rule")
    again = replace(write, detail="charged three times", escalated=True)
    assert [api.write(f"k{n}", owner(write), again, NOW, "rule") for n in (1, 2)] == [first, first]
    (ticket,) = rows(engine, Ticket)
    assert (ticket.summary, ticket.escalated) == ("charged twice\ncharged three times", True)
    assert [a.detail for a in rows(engine, Audit)] == [f"ticket {first}"] * 3
    with Session(engine) as session, session.begin():
        session.get_one(Ticket, first).closed = True
    assert api.write("k3", owner(write), write, NOW, "rule") != first


def test_a_ticket_has_an_end(engine: Engine, api: OrderApi) -> None:
    for place in range(30):
        api.write(
            f"k{place}",
            "C008",
            replace(PAYMENT, detail=f"{place} " + "很" * 150),
            NOW,
            "payment.review",
        )
    (ticket,) = rows(engine, Ticket)
    assert len(ticket.summary) == TICKET_SUMMARY


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.kind)
def test_a_key_that_was_seen_changes_nothing(engine: Engine, api: OrderApi, write: Write) -> None:
    number = api.write("key", owner(write), write, NOW, "rule")
    facts, later = api.facts(owner(write)), NOW + timedelta(hours=1)
    again = api.write("key", owner(write), replace(write, detail="another"), later, "rule")
    assert again == number
    assert api.facts(owner(write)) == facts
    assert (len(rows(engine, Audit)), len(rows(engine, Ticket))) == (1, 1 if number else 0)


@pytest.mark.parametrize("address", ["ticket office, 5 Pine Row", "ticket 7", "tickets"])
def test_an_address_is_not_taken_for_a_ticket(api: OrderApi, address: str) -> None:
    write = Write("address", "789012", address, changes={"address": address})
    assert [api.write("key", "C001", write, NOW, "address.changed") for _ in range(2)] == [0, 0]


def test_eight_at_once_with_one_key_do_it_once(engine: Engine, api: OrderApi) -> None:
    for write in (RETURN, CANCEL):
        barrier = Barrier(8)

        def go(_: int, write: Write = write, barrier: Barrier = barrier) -> int:
            barrier.wait()
            return api.write(f"key {write.kind}", "C001", write, NOW, "rule")

        with ThreadPoolExecutor(8) as pool:
            numbers = set(pool.map(go, range(8)))
        assert len(numbers) == 1
        assert len(rows(engine, Audit, action=write.kind)) == 1
    assert len(rows(engine, Ticket)) == 1


def test_eight_at_once_with_keys_of_their_own_all_get_through(
    engine: Engine, api: OrderApi
) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(
            pool.map(lambda n: api.write(f"k{n}", "C001", URGE, NOW, "urge.paid"), range(8))
        )
    assert sorted(numbers) == sorted(t.id for t in rows(engine, Ticket))
    assert len(rows(engine, Audit)) == 8


@pytest.mark.parametrize(
    "write", [RETURN, CANCEL, MOVE, INVOICE, URGE], ids=lambda write: write.kind
)
def test_a_write_never_reaches_another_customers_order(
    engine: Engine, api: OrderApi, write: Write
) -> None:
    before = api.facts("C001")
    with pytest.raises(PermissionError):
        api.write("key", "C002", write, NOW, "rule")
    assert api.facts("C001") == before
    assert (rows(engine, Audit), rows(engine, Ticket)) == ([], [])


def test_a_write_to_no_order_leaves_no_trace(engine: Engine, api: OrderApi) -> None:
    with pytest.raises(OrderSystemDown):
        api.write("key", "C001", Write("cancel", "999999"), NOW, "cancel.done")
    assert (rows(engine, Audit), rows(engine, Ticket)) == ([], [])


def test_a_long_story_is_kept_whole_in_its_ticket(engine: Engine, api: OrderApi) -> None:
    story = "很" * 1200
    for number in (
        api.write("key", "C001", Write("handoff", detail=story), NOW, "human.handoff"),
        api.leave_ticket("other key", "C001", story, NOW),
    ):
        assert [t.summary for t in rows(engine, Ticket, id=number)] == [story]
    assert not any("很" in a.detail for a in rows(engine, Audit))


# -- troubles


def test_latency_is_felt() -> None:
    began = time.monotonic()
    Faults(latency=0.2).before(patience=1)
    assert 0.2 <= time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(error_rate=1.0), "answered with an error"),
        (Faults(timeout_rate=1.0), "did not answer in time"),
    ],
)
def test_a_system_that_is_down_is_said_to_be_down(
    engine: Engine, faults: Faults, said: str
) -> None:
    api = OrderApi(engine, faults)
    for call in (
        lambda: api.facts("C001"),
        lambda: api.write("key", "C001", CANCEL, NOW, "cancel.done"),
    ):
        with pytest.raises(
            OrderSystemDown,
            match=rf"could not be reached after 3 tries: .*{said}.*Try again later\.",
        ):
            call()
    assert (rows(engine, Audit), rows(engine, Ticket)) == ([], [])


@pytest.mark.parametrize(
    "faults",
    [{"latency": 30.0}, {"latency": 0.3, "error_rate": 1.0}],
    ids=["silent", "slow and failing"],
)
def test_nobody_waits_longer_than_the_budget(engine: Engine, faults: dict[str, float]) -> None:
    api = OrderApi(engine, Faults(**faults), budget=0.5)
    began = time.monotonic()
    with pytest.raises(OrderSystemDown):
        api.facts("C001")
    assert 0.3 <= time.monotonic() - began < 1.5


def test_a_fault_that_passes_is_not_felt(engine: Engine) -> None:
    seed = next(s for s in range(100) if fails(s) == [True, True, False])
    assert OrderApi(engine, Faults(error_rate=0.5, seed=seed)).facts("C001").orders


def fails(seed: int) -> list[bool]:
    faults, found = Faults(error_rate=0.5, seed=seed), []
    for _ in range(3):
        try:
            faults.before(1)
            found.append(False)
        except OrderSystemDown:
            found.append(True)
    return found


def test_a_write_whose_answer_was_lost_is_found_done_by_the_retry(engine: Engine) -> None:
    api = OrderApi(engine, Faults(half_done_rate=1.0))
    with pytest.raises(OrderSystemDown, match="broke during a write"):
        api.write("key", "C001", RETURN, NOW, "return.quality.15d")
    (ticket,) = rows(engine, Ticket)  # three tries, done once
    assert api.facts("C001").order("123456").refund == "requested"
    api.faults = Faults()
    assert api.write("key", "C001", RETURN, NOW, "return.quality.15d") == ticket.id
    assert (len(rows(engine, Ticket)), len(rows(engine, Audit))) == (1, 1)


def test_an_answer_that_is_lost_now_and_then_is_not_felt(engine: Engine) -> None:
    api = OrderApi(
        engine, Faults(half_done_rate=0.3, error_rate=0.2, seed=3), attempts=20, budget=20
    )
    numbers = [api.write(f"k{n}", "C001", URGE, NOW, "urge.paid") for n in range(12)]
    assert numbers == [t.id for t in sorted(rows(engine, Ticket), key=lambda t: t.id)]
    assert len(set(numbers)) == 12


def test_a_ticket_can_be_left_while_the_order_system_is_down(engine: Engine) -> None:
    api = OrderApi(engine, Faults(error_rate=1.0))
    number = api.leave_ticket("key", "C001", "cancel_order: 取消", NOW)
    assert api.leave_ticket("key", "C001", "again", NOW) == number
    (ticket,) = waiting(engine)
    assert (ticket.id, ticket.kind, ticket.escalated, ticket.summary) == (
        number,
        "unavailable",
        True,
        "cancel_order: 取消",
    )
    assert [a.rule for a in rows(engine, Audit)] == ["system.unavailable"]


def test_a_database_that_is_gone_is_the_order_system_that_is_down(tmp_path: Path) -> None:
    empty = open_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(OrderSystemDown, match="could not be reached after 3 tries"):
        OrderApi(empty).facts("C001")


# -- being forgotten


def test_forgetting_erases_everything_of_one_customer_and_nothing_of_others(
    engine: Engine, api: OrderApi
) -> None:
    for customer, order in (("C001", "789012"), ("C008", "800002")):
        api.write(f"{customer}:urge", customer, Write("urge", order), NOW, "urge.paid")
        Conversation(customer, NOW).save(engine)
    counts = {t: count(engine, t) for t in (Customer, Order, Ticket, Audit, ConversationRow)}
    api.forget("C001")
    gone = {Customer: 1, Order: 2, Ticket: 1, Audit: 1, ConversationRow: 1}
    assert {t: counts[t] - count(engine, t) for t in counts} == gone
    for table in Base.metadata.tables.values():
        with engine.connect() as connection:
            assert not [row for row in connection.execute(select(table)) if "C001" in row]
    assert api.facts("C008").urged_at == {"800002": NOW}
    with pytest.raises(CustomerUnknown):
        api.known("C001")
    api.forget("C001")  # once more does no harm


def test_nothing_is_written_of_a_customer_who_was_forgotten(engine: Engine, api: OrderApi) -> None:
    conversation = Conversation("C001", NOW)
    conversation.save(engine)
    api.forget("C001")
    conversation.save(engine)
    for write in (COMPLAINT, CANCEL):
        with pytest.raises(CustomerUnknown):
            api.write("key", "C001", write, NOW, "rule")
    with pytest.raises(CustomerUnknown):
        api.leave_ticket("key", "C001", "my story", NOW)
    assert [count(engine, table) for table in (ConversationRow, Ticket, Audit)] == [0, 0, 0]


def test_forgetting_while_writes_are_under_way_leaves_nothing(
    engine: Engine, api: OrderApi
) -> None:
    barrier = Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        if number == 7:
            api.forget("C001")
            return
        for place in range(4):
            with suppress(CustomerUnknown):
                api.write(f"{number}:{place}", "C001", COMPLAINT, NOW, "complaint.ticket")
            Conversation("C001", NOW).save(engine)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert [count(engine, table) for table in (ConversationRow, Ticket, Audit)] == [0, 0, 0]


def test_an_error_of_the_database_quotes_nothing_the_customer_wrote(
    tmp_path: Path, few: Path
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    demo.fill(engine, NOW, few)
    Ticket.__table__.drop(engine)
    number = "138" + "0013" + "8000"  # not as one word in this file, which a traceback quotes
    with pytest.raises(OrderSystemDown) as caught:
        OrderApi(engine).write(
            "key", "C001", replace(COMPLAINT, detail=f"ring {number}"), NOW, "rule"
        )
    shown = "".join(traceback.format_exception(caught.value))
    assert "no such table" in shown
    assert number not in shown


def count(engine: Engine, table: type[Base]) -> int:
    with Session(engine) as session:
        return session.scalars(select(func.count()).select_from(table)).one()


# -- conversations


def a_conversation() -> Conversation:
    wish = Wish("change_address", ("789012",), {"address": "长沙岳麓区麓山南路932号"})
    facts = {"orders": (), "day": Day(NOW.date()), "remedy": Label("remedy", "refund")}
    state = State(
        ("789012",),
        wish,
        Question("yes", "confirm_address", "address.confirm", wish, NOW, facts),
        (Wish("other"),),
    )
    decision = Decision("cancel_order", "789012", "cancel.done", {"order": "789012"}, CANCEL)
    return Conversation(
        "C001",
        NOW,
        language="en",
        turns=3,
        state=state,
        under_way=UnderWay(
            "取消",
            NOW,
            '{"wishes":[{"intent":"cancel_order"}]}',
            0.9,
            "other",
            Outcome((decision,), state),
        ),
        transcript=[
            Message("system", "csproto"),
            Message("user", "改地址"),
            Message("assistant", "{}"),
        ],
        computed_tokens=120,
    )


def test_a_conversation_goes_on_after_a_restart(engine: Engine) -> None:
    saved = a_conversation()
    saved.save(engine)
    saved.turns, saved.under_way = 4, None
    saved.save(engine)
    assert count(engine, ConversationRow) == 1
    assert resume(engine, saved.id, "C001") == replace(
        saved, computed_tokens=0
    )  # nothing is computed any more


def test_only_its_owner_can_take_a_conversation_up_again(engine: Engine) -> None:
    saved = a_conversation()
    saved.save(engine)
    texts = []
    for number, customer in ((saved.id, "C002"), ("0" * 32, "C002"), (saved.id, "")):
        with pytest.raises(ConversationUnknown) as caught:
            resume(engine, number, customer)
        texts.append(str(caught.value).replace(number, "N"))
    assert texts[0] == texts[1]  # one of somebody else looks like none
    assert resume(engine, saved.id, "C001") == replace(saved, computed_tokens=0)
