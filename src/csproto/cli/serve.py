"""Commands that serve until a signal ends them: serve, router, web."""

import logging
import signal
from types import FrameType
from typing import Annotated

import typer

from csproto import settings
from csproto.cli.common import BaseUrl, app, out, progress
from csproto.errors import CsprotoError

logger = logging.getLogger(__name__)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A model folder or a hub id.")] = str(
        settings.MINI_MODEL
    ),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Servers; more than one get a router before them.")
    ] = 1,
    extra: Annotated[
        list[str] | None, typer.Argument(help="After `--`: further flags for sglang.launch_server.")
    ] = None,
) -> None:
    """Run a SGLang server until Ctrl-C or SIGTERM. The other commands and the notebooks find it.

    Its key is the one in CSPROTO_API_KEY, or else a random one.
    """
    from csproto import logs
    from csproto.engine.router import Fleet
    from csproto.engine.running import read_state, remove_state, write_state
    from csproto.engine.server import Server

    logs.configure()
    signal.signal(signal.SIGTERM, _interrupt)
    if running := read_state():
        raise CsprotoError(
            f"A server is already running at {running['base_url']} (pid {running['pid']}). "
            "Use it, or stop it with Ctrl-C where it runs."
        )
    key, flags = settings.api_key(), extra or []
    server: Server | Fleet
    if workers > 1:
        server = Fleet(model, workers=workers, port=port, extra=flags, api_key=key)
    else:
        server = Server(model, port=port, extra=flags, api_key=key)
    try:
        server.start()
        with progress() as say:
            server.wait_ready(progress=say)
        state = write_state(server)
        logger.info("%s is ready at %s", server.served_name, server.base_url)
        out.print(
            f"{server.served_name} is ready at {server.base_url} after "
            f"{server.startup_seconds:.0f} s. Log: {server.log}. Ctrl-C ends it."
        )
        whose = "the one in CSPROTO_API_KEY" if key else f"`api_key` in {state}"
        out.print(f"Its key is {whose}; commands on this machine read it by themselves.")
        try:
            server.watch()
        except KeyboardInterrupt:
            out.print("stopping")
        finally:
            remove_state()
    finally:
        server.stop()


@app.command()
def router(
    worker: Annotated[list[str], typer.Option(help="URL of a SGLang server; repeat it.")],
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only on purpose.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The router's port.")] = 30000,
    metrics_port: Annotated[int, typer.Option(help="Port of its figures for Prometheus.")] = 29000,
    extra: Annotated[
        list[str] | None, typer.Argument(help="After `--`: further flags for sglang-router.")
    ] = None,
) -> None:
    """Run sglang-router in front of servers that run already, with settings that were measured.

    All servers and the router have the key in CSPROTO_API_KEY.
    """
    from csproto.engine.router import exec_router

    key = settings.api_key()
    if not key:
        raise CsprotoError(
            f"{settings.API_KEY.name} is not set. Set it to the key that all servers behind the "
            "router were started with; callers of the router need the same one."
        )
    exec_router(worker, key, host=host, port=port, metrics_port=metrics_port, extra=extra or [])


@app.command()
def web(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only on purpose.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The page's port.")] = 8000,
    base_url: BaseUrl = None,
) -> None:
    """Serve the assistant as a web page and a JSON API."""
    from csproto import logs
    from csproto.web import main as serve_page

    logs.configure()
    signal.signal(signal.SIGTERM, _interrupt)  # uvicorn lets the answers end before
    with progress() as say:
        serve_page(host, port, base_url, say)


def _interrupt(sign: int, frame: FrameType | None) -> None:
    """End the process as Ctrl-C does, but with exit code 0: its supervisor asked for it."""
    raise SystemExit(0)
