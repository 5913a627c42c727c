"""The web page and its JSON API, on the same assistant as the notebook's panel. `csproto web` runs `main`."""

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
    """Serve the demo until Ctrl-C. A SGLang server is attached to, or started for as long as the page runs.

    Only loopback is bound unless another host is named. Raises CsprotoError.
    """
    import uvicorn

    from csproto.opening import assistant

    _check_port(host, port)
    with assistant(base_url, progress=progress) as desk:
        from csproto.web.app import create_app

        shown = f"[{host}]" if ":" in host else host
        print(
            f"The page is at http://{shown}:{port}/ and its API at http://{shown}:{port}/docs. Ctrl-C ends it.",
            flush=True,
        )
        if host not in LOOPBACK:
            print(
                "Whoever reaches this address can be any demo customer: a real shop signs its visitors in itself (`sign_in` of `create_app`).",
                flush=True,
            )
        app = create_app(desk, hosts=LOOPBACK if host in LOOPBACK else None)
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
    """Find out before a server is started for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CsprotoError(
                f"The page cannot be served at {host}:{port}: {error.strerror}. Name another --port or --host."
            ) from error
