"""The command line. Exit codes: 0 done, 1 failed with one line on stderr, 2 wrong usage."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from csproto import settings
from csproto.errors import CsprotoError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A customer-service assistant on SGLang that can be trusted.",
)
model_app = typer.Typer(no_args_is_help=True, help="The mini model that ships with the project.")
db_app = typer.Typer(no_args_is_help=True, help="The shop's database.")
app.add_typer(model_app, name="model")
app.add_typer(db_app, name="db")

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="A running SGLang server. Default: CSPROTO_BASE_URL, else the one `csproto serve` runs, else one is started."
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
                err.print(text)

        yield say
        return
    with err.status("") as status:
        yield status.update


@app.command()
def ask(
    text: Annotated[str, typer.Argument(help="What the customer writes; `-` reads it from standard input.")],
    customer: CustomerId = "C001",
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """Answer one message and show why."""
    from csproto.shop import assistant

    text = sys.stdin.read() if text == "-" else text
    with progress() as say, assistant(base_url, progress=say) as desk:
        turn = desk.turn(desk.open(customer), text)
    if as_json:
        print(json.dumps(turn.as_dict(), ensure_ascii=False))
    else:
        show(turn)


DEMO = (
    ("C001", "我要退换货,订单号123456,衣服尺码偏小"),
    ("C001", "我的订单#789012还没发货,能催一下吗?"),
    ("C002", "Hi, where is my desk lamp? Order 901234"),
)


@app.command()
def demo(base_url: BaseUrl = None) -> None:
    """Answer the first customers of the demo shop, freshly filled, and show why each got the answer."""
    import tempfile

    from csproto.shop import assistant

    with (
        tempfile.TemporaryDirectory() as folder,
        progress() as say,
        assistant(base_url, database=f"sqlite:///{folder}/shop.db", progress=say) as desk,
    ):
        for customer, text in DEMO:
            out.print(f"\n{customer}: {text}", style="cyan", markup=False)
            show(desk.turn(desk.open(customer), text))
    out.print(NEXT)


NEXT = """
What next:
  make serve                                  keep a server running; the commands below then start at once
  .venv/bin/csproto chat                      talk to it
  .venv/bin/csproto ask "快递单号多少" --json    one answer with everything behind it
  make lab                                    the notebooks, beginning with 01_quickstart"""


@app.command()
def chat(customer: CustomerId = "C001", base_url: BaseUrl = None) -> None:
    """Talk to the assistant in the terminal; an empty line or Ctrl-D ends it, Ctrl-C stops an answer."""
    from csproto.shop import assistant

    with progress() as say:
        opened = assistant(base_url, progress=say)
        desk = opened.__enter__()
    try:
        _chat(desk, customer)
    finally:
        opened.__exit__(None, None, None)


def _chat(desk: Any, customer: str) -> None:
    from csproto.assistant import Done, Token
    from csproto.endpoint import Stopped, StopSignal

    conversation = desk.open(customer)
    out.print(
        f"[dim]You are customer {customer}. For example: 我的订单到哪了 / cancel my order. An empty line ends.[/dim]"
    )
    while text := _line():
        stop = StopSignal()
        try:
            for event in desk.stream(conversation, text, stop):
                if isinstance(event, Token):
                    print(event.text, end="", flush=True)
                elif isinstance(event, Done):
                    print()
                    out.print(_why(event.turn), style="dim")
        except KeyboardInterrupt:
            stop.set()
            out.print("\n[dim]stopped[/dim]")
        except (Stopped, CsprotoError) as error:
            err.print(f"[red]{error}[/red]")


def _line() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A model folder or a hub id.")] = str(settings.MINI_MODEL),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    extra: Annotated[
        list[str] | None, typer.Argument(help="After `--`: further flags for sglang.launch_server.")
    ] = None,
) -> None:
    """Run a SGLang server until Ctrl-C; the other commands and the notebooks find it by themselves."""
    from csproto.server import Server, read_state, write_state

    if running := read_state():
        raise CsprotoError(
            f"A server is already running at {running['base_url']} (pid {running['pid']}). Use it, or stop it with Ctrl-C where it runs."
        )
    server = Server(model, port=port, extra=extra or []).start()
    try:
        with progress() as say:
            server.wait_ready(progress=say)
        path = write_state(server)
        out.print(
            f"{server.served_name} is ready at {server.base_url} after {server.startup_seconds:.0f} s. Log: {server.log}. Ctrl-C ends it."
        )
        try:
            assert server.process is not None
            code = server.process.wait()
            raise CsprotoError(
                f"The server ended by itself (exit code {code}). Last lines of its log ({server.log}):\n{server.log_tail()}"
            )
        except KeyboardInterrupt:
            out.print("stopping")
        finally:
            path.unlink(missing_ok=True)
    finally:
        server.stop()


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and the command that mends it."""
    from csproto.doctor import checks

    bad = 0
    for check in checks():
        mark = "[green]ok[/green]  " if check.ok else "[red]miss[/red]"
        out.print(f"{mark} {check.what}: {check.found}")
        if not check.ok:
            bad += 1
            out.print(f"     mend it: {check.mend}")
    if bad:
        raise CsprotoError(f"{bad} of the checks failed; the commands above mend them.")


