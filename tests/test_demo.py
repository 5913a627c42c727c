"""The demo shop: the same for the same moment, never stale, with the edges that others rely on."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from support import NOW

from csproto.desk.dialogue import respond
from csproto.desk.handbook import default_handbook
from csproto.desk.state import Reading, State
from csproto.desk.triage import Triage, Wish
from csproto.shop import demo
from csproto.shop.facts import Write
from csproto.shop.orders import OrderApi
from csproto.shop.store import Audit, Customer, Order, Ticket, open_engine

SHANGHAI = ZoneInfo("Asia/Shanghai")


def contents(engine: Engine) -> dict[str, list[dict]]:
    with engine.connect() as connection:
        return {
            table.__tablename__: [
                dict(row._mapping) for row in connection.execute(select(table.__table__))
            ]
            for table in (Customer, Order, Ticket, Audit)
        }


def filled(folder: Path, now: datetime, name: str = "shop") -> Engine:
    engine = open_engine(f"sqlite:///{folder / f'{name}.db'}")
    demo.fill(engine, now)
    return engine


def rule(engine: Engine, customer: str, intent: str, now: datetime, *orders: str) -> str:
    """Return the rule that answers a customer's first message."""
    reading = Reading("?", Triage(wishes=(Wish(intent, orders),)))
    facts = OrderApi(engine).facts(customer)
    return respond(reading, facts, State(), now, default_handbook()).decisions[0].rule


def test_the_numbers_it_reports_are_in_the_database(engine: Engine) -> None:
    customers, orders = demo.fill(engine, NOW)
    found = contents(engine)
    assert (customers, orders) == (len(found["customer"]), len(found["orders"]))
    assert customers == 219
    assert len({o["id"] for o in found["orders"]}) == orders > 400


def test_the_same_moment_gives_the_same_shop(tmp_path: Path) -> None:
    assert contents(filled(tmp_path, NOW, "a")) == contents(filled(tmp_path, NOW, "b"))


def test_filling_again_puts_everything_back(engine: Engine) -> None:
    before, api = contents(engine), OrderApi(engine)
    api.write("k", "C001", Write("cancel", "789012"), NOW, "cancel.done")
    api.write("l", "C001", Write("complaint"), NOW, "complaint.ticket")
    assert contents(engine) != before
    demo.fill(engine, NOW)
    assert contents(engine) == before


def test_the_two_orders_of_the_quickstart(engine: Engine) -> None:
    facts = OrderApi(engine).facts("C001")
    shirt, kettle = facts.order("123456"), facts.order("789012")
    assert (shirt.category, shirt.status, shirt.delivered_at) == (
        "clothing",
        "delivered",
        NOW - timedelta(days=5),
    )
    assert (kettle.status, kettle.promised_at > NOW) == ("paid", True)


EDGES = {
    "300007": "return.no_reason.7d",
    "300008": "return.expired.quality_route",
    "300015": "return.expired.quality_route",
    "300016": "return.too_late",
}
MOMENTS = [
    NOW,
    datetime(2026, 3, 10, 0, 1, tzinfo=SHANGHAI),
    datetime(2026, 3, 10, 23, 59, tzinfo=SHANGHAI),
    datetime(2028, 2, 29, 16, 0, tzinfo=UTC),
    datetime(2026, 12, 31, 23, 30, tzinfo=UTC),
]


@pytest.mark.parametrize("now", MOMENTS, ids=str)
def test_the_demo_is_never_stale(tmp_path: Path, now: datetime) -> None:
    engine = filled(tmp_path, now)
    assert {o: rule(engine, "C003", "return_exchange", now, o) for o in EDGES} == EDGES
    assert rule(engine, "C007", "refund_status", now, "700004") == "refund.overdue"
    assert rule(engine, "C007", "refund_status", now, "700002") == "refund.approved"
    assert rule(engine, "C006", "urge_shipment", now) == "urge.overdue"
    assert rule(engine, "C009", "urge_shipment", now) == "urge.paid"


@pytest.mark.parametrize(
    ("customer", "expected"),
    [("C008", "payment.pass"), ("C013", "payment.review"), ("C012", "payment.block")],
)
def test_the_three_outcomes_of_a_payment_problem(
    engine: Engine, customer: str, expected: str
) -> None:
    order = {"C008": "800001", "C013": "130001", "C012": "120001"}[customer]
    assert rule(engine, customer, "payment_issue", NOW, order) == expected


def test_every_order_tells_a_possible_story(engine: Engine) -> None:
    with Session(engine) as session:
        orders = list(session.scalars(select(Order)))
    for order in orders:
        told = [
            t
            for t in (
                order.created_at,
                order.paid_at,
                order.shipped_at,
                order.delivered_at,
                order.refund_at,
            )
            if t
        ]
        assert told == sorted(told) or order.status == "cancelled", order.id
        assert max(told) <= NOW
        assert bool(order.carrier) == bool(order.tracking_number) == bool(order.shipped_at)
        assert (order.refund == "none") == (order.refund_at is None)
        assert order.amount > 0
    assert {o.status for o in orders} == {"unpaid", "paid", "shipped", "delivered", "cancelled"}


def test_one_customer_has_an_order_in_every_state(engine: Engine) -> None:
    for customer in ("C016", "C017"):
        states = [o.status for o in OrderApi(engine).facts(customer).orders]
        assert sorted(states) == sorted(("unpaid", "paid", "shipped", "delivered", "cancelled"))
