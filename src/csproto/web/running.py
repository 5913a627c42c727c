"""The answers under way.

The desk works in a thread, and its steps are read on the event loop. An answer is
stopped if the client goes away early, if it takes too long, or if the process ends.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from contextvars import copy_context

from starlette.requests import Request

from csproto.chat.messages import Step
from csproto.engine.endpoint import StopSignal
from csproto.web.limits import Limits, Refused, Slots
from csproto.web.metrics import Metrics
from csproto.web.visitors import Visitor

LOOK = 0.2  # seconds between looks whether the client is still there
logger = logging.getLogger(__name__)


class Answers:
    """All answers under way. Safe to use from any thread."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics, self.slots = limits, metrics, Slots(limits.running)
        self.closing = False
        self._running: set[Running] = set()
        self._lock = threading.Lock()

    def begin(self, visitor: Visitor, text: str, sent_as: str = "") -> "Running":
        """Begin to answer one message. To be called on the event loop.

        sent_as: the sender's own name of it (see `ChatSession.run`).

        Raises Refused if the chat is busy, if too many answers are under way, or if the
        process ends; the message has then had no effect.
        """
        with self._lock:
            if self.closing:
                raise Refused(503, "network", retry_after=1)
            running = Running(visitor, text, self, sent_as)
            self._running.add(running)
        running.thread.start()
        return running

    def ended(self, running: "Running") -> None:
        """Take an answer off the list."""
        with self._lock:
            self._running.discard(running)

    def close(self) -> None:
        """Refuse new messages. The answers under way go on."""
        with self._lock:
            self.closing = True

    def stop(self) -> None:
        """Stop the answers under way; the customer is asked to send the message again."""
        with self._lock:
            left = list(self._running)
        if left:
            logger.warning("%d answers took too long to wait for them, and are stopped", len(left))
        for running in left:
            running.stop("network")

    def wait(self, seconds: float) -> int:
        """Wait until no answer is under way. Returns how many still are."""
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            time.sleep(0.05)
        return len(self._running)

    def __len__(self) -> int:
        return len(self._running)


class Running:
    """An answer to one message. Made by `Answers.begin`."""

    def __init__(self, visitor: Visitor, text: str, answers: Answers, sent_as: str = "") -> None:
        self._signal, self._why, self._answers = StopSignal(), "", answers
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[Step | None] = asyncio.Queue()
        with ExitStack() as held:
            held.enter_context(answers.slots.one())
            self._chat = held.enter_context(visitor.alone())
            visitor.stop = self._signal
            self._held = held.pop_all()
        work = copy_context().run  # with the number of the request
        self.thread = threading.Thread(
            target=work, args=(self._work, text, sent_as), name="csproto-answer", daemon=True
        )

    def stop(self, why: str) -> None:
        """Stop the answer. why: the code that the client gets instead of `stopped`."""
        self._why = why
        self._signal.set()

    def _work(self, text: str, sent_as: str) -> None:
        limits, metrics = self._answers.limits, self._answers.metrics
        deadline = threading.Timer(limits.turn_seconds, self.stop, ["EngineTimeout"])
        deadline.daemon = True
        deadline.start()
        try:
            with self._held:
                for step in self._chat.run(text, self._signal, sent_as):
                    if step["step"] == "stopped" and self._why:
                        step = {"step": "failed", "code": self._why, "reason": ""}  # noqa: PLW2901
                    metrics.count_step(step)
                    self._hand_over(step)
                del self._chat.messages[: -limits.messages]
        finally:
            deadline.cancel()
            self._answers.ended(self)
            self._hand_over(None)

    def _hand_over(self, step: Step | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._steps.put_nowait, step)

    async def first(self) -> Step:
        """Return the `start` step."""
        step = await self._steps.get()
        assert step is not None
        return step

    async def steps(self, request: Request) -> AsyncGenerator[Step]:
        """Yield the further steps, until the last one or until the client goes away.

        Leaving the loop in any way stops the answer.
        """
        try:
            while True:
                try:
                    step = await asyncio.wait_for(self._steps.get(), LOOK)
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    continue
                if step is None:
                    return
                yield step
        finally:
            self._signal.set()

    async def last(self, request: Request) -> Step | None:
        """Return the last step, or an earlier one if the client went away before it.

        The chat is free by then, so the client's next message is not refused.
        """
        last = None
        async with aclosing(self.steps(request)) as steps:
            async for step in steps:
                last = step
        return last
