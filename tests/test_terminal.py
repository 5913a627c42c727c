"""`csproto chat` in a pseudo-terminal, as a person meets it, and in a pipe, as a script does."""

import http.client
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from csproto.cli.printing import PIECE, chosen, lines

COLUMNS = 48
PATIENCE = 240  # seconds; the imports of a start alone can take a minute on a busy machine
READY = "\x1b[?2004h"  # what prompt_toolkit writes when a line can be typed
UP, LEFT, HOME, CTRL_C, CTRL_D = "\x1b[A", "\x1b[D", "\x01", "\x03", "\x04"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SPINNER = re.compile("[\u2800-\u28ff][^\r\n]*")


class Terminal:
    """A `csproto chat` that runs in a terminal of COLUMNS columns.

    state: the folder in which it keeps its history.
    """

    def __init__(self, state: Path, *words: str, **environment: str) -> None:
        self.history = state / "csproto" / "chat-history"
        fixed = {"XDG_STATE_HOME": str(state), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        # Else rich takes these for the size, where a process that runs the tests has set them.
        kept = {n: value for n, value in os.environ.items() if n not in ("COLUMNS", "LINES")}
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "csproto.cli", "chat", *words],
            env={**kept, **fixed, **environment},
            dimensions=(40, COLUMNS),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        self.greeting = self.printed()

    def printed(self) -> str:
        """Wait until a line can be typed, and return what was printed before that."""
        self.process.expect_exact(READY)
        return SPINNER.sub("", ESCAPES.sub("", self.process.before)).replace("\r", "")

    def type(self, keys: str) -> None:
        self.process.send(keys)

    def say(self, line: str) -> str:
        """Type a line, and return what was printed until the next one can be typed."""
        self.type(line + "\r")
        return self.printed()

    def interrupt(self) -> str:
        """Press Ctrl-C, and return what was printed until the next line can be typed."""
        self.type(CTRL_C)
        return self.printed()

    def wait_for(self, text: str) -> None:
        self.process.expect_exact(text)

    def said(self) -> list[str]:
        """Return the lines of the history, the oldest first."""
        kept = self.history.read_text(encoding="utf-8").splitlines()
        return [line[1:] for line in kept if line.startswith("+")]

    def status(self) -> int:
        """Wait until the chat ends, and return its exit status."""
        self.process.expect(pexpect.EOF)
        self.process.close()
        assert self.process.signalstatus is None
        return self.process.exitstatus


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def open_chat(server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """Opens the chat of an English customer, on a shop of these tests alone."""
    database = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}"
    opened: list[Terminal] = []

    def new(state: Path, *words: str) -> Terminal:
        opened.append(Terminal(state, "--customer", "C002", *words, CSPROTO_DB=database))
        return opened[-1]

    yield new
    for terminal in opened:
        terminal.process.close(force=True)


@pytest.fixture(scope="module")
def chat(open_chat: Callable, state: Path) -> Terminal:
    """A chat that the tests below share, in their sequence."""
    return open_chat(state)


def test_the_greeting_has_examples_in_the_customers_language(chat) -> None:
    assert "You are customer C002." in chat.greeting
    assert "Show me my orders" in chat.greeting


def test_arrows_move_inside_a_line_and_earlier_lines_come_back(chat) -> None:
    chat.say("/hlp" + LEFT * 2 + "e")
    assert chat.said()[-1] == "/help"
    chat.say(UP)
    assert chat.said()[-1] == "/help"
    chat.say("new" + HOME + "/")
    assert chat.said()[-1] == "/new"


def test_tab_completes_a_command(chat) -> None:
    assert "901234" in chat.say("/or\t")
    assert chat.said()[-1] == "/orders"


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("/ordrs", "/orders"), ("/hepl", "/help"), ("/q", "/quit"), ("/WHY", "/why")],
)
def test_an_unknown_command_names_the_nearest_one(chat, typed: str, nearest: str) -> None:
    told = " ".join(chat.say(typed).split())
    assert f"There is no command {typed}. The nearest is {nearest}; /help shows all." in told


def test_help_names_every_command_and_key(chat) -> None:
    told = chat.say("/help")
    for word in ("/orders", "/new", "/why", "/help", "/quit", "Ctrl-C", "a number"):
        assert word in told


def test_orders_are_a_table_with_their_states(chat) -> None:
    told = chat.say("/orders")
    assert re.search(r"^901234  20\d\d-\d\d-\d\d  ¥89\.00 +desk", told, re.MULTILINE), told
    assert "on its" in told


def test_the_number_of_a_choice_is_an_answer_and_why_gives_the_reason(chat) -> None:
    assert "Nothing has been answered" in chat.say("/new") + chat.say("/why")
    asked = chat.say("I want to return order 345678, it is too small")
    assert re.search(r"^ +1 +Yes *\n +2 +No", asked, re.MULTILINE), asked
    assert "345678" in chat.say("1")
    told = " ".join(chat.say("/why").split())
    for words in ("read as confirm", "return_registered by", "prompt tokens"):
        assert words in told


