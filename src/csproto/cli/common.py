"""What every command shares: application, consoles, progress line, options that recur."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A customer-service assistant on SGLang that can be trusted.",
)
out, err = (
    Console(highlight=False, soft_wrap=True),
    Console(stderr=True, highlight=False, soft_wrap=True),
)

BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="A running SGLang server. Default: CSPROTO_BASE_URL, else the one that "
        "`csproto serve` runs, else one is started."
    ),
]
CustomerId = Annotated[str, typer.Option(help="The signed-in customer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def progress() -> Iterator[Any]:
    """A status line on stderr for long work; plain lines where stderr is no terminal."""
    if not err.is_terminal:
        said: set[str] = set()

        def say(text: str) -> None:
            key = text.split(":", maxsplit=1)[0]
            if key not in said:
                said.add(key)
                err.print(text, markup=False)

        yield say
        return
    with err.status("") as status:
        # A line of a log may hold what rich would take for markup.
        yield lambda text: status.update(escape(text))
