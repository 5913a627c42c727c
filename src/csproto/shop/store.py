"""The tables of the shop's database, and connections to it.

SQLAlchemy lets the demo use SQLite and a deployment PostgreSQL.
"""

import time
from collections.abc import Generator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Double,
    ForeignKey,
    Index,
    String,
    TypeDecorator,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.engine import URL, Connection, Dialect, Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from csproto.logs import request_number

SCHEMA = "0007"  # the newest step of csproto.shop.migrations, which makes the tables below
CONNECTING = 3  # seconds to reach a database server, and to get a connection from the pool
PATIENCE = 4.0  # seconds for one statement: each takes milliseconds, and a customer waits for it
TICKET_SUMMARY = 2_000  # characters
STAFF_NAME, STAFF_NOTE = 80, 500  # characters

# A customer has at most one open ticket of each of these kinds for an order. Asking
# again adds to that ticket.
ONE_OPEN = (
    "payment",
    "refund_overdue",
    "complaint",
    "trace",
    "change",
    "quality",
    "handoff",
)
_STILL_OPEN = text(f"NOT closed AND kind IN {ONE_OPEN}")


class Instant(TypeDecorator[datetime]):
    """A moment in UTC.

    SQLite forgets time zones, so the time zone is removed when a moment is written and
    set to UTC when it is read.
    """

    impl = SqlDateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC).replace(tzinfo=None) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value else None


class Base(DeclarativeBase):
    type_annotation_map = {datetime: Instant}


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    language: Mapped[str] = mapped_column(String(2))
    joined_at: Mapped[datetime]
    failed_payments: Mapped[int] = mapped_column(default=0)  # in the last thirty days
    # Whether the address of the delivery is that of the payment.
    address_matches: Mapped[bool] = mapped_column(default=True)


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"), index=True)
    item: Mapped[str] = mapped_column(String(120))
    names: Mapped[str] = mapped_column(String(400), default="")  # other names: a|b|c
    category: Mapped[str] = mapped_column(String(20))
    opened: Mapped[bool] = mapped_column(default=False)  # digital goods: the code was revealed
    amount: Mapped[int]  # in cents
    recipient: Mapped[str] = mapped_column(String(80), default="")
    phone: Mapped[str] = mapped_column(String(40), default="")
    address: Mapped[str] = mapped_column(String(200), default="")
    note: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime]
    paid_at: Mapped[datetime | None]
    promised_at: Mapped[datetime | None]  # when it was promised to ship
    shipped_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    carrier: Mapped[str] = mapped_column(String(40), default="")
    tracking_number: Mapped[str] = mapped_column(String(40), default="")
    payment: Mapped[str] = mapped_column(String(12), default="ok")  # ok, failed, duplicate
    # none, requested, approved, paid
    refund: Mapped[str] = mapped_column(String(12), default="none")
    refund_at: Mapped[datetime | None]
    invoice: Mapped[str] = mapped_column(String(12), default="none")  # none, issued
    invoice_title: Mapped[str] = mapped_column(String(200), default="")
    tax_id: Mapped[str] = mapped_column(String(40), default="")

    @property
    def status(self) -> str:
        """unpaid, paid, shipped, delivered or cancelled, according to the times that are set."""
        if self.cancelled_at:
            return "cancelled"
        if self.delivered_at:
            return "delivered"
        if self.shipped_at:
            return "shipped"
        return "paid" if self.paid_at else "unpaid"