@db_app.command("init")
def db_init() -> None:
    """Create the schema and put the demo data in place of whatever is there."""
    from csproto import demo
    from csproto.shop import open_engine_name
    from csproto.store import open_engine

    url = settings.database_url()
    customers, orders = demo.fill(open_engine(url), datetime.now(UTC))
    out.print(f"{open_engine_name(url)}: {customers} customers, {orders} orders")


@db_app.command("forget")
def db_forget(customer: Annotated[str, typer.Argument(help="The customer to erase.")]) -> None:
    """Erase a customer with orders, tickets, conversations and audit rows."""
    from csproto.orders import OrderApi
    from csproto.shop import open_database

    orders = OrderApi(open_database())
    orders.known(customer)
    orders.forget(customer)
    out.print(f"{customer} is erased")


@app.command()
def tickets(as_json: AsJson = False) -> None:
    """Show what waits for a human agent."""
    from csproto.orders import OrderApi
    from csproto.shop import open_database

    waiting = OrderApi(open_database()).open_tickets()
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "ticket": t.id,
                        "kind": t.kind,
                        "customer": t.customer_id,
                        "order": t.order_id,
                        "escalated": t.escalated,
                        "since": t.created_at.isoformat(),
                        "summary": t.summary,
                    }
                    for t in waiting
                ],
                ensure_ascii=False,
            )
        )
        return
    for t in waiting:
        out.print(
            f"T{t.id:05d} {t.kind}{' (escalated)' if t.escalated else ''} {t.customer_id} {t.order_id} since {t.created_at:%Y-%m-%d %H:%M} UTC",
            markup=False,
        )
        if t.summary:
            out.print("  " + t.summary.replace("\n", "\n  "), style="dim", markup=False)
    out.print(f"{len(waiting)} tickets")


@model_app.command("build")
def model_build(
    folder: Annotated[Path, typer.Option(help="Where checkpoints are kept; run again to go on.")] = Path(
        "build/mini-model"
    ),
    to: Annotated[Path, typer.Option(help="Where the finished model is written.")] = settings.MINI_MODEL,
    tokens: Annotated[int, typer.Option(help="Millions of tokens to train on; 0 takes the recipe's.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the mini model from scratch (hours on two cores, minutes on a GPU); interrupt and resume at will."""
    import logging

    from csproto.minimodel.train import Recipe, Training

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe(tokens=tokens * 1_000_000) if tokens else Recipe()
    training = Training(folder, recipe, device)
    training.run()
    training.export(to)
    out.print(f"wrote {to}")


@model_app.command("info")
def model_info() -> None:
    """Show what the shipped model is."""
    out.print((settings.MINI_MODEL / "training.json").read_text())


def show(turn: Any) -> None:
    """A turn as a person reads it: reply first, then why."""
    out.print(turn.reply, style="bold")
    out.print(f"triage   {turn.triage.to_wire()}", markup=False)
    for part in turn.parts:
        rule = part.decision.rule
        from csproto.policy import default_rules

        out.print(f"decision {part.decision.action} by {rule} ({default_rules().sources[rule]})", markup=False)
        out.print(f"facts    {json.dumps(part.facts, ensure_ascii=False)}", markup=False)
        out.print(
            f"checked  {'every sentence is covered by the facts' if not part.rejected else 'template sent instead of: ' + '; '.join(part.rejected)}",
            markup=False,
        )
    out.print(_why(turn))


def _why(turn: Any) -> str:
    usage = turn.usage
    reused = (
        f"{turn.reused_tokens} of {turn.reusable_tokens} computed before were reused"
        if turn.reusable_tokens
        else "nothing computed before"
    )
    return f"{turn.decision.action} · {turn.decision.rule} · first words {turn.ttft_ms:.0f} ms, all {turn.total_ms:.0f} ms · {usage.prompt_tokens} prompt tokens, {usage.cached_tokens} from cache ({reused}), {usage.completion_tokens} written in {usage.model_calls} calls"


def main() -> None:
    """Run a command; every error of ours is one clear line, every other one a bug report."""
    try:
        app()
    except CsprotoError as error:
        err.print(str(error), style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
