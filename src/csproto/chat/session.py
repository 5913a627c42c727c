"""One person's chat: the conversation behind it, the messages in front of it, and a copy of every state to go back to.

Panel and page run the same session; only the way its steps travel differs. Not shared between threads.
"""

import copy
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from csproto.assistant import Assistant, Done, Turn
from csproto.chat import records
from csproto.chat.engine import engine_state
from csproto.chat.messages import Message, Rating, Step, apply, new_message, new_notice, step_of
from csproto.conversation import Conversation
from csproto.engine.endpoint import Stopped, StopSignal
from csproto.engine.server import NoServer
from csproto.errors import CsprotoError
from csproto.shop.orders import database_errors_typed
from csproto.transcript import Message as Line

logger = logging.getLogger(__name__)


class NothingToTakeBack(CsprotoError):
    """There is no message that could be taken back."""


class MessageUnknown(CsprotoError):
    """No message with this id."""


@dataclass(frozen=True)
class _Place:
    """Where a message began: the conversation before it, and the number of the turn it was."""

    before: Conversation
    turn: int


class ChatSession:
    """The chat of one signed-in customer. Opening the conversation is left to the first message, or to `open`.

    reasons: whether a failed message carries the error's own text. It names addresses and commands: for the notebook, not for the web.
    Raises CustomerUnknown, OrderSystemDown.
    """

    def __init__(self, assistant: Assistant, customer_id: str, *, reasons: bool = True) -> None:
        assistant.orders.known(customer_id)
        self.assistant, self.customer_id, self._reasons = assistant, customer_id, reasons
        self.messages: list[Message] = []
        self.running: Message | None = None
        self.last_turn: Turn | None = None
        self.last_error: BaseException | None = None
        self._conversation: Conversation | None = None
        self._places: dict[str, _Place] = {}
        self._numbers = itertools.count(1)
        self._spent = 0  # turn numbers that were used, by messages taken back too: the keys of writes hold them

    # -- saying something

    def open(self) -> Conversation:
        """The conversation; a new one has its prompt's prefix computed. Raises EngineError."""
        if self._conversation is None:
            self._conversation = self.assistant.open(self.customer_id)
        return self._conversation

    def run(self, text: str, stop: StopSignal) -> Iterator[Step]:
        """Answer one message, step by step: `start`, what the assistant does, then `done`, `stopped` or `failed`.

        Raises nothing: what went wrong is the last step, and kept in `last_error`.
        """
        message = new_message(next(self._numbers), text)
        self.running, self.last_turn, self.last_error = message, None, None
        yield {"step": "start", "message": copy.deepcopy(message)}
        try:
            for step in self._steps(message, text, stop):
                apply(message, step)
                yield step
        finally:
            if message["state"] == "running":  # the reader of these steps went away
                apply(message, {"step": "stopped"})
            self.messages.append(message)
            self.running = None
            self._count_turns()

    def _steps(self, message: Message, text: str, stop: StopSignal) -> Iterator[Step]:
        try:
            stop.check()
            if not engine_state(self.assistant)["ok"]:
                raise NoServer(
                    f"No SGLang server is ready at {self.assistant.endpoint.base_url}. Start one with `csproto serve`, then retry; nothing else need be run again."
                )
            conversation = self._current()
            self._places[message["id"]] = _Place(copy.deepcopy(conversation), conversation.turns)
            with database_errors_typed():
                for event in self.assistant.stream(conversation, text, stop):
                    if isinstance(event, Done):
                        self.last_turn = event.turn
                    yield step_of(event, self.assistant.rules)
        except Stopped as error:
            self.last_error = error
            yield {"step": "stopped"}
        except CsprotoError as error:
            self.last_error = error
            code = "rate" if getattr(error, "retry_after", 0) else type(error).__name__
            yield {"step": "failed", "code": code, "reason": str(error) if self._reasons else ""}
        except Exception as error:
            logger.exception("a message could not be answered")
            self.last_error = error
            yield {"step": "failed", "code": "internal", "reason": ""}

    def _current(self) -> Conversation:
        """The conversation, under the prompt of the model that answers now: another one may have been started meanwhile."""
        conversation, prompt = self.open(), self.assistant.prompt
        if conversation.transcript[0].content != prompt:
            conversation.transcript[0] = Line("system", prompt)
            conversation.computed_tokens = 0
        return conversation

    # -- going back

    def undo(self) -> str:
        """Take the last message back, and return its text. Raises NothingToTakeBack, OrderSystemDown.

        What it wrote to the order system stays, and a notice says so.
        """
        return self._rewind(again=False)

    def again(self) -> str:
        """Take the last message back in order to send the very same text: a write it has made is then not made twice."""
        return self._rewind(again=True)

    def _rewind(self, again: bool) -> str:
        message = self.last()
        if message is None:
            raise NothingToTakeBack("There is no message to take back. Send one first.")
        place = self._places.get(message["id"])
        notices = self._restored(place, again) if place else []
        self.messages = self.messages[: self.messages.index(message)] + notices
        self._places.pop(message["id"], None)
        return str(message["text"])

    def _restored(self, place: _Place, again: bool) -> list[Message]:
        """Put the conversation back, and return what to say about it; a database that fails leaves all as it was.

        The keys of writes hold the turn's number, so only a repeated text may use it again.
        """
        engine, conversation = self.assistant.orders.engine, copy.deepcopy(place.before)
        if not again:
            conversation.turns = self._spent
        with database_errors_typed():
            writes = records.writes_of(engine, conversation.id, place.turn)
            conversation.save(engine)
        self._conversation = conversation
        if again and not writes:
            return []
        return [new_notice(next(self._numbers), "kept" if writes else "nothing_kept", writes)]

    def _count_turns(self) -> None:
        """After a repeated message the count goes on behind every number used so far: a new write must never meet an old key."""
        if conversation := self._conversation:
            self._spent = max(self._spent, conversation.turns)
            conversation.turns = self._spent

    def last(self) -> Message | None:
        """The last message that was sent."""
        return next((m for m in reversed(self.messages) if m["kind"] == "turn"), None)

    # -- around it

    def rate(self, message_id: str, rating: Rating) -> None:
        """Thumbs up (1), down (-1) or neither (0), as a row of the audit table. Raises MessageUnknown, OrderSystemDown."""
        message = next((m for m in self.messages if m["id"] == message_id), None)
        place = self._places.get(message_id)
        if message is None or place is None or not message["parts"]:
            raise MessageUnknown(f"There is no answered message {message_id} to rate.")
        with database_errors_typed():
            records.rate(
                self.assistant.orders.engine,
                place.before.id,
                place.turn,
                self.customer_id,
                rating,
                message["parts"][0]["rule"],
                self.assistant.clock(),
            )
        message["rating"] = rating

    def renew(self, customer_id: str | None = None) -> None:
        """Begin a new conversation, of another customer if one is named. Raises CustomerUnknown, OrderSystemDown."""
        if customer_id:
            self.assistant.orders.known(customer_id)
            self.customer_id = customer_id
        self.messages, self._conversation, self._spent = [], None, 0
        self._places.clear()

    def as_dict(self) -> dict[str, Any]:
        """The JSON export."""
        return {
            "customer": self.customer_id,
            "conversation": self._conversation.id if self._conversation else None,
            "model": self.assistant.endpoint.model_name,
            "messages": self.messages,
        }
