"""Commands that look after things: serve, web, doctor, tickets, db."""

import logging
import signal
import sys
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from csproto import settings
from csproto.cli.common import BaseUrl, app, out, progress
from csproto.cli.tickets import tickets_app
from csproto.errors import CsprotoError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

db_app = typer.Typer(no_args_is_help=True, help="The shop's database.")
app.add_typer(db_app, name="db")
app.add_typer(tickets_app, name="tickets")
logger = logging.getLogger(__name__)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A model folder or a hub id.")] = str(
        settings.MINI_MODEL
    ),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    extra: Annotated[
        list[str] | None, typer.Argument(help="After `--`: further flags for sglang.launch_server.")
    ] = None,
) -> None:
    """Run a SGLang server until Ctrl-C or SIGTERM. The other commands and the notebooks find it.

    Its key is the one in CSPROTO_API_KEY, or else a random one.
    """
    from csproto import logs
    from csproto.engine.running import read_state, remove_state, write_state
    from csproto.engine.server import Server

    logs.configure()
    signal.signal(signal.SIGTERM, _interrupt)
    if running := read_state():
        raise CsprotoError(
            f"A server is already running at {running['base_url']} (pid {running['pid']}). "
            "Use it, or stop it with Ctrl-C where it runs."
        )
    key = settings.api_key()
    server = Server(model, port=port, extra=extra or [], api_key=key).start()
    try:
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
            assert server.process is not None
            code = server.process.wait()
            raise CsprotoError(
                f"The server ended by itself (exit code {code}). Last lines of its log "
                f"({server.log}):\n{server.log_tail()}"
            )
        except KeyboardInterrupt:
            out.print("stopping")
        finally:
            remove_state()
    finally:
        server.stop()


def _interrupt(sign: int, frame: FrameType | None) -> None:
    """End the process as Ctrl-C does, but with exit code 0: its supervisor asked for it."""
    raise SystemExit(0)


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


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="A model folder or a hub id: does it fit this machine?")
    ] = None,
) -> None:
    """Say what is installed, what is missing, and the command that repairs it."""
    from rich.table import Table

    from csproto.cli.printing import Wrapped, print_fitting
    from csproto.engine.doctor import checks

    found = list(checks(model))
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    for check in found:
        mark = "[green]ok[/green]" if check.ok else "[red]miss[/red]"
        table.add_row(mark, check.what, Wrapped(check.found))
        if not check.ok:
            table.add_row("", "repair", Wrapped(check.fix))
    print_fitting(table)
    if bad := sum(not check.ok for check in found):
        raise CsprotoError(f"{bad} of the checks failed; the commands above repair them.")


@db_app.command("init")
def db_init(
    yes: Annotated[bool, typer.Option("--yes", help="Erase what is there without asking.")] = False,
) -> None:
    """Create the schema and put the demo data in place of whatever is there."""
    from csproto.shop import demo
    from csproto.shop.database import url_without_password, usable
    from csproto.shop.store import open_engine, schema_of

    url = settings.database_url()
    with usable(url):
        engine = open_engine(url, patience=None)
        if schema_of(engine) and not yes:
            _ask_before_emptying(engine, url_without_password(url))
        customers, orders = demo.fill(engine, datetime.now(UTC))
    out.print(f"{url_without_password(url)}: {customers} customers, {orders} orders")


def _ask_before_emptying(engine: "Engine", name: str) -> None:
    """Ask whether the rows of a database may go. Raises CsprotoError without a yes."""
    from csproto.shop import demo

    with engine.connect() as connection:
        rows = [f"{count} {kind}" for kind, count in demo.counts(connection).items() if count]
    if not rows:
        return
    told = f"{name} has {', '.join(rows)}."
    if not sys.stdin.isatty():
        raise CsprotoError(
            f"{told} Nothing was changed. `csproto db init --yes` erases them for the demo data."
        )
    if not typer.confirm(f"{told} Erase them all for the demo data?"):
        raise CsprotoError("Nothing was changed.")


@db_app.command("migrate")
def db_migrate() -> None:
    """Create the schema, or bring an older one up to date; what is in the database is kept."""
    from csproto.shop.database import url_without_password, usable
    from csproto.shop.migrations import migrate
    from csproto.shop.store import open_engine

    url = settings.database_url()
    with usable(url):
        before, after = migrate(open_engine(url, patience=None))
    out.print(
        f"{url_without_password(url)}: schema {after}"
        + (f", before {before or 'none'}" if before != after else "")
    )


@db_app.command("forget")
def db_forget(customer: Annotated[str, typer.Argument(help="The customer to erase.")]) -> None:
    """Erase a customer with orders, tickets, conversations and audit rows.

    That a member of staff took or closed a ticket stays, without the customer.
    """
    from csproto.shop.database import open_database
    from csproto.shop.retention import forget

    forget(open_database(demo_data=False), customer)
    out.print(f"{customer} is erased")


@db_app.command("prune")
def db_prune(
    days: Annotated[
        float | None,
        typer.Option(min=0, max=36_500, help="Keep this many days. Default: CSPROTO_KEEP_DAYS."),
    ] = None,
) -> None:
    """Erase old conversations, closed tickets and audit rows. Open tickets stay."""
    from csproto.shop.database import open_database
    from csproto.shop.retention import prune

    days = min(settings.KEEP_DAYS.number(), 36_500) if days is None else days
    erased = prune(open_database(demo_data=False), datetime.now(UTC) - timedelta(days=days))
    rows = ", ".join(f"{count} {kind}" for kind, count in erased.items())
    out.print(f"older than {days:g} days: erased {rows}")
