"""What is erased from the database: a customer who wants it, and what is too old to keep."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import delete, func
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from csproto.errors import CsprotoError
from csproto.shop.orders import OrderApi, database_errors_typed
from csproto.shop.store import Audit, ConversationRow, Ticket, VisitorRow


class TracesLeft(CsprotoError):
    """The rows are erased, but the file of the database may still have their words."""


def forget(engine: Engine, customer_id: str) -> None:
    """Erase a customer, and every trace of them in the database's files.

    Raises CustomerUnknown, OrderSystemDown and TracesLeft.
    """
    orders = OrderApi(engine)
    orders.known(customer_id)
    orders.forget(customer_id)
    _overwrite(engine)


def prune(engine: Engine, before: datetime) -> Mapping[str, int]:
    """Erase conversations, closed tickets and audit rows from before a moment.

    An open ticket is kept, however old it is: somebody waits for an answer. A closed one
    is as old as its end, and goes with the customer's words and the staff's note. A
    conversation is as old as its first message, so that its audit rows, which keep its
    writes from happening twice, are never erased before it.

    Returns how many rows of each table were erased. Raises OrderSystemDown and
    TracesLeft.
    """
    # Before schema 0006, nothing said when a ticket was closed.
    ended_at = func.coalesce(Ticket.closed_at, Ticket.created_at)
    old = {
        "conversations": delete(ConversationRow).where(ConversationRow.started_at < before),
        "closed tickets": delete(Ticket).where(Ticket.closed, ended_at < before),
        "audit rows": delete(Audit).where(Audit.at < before),
        "chats": delete(VisitorRow).where(VisitorRow.seen_at < before),
    }
    with database_errors_typed(), engine.begin() as connection:
        erased = {name: connection.execute(rows).rowcount for name, rows in old.items()}
    _overwrite(engine)
    return erased


def _overwrite(engine: Engine) -> None:
    """Write a SQLite file anew, because erased rows stay in it, and in the one beside it.

    PostgreSQL does the like by itself (autovacuum), and its backups are the operator's.
    Raises TracesLeft if another process keeps the file busy.
    """
    if engine.dialect.name != "sqlite":
        return
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    except OperationalError:
        busy = True
    if busy:
        raise TracesLeft(
            "The rows are erased, but their words may still be in the database's file, which "
            "another process keeps busy. Run `csproto db prune` when it has ended."
        )