class Ticket(Base):
    """Work for a human.

    kind: one of those `facts.WriteKind` that open a ticket.
    summary: the customer's own words, with nothing masked, because whoever works on the
        ticket may have to call back or send something. It is erased with the customer.
    taken_by, closed_by: members of staff; empty if nobody took it, or if the customer
        withdrew what it is about.
    note: what the staff wrote when they closed it. It is erased with the customer, too.
    """

    __tablename__ = "ticket"
    __table_args__ = (
        Index(
            "one_open_ticket",
            "customer_id",
            "order_id",
            "kind",
            unique=True,
            sqlite_where=_STILL_OPEN,
            postgresql_where=_STILL_OPEN,
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"), index=True)
    order_id: Mapped[str] = mapped_column(String(32), default="")
    kind: Mapped[str] = mapped_column(String(20))
    escalated: Mapped[bool] = mapped_column(default=False)
    closed: Mapped[bool] = mapped_column(default=False)
    summary: Mapped[str] = mapped_column(String(TICKET_SUMMARY), default="")
    created_at: Mapped[datetime]
    taken_by: Mapped[str] = mapped_column(String(STAFF_NAME), default="")
    taken_at: Mapped[datetime | None]
    closed_by: Mapped[str] = mapped_column(String(STAFF_NAME), default="")
    closed_at: Mapped[datetime | None]
    note: Mapped[str] = mapped_column(String(STAFF_NOTE), default="")


class Audit(Base):
    """One row for each write that the assistant made, and for what staff did with tickets.

    key: lets a repeated write change nothing.
    detail: names the ticket that was opened, or the one that staff took or closed, and
        who did. It has nothing that the customer wrote; a changed address, for example,
        is only in its order.
    request: the number of the page's request, which is also in the log; else empty.
    """

    __tablename__ = "audit"

    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    at: Mapped[datetime]
    customer_id: Mapped[str] = mapped_column(String(32), index=True)
    order_id: Mapped[str] = mapped_column(String(32), default="")
    action: Mapped[str] = mapped_column(String(40))
    rule: Mapped[str] = mapped_column(String(60))
    detail: Mapped[str] = mapped_column(String(500), default="")
    request: Mapped[str] = mapped_column(String(64), default=request_number)


class ConversationRow(Base):
    """A conversation, which thereby survives a restart: its transcript and its state."""

    __tablename__ = "conversation"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    customer_id: Mapped[str] = mapped_column(String(32), index=True)
    started_at: Mapped[datetime]
    turns: Mapped[int] = mapped_column(default=0)
    state: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    transcript: Mapped[list[Any]] = mapped_column(JSON, default=list)


class VisitorRow(Base):
    """A visitor of the page, for web processes that share a PostgreSQL database.

    chat: what `ChatSession.kept` returns.
    answering: the message that is being answered, as far as the answer is; else null.
    stop: whether the visitor wants that answer to end.
    version: grows with every change of the chat.
    came_back: whether the visitor has shown the cookie again.
    """

    __tablename__ = "visitor"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    customer_id: Mapped[str] = mapped_column(String(32), index=True)
    conversation_id: Mapped[str] = mapped_column(String(40), default="")
    chat: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    answering: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    stop: Mapped[bool] = mapped_column(default=False)
    version: Mapped[int] = mapped_column(default=0)
    came_back: Mapped[bool] = mapped_column(default=False)
    seen_at: Mapped[datetime] = mapped_column(index=True)


class RateRow(Base):
    """How fast somebody asks, for web processes that share a PostgreSQL database.

    due: the time, in seconds since 1970 by the database's clock, at which the next
        request would come if requests came at the rate that is allowed.
    """

    __tablename__ = "rate"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    due: Mapped[float] = mapped_column(Double)


def open_engine(url: str, patience: float | None = PATIENCE) -> Engine:
    """Return an engine that gives up in time, with no values of a statement in its errors.

    patience: the seconds after which a statement is given up; None for as long as it
        takes, as a migration of large tables needs.

    Reaching PostgreSQL takes CONNECTING seconds at most. Statements on a SQLite file
    wait five seconds for each other, and readers do not block writers.
    """
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        return _sqlite_engine(address)

    arguments: dict[str, Any] = {}
    if address.get_backend_name() == "postgresql":
        arguments["connect_timeout"] = CONNECTING
        # A URL may have options of its own, to get through PgBouncer for example.
        if patience and "options" not in address.query:
            arguments["options"] = f"-c statement_timeout={patience * 1000:.0f}"
    engine = create_engine(
        address,
        pool_pre_ping=True,  # a server, unlike a file, may have closed a kept connection
        pool_timeout=CONNECTING,
        hide_parameters=True,
        connect_args=arguments,
    )
    if patience and engine.driver == "psycopg":
        connect = _bounded(patience + 1).connect
        event.listen(
            engine,
            "do_connect",
            lambda _dialect, _record, words, options: connect(*words, **options),
        )
    return engine


def _sqlite_engine(address: URL) -> Engine:
    engine = create_engine(address, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
        for pragma in (
            "busy_timeout=5000",  # first: the next one may have to wait
            "journal_mode=WAL",
            "foreign_keys=ON",
            "synchronous=NORMAL",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _bounded(patience: float) -> Any:
    """Return a connection class of psycopg that waits `patience` seconds for any one answer.

    PostgreSQL's own `statement_timeout` ends a slow statement. A server that hangs as a
    whole, because it is stopped or has lost its disk or its network, cannot end
    anything, and psycopg would wait for ever. It does all its waiting in `wait`.
    """
    from psycopg import Connection, OperationalError

    class Bounded(Connection[Any]):
        def wait(self, gen: Any, *rest: Any, **options: Any) -> Any:
            return super().wait(self._in_time(gen), *rest, **options)

        def _in_time(self, gen: Any) -> Generator[Any, Any, Any]:
            """Go through the steps of `gen`, and raise OperationalError after `patience`.

            psycopg resumes the steps every 0.1 s, even if the socket has nothing to
            read.
            """
            deadline = time.monotonic() + patience
            try:
                wish = next(gen)
                while True:
                    ready = yield wish
                    if not ready and time.monotonic() > deadline:
                        # A late answer would be taken for that of the next statement.
                        self.close()
                        raise OperationalError(
                            f"the database has not answered for {patience:.0f} s"
                        )
                    wish = gen.send(ready)
            except StopIteration as end:
                return end.value

    return Bounded


def schema_of(database: Engine | Connection) -> str:
    """Return the number of the migration that a database has reached.

    It is "" for an empty database, and "0001" for one that was made before there were
    migrations.
    """
    tables = inspect(database).get_table_names()
    if "alembic_version" not in tables:
        return "0001" if "customer" in tables else ""
    with (
        database.connect() if isinstance(database, Engine) else nullcontext(database)
    ) as connection:
        return connection.scalar(text("SELECT version_num FROM alembic_version")) or ""
