"""The page as a process of its own, as an operator runs it."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
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


class Relay:
    """Carries bytes from a port to a server, as soon as it is told to."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target, self.port = (parts.hostname, parts.port), free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True).start()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        await server.serve_forever()

    async def _connect(self, near_in: Any, near_out: Any) -> None:
        far_in, far_out = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._carry(near_in, far_out), self._carry(far_in, near_out))

    async def _carry(self, source: Any, sink: Any) -> None:
        with closing(sink):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
