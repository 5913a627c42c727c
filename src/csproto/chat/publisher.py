"""The one thread that talks to the front end of the panel.

Each step has a number: a front end that misses one asks for a snapshot of the message as
it stands.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any

from csproto.chat.messages import Message, Step, apply, snapshot

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], None]
Job = Callable[[], None]


class Publisher:
    """Sends steps in order, and runs jobs (such as setting a trait) between them.

    send: delivers one message to every front end.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._number = 0
        self._message: Message | None = None
        self._thread = threading.Thread(target=self._work, name="csproto-publisher", daemon=True)
        self._thread.start()

    def step(self, step: Step) -> None:
        """Send a step; returns at once. Safe to call from any thread."""
        self.do(partial(self._send_step, step))

    def do(self, job: Job) -> None:
        """Run a job on the publishing thread after all before it; returns at once."""
        self._jobs.put(job)

    def snapshot(self) -> None:
        """Send the message under way as it stands, and the number of its last step."""
        self.do(self._send_snapshot)

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until everything before this has been sent."""
        reached: Future[None] = Future()
        self.do(lambda: reached.set_result(None))
        reached.result(timeout)

    def close(self) -> None:
        """End the thread once everything has been sent."""
        self._jobs.put(None)
        self._thread.join(timeout=5)

    # -- on the thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # the thread must go on: all later jobs need it
                logger.exception("the panel could not tell its front end something")

    def _send_step(self, step: Step) -> None:
        if step["step"] == "start":
            self._message = snapshot(step["message"])
        elif self._message:
            apply(self._message, step)
        self._number += 1
        self._send({"type": "step", "number": self._number, "step": step})

    def _send_snapshot(self) -> None:
        message = snapshot(self._message) if self._message else None
        self._send({"type": "snapshot", "number": self._number, "message": message})
