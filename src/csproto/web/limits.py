"""What one visitor, and all of them together, may ask of the server. Everything that is counted here is bounded itself."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from csproto.errors import CsprotoError


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body: int = 16_384
    burst: int = 30  # requests one address may make at once ...
    per_minute: float = 60.0  # ... and how many it gets back each minute
    running: int = 16  # answers under way, of all visitors together
    sessions: int = 500
    session_age: float = 7_200.0  # since the last message
    addresses: int = 10_000  # remembered for the rate


@dataclass
class Refused(CsprotoError):
    """A request that is refused, with its HTTP status and when to come back; `code` names the words shown."""

    status: int
    code: str
    retry_after: int = 0


@dataclass
class RateLimit:
    """A bucket of tokens per address."""

    limits: Limits
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def spend(self, address: str) -> None:
        """Take one token. Raises Refused(429) when there is none. Called from the event loop only, so without a lock."""
        now, per_second = time.monotonic(), self.limits.per_minute / 60
        tokens, since = self._buckets.pop(address, (float(self.limits.burst), now))
        tokens = min(self.limits.burst, tokens + (now - since) * per_second)
        self._buckets[address] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        while len(self._buckets) > self.limits.addresses:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise Refused(429, "rate", retry_after=int((1 - tokens) / per_second) + 1)


class Slots:
    """How many answers may be under way."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a slot. Raises Refused(503) when all are taken: waiting would only make the queue longer."""
        if not self._free.acquire(blocking=False):
            raise Refused(503, "EngineBusy", retry_after=2)
        try:
            yield
        finally:
            self._free.release()
