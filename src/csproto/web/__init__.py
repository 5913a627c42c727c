"""The web page and its JSON API. `csproto web` runs `main`."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from csproto import settings
from csproto.errors import CsprotoError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = ("127.0.0.1", "::1", "localhost")
CLOSING = 15.0  # seconds to stop a server that was started for the page


def main(
    host: str = "127.0.0.1",
    port: int = 8000,
    base_url: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until a signal ends the process.

    It uses the model server that is running, or starts one that runs as long as the
    page. A server or a database that is named and does not answer yet is waited for.
    Only this machine can reach the page unless another host is named. Raises
    CsprotoError.
    """
    _check_port(host, port)
    from csproto.web.serving import server_for
    from csproto.web.starting import Starting, wait_with

    def run(hand_over: "Callable[[ASGIApp], None]") -> None:
        from csproto.chat.engine import shop_of
        from csproto.opening import open_desk
        from csproto.shop.database import usable
        from csproto.web.configured import configured_app
        from csproto.web.locks import shareable

        with open_desk(base_url, progress=progress) as assistant:
            app = configured_app(assistant, host)
            has_secret = bool(settings.COOKIE_SECRETS.listed())
            engine, locks = shop_of(assistant).engine, app.state.site.locks
            with usable(settings.database_url()), shareable(engine, locks, has_secret):
                hand_over(app)
                _greet(host, port)
                starting.closing.wait()

    starting = Starting(run, lambda: setattr(server, "should_exit", True))
    server = server_for(starting, host, port)
    starting.thread.start()
    try:
        server.run()
    finally:
        wait_with(starting, CLOSING)


def _greet(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    page = f"http://{shown}:{port}"
    print(f"The page is at {page}/ and its API at {page}/docs. Ctrl-C ends it.", flush=True)
    if host not in LOOPBACK and not settings.SIGN_IN.text():
        print(
            "Everybody who can reach this address can be any demo customer. "
            f"A real shop signs its visitors in itself ({settings.SIGN_IN.name}).",
            flush=True,
        )


def _check_port(host: str, port: int) -> None:
    """Raise CsprotoError if the port is taken, before a server is started for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CsprotoError(
                f"The page cannot be served at {host}:{port}: {error.strerror}. "
                "Name another --port or --host."
            ) from error
