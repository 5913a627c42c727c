"""The order API: what the shop knows, asked in the name of one customer, and the few changes the assistant may make."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection, Engine, Row
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from csproto.errors import CsprotoError
from csproto.shop.store import ONE_OPEN, TICKET_SUMMARY, Audit, ConversationRow, Customer, Order, Ticket

T = TypeVar("T")
WriteKind = Literal[
    "return", "withdraw", "urge", "cancel", "address", "invoice", "complaint", "handoff", "payment", "refund_overdue",
    "trace", "change", "quality", "unavailable"
]  # fmt: skip
NO_TICKET = ("cancel", "address", "invoice", "withdraw")


class OrderSystemDown(CsprotoError):
    """The order system failed or did not answer in time. What it was asked to write may or may not have happened."""


class OrderMoved(CsprotoError):
    """The order is no longer as it was when the write was decided on; nothing was written. Decide again."""


class CustomerUnknown(CsprotoError):
    """No such customer is on the books."""


@contextmanager
def database_errors_typed() -> Iterator[None]:
    """Raise OrderSystemDown for a database that is gone, silent, full or not to be written."""
    try:
        yield
    except SQLAlchemyError as error:
        raise OrderSystemDown(f"The shop's database cannot be used: {_first_line(error)} Try again later.") from error


@dataclass(frozen=True)
class OrderView:
    """One order as the policy sees it. Times are UTC, `amount` is in cents."""

    id: str
    item: str
    category: str
    status: str
    amount: int
    created_at: datetime
    opened: bool = False
    promised_at: datetime | None = None
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None
    cancelled_at: datetime | None = None
    carrier: str = ""
    tracking_number: str = ""
    payment: str = "ok"
    refund: str = "none"
    refund_at: datetime | None = None
    invoice: str = "none"
    recipient: str = ""
    phone: str = ""
    address: str = ""
    names: str = ""  # what else customers call the article, in any language: a|b|c


@dataclass(frozen=True)
class CustomerFacts:
    """Everything a decision may look at for one customer; orders newest first."""

    customer_id: str
    orders: tuple[OrderView, ...]
    joined_at: datetime
    failed_payments: int = 0
    address_matches: bool = True
    urged_at: Mapping[str, datetime] = field(default_factory=dict)  # order id to the time of its last urge ticket
    open_tickets: frozenset[tuple[str, str]] = frozenset()  # kind and order id of what a human has not closed yet
    language: str = "zh"  # of the customer's account

    def order(self, order_id: str) -> OrderView | None:
        """This customer's order, or None: somebody else's looks like one that does not exist."""
        return next((o for o in self.orders if o.id == order_id), None)


@dataclass(frozen=True)
class Write:
    """A change the order system is asked to make; all but those of `NO_TICKET` open a ticket.

    changes: the order's fields that get a new value, for `address` and `invoice`.
    """

    kind: WriteKind
    order_id: str = ""
    detail: str = ""
    escalated: bool = False
    changes: Mapping[str, str] = field(default_factory=dict)


def foreseen(facts: CustomerFacts, write: Write, now: datetime) -> CustomerFacts:
    """What will be known of the customer once a write is made, for whatever is decided after it."""
    order = facts.order(write.order_id) if write.order_id else None
    changes: dict[str, Any] = {}
    match write.kind:
        case "cancel":
            refund = {"refund": "approved", "refund_at": now} if order and order.status == "paid" else {}
            changes = {"status": "cancelled", "cancelled_at": now} | refund
        case "return":
            changes = {"refund": "requested", "refund_at": now}
        case "withdraw":
            changes = {"refund": "none", "refund_at": None}
        case "invoice":
            changes = {"invoice": "issued"}
        case "address":
            changes = dict(write.changes)
    orders = tuple(replace(o, **changes) if o is order else o for o in facts.orders)
    opened = facts.open_tickets if write.kind in NO_TICKET else facts.open_tickets | {(write.kind, write.order_id)}
    if write.kind == "withdraw":
        opened -= {("return", write.order_id)}
    urged = {**facts.urged_at, write.order_id: now} if write.kind == "urge" else facts.urged_at
    return replace(facts, orders=orders, open_tickets=opened, urged_at=urged)


@dataclass
class Faults:
    """Troubles that can be switched on, to see what the assistant makes of them."""

    latency: float = 0.0  # seconds before each answer
    error_rate: float = 0.0  # share of calls that fail before anything happened
    timeout_rate: float = 0.0  # share of calls that never answer (as far as the caller can tell)
    half_done_rate: float = 0.0  # share of writes that happen, though the caller is told they failed
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def before(self, patience: float) -> None:
        """Delay or fail a call before it does anything. patience: the seconds its caller is ready to wait."""
        if self.latency:
            time.sleep(max(0.0, min(self.latency, patience)))
        if self.latency > patience:
            raise OrderSystemDown("The order system did not answer in time.")
        if self._random.random() < self.error_rate:
            raise OrderSystemDown("The order system answered with an error.")
        if self._random.random() < self.timeout_rate:
            raise OrderSystemDown("The order system did not answer in time.")

    def after_write(self) -> None:
        """Lose the answer to a write that has happened."""
        if self._random.random() < self.half_done_rate:
            raise OrderSystemDown("The connection to the order system broke during a write.")


class OrderSystem(Protocol):
    """What the desk needs of a shop's orders. Every call names the signed-in customer."""

    def facts(self, customer_id: str) -> CustomerFacts:
        """What is known of a customer. Raises OrderSystemDown and CustomerUnknown."""

    def write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        """Make one change; a key seen before changes nothing. Returns its ticket's number, or 0.

        why: the rule that asked for it. Raises OrderSystemDown, OrderMoved and CustomerUnknown.
        """

    def leave_ticket(self, key: str, customer_id: str, summary: str, now: datetime) -> int:
        """Leave a wish that could not be served to a human. Returns the ticket's number."""


