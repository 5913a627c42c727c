"""A conversation: its transcript, what is open in it, and its place in the database, so that it survives a restart."""

import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.dialogue import DialogueState
from csproto.errors import CsprotoError
from csproto.policy import Wish
from csproto.store import ConversationRow
from csproto.transcript import Message
from csproto.triage import Intent, Triage

WINDOW_TOKENS = 1_000  # when a prompt grows beyond this, the oldest turns are left behind
KEPT_TURNS = 2


class ConversationUnknown(CsprotoError):
    """No such conversation of this customer is kept."""


@dataclass
class Conversation:
    """One customer's dialogue with the assistant. Not shared between threads."""

    customer_id: str
    started_at: datetime
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    language: str = "zh"
    turns: int = 0
    state: DialogueState = field(default_factory=DialogueState)
    queue: list[Triage] = field(default_factory=list)  # wishes that wait for the one before them
    transcript: list[Message] = field(default_factory=list)
    computed_tokens: int = 0  # tokens of this transcript whose KV cache has been computed

    def trim(self) -> None:
        """Leave the oldest turns behind; the prefix changes, so the next prompt is computed anew."""
        starts = [place for place, message in enumerate(self.transcript) if message.role == "user"]
        if self.computed_tokens > WINDOW_TOKENS and len(starts) > KEPT_TURNS:
            self.transcript = self.transcript[:1] + self.transcript[starts[-KEPT_TURNS] :]
            self.computed_tokens = 0

    def save(self, engine: Engine) -> None:
        """Write the conversation to the database as it stands."""
        state = asdict(self.state) | {"language": self.language, "queue": [wish.to_wire() for wish in self.queue]}
        row = ConversationRow(
            id=self.id,
            customer_id=self.customer_id,
            started_at=self.started_at,
            turns=self.turns,
            state=state,
            transcript=[list(m) for m in self.transcript],
        )
        with Session(engine) as session, session.begin():
            session.merge(row)


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
        for name in ("wish", "open_wish"):
            if wish := saved[name]:
                saved[name] = Wish(**wish | {"intent": Intent(wish["intent"])})
        transcript = [Message(*message) for message in row.transcript]
        return Conversation(
            row.customer_id, row.started_at, row.id, language, row.turns, DialogueState(**saved), queue, transcript
        )
