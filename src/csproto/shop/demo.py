"""The data of the demo shop, with all times relative to the present.

The customers and orders of `data/demo.yaml` were written by hand; a few hundred more
customers are generated.
"""

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import delete, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from csproto.errors import CsprotoError
from csproto.settings import DATA
from csproto.shop.migrations import migrate, wait_for_others
from csproto.shop.store import Audit, Base, ConversationRow, Customer, Order, Ticket

CARRIERS = {
    "zh": ("顺丰速运", "中通快递", "圆通速递", "京东物流"),
    "en": ("SF Express", "DHL", "YTO", "JD Logistics"),
}
# Articles, each with its category.
GENERATED_ITEMS = {
    "zh": [
        ("卫衣", "clothing"),
        ("电水壶", "home"),
        ("显示器", "electronics"),
        ("苹果一箱", "fresh"),
        ("定制相册", "custom"),
        ("视频会员", "digital"),
        ("洗衣机", "electronics"),
        ("收纳盒", "home"),
    ],
    "en": [
        ("hoodie", "clothing"),
        ("kettle", "home"),
        ("monitor", "electronics"),
        ("box of apples", "fresh"),
        ("photo album", "custom"),
        ("video pass", "digital"),
        ("washing machine", "electronics"),
        ("storage box", "home"),
    ],
}
# One order in each state. The numbers are days before now.
HISTORIES: list[dict[str, Any]] = [
    {"created": 0},
    {"paid": 1, "promised": -2},
    {"paid": 5, "promised": 2},
    {"paid": 3, "shipped": 1},
    {"paid": 8, "shipped": 7, "delivered": 4},
    {"paid": 16, "shipped": 15, "delivered": 11},
    {"paid": 40, "shipped": 39, "delivered": 36},
    {"paid": 9, "cancelled": 7, "refund": "approved", "refund_at": 7},
    {"paid": 20, "shipped": 19, "delivered": 16, "refund": "paid", "refund_at": 5},
]


def fill(engine: Engine, now: datetime, path: Path = DATA / "demo.yaml") -> tuple[int, int]:
    """Create or update the schema, and replace everything in the database by the demo data.

    Returns the numbers of customers and orders.
    """
    migrate(engine)
    customers, orders = _rows(now, path)
    with Session(engine) as session, session.begin():
        wait_for_others(session.connection())
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(delete(table))
        _add(session, customers, orders)
    return len(customers), len(orders)


def fill_if_empty(engine: Engine, now: datetime, path: Path = DATA / "demo.yaml") -> None:
    """Create the schema and add the demo data, unless another process has just done so."""
    migrate(engine)
    customers, orders = _rows(now, path)
    with Session(engine) as session, session.begin():
        wait_for_others(session.connection())
        if not counts(session.connection())["customers"]:
            _add(session, customers, orders)


def counts(connection: Connection) -> dict[str, int]:
    """Return how many rows a database has of what people would miss."""
    tables = {
        "customers": Customer,
        "orders": Order,
        "conversations": ConversationRow,
        "tickets": Ticket,
        "audit rows": Audit,
    }
    return {
        name: connection.scalar(select(func.count()).select_from(table)) or 0
        for name, table in tables.items()
    }


def _add(session: Session, customers: list[Customer], orders: list[Order]) -> None:
    session.add_all(customers)
    session.flush()
    session.add_all(orders)


def _rows(now: datetime, path: Path) -> tuple[list[Customer], list[Order]]:
    """Return the customers and orders of the demo shop."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = raw["names"]
    customers = [
        _customer(customer_id, values, now) for customer_id, values in raw["customers"].items()
    ]
    orders = [
        _order(_delivery(raw["customers"][values["customer"]]) | values, now, names)
        for values in raw["orders"]
    ]
    more = raw["generated"]
    more_customers, more_orders = _generated(more["seed"], more["customers"], now, names)
    customers += more_customers
    orders += more_orders
    return customers, orders


class NotTheDemo(CsprotoError):
    """The database has customers that are not of the demo shop, so it is not replaced."""


def reset(engine: Engine, now: datetime, path: Path = DATA / "demo.yaml") -> None:
    """Bring the demo data back. Raises NotTheDemo if there are customers of another shop.

    Conversations, tickets and audit rows are deleted with the rest.
    """
    if not is_demo(engine, path):
        raise NotTheDemo(
            "The database has customers that are not of the demo shop, so nothing was reset. "
            "Name another database in CSPROTO_DB for the demo."
        )
    fill(engine, now, path)


def is_demo(engine: Engine, path: Path = DATA / "demo.yaml") -> bool:
    """Return whether all customers in the database are of the demo shop."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = {*raw["customers"], *map(_generated_id, range(raw["generated"]["customers"]))}
    with Session(engine) as session:
        return set(session.scalars(select(Customer.id))) <= own


