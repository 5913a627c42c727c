"""The page as a process of its own, as an operator runs it."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest

from csproto.engine.server import free_port

# An order system that takes its time, so that a turn is still under way when a signal comes.
SLOW = """
from functools import partial
import csproto.opening
from csproto.shop.orders import Faults
csproto.opening.open_desk = partial(csproto.opening.open_desk, faults=Faults(latency=1.2))
"""
RUN = "import sys; from csproto.cli import main; sys.argv = ['csproto', *sys.argv[1:]]; main()"


class Page:
    """A process that serves the page. Its log is in a file."""

    def __init__(self, folder: Path, environment: dict[str, str], slow: bool) -> None:
        self.port, self.log = free_port(), folder / "web.log"
        self.url = f"http://127.0.0.1:{self.port}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    (SLOW if slow else "") + RUN,
                    "web",
                    "--port",
                    str(self.port),
                ],
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def status(self, path: str) -> int:
        """Status of a GET; 0 if nobody answers."""
        try:
            return httpx.get(self.url + path, timeout=30).status_code
        except httpx.TransportError:
            return 0

    def wait_for(self, path: str, *statuses: int, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while self.status(path) not in statuses:
            assert self.process.poll() is None or 0 in statuses, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


@pytest.fixture
def web_process(tmp_path: Path, server: Any) -> Iterator[Callable[..., Page]]:
    """Starts the page on the model server of the run and a database of its own."""
    pages: list[Page] = []

    def start(*, slow: bool = False, ready: bool = True, **environment: str) -> Page:
        usual = {"CSPROTO_DB": f"sqlite:///{tmp_path / 'shop.db'}", "CSPROTO_LOG": "json"}
        page = Page(tmp_path, usual | environment, slow)
        pages.append(page)
        if ready:
            page.wait_for("/readyz", 200)
        return page

    yield start
    for page in pages:
        page.process.kill()
        page.process.wait(30)


Spoil = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


class Relay:
    """Carries bytes between a port and a server, from `start` on.

    spoil: hands on the answers to generations instead, for faults on the way.
    """

    def __init__(self, target: str, spoil: Spoil | None = None) -> None:
        parts = urlsplit(target)
        self._target, self.port, self._spoil = (parts.hostname, parts.port), free_port(), spoil
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        started = threading.Event()
        threading.Thread(target=asyncio.run, args=(self._serve(started),), daemon=True).start()
        assert started.wait(30)
        return self

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        started.set()
        await server.serve_forever()

    async def _connect(self, near_in: Any, near_out: Any) -> None:
        far_in, far_out = await asyncio.open_connection(*self._target)
        generates = False

        async def ask() -> None:
            nonlocal generates
            while data := await near_in.read(65536):
                generates = data.startswith(b"POST /generate") or (
                    generates and not data.startswith(b"GET ")
                )
                far_out.write(data)
            far_out.close()

        async def answer() -> None:
            while data := await far_in.read(65536):
                if generates and self._spoil:
                    await self._spoil(near_out, data)
                else:
                    near_out.write(data)
            near_out.close()

        with suppress(OSError):
            await asyncio.gather(ask(), answer())


async def drip(sink: asyncio.StreamWriter, data: bytes) -> None:
    """Hand on four bytes a second of the body."""
    head, mark, body = data.partition(b"\r\n\r\n") if data.startswith(b"HTTP") else (b"", b"", data)
    sink.write(head + mark)
    for place in range(0, len(body), 4):
        sink.write(body[place : place + 4])
        await sink.drain()
        await asyncio.sleep(1)


async def gateway_error(sink: asyncio.StreamWriter, data: bytes) -> None:
    """Answer as a gateway does whose server has gone."""
    sink.write(
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\nContent-Type: text/html\r\n\r\n<html>"
    )


def replaced(old: bytes, new: bytes) -> Spoil:
    """Hand on with one text in place of another of the same length."""
    assert len(old) == len(new)

    async def hand_on(sink: asyncio.StreamWriter, data: bytes) -> None:
        sink.write(data.replace(old, new))

    return hand_on
