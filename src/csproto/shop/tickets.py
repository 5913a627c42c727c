"""What waits for the shop's staff: the list of tickets, taking one, closing one."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import or_, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.errors import CsprotoError
from csproto.shop.facts import URGENT
from csproto.shop.orders import STAFF_ACTIONS, database_errors_typed
from csproto.shop.store import STAFF_NAME, STAFF_NOTE, Audit, Ticket

TAKEN, CLOSED = STAFF_ACTIONS
LARGEST = 2**31 - 1  # the largest number that the column can hold


class TicketUnknown(CsprotoError):
    """There is no ticket with this number."""


class StaffWordsInvalid(CsprotoError):
    """The name of a member of staff is missing, or name or note are too long."""


class TicketGone(CsprotoError):
    """Somebody else was faster. number, by: the ticket, and who took or closed it."""

    def __init__(self, number: int, by: str, words: str) -> None:
        super().__init__(words)
        self.number, self.by = number, by


class TicketTaken(TicketGone):
    """Somebody else has taken the ticket."""

    def __init__(self, ticket: Ticket) -> None:
        who, when = ticket.taken_by, _moment(ticket.taken_at)
        super().__init__(
            ticket.id,
            who,
            f"Ticket {label(ticket.id)} was taken by {who} {when}, so it was not given to you. "
            f"Take another one, or talk to {who}.",
        )


class TicketClosed(TicketGone):
    """The ticket is closed."""

    def __init__(self, ticket: Ticket) -> None:
        by = f" by {ticket.closed_by}" if ticket.closed_by else ""
        super().__init__(
            ticket.id,
            ticket.closed_by,
            f"Ticket {label(ticket.id)} was closed{by} {_moment(ticket.closed_at)}, so nothing "
            "was changed. If the customer asks again, there will be a new ticket.",
        )


def label(number: int) -> str:
    """Return a ticket's number as customers and staff read it: T00007."""
    return f"T{number:05d}"


def is_urgent(ticket: Ticket) -> bool:
    """Return whether a ticket goes to the front: by its kind, or because a rule said so."""
    return ticket.escalated or ticket.kind in URGENT


def as_dict(ticket: Ticket) -> dict[str, Any]:
    """Return a ticket as JSON. Times are in UTC; null and "" for what has not happened."""
    return {
        "ticket": ticket.id,
        "number": label(ticket.id),
        "kind": ticket.kind,
        "customer": ticket.customer_id,
        "order": ticket.order_id,
        "escalated": ticket.escalated,
        "urgent": is_urgent(ticket),
        "since": ticket.created_at.isoformat(),
        "summary": ticket.summary,
        "taken_by": ticket.taken_by,
        "taken_at": ticket.taken_at and ticket.taken_at.isoformat(),
        "closed": ticket.closed,
        "closed_by": ticket.closed_by,
        "closed_at": ticket.closed_at and ticket.closed_at.isoformat(),
        "note": ticket.note,
    }


def waiting(engine: Engine) -> list[Ticket]:
    """Return the open tickets, taken ones too: urgent ones first, then the newest.

    Raises OrderSystemDown.
    """
    urgent = or_(Ticket.escalated, Ticket.kind.in_(URGENT))
    newest = (Ticket.created_at.desc(), Ticket.id.desc())
    open_ones = select(Ticket).where(~Ticket.closed).order_by(urgent.desc(), *newest)
    with database_errors_typed(), Session(engine, expire_on_commit=False) as session:
        return list(session.scalars(open_ones))


def find(engine: Engine, number: int) -> Ticket:
    """Return a ticket, open or closed. Raises TicketUnknown and OrderSystemDown."""
    with database_errors_typed(), Session(engine) as session:
        return _found(session, number)


def take(engine: Engine, number: int, by: str, now: datetime) -> Ticket:
    """Give a ticket to a member of staff. Doing it again changes nothing.

    The database decides who is first: the update finds the ticket free only once.

    Raises TicketTaken, TicketClosed, TicketUnknown, StaffWordsInvalid, OrderSystemDown.
    """
    by = _checked(by, "the name", STAFF_NAME, least=1)
    free = update(Ticket).where(
        Ticket.id == _storable(number), ~Ticket.closed, Ticket.taken_at.is_(None)
    )
    with (
        database_errors_typed(),
        Session(engine, expire_on_commit=False) as session,
        session.begin(),
    ):
        is_first = session.connection().execute(free.values(taken_by=by, taken_at=now)).rowcount
        ticket = _found(session, number)
        if is_first:
            session.add(_audit(ticket, TAKEN, by, now))
        elif ticket.closed:
            raise TicketClosed(ticket)
        elif ticket.taken_by != by:
            raise TicketTaken(ticket)
        return ticket


def close(engine: Engine, number: int, by: str, now: datetime, note: str = "") -> Ticket:
    """Close a ticket, whoever has taken it.

    note: what was done, for other members of staff. It is erased with the ticket.

    Raises TicketClosed, TicketUnknown, StaffWordsInvalid and OrderSystemDown.
    """
    by = _checked(by, "the name", STAFF_NAME, least=1)
    note = _checked(note, "the note", STAFF_NOTE)
    still_open = update(Ticket).where(Ticket.id == _storable(number), ~Ticket.closed)
    closing = still_open.values(closed=True, closed_by=by, closed_at=now, note=note)
    with (
        database_errors_typed(),
        Session(engine, expire_on_commit=False) as session,
        session.begin(),
    ):
        is_first = session.connection().execute(closing).rowcount
        ticket = _found(session, number)
        if not is_first:
            raise TicketClosed(ticket)
        session.add(_audit(ticket, CLOSED, by, now))
        return ticket


def _found(session: Session, number: int) -> Ticket:
    if ticket := session.get(Ticket, _storable(number)):
        return ticket
    raise TicketUnknown(
        f"There is no ticket {label(number)}. It never was, or it was erased, with its customer "
        "for example. `csproto tickets` lists what waits."
    )


def _storable(number: int) -> int:
    """Return a number that the database can compare; 0, which no ticket has, for others."""
    return number if 0 < number <= LARGEST else 0


def _checked(words: str, what: str, most: int, least: int = 0) -> str:
    """Return the words without space around them. Raises StaffWordsInvalid."""
    words = words.strip()
    if not least <= len(words) <= most:
        raise StaffWordsInvalid(
            f"Nothing was changed: {what} has {len(words)} characters, and it can have "
            f"{least} to {most}. Write it again."
        )
    return words


def _audit(ticket: Ticket, action: str, by: str, now: datetime) -> Audit:
    """Return the audit row. It has nothing that the customer or the note says.

    The key has no ticket number, because SQLite uses the numbers of erased tickets again.
    """
    return Audit(
        key=f"staff:{uuid4().hex}",
        at=now,
        customer_id=ticket.customer_id,
        order_id=ticket.order_id,
        action=action,
        rule="staff",
        detail=f"ticket {ticket.id} by {by}",
    )


def _moment(at: datetime | None) -> str:
    return f"on {at:%Y-%m-%d at %H:%M} UTC" if at else "before"
