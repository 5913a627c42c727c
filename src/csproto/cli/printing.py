"""How replies, reasons and orders are printed: wrapped at words, in tables that fit."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from csproto.cli.common import out

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from csproto.desk.triage import Triage
    from csproto.desk.turn import Turn

# Chinese has no spaces. A line may end after any of its characters, but a mark that closes
# something stays with what is before it, and one that opens with what is after it.
WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60\uffe0-\uffe6"
OPENS = "（《「『【〔“‘(\\["
CLOSES = "，。、；：？！）》」』】〕”’…—,.;:?!)\\]"
# What stays on one line: "123456", "shirt),", "（纯" and "衫），" are one piece each; "订单" is
# two.
PIECE = re.compile(rf"\s+|[{OPENS}]*(?:[{WIDE}]|[^\s{WIDE}]*[^\s{WIDE}{OPENS}])[{CLOSES}]*|\S")


def lines(text: str, width: int) -> Iterator[str]:
    """Yield a text as lines that fit a width, in cells. Only a word that is wider is cut."""
    for paragraph in text.split("\n"):
        line = ""
        for piece in PIECE.findall(paragraph):
            if not piece.isspace() and cell_len(line + piece) > width:
                if line.strip():
                    yield line.rstrip()
                *full, line = chop_cells(piece, width) if cell_len(piece) > width else [piece]
                yield from full
            elif line or not piece.isspace():
                line += piece
        yield line.rstrip()


@dataclass(frozen=True)
class Wrapped:
    """A text for rich, wrapped by `lines`.

    Rich itself takes a Chinese sentence for one word, and cuts a number inside it.
    """

    text: str
    style: str = ""

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Yield the lines for the width that there is."""
        wrapped = "\n".join(lines(self.text, options.max_width))
        yield Text(wrapped, self.style, no_wrap=True)

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> Measurement:
        """Return the width of the widest piece, and that of the whole text."""
        paragraphs = self.text.split("\n")
        pieces = [cell_len(piece) for text in paragraphs for piece in PIECE.findall(text)]
        measured = Measurement(max(pieces, default=0), max(map(cell_len, paragraphs)))
        return measured.with_maximum(options.max_width)


def print_fitting(*parts: "RenderableType") -> None:
    """Print tables and texts no wider than the terminal, or 80 columns where there is none."""
    for part in parts:
        out.print(part, soft_wrap=False)


def rows(pairs: Iterable[tuple[str, str]], style: str = "") -> Table:
    """Return a table of names and texts."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    return add_rows(table, pairs, style)


def add_rows(table: Table, pairs: Iterable[tuple[str, str]], style: str = "") -> Table:
    """Add names and texts to a table of `rows`, and return it."""
    for name, text in pairs:
        table.add_row(Text(name), Wrapped(text, style))
    return table


def numbered(choices: Sequence[Mapping[str, str]]) -> Table:
    """Return the choices below a question, each with its number."""
    return rows([(f"  {number}", choice["label"]) for number, choice in enumerate(choices, 1)])


def chosen(line: str, choices: Sequence[Mapping[str, str]]) -> str:
    """Return the message of the choice whose number was typed, or else the line itself."""
    if line.isdecimal() and 0 < int(line) <= len(choices):
        return choices[int(line) - 1]["text"]
    return line


def reasons(turn: "Turn", shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return why a turn was answered so, for `rows`. shown: `turn.as_dict(...)`."""
    pairs = []
    if turn.triage:
        second = f", else {turn.runner_up}" if turn.runner_up else ""
        pairs.append(("read as", f"{reading(turn.triage)} ({turn.sure or 0:.0%} sure{second})"))
    for decision in shown["decisions"]:
        written = f"; writes {decision['write']}" if decision["write"] else ""
        source = f"by {decision['rule']} ({decision['source']})"
        pairs.append(("decided", f"{decision['action']} {source}{written}"))
    if shown["waiting"]:
        about = " ".join([shown["waiting"]["intent"], ", ".join(shown["waiting"]["orders"])])
        pairs.append(("waits", f"for an answer about {about}"))
    return [*pairs, ("cost", cost(turn))]


def reading(triage: "Triage") -> str:
    """Return a triage in words: `return_exchange 123456, remedy exchange, cause size`."""
    parts: list[str] = [] if triage.act == "ask" else [triage.act]
    for wish in triage.wishes:
        slots = [f"{name} {value}" for name, value in wish.slots.items()]
        parts.append(", ".join([" ".join([wish.intent, *wish.orders]), *slots]))
    return "; ".join(parts)


def cost(turn: "Turn") -> str:
    """Return the time and the tokens of a turn."""
    usage = turn.usage
    tokens = f"{usage.prompt_tokens} prompt tokens, {usage.cached_tokens} of them from the cache"
    written = f"{usage.completion_tokens} written in {usage.model_calls} calls"
    return f"{turn.total_ms:.0f} ms · {tokens}, {written}"


def show(turn: "Turn", shown: Mapping[str, Any]) -> None:
    """Print a turn as a person reads it: the reply first, then why. shown: as in `reasons`."""
    table = rows([("reply", turn.reply)], "bold")
    if turn.choices:
        table = add_rows(table, [("buttons", " · ".join(c["label"] for c in turn.choices))])
    print_fitting(add_rows(table, reasons(turn, shown)))
