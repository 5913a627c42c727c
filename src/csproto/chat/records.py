"""What the chat reads from and adds to the shop's tables: customers to choose from, what a turn has written, and ratings."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.shop.store import Audit, Customer

SHOWN_CUSTOMERS = 40
RATING = {1: "thumbs_up", -1: "thumbs_down", 0: "thumbs_none"}


def customers(engine: Engine) -> list[dict[str, str]]:
    """The first customers on the books, for the picker."""
    with Session(engine) as session:
        rows = session.execute(select(Customer.id, Customer.name).order_by(Customer.id).limit(SHOWN_CUSTOMERS))
        return [{"id": row.id, "name": row.name} for row in rows]


def writes_of(engine: Engine, conversation_id: str, turn: int) -> list[dict[str, str]]:
    """What one turn has written to the order system. Asked of the audit table, which is the truth, whatever was shown."""
    with Session(engine) as session:
        rows = session.scalars(
            select(Audit)
            .where(Audit.key.startswith(f"{conversation_id}:{turn}:", autoescape=True))
            .where(Audit.action.not_in(RATING.values()))
            .order_by(Audit.at, Audit.key)
        )
        return [{"kind": row.action, "order_id": row.order_id, "rule": row.rule} for row in rows]


def rate(
    engine: Engine, conversation_id: str, turn: int, customer_id: str, rating: int, rule: str, now: datetime
) -> None:
    """Add a rating of one turn. The audit table only grows, so a changed mind is a further row."""
    prefix = f"{conversation_id}:{turn}:thumbs:"
    with Session(engine) as session, session.begin():
        place = session.scalar(select(func.count()).where(Audit.key.startswith(prefix, autoescape=True)))
        session.add(Audit(key=f"{prefix}{place}", at=now, customer_id=customer_id, action=RATING[rating], rule=rule))
