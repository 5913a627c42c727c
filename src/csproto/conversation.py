"""A conversation: its transcript, what is open in it, and its place in the database, so that it survives a restart."""

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.dialogue import DialogueState
from csproto.errors import CsprotoError
from csproto.policy import Decision, Wish
from csproto.shop.orders import Write
from csproto.shop.store import ConversationRow, Customer
from csproto.transcript import Message
from csproto.triage import Intent, Triage

WINDOW_TOKENS = 1_000  # when a prompt grows beyond this, the oldest turns are left behind
KEPT_TURNS = 2


class ConversationUnknown(CsprotoError):
    """No such conversation of this customer is kept."""


@dataclass(frozen=True)
class Step:
    """One decision of a turn, its `say` as the customer will read it, and the dialogue state after it."""

    decision: Decision
    state: DialogueState


@dataclass(frozen=True)
class UnderWay:
    """A turn that has begun to write and is not closed yet, kept before each write.

    Should the process die now, the same message gets the same decisions when it is sent again: taken anew, they would meet orders that their own
    writes have changed. The keys of the writes are the same too, so nothing is done twice.
    """

    text: str
    triage: str  # as the model wrote it
    steps: list[Step]


@dataclass
class Conversation:
    """One customer's dialogue with the assistant. Not shared between threads: `Assistant` refuses a second turn while one is under way."""

    customer_id: str
    started_at: datetime
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    language: str = "zh"
    turns: int = 0
    state: DialogueState = field(default_factory=DialogueState)
    queue: list[Triage] = field(default_factory=list)  # wishes that wait for the one before them
    transcript: list[Message] = field(default_factory=list)
    computed_tokens: int = 0  # tokens of this transcript whose KV cache has been computed
    under_way: UnderWay | None = None  # found at the start of a turn only after a crash

    def trim(self) -> None:
        """Leave the oldest turns behind, and a long one too; the prefix changes, so the next prompt is computed anew."""
        starts = [place for place, message in enumerate(self.transcript) if message.role == "user"]
        if self.computed_tokens <= WINDOW_TOKENS:
            return
        kept = next((s for s in starts[-KEPT_TURNS:] if self._characters(s) <= WINDOW_TOKENS), len(self.transcript))
        if starts and kept > starts[0]:
            self.transcript = self.transcript[:1] + self.transcript[kept:]
            self.computed_tokens = 0

    def _characters(self, start: int) -> int:
        return sum(len(message.content) for message in self.transcript[start:])

    def save(self, engine: Engine) -> None:
        """Write the conversation to the database as it stands. One whose customer has been erased meanwhile is not written again."""
        values = {
            "customer_id": self.customer_id,
            "started_at": self.started_at,
            "turns": self.turns,
            "state": asdict(self.state)
            | {
                "language": self.language,
                "queue": [wish.to_wire() for wish in self.queue],
                "under_way": self.under_way and asdict(self.under_way),
            },
            "transcript": [list(m) for m in self.transcript],
        }
        with engine.connect() as connection:
            kept = connection.execute(update(ConversationRow).where(ConversationRow.id == self.id).values(values))
            if not kept.rowcount:
                connection.execute(insert(ConversationRow).values(id=self.id, **values))
            # Looked at after the row is written: an erasure under way is waited for, a later one finds the row.
            known = select(Customer.id).where(Customer.id == self.customer_id).with_for_update(read=True)
            if connection.scalar(known):
                connection.commit()


def resume(engine: Engine, conversation_id: str, customer_id: str) -> Conversation:
    """The conversation as it was saved. Raises ConversationUnknown, for another customer's too."""
    with Session(engine) as session:
        row = session.get(ConversationRow, conversation_id)
        if row is None or row.customer_id != customer_id:
            raise ConversationUnknown(
                f"No conversation {conversation_id} of customer {customer_id} is kept. Start a new one."
            )
        saved = dict(row.state)
        language, queue = saved.pop("language"), [Triage.model_validate_json(wire) for wire in saved.pop("queue")]
        under_way = saved.pop("under_way", None)
        return Conversation(
            row.customer_id,
            row.started_at,
            row.id,
            language,
            row.turns,
            _state(saved),
            queue,
            [Message(*message) for message in row.transcript],
            under_way=under_way and _under_way(under_way),
        )


def _state(saved: Mapping[str, Any]) -> DialogueState:
    wishes = {
        name: Wish(**wish | {"intent": Intent(wish["intent"])})
        for name in ("wish", "open_wish")
        if (wish := saved[name])
    }
    return DialogueState(**{**saved, **wishes})


def _under_way(saved: Mapping[str, Any]) -> UnderWay:
    steps = []
    for step in saved["steps"]:
        decision = step["decision"]
        write = decision["write"] and Write(**decision["write"])
        steps.append(Step(Decision(**{**decision, "write": write}), _state(step["state"])))
    return UnderWay(saved["text"], saved["triage"], steps)
