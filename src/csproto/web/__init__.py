"""The web page and its JSON API. `csproto web` runs `main`."""

import socket
from collections.abc import Callable

from csproto.errors import CsprotoError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(
    host: str = "127.0.0.1",
    port: int = 8000,
    base_url: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    It uses the model server that is running, or starts one that runs as long as the
    page. Only this machine can reach the page unless another host is named. Raises
    CsprotoError.
    """
    import uvicorn

    from csproto.opening import open_desk

    _check_port(host, port)
    with open_desk(base_url, progress=progress) as assistant:
        from csproto.web.app import create_app

        shown = f"[{host}]" if ":" in host else host
        page = f"http://{shown}:{port}"
        print(f"The page is at {page}/ and its API at {page}/docs. Ctrl-C ends it.", flush=True)
        if host not in LOOPBACK:
            print(
                "Everybody who can reach this address can be any demo customer. "
                "A real shop signs its visitors in itself (`sign_in` of `create_app`).",
                flush=True,
            )
        app = create_app(assistant, hosts=LOOPBACK if host in LOOPBACK else None)
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=3,
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
