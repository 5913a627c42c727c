"""The chat in a terminal: lines are edited and remembered, a spinner says what is going on.

Where stdin or stdout is no terminal, `csproto chat` does without this module.
"""

import difflib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.shortcuts import CompleteStyle
from rich.table import Table

from csproto import settings
from csproto.chat.order_list import order_list
from csproto.chat.words import words
from csproto.cli.common import err, out
from csproto.cli.printing import Wrapped, chosen, numbered, print_fitting, reasons, rows
from csproto.desk.assistant import Assistant
from csproto.desk.turn import Decided, Done, Event, Said, Turn, Understood
from csproto.engine.endpoint import Stopped, StopSignal
from csproto.errors import CsprotoError
from csproto.shop.orders import database_errors_typed

AGAIN = "Ctrl-C again leaves the chat."
STOP_PATIENCE = 2.0  # seconds in which an engine that hangs may let go of a message
Happening = Event | BaseException | None  # None: Ctrl-C was pressed


class Leave(Exception):
    """The user leaves the chat."""


class TerminalChat:
    """The chat of one customer in a terminal.

    What the customer would also see on the page is in the customer's language. What only
    the terminal says is English, like the rest of the command line.

    Raises CustomerUnknown and OrderSystemDown.
    """

    def __init__(self, desk: Assistant, customer_id: str) -> None:
        self.desk, self.customer_id = desk, customer_id
        self.conversation = desk.open(customer_id)
        self.turn: Turn | None = None  # the last one that was answered
        self.interrupted = False  # the last thing that was done is Ctrl-C
        self.worker: Thread | None = None  # answers the last message
        self.commands: dict[str, tuple[str, Callable[[], None]]] = {
            "/orders": ("show the customer's orders", self._orders),
            "/new": ("begin a new conversation", self._new),
            "/why": ("show why the last answer is as it is", self._why),
            "/help": ("show this", self._help),
            "/quit": ("leave the chat, as Ctrl-D does", self._quit),
        }
        self.prompt: PromptSession[str] = PromptSession(
            "> ",
            history=_history(),
            completer=WordCompleter(list(self.commands), sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
        )

    def run(self) -> None:
        """Chat until the user leaves."""
        self._greet()
        while True:
            try:
                if line := self.prompt.prompt().strip():
                    self.interrupted = False
                    self._take(line)
            except KeyboardInterrupt:
                if self.interrupted and not self.prompt.default_buffer.text:
                    return
                self.interrupted = True
                _say(AGAIN)
            except (EOFError, Leave):
                return
            except CsprotoError as error:
                err.print(str(error), style="red", markup=False, soft_wrap=False)

    @property
    def words(self) -> dict[str, Any]:
        """The words of the page in the language of the conversation."""
        return words()[self.conversation.language]

    def _greet(self) -> None:
        _say(f"You are customer {self.customer_id}. /help shows the commands, Ctrl-D leaves.")
        first, *others = self._suggestions() + list(self.words["try"])
        print_fitting(rows([("For example:", first), *(("", text) for text in others)], "dim"))

    def _suggestions(self) -> list[str]:
        """Return messages about the newest order that the customer may want to send."""
        language = self.conversation.language
        orders = order_list(self.desk, self.customer_id)
        return [wish["text"][language] for order in orders[:1] for wish in order["wishes"][:2]]

    def _take(self, line: str) -> None:
        """Do what a line says: a command, the number of a choice, or a message."""
        if line.startswith("/"):
            self._command(line.split(maxsplit=1)[0])
        else:
            self._answer(chosen(line, self.turn.choices if self.turn else []))

    # -- commands

    def _command(self, name: str) -> None:
        if name in self.commands:
            with database_errors_typed():
                self.commands[name][1]()
            return
        (nearest,) = difflib.get_close_matches(name, self.commands, n=1, cutoff=0)
        _say(f"There is no command {name}. The nearest is {nearest}; /help shows all.")

    def _orders(self) -> None:
        orders = order_list(self.desk, self.customer_id)
        if orders:
            print_fitting(self._order_table(orders))
        else:
            _say(self.words["no_orders"])

    def _order_table(self, orders: list[dict[str, Any]]) -> Table:
        """Return the orders with number, day, amount, article and state."""
        label, language = self.desk.handbook.label, self.conversation.language
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True)
        for order in orders:
            state = label("status", order["status"], language)
            if order["refund"]:
                state += " · " + label("refund", order["refund"], language)
            fixed = (order["id"], order["day"], order["amount"])
            table.add_row(*fixed, Wrapped(order["item"]), Wrapped(state))
        return table

    def _new(self) -> None:
        self.conversation = self.desk.open(self.customer_id)
        self.turn = None
        _say("A new conversation begins.")

    def _why(self) -> None:
        if self.turn:
            print_fitting(rows(reasons(self.turn, self.turn.as_dict(self.desk.handbook))))
        else:
            _say("Nothing has been answered yet.")

    def _help(self) -> None:
        keys = [
            ("a number", "choose the answer with this number"),
            ("Ctrl-C", "stop the answer; a second time leave the chat"),
            ("Up, Down", "earlier messages, those of earlier chats too"),
        ]
        named = [(name, what) for name, (what, _) in self.commands.items()]
        print_fitting(rows([*named, *keys]))

    def _quit(self) -> None:
        raise Leave

    # -- answers

    def _answer(self, text: str) -> None:
        """Answer a message. Ctrl-C stops the answer; a second one leaves the chat."""
        stop, happenings = StopSignal(), SimpleQueue[Happening]()
        work = (text, stop, happenings, self.worker)
        self.worker = Thread(target=self._work, args=work, daemon=True)
        with _ctrl_c(lambda: happenings.put(None)):
            self.worker.start()
            try:
                self.turn = self._watch(stop, happenings)
            except Stopped:
                self.interrupted = True
                _say(f"{self.words['stopped']} · {self.words['unchanged']} {AGAIN}")
                return
            print_fitting(numbered(self.turn.choices))

    def _work(
        self,
        text: str,
        stop: StopSignal,
        happenings: "SimpleQueue[Happening]",
        before: Thread | None,
    ) -> None:
        """Answer a message in a thread, so that Ctrl-C never breaks off a write.

        before: the thread of an earlier message, which may have been stopped and not
            have ended yet.
        """
        try:
            if before:
                before.join()
            stop.check()
            with database_errors_typed():
                for event in self.desk.stream(self.conversation, text, stop):
                    happenings.put(event)
        except BaseException as error:  # the main thread raises it again
            happenings.put(error)

    def _watch(self, stop: StopSignal, happenings: "SimpleQueue[Happening]") -> Turn:
        """Show the steps of an answer and return its turn.

        Raises Stopped if nothing was written, Leave, and what `_work` raised.
        """
        understood = False
        with out.status(self.words["reading"]) as status:
            while True:
                # Before the message is understood nothing is written, and a turn that is
                # told to stop writes nothing afterwards either.
                patience = STOP_PATIENCE if stop.is_set and not understood else None
                try:
                    happening = happenings.get(timeout=patience)
                except Empty:
                    raise Stopped("the engine has not let go yet") from None
                match happening:
                    case None if stop.is_set:
                        raise Leave
                    case None:
                        status.update(self.words["stopping"])
                        stop.set()
                    case Understood():
                        understood = True
                        status.update(self.words["deciding"])
                    case Decided():
                        status.update(self.words["writing"])
                    case Said(text):
                        print_fitting(Wrapped(text))
                    case Done(turn):
                        return turn
                    case BaseException() as error:
                        raise error


def history_file() -> Path:
    """Return the file with the messages of earlier chats, in the user's state folder."""
    return settings.state_folder() / "chat-history"


def _history() -> History:
    """Return the history, in a file that only this user can read."""
    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError as error:
        _say(f"What you type is not kept for the next chat: {error}")
        return InMemoryHistory()
    return FileHistory(path)


@contextmanager
def _ctrl_c(call: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call a function, instead of breaking off whatever runs."""
    before = signal.signal(signal.SIGINT, lambda *_: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say(text: str) -> None:
    """Print what the terminal itself says."""
    print_fitting(Wrapped(text, "dim"))
