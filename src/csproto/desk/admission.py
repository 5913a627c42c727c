"""Which messages the desk takes.

How long, how many, how fast, and one at a time in a conversation.
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
REMEMBERED = 10_000  # customers whose last messages are kept


class MessageRefused(CsprotoError):
    """A message the desk does not take.

    retry_after: seconds to wait, 0 where waiting does not help.
    """

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Admission:
    """The limits of one desk, counted over all its threads.

    per_minute: messages of one customer in any sixty seconds; None for any number.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._times: dict[str, deque[float]] = {}
        self._answering: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def admitted(self, conversation: Conversation, text: str) -> Iterator[str]:
        """The cleaned message, and the conversation for this turn alone. Raises MessageRefused."""
        text = _checked(conversation, text)
        with self._lock:
            if conversation.id in self._answering:
                raise MessageRefused(
                    "The message before this one is still being answered. "
                    "Wait for the answer and send it again.",
                    1.0,
                )
            self._spend(conversation.customer_id)
            self._answering.add(conversation.id)
        try:
            yield text
        finally:
            with self._lock:
                self._answering.discard(conversation.id)

    def _spend(self, customer_id: str) -> None:
        """Count one message. The oldest of the last `per_minute` says when the next one is due."""
        if self._per_minute is None:
            return
        now = self._clock()
        times = self._times.setdefault(customer_id, deque(maxlen=self._per_minute))
        if len(times) == self._per_minute and (wait := MINUTE - (now - times[0])) > 0:
            raise MessageRefused(
                f"That was message {self._per_minute + 1} in a minute, and {self._per_minute} "
                f"are the most. Send it again in {int(wait) + 1} s.",
                wait,
            )
        times.append(now)
        if len(self._times) > REMEMBERED:
            self._times = {c: kept for c, kept in self._times.items() if now - kept[-1] < MINUTE}


def _checked(conversation: Conversation, text: str) -> str:
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
