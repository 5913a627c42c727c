"""Limits what one visitor, and all together, may ask of the server."""

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
    burst: int = 30  # requests that one address may make at once
    per_minute: float = 60.0  # requests that it may make in the long run
    running: int = 16  # answers under way, of all visitors together
    sessions: int = 500
    session_age: float = 7_200.0  # since the last message
    addresses: int = 10_000  # remembered for the rate


@dataclass
class Refused(CsprotoError):
    """A request is refused.

    status: the HTTP status. code: names the words that are shown. retry_after: seconds.
    """

    status: int
    code: str
    retry_after: int = 0


@dataclass
class RateLimit:
    """A token bucket for each address; the addresses not seen for longest are forgotten."""

    limits: Limits
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def spend(self, address: str) -> None:
        """Take one token. Raises Refused(429) if there is none.

        There is no lock, because only the event loop calls this.
        """
        now, per_second = time.monotonic(), self.limits.per_minute / 60
        tokens, since = self._buckets.pop(address, (float(self.limits.burst), now))
        tokens = min(self.limits.burst, tokens + (now - since) * per_second)
        self._buckets[address] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        while len(self._buckets) > self.limits.addresses:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise Refused(429, "rate", retry_after=int((1 - tokens) / per_second) + 1)


class Slots:
    """Limits how many answers are under way at the same time."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a slot. Raises Refused(503) if all are taken: a queue would only grow."""
        if not self._free.acquire(blocking=False):
            raise Refused(503, "EngineBusy", retry_after=2)
        try:
            yield
        finally:
            self._free.release()
