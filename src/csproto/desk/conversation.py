"""A conversation, and its place in the database, so that it survives a restart."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.desk.handbook import Language
from csproto.desk.state import Outcome, State
from csproto.desk.transcript import Message, opening
from csproto.errors import CsprotoError
from csproto.orders import OrderView
from csproto.store import ConversationRow, Customer

WINDOW = 5_000  # characters; beyond this, the oldest turns are left behind
KEPT_TURNS = 3


class ConversationUnknown(CsprotoError):
    """No such conversation of this customer is kept."""


@dataclass(frozen=True)
class UnderWay:
    """A turn that has decided and begun to write, kept until it is closed.

    Should the process die now, the same message gets the same decisions when it is sent again:
    taken anew, they would meet orders that their own writes have changed. The keys of the writes
    are the same too, so nothing is done twice.
    """

    text: str
    triage: str  # as the model wrote it
    sure: float
    runner_up: str | None
    outcome: Outcome


@dataclass
class Conversation:
    """One customer's dialogue with the desk.

    One turn at a time: the desk refuses a second one meanwhile.

    seen: the orders as the transcript has them. computed_tokens: how many of its tokens have a
    KV cache.
    """

    customer_id: str
    started_at: datetime
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    language: Language = "zh"
    turns: int = 0
    state: State = field(default_factory=State)
    transcript: list[Message] = field(default_factory=list)
    seen: tuple[OrderView, ...] = ()
    computed_tokens: int = 0
    under_way: UnderWay | None = None

    def trim(self, zone: ZoneInfo) -> None:
        """Leave the oldest turns of a long conversation behind.

        Its part of the prompt begins anew, with the orders as they are.
        """
        starts = [place for place, message in enumerate(self.transcript) if message.role == "user"]
        length = sum(len(message.content) for message in self.transcript[1:])
        if length > WINDOW and len(starts) > KEPT_TURNS:
            self.transcript = [opening(self.seen, zone), *self.transcript[starts[-KEPT_TURNS] :]]
            self.computed_tokens = 0

    def save(self, engine: Engine) -> None:
        """Write the conversation to the database.

        One whose customer was erased meanwhile is not written again.
        """
        values = {
            "customer_id": self.customer_id,
            "started_at": self.started_at,
            "turns": self.turns,
            "state": SAVED.dump_python(self._saved(), mode="json"),
            "transcript": [list(message) for message in self.transcript],
        }
        with engine.connect() as connection:
            kept = connection.execute(
                update(ConversationRow).where(ConversationRow.id == self.id).values(values)
            )
            if not kept.rowcount:
                connection.execute(insert(ConversationRow).values(id=self.id, **values))
            # Looked at after the row is written: an erasure under way is waited for, a
            # later one finds the row.
            known = (
                select(Customer.id)
                .where(Customer.id == self.customer_id)
                .with_for_update(read=True)
            )
            if connection.scalar(known):
                connection.commit()

    def _saved(self) -> "_Saved":
        return _Saved(self.language, self.state, self.seen, self.under_way)


@dataclass(frozen=True)
class _Saved:
    language: Language
    state: State
    seen: tuple[OrderView, ...]
    under_way: UnderWay | None


SAVED = TypeAdapter(_Saved)


def resume(engine: Engine, conversation_id: str, customer_id: str) -> Conversation:
    """The conversation as it was saved. Raises ConversationUnknown, for another customer's too."""
    with Session(engine) as session:
        row = session.get(ConversationRow, conversation_id)
        if row is None or row.customer_id != customer_id:
            raise ConversationUnknown(
                f"No conversation {conversation_id} of customer {customer_id} is kept. "
                "Start a new one."
            )
        saved = _read(row.state, conversation_id)
        transcript = [Message(*message) for message in row.transcript]
        return Conversation(
            row.customer_id,
            row.started_at,
            row.id,
            saved.language,
            row.turns,
            saved.state,
            transcript,
            saved.seen,
            under_way=saved.under_way,
        )


def _read(state: Mapping[str, Any], conversation_id: str) -> _Saved:
    try:
        return SAVED.validate_python(dict(state))
    except ValidationError as error:
        raise ConversationUnknown(
            f"Conversation {conversation_id} was kept by another version and cannot be read. "
            "Start a new one."
        ) from error
