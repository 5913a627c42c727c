"""Limits what one visitor, and all together, may ask of the server."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from csproto import settings
from csproto.errors import CsprotoError


def _count(variable: settings.Variable) -> int:
    return field(default_factory=lambda: int(variable.number()))


def _seconds(variable: settings.Variable) -> float:
    return field(default_factory=variable.number)


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds. The defaults are those of the settings."""

    body: int = _count(settings.LIMIT_BODY)
    body_seconds: float = _seconds(settings.LIMIT_BODY_SECONDS)
    burst: int = _count(settings.LIMIT_BURST)  # requests that one address may make at once
    # Requests that it may make in the long run.
    per_minute: float = _seconds(settings.LIMIT_PER_MINUTE)
    looks: int = 10  # how many times as many GETs
    running: int = _count(settings.LIMIT_RUNNING)  # answers under way, of all visitors together
    waiting: int = _count(settings.LIMIT_WAITING)  # messages that wait for one of them to end
    wait_seconds: float = _seconds(settings.LIMIT_WAIT_SECONDS)
    turn_seconds: float = _seconds(settings.TURN_SECONDS)  # until an answer is given up
    sessions: int = _count(settings.LIMIT_SESSIONS)
    session_age: float = _seconds(settings.LIMIT_SESSION_AGE)  # since the last message
    messages: int = 200  # of one visitor that the page can show
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
    """A token bucket for each address; the addresses not seen for longest are forgotten.

    times: multiplies what the limits allow.
    """

    limits: Limits
    times: int = 1
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    @property
    def per_second(self) -> float:
        """How many tokens come back."""
        return max(self.times * self.limits.per_minute / 60, 1e-3)

    @property
    def most(self) -> float:
        """How many tokens there can be."""
        return float(self.times * self.limits.burst)

    def spend(self, address: str, cost: int = 1) -> None:
        """Take one token, or none to see whether there is one. Raises Refused(429) if not.

        There is no lock, because only the event loop calls this.
        """
        now, per_second, most = time.monotonic(), self.per_second, self.most
        tokens, since = self._buckets.pop(address, (most, now))
        tokens = min(most, tokens + (now - since) * per_second)
        self._buckets[address] = (max(tokens - cost, 0.0) if tokens >= 1 else tokens, now)
        while len(self._buckets) > self.limits.addresses:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise Refused(429, "rate", retry_after=int((1 - tokens) / per_second) + 1)
