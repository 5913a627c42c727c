"""Commands for the staff: what waits, one ticket with its conversation, take and close."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from csproto.cli.common import AsJson, out

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from csproto.shop.store import Ticket

# Columns of the list, and how wide each can be; the customer's last words get the rest.
COLUMNS = {"ticket": 7, "waits": 6, "kind": 16, "customer": 10, "order": 12, "taken by": 10}
tickets_app = typer.Typer(help="What waits for the shop's staff.")


def number_of(text: str) -> int:
    """Return the number of a ticket that is written as 7 or as T00007."""
    digits = text.removeprefix("T").removeprefix("t")
    if not (digits.isascii() and digits.isdigit()):
        raise typer.BadParameter(f"{text!r} is no ticket. Write its number, such as 7 or T00007.")
    return int(digits)


Number = Annotated[
    int, typer.Argument(parser=number_of, metavar="ID", help="The ticket: 7 or T00007.")
]
By = Annotated[str, typer.Option(help="Who you are.")]


@tickets_app.callback(invoke_without_command=True)
def tickets(context: typer.Context, as_json: AsJson = False) -> None:
    """Show what waits for the shop's staff: what is urgent first, then the newest."""
    from csproto.shop.tickets import as_dict, waiting

    if context.invoked_subcommand:
        return
    found = waiting(_database())
    if as_json:
        print(json.dumps([as_dict(ticket) for ticket in found], ensure_ascii=False))
        return
    if found:
        out.print(_table(found), soft_wrap=False)
    out.print(f"{len(found)} tickets")


@tickets_app.command()
def show(number: Number, as_json: AsJson = False) -> None:
    """Show one ticket with its customer, its order and the conversation."""
    from csproto.chat.tickets import with_conversations
    from csproto.desk.handbook import default_handbook
    from csproto.shop.tickets import find

    engine = _database()
    ticket = with_conversations(engine, find(engine, number), default_handbook())
    if as_json:
        print(json.dumps(ticket, ensure_ascii=False))
        return
    for line in _lines(ticket):
        out.print(line, markup=False)


@tickets_app.command()
def take(number: Number, by: By) -> None:
    """Take a ticket, so that nobody else works on it. Its customer is told in the chat."""
    from csproto.shop.tickets import label, take

    ticket = take(_database(), number, by, datetime.now(UTC))
    out.print(f"{label(ticket.id)} is taken by {ticket.taken_by}", markup=False)


@tickets_app.command()
def close(
    number: Number,
    by: By,
    note: Annotated[str, typer.Option(help="What was done, for the other staff.")] = "",
) -> None:
    """Close a ticket. Its customer is told in the chat, but not the note."""
    from csproto.shop.tickets import close, label

    ticket = close(_database(), number, by, datetime.now(UTC), note)
    out.print(f"{label(ticket.id)} is closed by {ticket.closed_by}", markup=False)


def _database() -> "Engine":
    from csproto.shop.database import open_database

    return open_database(demo_data=False)


def _table(found: "list[Ticket]") -> Table:
    """Return the list as a table that fits 80 columns: the last words are cut to fit."""
    from csproto.shop.tickets import is_urgent, label

    cut: Any = {"no_wrap": True, "overflow": "ellipsis"}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True, show_edge=False)
    for name, most in COLUMNS.items():
        table.add_column(name, max_width=most, **cut)
    table.add_column("last words", ratio=1, min_width=12, **cut)
    now = datetime.now(UTC)
    for ticket in found:
        kind = f"{ticket.kind} !" if is_urgent(ticket) else ticket.kind
        last = ticket.summary.rpartition("\n")[2].removeprefix("- ")
        words = (ticket.customer_id, ticket.order_id, ticket.taken_by, last)
        waits = _age((now - ticket.created_at).total_seconds())
        style = "bold" if is_urgent(ticket) else ""
        table.add_row(label(ticket.id), waits, *(Text(w) for w in (kind, *words)), style=style)
    return table


def _age(seconds: float) -> str:
    """Return a span of time in its largest unit: `5 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds) // 60:.0f} min"


def _lines(ticket: dict[str, Any]) -> list[str]:
    """Return a ticket with its conversations, as text for people."""
    urgent = ", urgent" if ticket["urgent"] else ""
    lines = [
        f"{ticket['number']}: {ticket['kind']}{urgent}, since {ticket['since']}",
        f"customer: {ticket['customer']} {ticket['name']}",
    ]
    if about := ticket["about"]:
        facts = ", ".join(f"{name}: {value}" for name, value in about.items() if value)
        lines.append(f"order: {ticket['order']} ({facts})")
    for what in ("taken", "closed"):
        if ticket[f"{what}_at"]:
            lines.append(f"{what}: {ticket[f'{what}_at']} by {ticket[f'{what}_by'] or 'nobody'}")
    if ticket["note"]:
        lines.append(f"note: {ticket['note']}")
    lines += ["", ticket["summary"]]
    for conversation in ticket["conversations"]:
        lines += ["", f"conversation of {conversation['at']}"]
        for message in conversation["messages"]:
            lines += [f"  customer: {message['text']}", f"  desk:     {message['reply']}"]
    if not ticket["conversations"]:
        lines += ["", "The conversation is not kept any more."]
    return lines
