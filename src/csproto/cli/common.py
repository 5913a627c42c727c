"""What every command shares: application, consoles, progress line, options that recur."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from csproto.engine.endpoint import Endpoint

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
Model = Annotated[
    str | None, typer.Option(help="The model to start; a server that runs must run this one.")
]
Workers = Annotated[int, typer.Option(help="Conversations at once.")]
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


@contextmanager
def connected_endpoint(base_url: str | None, model: str | None = None) -> Iterator["Endpoint"]:
    """Yield a client of the running server, or of one that is started for this command."""
    from csproto.opening import connected

    with progress() as say, connected(base_url, model, say) as (url, key):
        from csproto.engine.endpoint import Endpoint

        yield Endpoint(url, key)