class OrderApi:
    """The shop's order system for the assistant. Every call names the signed-in customer; every write carries a key and is done once."""

    def __init__(self, engine: Engine, faults: Faults | None = None, attempts: int = 3, budget: float = 2.0) -> None:
        self.engine = engine
        self.faults = faults or Faults()
        self.attempts, self.budget = attempts, budget  # tries per call, seconds for all of them

    def known(self, customer_id: str) -> None:
        """Raise CustomerUnknown unless the customer is on the books, OrderSystemDown when these cannot be read. No fault applies: it is the session's own table."""
        with database_errors_typed(), self.engine.connect() as connection:
            _customer(connection, customer_id)

    def facts(self, customer_id: str) -> CustomerFacts:
        """What is known of a customer. Raises OrderSystemDown, and CustomerUnknown for one who was erased meanwhile."""
        return self._retried(lambda: self._facts(customer_id))

    def write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        """Make one change and its audit row in one transaction; a key seen before changes nothing.

        why: the rule that asked for it. Returns the number of the ticket that belongs to it, or 0. Raises OrderSystemDown when the retries are used
        up, OrderMoved when the order is no longer as the rule found it, CustomerUnknown for one who was erased meanwhile.
        """
        return self._retried(lambda: self._write(key, customer_id, write, now, why), writes=True)

    def change(self, session: Session, customer_id: str, write: Write, now: datetime) -> None:
        """Change the order itself, inside the write's transaction. A shop whose orders live elsewhere overrides this and `facts`, so that repeating it does no harm.

        Raises OrderMoved when the order is no longer as the rule found it.
        """
        _change(write, session.get_one(Order, write.order_id, with_for_update=True), customer_id, now)

    def leave_ticket(self, key: str, customer_id: str, summary: str, now: datetime) -> int:
        """Leave a wish that could not be served to a human. Raises OrderSystemDown when the database cannot be used.

        The ticket system is apart from the order system and its faults.
        """
        write = Write("unavailable", detail=summary, escalated=True)
        with database_errors_typed():
            return self._write(key, customer_id, write, now, "system.unavailable")

    def forget(self, customer_id: str) -> None:
        """Erase a customer with everything that names them. Raises OrderSystemDown.

        Writes in their name that are under way are waited for, later ones are refused.
        """
        with database_errors_typed(), Session(self.engine) as session, session.begin():
            session.get(Customer, customer_id, with_for_update=True)
            for table in (Ticket, Audit, ConversationRow, Order):
                session.execute(delete(table).where(table.customer_id == customer_id))
            session.execute(delete(Customer).where(Customer.id == customer_id))

    def open_tickets(self) -> list[Ticket]:
        """What waits for a human, escalated first, then oldest first. Raises OrderSystemDown."""
        with database_errors_typed(), Session(self.engine, expire_on_commit=False) as session:
            return list(
                session.scalars(
                    select(Ticket).where(~Ticket.closed).order_by(Ticket.escalated.desc(), Ticket.created_at, Ticket.id)
                )
            )

    def _retried(self, call: Callable[[], T], writes: bool = False) -> T:
        deadline = time.monotonic() + self.budget
        for attempt in range(1, self.attempts + 1):
            try:
                self.faults.before(deadline - time.monotonic())
                result = call()
                if writes:
                    self.faults.after_write()
                return result
            except (OrderSystemDown, SQLAlchemyError) as error:
                if attempt == self.attempts or time.monotonic() > deadline:
                    raise OrderSystemDown(
                        f"The order system could not be reached after {attempt} tries: {_first_line(error)} Try again later."
                    ) from error
                time.sleep(0.02 * 2**attempt)
        raise AssertionError("unreachable")

    def _facts(self, customer_id: str) -> CustomerFacts:
        with Session(self.engine) as session:
            joined_at, failed_payments, address_matches, language = _customer(session, customer_id)
            orders = session.scalars(
                select(Order).where(Order.customer_id == customer_id).order_by(Order.created_at.desc(), Order.id)
            )
            tickets = session.execute(
                select(Ticket.kind, Ticket.order_id, Ticket.created_at, Ticket.closed)
                .where(Ticket.customer_id == customer_id)
                .order_by(Ticket.created_at)
            ).all()
            return CustomerFacts(
                customer_id,
                tuple(_view(o) for o in orders),
                joined_at,
                failed_payments,
                address_matches,
                {order: at for kind, order, at, _ in tickets if kind == "urge"},
                frozenset((kind, order) for kind, order, _, closed in tickets if not closed),
                language,
            )

    def _write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        try:
            with Session(self.engine) as session, session.begin():
                audit = Audit(
                    key=key, at=now, customer_id=customer_id, order_id=write.order_id, action=write.kind, rule=why
                )
                session.add(audit)
                session.flush()  # the second use of a key fails here, before anything else is touched
                _customer(session, customer_id, lock=True)
                if write.order_id:
                    self.change(session, customer_id, write, now)
                if write.kind == "withdraw":
                    session.execute(
                        update(Ticket).where(*_open(customer_id, write.order_id, "return")).values(closed=True)
                    )
                if write.kind in NO_TICKET:
                    return 0
                ticket = _ticket(session, customer_id, write, now)
                audit.detail = f"ticket {ticket.id}"
                return ticket.id
        except IntegrityError:
            if (number := self._ticket_of(key)) is None:
                raise
            return number

    def _ticket_of(self, key: str) -> int | None:
        """The ticket an earlier use of this key opened, 0 if it opened none, None if the key is new."""
        with Session(self.engine) as session:
            audit = session.get(Audit, key)
            if audit is None:
                return None
            return 0 if audit.action in NO_TICKET else int(audit.detail.removeprefix("ticket "))