def _customer(customer_id: str, values: dict[str, Any], now: datetime) -> Customer:
    return Customer(
        id=customer_id,
        name=values["name"],
        language=values["language"],
        joined_at=now - timedelta(days=values["account_age"]),
        failed_payments=values.get("failed_payments", 0),
        address_matches=values.get("address_matches", True),
    )


def _delivery(customer: dict[str, Any]) -> dict[str, Any]:
    """Return where a customer's orders go, and the language of their carriers' names."""
    found = {"recipient": customer["name"], "language": customer["language"]}
    return found | {name: customer[name] for name in ("phone", "address") if name in customer}


def _order(values: dict[str, Any], now: datetime, names: dict[str, str]) -> Order:
    """Make an order from values whose times are days before now.

    names: article to its other names. An order that has shipped gets a carrier and a
    parcel number, which follow from its id.
    """
    moments = {
        name: now - timedelta(days=values[name])
        for name in ("paid", "promised", "shipped", "delivered", "cancelled", "refund_at")
        if name in values
    }
    carrier, tracking_number = "", ""
    if "shipped" in moments:
        pick = random.Random(values["id"])
        carrier = pick.choice(CARRIERS[values["language"]])
        tracking_number = f"{pick.choice(('SF', 'YT', 'JD', 'ZT'))}{pick.randrange(10**11, 10**12)}"
    return Order(
        id=str(values["id"]),
        customer_id=values["customer"],
        item=values["item"],
        names=names.get(values["item"], ""),
        category=values["category"],
        opened=values.get("opened", False),
        recipient=str(values.get("recipient", "")),
        phone=str(values.get("phone", "")),
        address=values.get("address", ""),
        amount=round(values["amount"] * 100),
        note=values.get("note", ""),
        created_at=now - timedelta(days=values.get("created", values.get("paid", 0))),
        paid_at=moments.get("paid"),
        promised_at=moments.get("promised"),
        shipped_at=moments.get("shipped"),
        delivered_at=moments.get("delivered"),
        cancelled_at=moments.get("cancelled"),
        carrier=carrier,
        tracking_number=tracking_number,
        payment=values.get("payment", "ok"),
        refund=values.get("refund", "none"),
        refund_at=moments.get("refund_at"),
        invoice=values.get("invoice", "none"),
    )


def _generated_id(number: int) -> str:
    return f"G{number:04d}"


def _generated(
    seed: int, count: int, now: datetime, names: dict[str, str]
) -> tuple[list[Customer], list[Order]]:
    """Make `count` customers, each with one to three orders."""
    pick = random.Random(seed)
    customers, orders = [], []
    for number in range(count):
        customer_id, name = _generated_id(number), f"Customer {number}"
        language = pick.choice(("zh", "zh", "en"))
        account = {"name": name, "language": language, "account_age": pick.randrange(1, 2000)}
        customers.append(_customer(customer_id, account, now))
        for place in range(pick.randrange(1, 4)):
            item, category = pick.choice(GENERATED_ITEMS[language])
            order_id = str(pick.randrange(10**9, 10**10))
            values: dict[str, Any] = {
                "id": f"{order_id}{place}",
                "customer": customer_id,
                "item": item,
                "category": category,
                "amount": pick.randrange(20, 3000),
                "language": language,
                "recipient": name,
            }
            orders.append(_order(values | pick.choice(HISTORIES), now, names))
    return customers, orders
