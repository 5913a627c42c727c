"""The order system: what the shop knows about a customer, and the writes of the assistant.

`OrderApi` is the shop's own `contract.OrderSystem`, on its database.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TypeVar

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection, Engine, Row
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from csproto.errors import CsprotoError
from csproto.shop.facts import NO_TICKET, CustomerFacts, OrderView, Write
from csproto.shop.store import (
    ONE_OPEN,
    TICKET_SUMMARY,
    Audit,
    ConversationRow,
    Customer,
    Order,
    Ticket,
    VisitorRow,
)

T = TypeVar("T")
STAFF_ACTIONS = ("ticket_taken", "ticket_closed")  # in the audit table


class OrderSystemDown(CsprotoError):
    """The order system failed, or did not answer in time.

    If it was asked to write, the write may or may not have happened.
    """


class OrderMoved(CsprotoError):
    """The order has changed since the write was decided on, and nothing was written.

    Decide again.
    """


class CustomerUnknown(CsprotoError):
    """The shop has no such customer."""


@contextmanager
def database_errors_typed() -> Iterator[None]:
    """Raise OrderSystemDown for a database that is gone, silent, full or read-only."""
    try:
        yield
    except SQLAlchemyError as error:
        raise OrderSystemDown(
            f"The shop's database cannot be used: {_first_line(error)} Try again later."
        ) from error


@dataclass
class Faults:
    """Faults of the order system that can be switched on, to see how the assistant copes.

    latency: seconds before each answer.
    error_rate: the share of calls that fail before anything happens.
    timeout_rate: the share of calls that, as far as the caller can tell, never answer.
    half_done_rate: the share of writes that happen although the caller is told that
        they failed.
    """

    latency: float = 0.0
    error_rate: float = 0.0
    timeout_rate: float = 0.0
    half_done_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def before(self, patience: float) -> None:
        """Delay a call, or let it fail before it does anything.

        patience: the seconds that the caller is ready to wait.

        Raises OrderSystemDown.
        """
        if self.latency:
            time.sleep(max(0.0, min(self.latency, patience)))
        if self.latency > patience:
            raise OrderSystemDown("The order system did not answer in time.")
        if self._random.random() < self.error_rate:
            raise OrderSystemDown("The order system answered with an error.")
        if self._random.random() < self.timeout_rate:
            raise OrderSystemDown("The order system did not answer in time.")

    def after_write(self) -> None:
        """Lose the answer to a write that has happened. Raises OrderSystemDown."""
        if self._random.random() < self.half_done_rate:
            raise OrderSystemDown("The connection to the order system broke during a write.")


class OrderApi:
    """The shop's order system for the assistant, on the shop's database.

    Every call names the signed-in customer. Every write has a key and is made once.

    attempts: the tries of one call.
    budget: the seconds for all tries of one call.
    """

    def __init__(
        self,
        engine: Engine,
        faults: Faults | None = None,
        attempts: int = 3,
        budget: float = 2.0,
    ) -> None:
        self.engine = engine
        self.faults = faults or Faults()
        self.attempts, self.budget = attempts, budget

    def known(self, customer_id: str) -> None:
        """Raise CustomerUnknown unless the shop has this customer.

        Raises OrderSystemDown if the database cannot be read. `faults` do not apply,
        because this asks the session's own table and not the order system.
        """
        with database_errors_typed(), self.engine.connect() as connection:
            _customer(connection, customer_id)

    def facts(self, customer_id: str) -> CustomerFacts:
        """Return what is known about a customer.

        Raises OrderSystemDown, and CustomerUnknown if the customer has been erased.
        """
        return self._retried(lambda: self._facts(customer_id))

    def write(self, key: str, customer_id: str, write: Write, now: datetime, why: str) -> int:
        """Make one change and its audit row in one transaction.

        Returns the number of the ticket that belongs to the change, or 0.

        key: a key that was used before changes nothing.
        why: the rule that asked for the change.

        Raises OrderSystemDown when all tries are used up, OrderMoved if the order is no
        longer as the rule found it, and CustomerUnknown if the customer has been
        erased.
        """
        return self._retried(lambda: self._write(key, customer_id, write, now, why), writes=True)

    def change(self, session: Session, customer_id: str, write: Write, now: datetime) -> None:
        """Change the order itself, inside the transaction of the write.

        A shop whose orders are elsewhere overrides this method and `facts`. A repeated
        change must then do no harm.

        Raises OrderMoved if the order is no longer as the rule found it.
        """
        order = session.get_one(Order, write.order_id, with_for_update=True)
        _change(write, order, customer_id, now)

    def leave_ticket(self, key: str, customer_id: str, summary: str, now: datetime) -> int:
        """Leave a wish that could not be served to a human. Returns the ticket's number.

        The ticket system is separate from the order system, so `faults` do not apply.

        Raises OrderSystemDown if the database cannot be used.
        """
        write = Write("unavailable", detail=summary, escalated=True)
        with database_errors_typed():
            return self._write(key, customer_id, write, now, "system.unavailable")

    def forget(self, customer_id: str) -> None:
        """Erase a customer and everything that names them. Raises OrderSystemDown.

        That a member of staff took or closed a ticket stays, without the customer.
        It waits for writes for this customer that are under way. Later ones are
        refused.
        """
        with database_errors_typed(), Session(self.engine) as session, session.begin():
            session.get(Customer, customer_id, with_for_update=True)
            by_staff = update(Audit).where(
                Audit.customer_id == customer_id, Audit.action.in_(STAFF_ACTIONS)
            )
            session.execute(by_staff.values(customer_id="", order_id=""))
            for table in (Ticket, Audit, ConversationRow, VisitorRow, Order):
                session.execute(delete(table).where(table.customer_id == customer_id))
            session.execute(delete(Customer).where(Customer.id == customer_id))

    def _retried(self, call: Callable[[], T], writes: bool = False) -> T:
        """Make a call, with the faults, until it succeeds or its tries or its time run out."""
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
                        f"The order system could not be reached after {attempt} tries: "
                        f"{_first_line(error)} Try again later."
                    ) from error
                time.sleep(0.02 * 2**attempt)
        raise AssertionError("unreachable")

    def _facts(self, customer_id: str) -> CustomerFacts:
        with Session(self.engine) as session:
            joined_at, failed_payments, address_matches, language = _customer(session, customer_id)
            orders = session.scalars(
                select(Order)
                .where(Order.customer_id == customer_id)
                .order_by(Order.created_at.desc(), Order.id)
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
                    key=key,
                    at=now,
                    customer_id=customer_id,
                    order_id=write.order_id,
                    action=write.kind,
                    rule=why,
                )
                session.add(audit)
                # The second use of a key fails here, before anything else is changed.
                session.flush()
                _customer(session, customer_id, lock=True)
                if write.order_id:
                    self.change(session, customer_id, write, now)
                if write.kind == "withdraw":
                    returns = _open(customer_id, write.order_id, "return")
                    session.execute(
                        update(Ticket).where(*returns).values(closed=True, closed_at=now)
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
        """Return the number of the ticket that an earlier use of this key opened.

        Returns 0 if that use opened none, and None if the key is new.
        """
        with Session(self.engine) as session:
            audit = session.get(Audit, key)
            if audit is None:
                return None
            return 0 if audit.action in NO_TICKET else int(audit.detail.removeprefix("ticket "))


# What must be true of an order when a write reaches it.
STANDS: dict[str, Callable[[Order], bool]] = {
    "cancel": lambda o: o.status in ("unpaid", "paid"),
    "address": lambda o: o.status in ("unpaid", "paid"),
    "invoice": lambda o: o.status in ("paid", "shipped", "delivered") and o.invoice == "none",
    "return": lambda o: o.status == "delivered" and o.refund == "none",
    "withdraw": lambda o: o.refund == "requested",
    "urge": lambda o: o.status == "paid",
    "refund_overdue": lambda o: o.refund == "approved",
}


def _change(write: Write, order: Order, customer_id: str, now: datetime) -> None:
    """Change an order as a write asks.

    order: its row must be locked, so that it cannot change between check and write.

    Raises OrderMoved, and PermissionError if the order is another customer's.
    """
    if order.customer_id != customer_id:
        raise PermissionError("a write must never reach another customer's order")
    if not STANDS.get(write.kind, lambda o: True)(order):
        raise OrderMoved(
            f"Order {order.id} has changed while the wish was looked at "
            f"({write.kind} no longer applies). Send the message again."
        )
    if write.kind == "cancel":
        if order.paid_at:
            order.refund, order.refund_at = "approved", now
        order.cancelled_at = now
    elif write.kind == "address":
        for name, value in write.changes.items():
            setattr(order, name, value)
    elif write.kind == "invoice":
        order.invoice = "issued"
        order.invoice_title = write.changes.get("title", "")
        order.tax_id = write.changes.get("tax_id", "")
    elif write.kind == "return":
        order.refund, order.refund_at = "requested", now
    elif write.kind == "withdraw":
        order.refund, order.refund_at = "none", None


def _open(customer_id: str, order_id: str, kind: str) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the open tickets of one kind for one order."""
    return (
        Ticket.customer_id == customer_id,
        Ticket.order_id == order_id,
        Ticket.kind == kind,
        ~Ticket.closed,
    )


