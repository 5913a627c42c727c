"""Where messages wait for their turn while all answers that may be under way are.

It has a bound, because a queue that grows answers nobody in time. It is fair by customer:
whoever sends much waits behind whoever sends little.
"""

import asyncio
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress

from csproto.web.limits import Limits, Refused

FIRST_GUESS = 2.0  # seconds of an answer, before any has been measured
SHORTEST, LONGEST = 1, 30  # seconds that a refused visitor is told to wait


class Place:
    """A place in the queue, and later a slot. Made by `Queue.join` on an event loop."""

    def __init__(self, queue: "Queue", customer: str) -> None:
        self.customer = customer
        self.refused = False  # it had to make way for somebody else
        self.has_slot = False
        self.began = 0.0
        self._queue, self._left = queue, False
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()

    def number(self) -> int:
        """Return how many messages are answered before this one, itself included."""
        return self._queue.number(self)

    async def change(self, patience: float) -> None:
        """Wait until a slot is there or the place is lost, at most `patience` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), patience)

    def leave(self) -> None:
        """Give the place or the slot free. Safe to call from any thread, and twice."""
        self._queue.leave(self)

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._changed.set)


class Queue:
    """All places of one process. Safe to use from any thread."""

    def __init__(self, limits: Limits) -> None:
        self._slots, self._most = limits.running, limits.waiting
        self._running = 0
        self._waiting: OrderedDict[str, deque[Place]] = OrderedDict()  # next customer first
        self._seconds = FIRST_GUESS
        self._lock = threading.Lock()

    def join(self, customer: str) -> Place:
        """Take a slot if one is free, else a place in the queue.

        If the queue is full, the last message of the customer who has most of them
        makes way, unless this customer would then have as many. Raises Refused(503).
        """
        place = Place(self, customer)
        with self._lock:
            if self._running < self._slots and not self._waiting:
                self._give_slot(place)
                return place
            if len(self) >= self._most:
                self._make_way(customer)
            self._waiting.setdefault(customer, deque()).append(place)
        return place

    def leave(self, place: Place) -> None:
        """Give a place or a slot free."""
        with self._lock:
            if place._left:
                return
            place._left = True
            if place.has_slot:
                self._running -= 1
                self._seconds += 0.1 * (time.monotonic() - place.began - self._seconds)
            else:
                self._remove(place)
            while self._waiting and self._running < self._slots:
                self._next()

    def number(self, place: Place) -> int:
        """Return how many messages get a slot before this one does, itself included."""
        with self._lock:
            own = self._waiting.get(place.customer)
            if own is None or place not in own:
                return 0
            round_of_mine, before, ahead = own.index(place), True, 0
            for customer, places in self._waiting.items():
                if customer == place.customer:
                    before = False
                ahead += min(len(places), round_of_mine + before)
            return ahead + 1

    def retry_after(self) -> int:
        """Return in how many seconds a message has a good chance to be taken."""
        rounds = (len(self) + 1) / max(self._slots, 1)
        return round(min(max(rounds * self._seconds, SHORTEST), LONGEST))

    def __len__(self) -> int:
        return sum(map(len, list(self._waiting.values())))

    def _give_slot(self, place: Place) -> None:
        self._running += 1
        place.has_slot, place.began = True, time.monotonic()
        place._tell()

    def _next(self) -> None:
        """Give a slot to the customer whose turn it is, who then goes to the end."""
        customer, places = self._waiting.popitem(last=False)
        self._give_slot(places.popleft())
        if places:
            self._waiting[customer] = places

    def _make_way(self, customer: str) -> None:
        """Drop a message of whoever has most. Raises Refused if that is no help."""
        most = max(self._waiting.values(), key=len, default=None)
        if most is None or len(most) <= len(self._waiting.get(customer, ())) + 1:
            raise Refused(503, "EngineBusy", retry_after=self.retry_after())
        dropped = most[-1]
        dropped.refused = dropped._left = True
        self._remove(dropped)
        dropped._tell()

    def _remove(self, place: Place) -> None:
        places = self._waiting.get(place.customer, deque())
        with suppress(ValueError):
            places.remove(place)
        if not places:
            self._waiting.pop(place.customer, None)
