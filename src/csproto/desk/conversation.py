"""A conversation and its row in the database, which lets it survive a restart."""

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
from csproto.shop.facts import OrderView
from csproto.shop.orders import database_errors_typed
from csproto.shop.store import ConversationRow, Customer

WINDOW_CHARS = 5_000  # a transcript with more characters loses its oldest turns
KEPT_TURNS = 3  # the most turns that remain then
KEPT_CHARS = 3_800  # the most characters of these turns


class ConversationUnknown(CsprotoError):
    """The database has no readable conversation with this number and this customer."""


@dataclass(frozen=True)
class UnderWay:
    """A turn with its decisions, saved from its first write until it is closed.

    If the process crashes in between and the customer sends the same message again, the
    desk reuses these decisions: the first writes may have changed the orders, so
    deciding again could give something else. The writes also have the same keys as
    before, so none is made twice.

    text: the customer's message.
    at: when it was decided.
    triage: `Triage.to_wire()`, with the claims included.
    sure, runner_up: as in `Turn`.
    """

    text: str
    at: datetime
    triage: str
    sure: float
    runner_up: str | None
    outcome: Outcome


@dataclass
class Conversation:
    """One customer's dialogue with the desk.

    The desk answers one message of a conversation at a time and refuses others
    meanwhile.

    turns: the messages answered so far.
    state: what the dialogue carries over.
    transcript: the messages that the model reads after the prompt.
    seen: the orders as the transcript last told them.
    computed_tokens: the tokens of prompt and transcript that the server has computed,
        and may still have in its KV cache.
    under_way: a turn that began to write and was not closed.
    message_ids: the sender's own names of the last messages answered; "" for none.
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
    message_ids: tuple[str, ...] = ()

    def trim(self, zone: ZoneInfo) -> None:
        """Drop the oldest turns of a transcript that is too long.

        The shorter transcript begins with a new message that lists the orders in
        `seen`. The server has not computed it yet, so `computed_tokens` becomes 0.
        """
        starts = [place for place, message in enumerate(self.transcript) if message.role == "user"]

        def length(start: int) -> int:
            return sum(len(message.content) for message in self.transcript[start:])

        if length(1) > WINDOW_CHARS:
            kept = [start for start in starts[-KEPT_TURNS:] if length(start) <= KEPT_CHARS]
            turns = self.transcript[kept[0] :] if kept else []
            self.transcript = [opening(self.seen, zone), *turns]
            self.computed_tokens = 0

    def save(self, engine: Engine) -> None:
        """Save the conversation unless its customer has been erased.

        Raises OrderSystemDown if the database does not take it.
        """
        with database_errors_typed():
            self._save(engine)

    def _save(self, engine: Engine) -> None:
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
            # The customer is read after the row is written. If an erasure has locked
            # the customer, this read waits for it and finds no customer, and the row is
            # rolled back. A later erasure waits for this commit and deletes the row.
            known = (
                select(Customer.id)
                .where(Customer.id == self.customer_id)
                .with_for_update(read=True)
            )
            if connection.scalar(known):
                connection.commit()

    def _saved(self) -> "_Saved":
        return _Saved(self.language, self.state, self.seen, self.under_way, self.message_ids)


@dataclass(frozen=True)
class _Saved:
    language: Language
    state: State
    seen: tuple[OrderView, ...]
    under_way: UnderWay | None
    message_ids: tuple[str, ...] = ()  # a conversation of an older version has none


SAVED = TypeAdapter(_Saved)


def resume(engine: Engine, conversation_id: str, customer_id: str) -> Conversation:
    """Load a conversation from the database.

    Raises ConversationUnknown if there is none with this number, if it belongs to
    another customer, or if another version of the desk saved it in a form that cannot
    be read.
    """
    with Session(engine) as session:
        row = session.get(ConversationRow, conversation_id)
        if row is None or row.customer_id != customer_id:
            raise ConversationUnknown(
                f"No conversation {conversation_id} of customer {customer_id} is kept. "
                "Start a new one."
            )
        saved = _read(row.state, conversation_id)
        transcript = [Message(role, content) for role, content in row.transcript]
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
            message_ids=saved.message_ids,
        )


def _read(state: Mapping[str, Any], conversation_id: str) -> _Saved:
    try:
        return SAVED.validate_python(dict(state))
    except ValidationError as error:
        raise ConversationUnknown(
            f"Conversation {conversation_id} was kept by another version and cannot be read. "
            "Start a new one."
        ) from error
