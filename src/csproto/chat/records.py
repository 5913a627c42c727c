"""What a chat reads from the shop's database and adds to it: customers and ratings."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.shop.store import Audit, Customer

SHOWN_CUSTOMERS = 40
RATING = {1: "thumbs_up", -1: "thumbs_down", 0: "thumbs_none"}


def customers(engine: Engine) -> list[dict[str, str]]:
    """Return the first customers of the shop, to choose from."""
    with Session(engine) as session:
        rows = session.execute(
            select(Customer.id, Customer.name).order_by(Customer.id).limit(SHOWN_CUSTOMERS)
        )
        return [{"id": row.id, "name": row.name} for row in rows]


def rate(
    engine: Engine,
    conversation_id: str,
    turn: int,
    customer_id: str,
    rating: int,
    rule: str,
    now: datetime,
) -> None:
    """Add a rating of one turn.

    Rows are only ever added to the audit table, so a changed rating is another row.
    """
    prefix = f"{conversation_id}:{turn}:thumbs:"
    with Session(engine) as session, session.begin():
        place = session.scalar(
            select(func.count()).where(Audit.key.startswith(prefix, autoescape=True))
        )
        session.add(
            Audit(
                key=f"{prefix}{place}",
                at=now,
                customer_id=customer_id,
                action=RATING[rating],
                rule=rule,
            )
        )
