"""Commands that talk to the desk: ask, demo, chat."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from csproto.cli.common import AsJson, BaseUrl, CustomerId, app, err, out, progress
from csproto.cli.printing import chosen, cost, print_fitting, rows, show
from csproto.errors import CsprotoError

if TYPE_CHECKING:
    from csproto.desk.assistant import Assistant
    from csproto.desk.conversation import Conversation
    from csproto.desk.turn import Turn

# The customers of the first page of the README, with their second messages.
DEMO = (
    ("C001", ("我要退换货,订单号123456,衣服尺码偏小", "是的")),
    ("C001", ("我的订单#789012还没发货,能催一下吗?",)),
    ("C002", ("Hi, where is my desk lamp? Order 901234",)),
)
NEXT = (
    ("make serve", "keep a server for these commands"),
    (".venv/bin/csproto chat", "talk to the desk"),
    ('.venv/bin/csproto ask "快递单号多少" --json', "one answer with all behind it"),
    ("make lab", "the notebooks"),
)


@app.command()
def ask(
    text: Annotated[
        str, typer.Argument(help="What the customer writes; `-` reads it from standard input.")
    ],
    customer: CustomerId = "C001",
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """Answer one message and show why."""
    from csproto.opening import open_desk

    text = sys.stdin.read() if text == "-" else text
    with progress() as say, open_desk(base_url, progress=say) as desk:
        turn = desk.turn(desk.open(customer), text)
        shown = turn.as_dict(desk.handbook)
    if as_json:
        print(json.dumps(shown, ensure_ascii=False))
    else:
        show(turn, shown)


@app.command()
def demo(
    base_url: BaseUrl = None,
    model: Annotated[
        str | None, typer.Option(help="A model folder or hub id to start a server with.")
    ] = None,
) -> None:
    """Answer customers of the demo shop, freshly filled, and show why they got these answers."""
    import tempfile

    from csproto.opening import open_desk

    with tempfile.TemporaryDirectory() as folder, progress() as say:
        database = f"sqlite:///{folder}/shop.db"
        with open_desk(base_url, model=model, database=database, progress=say) as desk:
            for customer, texts in DEMO:
                conversation = desk.open(customer)
                for text in texts:
                    print_fitting("", rows([(customer, text)], "cyan"))
                    turn = desk.turn(conversation, text)
                    show(turn, turn.as_dict(desk.handbook))
    print_fitting("\nWhat next:", rows(NEXT))


@app.command()
def chat(customer: CustomerId = "C001", base_url: BaseUrl = None) -> None:
    """Talk to the desk in the terminal. /help there shows the commands.

    A number chooses an answer. Ctrl-C stops an answer, twice it leaves. Ctrl-D leaves.
    In a pipe each line is a message, and an empty line ends the chat.
    """
    from csproto.opening import open_desk

    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with progress() as say:
        if in_terminal:
            say("opening the desk")  # imports SGLang, which takes seconds
        opened = open_desk(base_url, progress=say)
        desk = opened.__enter__()
    try:
        if in_terminal:
            from csproto.cli.terminal import TerminalChat

            TerminalChat(desk, customer).run()
        else:
            _plain_chat(desk, customer)
    finally:
        opened.__exit__(None, None, None)


def _plain_chat(desk: "Assistant", customer: str) -> None:
    conversation = desk.open(customer)
    example = {"zh": "我的订单到哪了", "en": "where is my order"}[conversation.language]
    out.print(
        f"[dim]You are customer {customer}. For example: {example}. An empty line ends.[/dim]"
    )
    buttons: list[dict[str, str]] = []
    while text := _line():
        if turn := _answered(desk, conversation, chosen(text, buttons)):
            buttons = turn.choices
            for number, button in enumerate(buttons, 1):
                out.print(f"  {number}  {button['label']}", markup=False)
            rules = ", ".join(decision.rule for decision in turn.decisions)
            out.print(f"{rules} · {cost(turn)}", style="dim", markup=False)


def _answered(desk: "Assistant", conversation: "Conversation", text: str) -> "Turn | None":
    """Print the answer to a message and return its turn; None if it was stopped or failed."""
    from csproto.desk.assistant import Done, Said
    from csproto.engine.endpoint import StopSignal
    from csproto.shop.orders import database_errors_typed

    stop = StopSignal()
    try:
        with database_errors_typed():
            for event in desk.stream(conversation, text, stop):
                if isinstance(event, Said):
                    out.print(event.text, markup=False)
                elif isinstance(event, Done):
                    return event.turn
    except KeyboardInterrupt:
        stop.set()
        out.print("[dim]stopped[/dim]")
    except CsprotoError as error:
        err.print(str(error), style="red", markup=False)
    return None


def _line() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
