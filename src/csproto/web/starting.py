"""What the page answers before its engine and its database are there: honestly, not yet."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from csproto import settings
from csproto.engine.endpoint import EngineBusy, EngineTimeout, EngineUnreachable
from csproto.engine.server import NoServer
from csproto.errors import CsprotoError
from csproto.shop.database import DatabaseUnusable
from csproto.web.guard import problem

PAUSE = 2.0  # seconds between two tries
# What comes right by itself, if it only has not been started yet.
ENGINE_MISSING = (NoServer, EngineUnreachable, EngineTimeout, EngineBusy)
logger = logging.getLogger(__name__)


class Starting:
    """An ASGI application that becomes another one as soon as that can be made.

    A thread makes it, and makes it again after PAUSE seconds for as long as engine or
    database cannot be reached.

    run: makes the application, hands it over, and returns when the process ends.
    ended: called if `run` fails with an error that waiting does not mend; `error` is
        that error.
    """

    def __init__(
        self, run: Callable[[Callable[[ASGIApp], None]], None], ended: Callable[[], None]
    ) -> None:
        self._run, self._ended = run, ended
        self.app: ASGIApp | None = None
        self.reason = "The engine is being started."
        self.error: BaseException | None = None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._work, name="csproto-desk", daemon=True)

    def _work(self) -> None:
        while not self.closing.is_set():
            try:
                self._run(self._hand_over)
                return
            except Exception as error:
                if self.app or not _comes_right(error):
                    self.error = error
                    self._ended()
                    return
                if str(error) != self.reason:
                    logger.warning("waiting: %s", error)
                self.reason = str(error)
            self.closing.wait(PAUSE)

    def _hand_over(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._not_yet(scope)(scope, receive, send)

    def _not_yet(self, scope: Scope) -> JSONResponse | PlainTextResponse:
        """Return the answer to a request that came too early."""
        retry = {"Retry-After": f"{PAUSE:.0f}", "Cache-Control": "no-store"}
        if scope["path"] == "/livez":
            return JSONResponse({"status": "ok"})
        if scope["path"] in ("/readyz", "/health"):
            why = {"status": "unavailable", "reason": "Engine or database is not there yet."}
            return JSONResponse(why, 503, retry)
        if scope["path"].startswith("/api/"):
            return JSONResponse(problem("NoServer", Headers(scope=scope)), 503, retry)
        told = problem("NoServer", Headers(scope=scope))["response"]
        return PlainTextResponse(told, 503, retry | {"Refresh": f"{PAUSE:.0f}"})


def _comes_right(error: BaseException) -> bool:
    """Return whether it helps to wait. A SQLite file is there or it is not."""
    if isinstance(error, DatabaseUnusable):
        try:
            return make_url(settings.database_url()).get_backend_name() != "sqlite"
        except ArgumentError:
            return False
    return isinstance(error, ENGINE_MISSING)


def wait_with(starting: Starting, seconds: float) -> None:
    """Let the desk close its server, at most for `seconds`. Raises what ended it, if anything."""
    starting.closing.set()
    deadline = time.monotonic() + seconds
    while starting.thread.is_alive() and time.monotonic() < deadline:
        starting.thread.join(0.2)
    error: Any = starting.error
    if isinstance(error, CsprotoError):
        raise error
    if error:
        raise RuntimeError("the page has ended") from error
