"""Decides whether the desk takes a message.

A message is refused if it is empty or too long, if its conversation already has the
most messages allowed, if the customer sends too many in a minute, or if the desk is
still answering the message before it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from csproto import settings
from csproto.desk.conversation import Conversation
from csproto.desk.transcript import clean
from csproto.errors import CsprotoError

MINUTE = 60.0
# Above this number of customers, forget those who sent nothing in the last minute.
MAX_CUSTOMERS = 10_000


class MessageRefused(CsprotoError):
    """The desk does not take a message.

    retry_after: seconds until the message can be sent again; 0 if waiting does not
    help.
    """

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Admission:
    """The limits of one desk, shared by all its threads.

    per_minute: the most messages of one customer in any sixty seconds; None for no
    limit. clock: gives the present moment in seconds.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        if per_minute is not None and per_minute < 1:
            raise ValueError("messages_per_minute is 1 or more, or None for no limit.")
        self.per_minute, self._clock = per_minute, clock
        self._times: dict[str, deque[float]] = {}
        self._answering: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def admitted(self, conversation: Conversation, text: str) -> Iterator[str]:
        """Yield the cleaned message, and reserve the conversation while the block runs.

        The desk refuses every other message of this conversation until the block ends.
        Raises MessageRefused if it refuses this message.
        """
        text = _checked(conversation, text)
        with self._lock:
            if conversation.id in self._answering:
                raise MessageRefused(
                    "The message before this one is still being answered. "
                    "Wait for the answer and send it again.",
                    1.0,
                )
            self._count_message(conversation.customer_id)
            self._answering.add(conversation.id)
        try:
            yield text
        finally:
            with self._lock:
                self._answering.discard(conversation.id)

    def _count_message(self, customer_id: str) -> None:
        """Count one message of a customer. Raises MessageRefused above the limit.

        `times` holds when the customer's last `per_minute` messages came. Once it is
        full, the desk takes the next message a minute after the oldest of them.
        """
        if self.per_minute is None:
            return
        now = self._clock()
        times = self._times.setdefault(customer_id, deque(maxlen=self.per_minute))
        if len(times) == self.per_minute and (wait := MINUTE - (now - times[0])) > 0:
            raise MessageRefused(
                f"That was message {self.per_minute + 1} in a minute, and {self.per_minute} "
                f"are the most. Send it again in {int(wait) + 1} s.",
                wait,
            )
        times.append(now)
        if len(self._times) > MAX_CUSTOMERS:
            self._times = {c: kept for c, kept in self._times.items() if now - kept[-1] < MINUTE}


def _checked(conversation: Conversation, text: str) -> str:
    """Return the cleaned message. Raises MessageRefused if it cannot be answered."""
    text = clean(text)
    if not text:
        raise MessageRefused(
            "The message is empty. Write what you need, for example: 我的订单到哪了?"
        )
    if len(text) > settings.MAX_MESSAGE_CHARS:
        raise MessageRefused(
            f"The message has {len(text)} characters, and {settings.MAX_MESSAGE_CHARS} are "
            "the most. Send it in a shorter form."
        )
    if conversation.turns >= settings.MAX_TURNS:
        raise MessageRefused(
            f"This conversation has reached {settings.MAX_TURNS} messages. Start a new one."
        )
    return text
