"""Commands that talk to the assistant: ask, demo, chat."""

import json
import sys
from typing import Annotated, Any

import typer

from csproto.cli.common import AsJson, BaseUrl, CustomerId, app, err, out, progress
from csproto.errors import CsprotoError


@app.command()
def ask(
    text: Annotated[str, typer.Argument(help="What the customer writes; `-` reads it from standard input.")],
    customer: CustomerId = "C001",
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """Answer one message and show why."""
    from csproto.opening import assistant

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

    from csproto.opening import assistant

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
    from csproto.opening import assistant

    with progress() as say:
        opened = assistant(base_url, progress=say)
        desk = opened.__enter__()
    try:
        _chat(desk, customer)
    finally:
        opened.__exit__(None, None, None)


def _chat(desk: Any, customer: str) -> None:
    from csproto.assistant import Done, Token
    from csproto.engine.endpoint import Stopped, StopSignal
    from csproto.shop.orders import database_errors_typed

    conversation = desk.open(customer)
    out.print(
        f"[dim]You are customer {customer}. For example: 我的订单到哪了 / cancel my order. An empty line ends.[/dim]"
    )
    while text := _line():
        stop = StopSignal()
        try:
            with database_errors_typed():
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
