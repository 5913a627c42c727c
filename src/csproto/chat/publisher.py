"""The one thread that talks to the front end. Jupyter Server drops what comes faster than it likes, so steps are gathered, at most 30 messages a second leave,
and each is numbered: a front end that misses one asks for a snapshot of the message as it stands.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from csproto.chat.messages import Message, Step, apply, snapshot

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], None]
Job = Callable[[], None]


class Publisher:
    """Sends steps in order, and runs jobs (a trait to set, an answer to give) in their place among them.

    send: delivers one message to every front end. rate: messages a second at most.
    """

    def __init__(self, send: Send, rate: float = 30.0) -> None:
        self._send, self._pause = send, 1 / rate
        self._items: deque[Step | Job | None] = deque()
        self._arrived = threading.Condition()
        self._number = 0
        self._message: Message | None = None
        self._sent_at = 0.0
        self._thread = threading.Thread(target=self._work, name="csproto-publisher", daemon=True)
        self._thread.start()

    def step(self, step: Step) -> None:
        """Pass on a step; returns at once. From any thread."""
        self._put(step)

    def do(self, job: Job) -> None:
        """Run a job on the publishing thread, after every step before it; returns at once."""
        self._put(job)

    def snapshot(self) -> None:
        """Send the message under way as it stands, and the number to go on from."""
        self.do(self._send_snapshot)

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until everything before this has left."""
        reached: Future[None] = Future()
        self.do(lambda: reached.set_result(None))
        reached.result(timeout)

    def close(self) -> None:
        """End the thread once everything has left."""
        self._put(None)
        self._thread.join(timeout=5)

    # -- on the thread

    def _work(self) -> None:
        while (item := self._take()) is not None:
            if isinstance(item, dict):
                time.sleep(max(0.0, self._sent_at + self._pause - time.monotonic()))
                steps = [item, *self._further_steps()]
                item = partial(self._leave, steps)
            self._guarded(item)

    def _put(self, item: Step | Job | None) -> None:
        with self._arrived:
            self._items.append(item)
            self._arrived.notify()

    def _take(self) -> Step | Job | None:
        with self._arrived:
            self._arrived.wait_for(lambda: self._items)
            return self._items.popleft()

    def _further_steps(self) -> Iterator[Step]:
        """The steps that have gathered meanwhile, up to the next job."""
        with self._arrived:
            while self._items and isinstance(self._items[0], dict):
                yield self._items.popleft()  # type: ignore[misc]

    def _leave(self, steps: list[Step]) -> None:
        """Send gathered steps as one message; neighbouring pieces of text become one."""
        merged: list[Step] = []
        for step in steps:
            self._grow(step)
            if merged and step["step"] == merged[-1]["step"] == "token":
                merged[-1] = {"step": "token", "text": merged[-1]["text"] + step["text"]}
            else:
                merged.append(step)
        self._number += 1
        self._sent_at = time.monotonic()
        self._send({"type": "steps", "number": self._number, "steps": merged})

    def _send_snapshot(self) -> None:
        message = snapshot(self._message) if self._message else None
        self._send({"type": "snapshot", "number": self._number, "message": message})

    def _grow(self, step: Step) -> None:
        if step["step"] == "start":
            self._message = snapshot(step["message"])
        elif self._message:
            apply(self._message, step)

    def _guarded(self, job: Job) -> None:
        """A front end that is gone, or one bad job, must not end the thread that all later ones need."""
        try:
            job()
        except Exception:
            logger.exception("the panel could not tell its front end something")
