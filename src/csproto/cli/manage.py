"""Commands that look after things: doctor, tickets, db."""

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from csproto import settings
from csproto.cli.common import app, out
from csproto.cli.tickets import tickets_app
from csproto.errors import CsprotoError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

db_app = typer.Typer(no_args_is_help=True, help="The shop's database.")
app.add_typer(db_app, name="db")
app.add_typer(tickets_app, name="tickets")


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