def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(chat) -> None:
    chat.say("/new")
    told = chat.say("where is my order 901234?")
    answer = told.splitlines()[1:]  # the first is the line that was typed
    assert len([line for line in answer if line.strip()]) > 1, "too short to be wrapped"
    assert max(map(cell_len, map(str.rstrip, answer))) <= COLUMNS
    assert "901234" in " ".join(told.split())


def test_ctrl_c_clears_a_line_first_and_only_then_leaves(open_chat, state: Path, chat) -> None:
    """History comes back in the next run, in a file that only its user can read."""
    chat.say("/orders")
    assert stat.S_IMODE(chat.history.stat().st_mode) == 0o600
    again = open_chat(state)
    assert "901234" in again.say(UP)
    again.type("half a line")
    assert "Ctrl-C again leaves" in again.interrupt()
    again.say("/help")
    assert "Ctrl-C again leaves" in again.interrupt()
    again.type(CTRL_C)
    assert again.status() == 0
    assert "half a line" not in again.said()


def test_ctrl_d_leaves(chat) -> None:
    """The last test with this chat."""
    chat.type(CTRL_D)
    assert chat.status() == 0


# An engine that takes its time: a proxy in front of the server holds its answers back.


class Slow(BaseHTTPRequestHandler):
    """Passes requests on to the server. While `held` is set, no generation gets an answer."""

    target = ""
    held, ended = threading.Event(), threading.Event()

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.held.is_set() and self.path.startswith("/generate"):
            self.ended.wait(PATIENCE)
        else:
            self._pass_on(body)

    def _pass_on(self, body: bytes | None = None) -> None:
        connection = http.client.HTTPConnection(self.target, timeout=PATIENCE)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow(server) -> Iterator[str]:
    """URL of a proxy that holds the answers of the server back."""
    Slow.target = server[0].removeprefix("http://")
    Slow.held.set()
    Slow.ended.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        Slow.ended.set()
        proxy.shutdown()


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(open_chat, slow: str, tmp_path: Path) -> None:
    terminal = open_chat(tmp_path, "--base-url", slow)
    terminal.type("where is order 901234?\r")
    terminal.wait_for("Reading your message")
    stopped = " ".join(terminal.interrupt().split())
    assert "Stopped · Nothing was changed. Ctrl-C again leaves the chat." in stopped
    Slow.held.clear()
    assert "901234" in terminal.say(UP)
    assert "Ctrl-C again leaves" in terminal.interrupt()
    terminal.say("/new")
    Slow.held.set()
    terminal.type("where is order 901234?\r")
    terminal.wait_for("Reading your message")
    assert "Stopped" in terminal.interrupt()
    terminal.type(CTRL_C)
    assert terminal.status() == 0


def test_a_pipe_gets_plain_text(server, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "csproto.cli", "chat"],
        input="我要退换货,订单号123456,衣服尺码偏小\n2\n\nnot read\n",
        env={
            **os.environ,
            "XDG_STATE_HOME": str(tmp_path),
            "CSPROTO_DB": f"sqlite:///{tmp_path}/shop.db",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.count("> ") == 3
    assert "\n  1  是\n  2  否\n" in done.stdout
    assert not (tmp_path / "csproto" / "chat-history").exists()


def test_the_command_line_starts_without_what_only_the_chat_needs() -> None:
    code = "import sys, csproto.cli; print({'prompt_toolkit', 'sglang'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"


# -- words


@pytest.mark.parametrize(
    ("text", "width", "wrapped"),
    [
        ("You can return it now.", 10, ["You can", "return it", "now."]),
        ("订单号JD20261105也可以。", 10, ["订单号", "JD20261105", "也可以。"]),
        ("签收未满七天，可以退", 12, ["签收未满七", "天，可以退"]),
        ("订单（纯棉衬衫）到了", 6, ["订单", "（纯棉", "衬衫）", "到了"]),
        ("aaaaaaaa b", 4, ["aaaa", "aaaa", "b"]),
        ("one\n\n two", 10, ["one", "", "two"]),
    ],
)
def test_lines_end_between_words(text: str, width: int, wrapped: list[str]) -> None:
    assert list(lines(text, width)) == wrapped


@given(st.text(st.sampled_from("ab1 ，。（）(),退货订单\n")), st.integers(6, 40))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    wrapped = list(lines(text, width))
    assert all(cell_len(line) <= width for line in wrapped)
    assert "".join("".join(wrapped).split()) == "".join(text.split())
    whole = {piece for line in wrapped for piece in PIECE.findall(line)}
    assert all(
        piece in whole or piece.isspace()
        for piece in PIECE.findall(text)
        if cell_len(piece) <= width
    )


@pytest.mark.parametrize(
    ("line", "text"), [("2", "b"), ("２", "b"), ("0", "0"), ("3", "3"), ("²", "²")]
)
def test_a_number_chooses_only_where_there_is_such_a_choice(line: str, text: str) -> None:
    assert chosen(line, [{"text": "a"}, {"text": "b"}]) == text
