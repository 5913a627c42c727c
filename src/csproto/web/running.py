"""The answers under way, and those that wait for their turn.

The desk works in a thread, and its steps are read on the event loop. An answer is
stopped if the client goes away early, if it takes too long, or if the process ends.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, ExitStack, aclosing
from contextvars import copy_context

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from csproto.chat.messages import Step
from csproto.chat.session import ChatSession
from csproto.engine.endpoint import StopSignal
from csproto.web.limits import Limits, Refused
from csproto.web.metrics import Metrics
from csproto.web.queue import Place, Queue
from csproto.web.visitors import Visitor

SPARE = 5.0  # seconds beyond the longest wait after which nobody waits any more
LOOK = 0.2  # seconds between looks whether the client is still there
logger = logging.getLogger(__name__)


class Answers:
    """All answers under way. Safe to use from any thread."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics, self.queue = limits, metrics, Queue(limits)
        self.closing = False
        self._running: set[Running] = set()
        self._lock = threading.Lock()

    async def begin(self, visitor: Visitor, text: str, sent_as: str = "") -> "Running":
        """Begin to answer one message, or let it wait for its turn.

        sent_as: the sender's own name of it (see `ChatSession.run`).

        Raises Refused if the chat is busy, if too many messages wait, or if the process
        ends; the message has then had no effect.
        """
        place = self.queue.join(visitor.chat.customer_id)
        held = ExitStack()
        try:
            held.callback(place.leave)
            alone: AbstractContextManager[ChatSession] = visitor.alone()
            # In a thread, because the lock may be one of the database.
            await run_in_threadpool(held.enter_context, alone)
            with self._lock:
                if self.closing:
                    raise Refused(503, "network", retry_after=1)
                running = Running(visitor, text, sent_as, self, place, held)
                self._running.add(running)
        except BaseException:
            threading.Thread(target=held.close, daemon=True).start()
            raise
        if place.has_slot:
            running.start()
        else:  # in case nobody ever asks for its steps
            patience = self.limits.wait_seconds + SPARE
            asyncio.get_running_loop().call_later(patience, running.give_up)
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
    """An answer to one message. Made by `Answers.begin`.

    held: what is given free when the answer ends.
    """

    def __init__(
        self,
        visitor: Visitor,
        text: str,
        sent_as: str,
        answers: Answers,
        place: Place,
        held: ExitStack,
    ) -> None:
        self._signal, self._why, self._answers = StopSignal(), "", answers
        self._visitor, self._text, self._sent_as = visitor, text, sent_as
        self._place, self._held = place, held
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[Step | None] = asyncio.Queue()
        visitor.stop = self._signal
        work = copy_context().run  # with the number of the request
        self.thread = threading.Thread(
            target=work, args=(self._work,), name="csproto-answer", daemon=True
        )

    @property
    def has_begun(self) -> bool:
        """Whether the message is being answered, and no longer waits."""
        return self.thread.ident is not None

    def start(self) -> None:
        """Begin to answer, in a thread."""
        self.thread.start()

    def stop(self, why: str) -> None:
        """Stop the answer. why: the code that the client gets instead of `stopped`."""
        self._why = why
        self._signal.set()

    def give_up(self) -> None:
        """Leave the queue, if the message still waits in it."""
        if not self.has_begun:
            self._signal.set()
            self._answers.ended(self)
            # In a thread, because the lock of the chat may be one of the database.
            threading.Thread(target=self._held.close, daemon=True).start()

    def _work(self) -> None:
        limits, metrics, chat = self._answers.limits, self._answers.metrics, self._visitor.chat
        deadline = threading.Timer(limits.turn_seconds, self.stop, ["EngineTimeout"])
        deadline.daemon = True
        deadline.start()
        try:
            with self._held:
                for step in chat.run(self._text, self._signal, self._sent_as):
                    if step["step"] == "stopped" and self._why:
                        step = {"step": "failed", "code": self._why, "reason": ""}  # noqa: PLW2901
                    if step["step"] in ("start", "triage"):
                        self._visitor.note()  # before anything is written
                    metrics.count_step(step)
                    self._hand_over(step)
                del chat.messages[: -limits.messages]
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

        While the message waits for its turn, the steps are `waiting`, with its place.
        Leaving the loop in any way stops the answer.
        """
        try:
            async for waiting in self._turn(request):
                yield waiting
                if waiting["step"] == "failed":
                    return
            while self.has_begun:
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
            self.give_up()

    async def _turn(self, request: Request) -> AsyncGenerator[Step]:
        """Wait for a slot, and yield the place in the queue whenever it has changed.

        The last step is `failed` if there is no slot in time or the wait is stopped.
        """
        deadline, shown = time.monotonic() + self._answers.limits.wait_seconds, 0
        while not self.has_begun:
            if self._place.has_slot and not self._signal.is_set:
                self.start()
                return
            if self._signal.is_set:
                yield {"step": "failed", "code": self._why or "stopped", "reason": ""}
                return
            if self._place.refused or time.monotonic() > deadline:
                self._answers.metrics.count_refusal(503, "EngineBusy")
                yield {"step": "failed", "code": "EngineBusy", "reason": ""}
                return
            if await request.is_disconnected():
                return
            if (number := self._place.number()) != shown:
                shown = number
                yield {"step": "waiting", "place": number}
            await self._place.change(LOOK)

    async def last(self, request: Request) -> Step | None:
        """Return the last step, or an earlier one if the client went away before it.

        The chat is free by then, so the client's next message is not refused.
        """
        last = None
        async with aclosing(self.steps(request)) as steps:
            async for step in steps:
                last = step
        return last
