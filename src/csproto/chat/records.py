"""What a chat reads from the shop's database: customers, conversations. It adds ratings."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.shop.store import Audit, ConversationRow, Customer

SHOWN_CUSTOMERS = 40
SHOWN_CONVERSATIONS = 12
TITLE_CHARS = 60
Why = Literal["", "misunderstood", "wrong", "unclear", "unhelpful"]  # of a thumbs down
RATING = {1: "thumbs_up", -1: "thumbs_down", 0: "thumbs_none"}


def customers(engine: Engine) -> list[dict[str, str]]:
    """Return the first customers of the shop, to choose from."""
    with Session(engine) as session:
        rows = session.execute(
            select(Customer.id, Customer.name).order_by(Customer.id).limit(SHOWN_CUSTOMERS)
        )
        return [{"id": row.id, "name": row.name} for row in rows]


def conversations(engine: Engine, customer_id: str) -> list[dict[str, Any]]:
    """Return a customer's conversations, newest first.

    Each has its number, its first message that is still kept, when it began, and how
    many messages it has.
    """
    of_customer = (
        select(ConversationRow)
        .where(ConversationRow.customer_id == customer_id, ConversationRow.turns > 0)
        .order_by(ConversationRow.started_at.desc(), ConversationRow.id)
        .limit(SHOWN_CONVERSATIONS)
    )
    with Session(engine) as session:
        return [
            {
                "id": row.id,
                "title": _title(row.transcript),
                "at": row.started_at.isoformat(timespec="seconds"),
                "turns": row.turns,
            }
            for row in session.scalars(of_customer)
        ]


def _title(transcript: list[Any]) -> str:
    """Return the first message of the customer, shortened."""
    said = (content for role, content in transcript if role == "user")
    text = next(said, "")
    return text if len(text) <= TITLE_CHARS else text[: TITLE_CHARS - 1] + "…"


def rate(
    engine: Engine,
    conversation_id: str,
    turn: int,
    customer_id: str,
    rating: int,
    rule: str,
    now: datetime,
    why: Why = "",
) -> None:
    """Add a rating of one turn. why: what was wrong with it.

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
                detail=why,
            )
        )
