"""uvicorn as this page needs it: patient with answers that end, impatient with slow requests."""

import asyncio
import logging
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from csproto import settings
from csproto.web.limits import Limits
from csproto.web.starting import Starting

STOPPING = 5.0  # seconds for answers that were told to stop
logger = logging.getLogger(__name__)


class ImpatientProtocol(H11Protocol):
    """Closes a connection whose client is too slow, which uvicorn waits for for ever.

    patience: seconds for the head of a request, and for the client to take what it was
        sent. The body of a request is the Guard's.
    """

    patience = 10.0
    _timer: asyncio.TimerHandle | None = None
    _full: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()  # the head is there
        elif self._timer is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffer is full: the client reads more slowly than the page writes."""
        super().pause_writing()
        self._full = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._full:
            self._full.cancel()
            self._full = None

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(self.patience, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


class PageServer(uvicorn.Server):
    """Lets answers end before it does: new messages are refused, then old ones stopped.

    drain: seconds for the answers under way.
    """

    def __init__(self, config: uvicorn.Config, starting: Starting, drain: float) -> None:
        super().__init__(config)
        self._starting, self._drain = starting, drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, and wait for the answers under way."""
        self._starting.closing.set()
        answers = self._answers()
        if answers is None:
            await super().shutdown(sockets)
            return
        answers.close()
        logger.info("ending: %d answers under way have %.0f s", len(answers), self._drain)
        stop = asyncio.get_running_loop().call_later(self._drain, answers.stop)
        await super().shutdown(sockets)
        stop.cancel()
        answers.stop()  # those whose client has gone
        if left := await asyncio.to_thread(answers.wait, STOPPING):
            logger.error("%d answers did not end; their customers can send them again", left)

    def _answers(self) -> Any:
        state = getattr(self._starting.app, "state", None)
        return state.site.answers if state else None


def server_for(starting: Starting, host: str, port: int) -> PageServer:
    """Return the server of a page, with the settings of this process. Raises SettingInvalid."""
    drain, trusted = settings.DRAIN.number(), settings.TRUSTED_PROXIES.listed()
    protocol = type("Protocol", (ImpatientProtocol,), {"patience": Limits().body_seconds})
    config = uvicorn.Config(
        starting,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
        server_header=False,
        timeout_graceful_shutdown=int(drain + STOPPING),
    )
    return PageServer(config, starting, drain)
