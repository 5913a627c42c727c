"""One person's chat: the conversation with the desk, and its messages as they are shown.

Panel and page use the same session; they differ in how its steps reach the browser.
"""

import copy
import logging
from collections.abc import Iterator
from typing import Any

from csproto.chat import records
from csproto.chat.engine import endpoint_of, engine_state, shop_of
from csproto.chat.messages import (
    Message,
    Rating,
    Step,
    apply,
    kept_messages,
    new_message,
    steps_again,
    steps_of,
)
from csproto.desk.assistant import Assistant, Done, Event, Said, Turn
from csproto.desk.conversation import Conversation, resume
from csproto.desk.transcript import clean
from csproto.engine.endpoint import Stopped, StopSignal
from csproto.engine.server import NoServer
from csproto.errors import CsprotoError
from csproto.shop import demo
from csproto.shop.orders import database_errors_typed

KEPT_IDS = 8  # the last messages of a conversation that are known again after a restart
logger = logging.getLogger(__name__)


class MessageUnknown(CsprotoError):
    """The chat has no answered message with this id."""


class ChatSession:
    """The chat of one signed-in customer. Not to be shared between threads.

    conversation_id: a conversation to take up again; a new one begins with the first
        message unless it is given.
    reasons: whether a failed message has the error's text. The text names addresses and
        commands, so it is for a notebook and not for the web.

    Raises CustomerUnknown, ConversationUnknown and OrderSystemDown.
    """

    def __init__(
        self,
        assistant: Assistant,
        customer_id: str,
        *,
        conversation_id: str = "",
        reasons: bool = True,
    ) -> None:
        self.assistant, self._reasons = assistant, reasons
        self.running: Message | None = None
        self.last_turn: Turn | None = None
        self.last_error: BaseException | None = None
        self._number = 0  # of the last message
        self._begin(customer_id, conversation_id)

    def renew(self, customer_id: str | None = None) -> None:
        """Begin a new conversation, of another customer if one is named.

        Raises CustomerUnknown and OrderSystemDown.
        """
        self._begin(customer_id or self.customer_id)

    def resume(self, conversation_id: str) -> None:
        """Take up an earlier conversation of this customer again.

        Raises ConversationUnknown and OrderSystemDown.
        """
        self._begin(self.customer_id, conversation_id)

    def conversations(self) -> list[dict[str, Any]]:
        """Return this customer's conversations, newest first. Raises OrderSystemDown."""
        with database_errors_typed():
            return records.conversations(shop_of(self.assistant).engine, self.customer_id)

    def reset_demo(self) -> None:
        """Bring the data of the demo shop back, and begin a new conversation.

        Raises NotTheDemo and OrderSystemDown.
        """
        with database_errors_typed():
            demo.reset(shop_of(self.assistant).engine, self.assistant.clock())
        self._begin(self.customer_id)

    def _begin(self, customer_id: str, conversation_id: str = "") -> None:
        shop, conversation = shop_of(self.assistant), None
        shop.known(customer_id)
        if conversation_id:
            with database_errors_typed():
                conversation = resume(shop.engine, conversation_id, customer_id)
        handbook = self.assistant.handbook
        self.customer_id, self._conversation = customer_id, conversation
        self.messages = kept_messages(conversation, handbook) if conversation else []
        self._turns: dict[str, int] = {}  # message id: which turn of the conversation it was
        ids = reversed(conversation.message_ids) if conversation else ()
        done = (m for m in reversed(self.messages) if m["state"] == "done")
        # By the sender's own name of the message.
        self._answered = {name: message for name, message in zip(ids, done, strict=False) if name}

    @property
    def conversation_id(self) -> str:
        """The conversation's number; empty before the first message."""
        return self._conversation.id if self._conversation else ""

    def run(self, text: str, stop: StopSignal, sent_as: str = "") -> Iterator[Step]:
        """Answer one message, and yield each step.

        sent_as: the sender's own name of the message. If it is sent again, because its
            answer was lost on the way, it gets that answer and does nothing: a yes is
            never taken for the answer to the question after the one it was for.

        The first step is `start`, the last one `done`, `stopped` or `failed`. If the
        message before it has the same text and got no answer, the new one replaces it.

        Raises nothing: an error is the last step, and is kept in `last_error`.
        """
        answered = self._answered.get(sent_as)
        if answered and clean(answered["text"]) == clean(text):
            yield from steps_again(answered)
            return
        before = self.messages[-1] if self.messages else None
        if before and before["state"] != "done" and before["text"] == text:
            self.messages = self.messages[:-1]
        self._number += 1
        message = new_message(self._number, text)
        self.running, self.last_turn, self.last_error = message, None, None
        try:
            yield {"step": "start", "message": copy.deepcopy(message)}
            for step in self._steps(message, text, stop, sent_as):
                apply(message, step)
                yield step
        finally:
            if message["state"] == "running":  # nobody reads the steps any more
                apply(message, {"step": "stopped"})
            self.messages.append(message)
            if sent_as and message["state"] == "done":
                self._answered[sent_as] = message
            self.running = None

    def _steps(self, message: Message, text: str, stop: StopSignal, sent_as: str) -> Iterator[Step]:
        try:
            stop.check()
            self._check_engine()
            if self._conversation is None:
                self._conversation = self.assistant.open(self.customer_id)
            self._turns[message["id"]] = self._conversation.turns
            with database_errors_typed():
                for event in self._events(self._conversation, text, stop, sent_as):
                    if isinstance(event, Done):
                        self.last_turn = event.turn
                    yield from steps_of(event, self.assistant.handbook)
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

    def _events(
        self, conversation: Conversation, text: str, stop: StopSignal, sent_as: str
    ) -> Iterator[Event]:
        """Answer one message; the turn is saved together with its name."""
        before, is_done = conversation.message_ids, False
        try:
            for event in self.assistant.stream(conversation, text, stop):
                if isinstance(event, Said):  # the turn is saved next
                    conversation.message_ids = (*before, sent_as)[-KEPT_IDS:]
                is_done = isinstance(event, Done)
                yield event
        finally:
            if not is_done:
                conversation.message_ids = before

    def _check_engine(self) -> None:
        """Raise NoServer at once if no engine answers, instead of after a time-out."""
        if not engine_state(self.assistant)["ok"]:
            raise NoServer(
                f"No SGLang server is ready at {endpoint_of(self.assistant).base_url}. "
                "Start one with `csproto serve`, then send the message again."
            )

    def rate(self, message_id: str, rating: Rating, why: records.Why = "") -> None:
        """Rate an answer: thumbs up (1), down (-1) or neither (0).

        why: what was wrong with an answer that is rated down.

        The rating is a row of the audit table. Raises MessageUnknown, OrderSystemDown.
        """
        message = next((m for m in self.messages if m["id"] == message_id), None)
        turn = self._turns.get(message_id)
        if message is None or turn is None or not message["decisions"]:
            raise MessageUnknown(f"There is no answered message {message_id} to rate.")
        rule, now = message["decisions"][0]["rule"], self.assistant.clock()
        place = (self.conversation_id, turn, self.customer_id)
        with database_errors_typed():
            records.rate(shop_of(self.assistant).engine, *place, rating, rule, now, why)
        message |= {"rating": rating, "why": why}

    def kept(self) -> dict[str, Any]:
        """Return, as JSON, what another process needs to show this chat and to go on with it."""
        names = {name: message["id"] for name, message in self._answered.items()}
        kept = {"messages": self.messages, "turns": self._turns, "number": self._number}
        return kept | {"names": names}

    def take_up(self, kept: dict[str, Any]) -> None:
        """Show the messages of a chat that was kept, beside the conversation it belongs to."""
        self.messages = [*kept["messages"]]
        self._turns, self._number = dict(kept["turns"]), int(kept["number"])
        by_id = {message["id"]: message for message in self.messages}
        names = kept["names"].items()
        self._answered = {name: by_id[number] for name, number in names if number in by_id}

    def add_stopped(self, message: Message) -> None:
        """Add a message whose process died before it was answered; it can be sent again."""
        if all(message["id"] != other["id"] for other in self.messages):
            self.messages.append(message | {"state": "stopped"})
            self._number += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the chat for the JSON export."""
        return {
            "customer": self.customer_id,
            "conversation": self.conversation_id or None,
            "model": endpoint_of(self.assistant).model_name,
            "messages": self.messages,
        }
