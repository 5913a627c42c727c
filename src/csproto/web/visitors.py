"""The visitors: each has a signed cookie and a chat. Their number and age are limited."""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from csproto.chat.messages import Message, snapshot
from csproto.chat.session import ChatSession
from csproto.engine.endpoint import StopSignal
from csproto.web.limits import Limits, Refused

COOKIE = "csproto_session"


class Signer:
    """Signs cookies.

    keys: the first signs, and all are tried when a cookie is read, so that a new key
        can be put in front of an old one. Without any, the process has a random key,
        which ends together with its sessions.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = list(keys) or [secrets.token_bytes(32)]

    def sign(self, name: str) -> str:
        """Return the cookie of a session."""
        return f"{name}.{_seal(self._keys[0], name)}"

    def read(self, cookie: str | None) -> str | None:
        """Return the session that a cookie names, or None if it was not signed here."""
        name, _, seal = (cookie or "").rpartition(".")
        genuine = [hmac.compare_digest(seal.encode(), _seal(k, name).encode()) for k in self._keys]
        return name if name and any(genuine) else None


def _seal(key: bytes, name: str) -> str:
    return hmac.new(key, name.encode(), hashlib.sha256).hexdigest()


class Visitor:
    """One visitor's chat. One request works on it at a time."""

    def __init__(self, name: str, chat: ChatSession) -> None:
        self.name, self.chat = name, chat
        self.seen_at = time.monotonic()
        self.stop: StopSignal | None = None
        self.came_back = False  # with the cookie, as browsers do and floods do not
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Return whether a request works on the chat now."""
        return self._lock.locked()

    @property
    def answering(self) -> Message | None:
        """The message that is being answered, if there is one."""
        return self.chat.running

    def messages(self) -> list[Message]:
        """Return the messages, with the one that is being answered at the end."""
        # Read in this sequence, a message that is completed meanwhile is not missed.
        running, complete = self.answering, list(self.chat.messages)
        if running and all(message is not running for message in complete):
            complete.append(running)
        return [snapshot(message) for message in complete]

    @contextmanager
    def alone(self, patience: float = 0.0) -> Iterator[ChatSession]:
        """Reserve the chat for this request.

        Raises Refused(429) if another one still has it after `patience` seconds.
        """
        if not self._lock.acquire(timeout=patience):
            raise Refused(429, "busy", retry_after=1)
        try:
            yield self.chat
        finally:
            self._lock.release()

    def note(self) -> None:
        """Keep what is known of the answer under way, where other processes look for it."""

    def ask_to_stop(self) -> None:
        """End the answer under way. One that has begun to write is completed."""
        if self.stop:
            self.stop.set()


class Visitors:
    """All visitors of this process, the longest unused first."""

    def __init__(self, limits: Limits, signer: Signer | None = None) -> None:
        self._limits, self._signer = limits, signer or Signer()
        self._all: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, cookie: str | None) -> Visitor | None:
        """Return the visitor with this cookie, unless it is forged or too old."""
        name = self._signer.read(cookie)
        with self._lock:
            self._forget_old()
            visitor = self._all.get(name) if name else None
            if visitor:
                visitor.seen_at, visitor.came_back = time.monotonic(), True
                self._all.move_to_end(visitor.name)
            return visitor

    def add(self, chat: ChatSession) -> tuple[Visitor, str]:
        """Add a visitor, and return it with its cookie.

        If there are too many, one is dropped: of those that never came back with their
        cookie the one unused for longest, else of all of them. Raises Refused(503) if
        all are busy.
        """
        visitor = Visitor(secrets.token_urlsafe(18), chat)
        with self._lock:
            self._forget_old()
            if len(self._all) >= self._limits.sessions:
                idle = [other for other in self._all.values() if not other.busy]
                if not idle:
                    raise Refused(503, "EngineBusy", retry_after=5)
                strangers = (other for other in idle if not other.came_back)
                del self._all[next(strangers, idle[0]).name]
            self._all[visitor.name] = visitor
        return visitor, self._signer.sign(visitor.name)

    def remove(self, visitor: Visitor) -> None:
        """Drop a visitor with the chat; an answer under way is stopped."""
        with self._lock:
            self._all.pop(visitor.name, None)
        if visitor.stop:
            visitor.stop.set()

    def __len__(self) -> int:
        return len(self._all)

    def _forget_old(self) -> None:
        limit = time.monotonic() - self._limits.session_age
        for name, visitor in list(self._all.items()):
            if visitor.seen_at > limit:
                break
            if not visitor.busy:
                del self._all[name]