def _ticket(session: Session, customer_id: str, write: Write, now: datetime) -> Ticket:
    """Return the ticket of a write.

    It is a new one, unless the kind is in ONE_OPEN and a ticket is open: then the
    write's detail is added to that ticket.
    """
    if write.kind in ONE_OPEN:
        open_ones = select(Ticket).where(*_open(customer_id, write.order_id, write.kind))
        # Locked, so that no member of staff closes it before the detail is added.
        if ticket := session.scalars(open_ones.with_for_update()).first():
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


def _customer(
    database: Session | Connection, customer_id: str, lock: bool = False
) -> Row[datetime, int, bool, str]:
    """Return a customer's joined_at, failed_payments, address_matches and language.

    Only these columns are read, because every turn asks for them.

    lock: makes an erasure of the customer wait for this transaction.

    Raises CustomerUnknown.
    """
    found = select(
        Customer.joined_at, Customer.failed_payments, Customer.address_matches, Customer.language
    ).where(Customer.id == customer_id)
    row = database.execute(found.with_for_update(read=True) if lock else found).one_or_none()
    if row is None:
        raise CustomerUnknown(
            f"There is no customer {customer_id}. "
            "Create the demo data with `csproto db init`, or name another customer."
        )
    return row


def _view(order: Order) -> OrderView:
    return OrderView(**{f.name: getattr(order, f.name) for f in fields(OrderView)})


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") + "."