STANDS: dict[str, Callable[[Order], bool]] = {  # what must be true of an order when a write reaches it
    "cancel": lambda o: o.status in ("unpaid", "paid"),
    "address": lambda o: o.status in ("unpaid", "paid"),
    "invoice": lambda o: o.status in ("paid", "shipped", "delivered") and o.invoice == "none",
    "return": lambda o: o.status == "delivered" and o.refund == "none",
    "withdraw": lambda o: o.refund == "requested",
    "urge": lambda o: o.status == "paid",
    "refund_overdue": lambda o: o.refund == "approved",
}


def _change(write: Write, order: Order, customer_id: str, now: datetime) -> None:
    """The change of state a write means. The row is locked: what is checked here cannot change before the write. Raises OrderMoved."""
    if order.customer_id != customer_id:
        raise PermissionError("a write must never reach another customer's order")
    if not STANDS.get(write.kind, lambda o: True)(order):
        raise OrderMoved(
            f"Order {order.id} has changed while the wish was looked at ({write.kind} no longer applies). Send the message again."
        )
    if write.kind == "cancel":
        if order.paid_at:
            order.refund, order.refund_at = "approved", now
        order.cancelled_at = now
    elif write.kind == "address":
        for name, value in (write.changes or {"address": write.detail}).items():
            setattr(order, name, value)
    elif write.kind == "invoice":
        order.invoice = "issued"
        order.invoice_title, order.tax_id = write.changes.get("title", ""), write.changes.get("tax_id", "")
    elif write.kind == "return":
        order.refund, order.refund_at = "requested", now
    elif write.kind == "withdraw":
        order.refund, order.refund_at = "none", None


def _open(customer_id: str, order_id: str, kind: str) -> tuple[ColumnElement[bool], ...]:
    return Ticket.customer_id == customer_id, Ticket.order_id == order_id, Ticket.kind == kind, ~Ticket.closed


def _ticket(session: Session, customer_id: str, write: Write, now: datetime) -> Ticket:
    """The ticket of a write: a new one, or the open one it belongs to, which then knows what was said again."""
    if write.kind in ONE_OPEN and (
        ticket := session.scalars(select(Ticket).where(*_open(customer_id, write.order_id, write.kind))).first()
    ):
        if write.detail not in ticket.summary:
            ticket.summary = f"{ticket.summary}\n{write.detail}"[:TICKET_SUMMARY]
        ticket.escalated = ticket.escalated or write.escalated
        return ticket
    ticket = Ticket(
        customer_id=customer_id,
        order_id=write.order_id,
        kind=write.kind,
        escalated=write.escalated,
        summary=write.detail[:TICKET_SUMMARY],
        created_at=now,
    )
    session.add(ticket)
    session.flush()
    return ticket


def _customer(database: Session | Connection, customer_id: str, lock: bool = False) -> Row[datetime, int, bool, str]:
    """Since when, failed payments and whether the addresses match; columns only, because every turn asks. `lock` makes an erasure wait. Raises CustomerUnknown."""
    columns = select(Customer.joined_at, Customer.failed_payments, Customer.address_matches, Customer.language)
    found = columns.where(Customer.id == customer_id)
    row = database.execute(found.with_for_update(read=True) if lock else found).one_or_none()
    if row is None:
        raise CustomerUnknown(
            f"There is no customer {customer_id}. Create the demo data with `csproto db init`, or name another customer."
        )
    return row


def _view(order: Order) -> OrderView:
    return OrderView(**{f.name: getattr(order, f.name) for f in fields(OrderView)})


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") + "."
