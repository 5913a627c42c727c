"""The tables of the shop. SQLAlchemy, so that SQLite serves the demo and PostgreSQL a deployment."""

import time
from collections.abc import Generator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, TypeDecorator, create_engine, event, inspect, make_url, text
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "0004"  # the newest of csproto.shop.migrations, which make the tables below
CONNECTING = 3  # seconds to reach a database server, and to get one of the pool's connections
PATIENCE = 4.0  # seconds for one statement: each takes milliseconds, and a customer waits for it
TICKET_SUMMARY = 2_000  # characters
ONE_OPEN = (
    "payment",
    "refund_overdue",
    "complaint",
    "trace",
    "change",
    "quality",
    "handoff",
)  # of these a customer has one open ticket per order: asking again adds to it


class Instant(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets time zones, so they are taken off going in and put back coming out."""

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
    address_matches: Mapped[bool] = mapped_column(default=True)  # delivery against payment address


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
    refund: Mapped[str] = mapped_column(String(12), default="none")  # none, requested, approved, paid
    refund_at: Mapped[datetime | None]
    invoice: Mapped[str] = mapped_column(String(12), default="none")  # none, issued
    invoice_title: Mapped[str] = mapped_column(String(200), default="")
    tax_id: Mapped[str] = mapped_column(String(40), default="")

    @property
    def status(self) -> str:
        """unpaid, paid, shipped, delivered or cancelled, from the times that are set."""
        if self.cancelled_at:
            return "cancelled"
        if self.delivered_at:
            return "delivered"
        if self.shipped_at:
            return "shipped"
        return "paid" if self.paid_at else "unpaid"


_STILL_OPEN = text(f"NOT closed AND kind IN {ONE_OPEN}")


class Ticket(Base):
    """Work for a human: its kind is one of `orders.WriteKind` that opens a ticket.

    The summary is the customer's own words, unmasked: whoever works on the ticket may have to call back or send something. It goes with the customer.
    """

    __tablename__ = "ticket"
    __table_args__ = (
        Index("one_open_ticket", "customer_id", "order_id", "kind", unique=True, sqlite_where=_STILL_OPEN, postgresql_where=_STILL_OPEN),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"), index=True)
    order_id: Mapped[str] = mapped_column(String(32), default="")
    kind: Mapped[str] = mapped_column(String(20))
    escalated: Mapped[bool] = mapped_column(default=False)
    closed: Mapped[bool] = mapped_column(default=False)
    summary: Mapped[str] = mapped_column(String(TICKET_SUMMARY), default="")
    created_at: Mapped[datetime]


class Audit(Base):
    """One row per write the assistant made; its key makes a repeated write a no-op.

    `detail` names the ticket that was opened and holds nothing the customer wrote: a changed address, say, stands in its order alone.
    """

    __tablename__ = "audit"

    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    at: Mapped[datetime]
    customer_id: Mapped[str] = mapped_column(String(32), index=True)
    order_id: Mapped[str] = mapped_column(String(32), default="")
    action: Mapped[str] = mapped_column(String(40))
    rule: Mapped[str] = mapped_column(String(60))
    detail: Mapped[str] = mapped_column(String(500), default="")


class ConversationRow(Base):
    """A conversation as it stands: its transcript and what is open, so that it survives a restart."""

    __tablename__ = "conversation"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    customer_id: Mapped[str] = mapped_column(String(32), index=True)
    started_at: Mapped[datetime]
    turns: Mapped[int] = mapped_column(default=0)
    state: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    transcript: Mapped[list[Any]] = mapped_column(JSON, default=list)


def open_engine(url: str, patience: float | None = PATIENCE) -> Engine:
    """An engine that gives up in time, and whose errors never quote the values of a statement.

    patience: seconds until a statement is given up, None for as long as it takes (a
    migration of large tables). Reaching PostgreSQL takes CONNECTING seconds at most.
    SQLite's files wait five seconds for each other, and keep readers and writers apart.
    """
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        engine = create_engine(address, hide_parameters=True)

        @event.listens_for(engine, "connect")
        def pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
            for pragma in ("journal_mode=WAL", "busy_timeout=5000", "foreign_keys=ON", "synchronous=NORMAL"):
                connection.execute(f"PRAGMA {pragma}")

        return engine
    arguments: dict[str, Any] = {}
    if address.get_backend_name() == "postgresql":
        arguments["connect_timeout"] = CONNECTING
        if patience and "options" not in address.query:  # a URL may say otherwise, to pass PgBouncer for one
            arguments["options"] = f"-c statement_timeout={patience * 1000:.0f}"
    # A server may have closed a kept connection; a file does not.
    engine = create_engine(
        address, pool_pre_ping=True, pool_timeout=CONNECTING, hide_parameters=True, connect_args=arguments
    )
    if patience and engine.driver == "psycopg":
        connect = _bounded(patience + 1).connect
        event.listen(engine, "do_connect", lambda _dialect, _record, words, options: connect(*words, **options))
    return engine


def _bounded(patience: float) -> Any:
    """The connection class of psycopg, for connections that wait `patience` seconds for any one answer.

    PostgreSQL's own `statement_timeout` ends a slow statement, but a server that hangs as
    a whole (stopped, its disk or its network gone) never gets round to it, and psycopg
    waits for ever. Everything it waits for, it waits for in `wait`.
    """
    from psycopg import Connection, OperationalError

    class Bounded(Connection[Any]):
        def wait(self, gen: Any, *rest: Any, **options: Any) -> Any:
            return super().wait(self._in_time(gen), *rest, **options)

        def _in_time(self, gen: Any) -> Generator[Any, Any, Any]:
            """The same steps. psycopg resumes them every 0.1 s, whether the socket has something or not."""
            deadline = time.monotonic() + patience
            try:
                wish = next(gen)
                while True:
                    ready = yield wish
                    if not ready and time.monotonic() > deadline:
                        self.close()  # its answer, should one come, would be taken for the next one's
                        raise OperationalError(f"the database has not answered for {patience:.0f} s")
                    wish = gen.send(ready)
            except StopIteration as end:
                return end.value

    return Bounded


def schema_of(database: Engine | Connection) -> str:
    """The number of the migration a database stands at; "" for an empty one, "0001" for one from before there were migrations."""
    tables = inspect(database).get_table_names()
    if "alembic_version" not in tables:
        return "0001" if "customer" in tables else ""
    with database.connect() if isinstance(database, Engine) else nullcontext(database) as connection:
        return connection.scalar(text("SELECT version_num FROM alembic_version")) or ""
