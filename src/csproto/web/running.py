"""One answer under way.

The desk works in a thread, and its steps are read on the event loop. If the client goes
away early, the answer is stopped.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from starlette.requests import Request

from csproto.chat.messages import Step
from csproto.engine.endpoint import StopSignal
from csproto.web.limits import Slots
from csproto.web.visitors import Visitor

LOOK = 0.2  # seconds between looks whether the client is still there


class Running:
    """An answer to one message.

    Raises Refused if the chat is busy or too many answers are under way; the message
    has then had no effect.
    """

    def __init__(self, visitor: Visitor, text: str, slots: Slots) -> None:
        self._signal = StopSignal()
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[Step | None] = asyncio.Queue()
        with ExitStack() as held:
            held.enter_context(slots.one())
            self._chat = held.enter_context(visitor.alone())
            visitor.stop = self._signal
            self._held = held.pop_all()
        threading.Thread(
            target=self._work, args=(text,), name="csproto-answer", daemon=True
        ).start()

    def _work(self, text: str) -> None:
        try:
            with self._held:
                for step in self._chat.run(text, self._signal):
                    self._hand_over(step)
        finally:
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
