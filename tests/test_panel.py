"""The chat panel without a browser: what it publishes, stops, keeps and exports."""

import base64
import copy
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import nbformat
import papermill
import pytest
from scripted import lose_the_end
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from support import NOW, ROOT, running_requests

from csproto.chat.engine import endpoint_of
from csproto.chat.messages import apply, new_message
from csproto.chat.publisher import Publisher
from csproto.chat.records import Why
from csproto.chat.session import ChatSession
from csproto.chat.words import PARTS, front_end, interface, words
from csproto.desk.assistant import MessageRefused
from csproto.desk.conversation import ConversationUnknown
from csproto.desk.handbook import default_handbook
from csproto.desk.reply import PLACEHOLDER
from csproto.desk.transcript import Message
from csproto.desk.triage import Act
from csproto.engine.endpoint import Stopped, StopSignal
from csproto.engine.server import NoServer
from csproto.shop.demo import NotTheDemo
from csproto.shop.facts import WriteKind
from csproto.shop.orders import CustomerUnknown, Faults, OrderSystemDown
from csproto.shop.store import Audit, Customer, Ticket

DEAD = "http://127.0.0.1:9"  # nobody listens on the discard port
HUMAN = "I want to talk to a human agent"  # a message that writes a ticket
RETURN = "我要退换货,订单号123456,衣服尺码偏小"


class Listener:
    """Stands where a browser would: keeps what is sent, and applies steps as the browser does."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def __call__(self, content: dict[str, Any]) -> None:
        self.sent.append(copy.deepcopy(content))

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [content["step"] for content in self.sent if content["type"] == "step"]

    @property
    def numbers(self) -> list[int]:
        return [content["number"] for content in self.sent if content["type"] == "step"]

    def message(self) -> dict[str, Any]:
        first, *rest = self.steps
        message = copy.deepcopy(first["message"])
        for step in rest:
            apply(message, step)
        return message


@pytest.fixture
def make_panel(make_assistant):
    from csproto import ChatPanel

    panels = []

    def make(faults: Faults | None = None, **options: Any) -> ChatPanel:
        panels.append(ChatPanel(make_assistant(faults), language="en", **options))
        return panels[-1]

    yield make
    for panel in panels:
        panel.close()


@pytest.fixture
def panel(make_panel):
    return make_panel()


@pytest.fixture
def listener(panel) -> Listener:
    return listening(panel)


def listening(panel) -> Listener:
    panel._tell = Listener()
    panel._publisher._send = panel._tell
    return panel._tell


def tickets(engine, kind: str) -> int:
    with Session(engine) as session:
        return session.scalar(select(func.count()).where(Ticket.kind == kind)) or 0


# -- the publisher


def test_steps_of_several_threads_arrive_complete_and_each_threads_in_order() -> None:
    listener = Listener()
    publisher = Publisher(listener)
    publisher.step({"step": "start", "message": new_message(1, "hello")})

    def say(thread: int) -> None:
        for number in range(500):
            publisher.step({"step": "token", "text": f"{thread}:{number} "})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(say, range(4)))
    publisher.step({"step": "stopped"})
    publisher.close()
    words_said = listener.message()["reply"].split()
    for thread in range(4):
        said = [word for word in words_said if word.startswith(f"{thread}:")]
        assert said == [f"{thread}:{number}" for number in range(500)]
    assert listener.message()["state"] == "stopped"
    assert listener.numbers == list(range(1, 2003))


def test_a_snapshot_is_what_the_numbered_steps_make_together() -> None:
    listener = Listener()
    publisher = Publisher(listener)
    publisher.step({"step": "start", "message": new_message(1, "hello")})
    for number in range(200):
        publisher.step({"step": "token", "text": f"{number} "})
        if number == 100:
            publisher.snapshot()
    publisher.close()
    place = next(i for i, content in enumerate(listener.sent) if content["type"] == "snapshot")
    snapshot = listener.sent[place]
    early = Listener()
    early.sent = listener.sent[:place]
    assert snapshot["message"] == early.message()
    assert snapshot["number"] == early.numbers[-1]
    assert snapshot["message"]["reply"].split()[-1] == "100"


def test_a_front_end_that_is_gone_does_not_end_the_publisher() -> None:
    heard: list[dict[str, Any]] = []

    def send(content: dict[str, Any]) -> None:
        if len(heard) == 0:
            heard.append({})
            raise OSError("no front end")
        heard.append(content)

    publisher = Publisher(send)
    publisher.step({"step": "token", "text": "a"})
    publisher.step({"step": "token", "text": "b"})
    publisher.close()
    assert heard[-1]["step"] == {"step": "token", "text": "b"}


# -- saying something


def test_send_is_the_whole_way_and_its_steps_make_the_kept_message(panel, listener) -> None:
    turn = panel.send("我的订单到哪了?")
    assert turn.reply
    assert [step["step"] for step in listener.steps[:3]] == ["start", "triage", "decision"]
    assert listener.steps[-1]["step"] == "done"
    (message,) = panel.messages
    assert message == listener.message()
    assert message["reply"] == turn.reply
    handbook, decision = panel.chat.assistant.handbook, message["decisions"][0]
    assert decision["source"] == handbook.rules[turn.decisions[0].rule].source
    assert message | turn.as_dict(handbook) == message
    assert message["usage"]["prompt_tokens"] >= message["usage"]["cached_tokens"] >= 0
    assert message["usage"]["total_ms"] >= message["usage"]["ttft_ms"] > 0


def test_the_transcript_is_its_text(panel) -> None:
    assert "C001" in repr(panel)
    turn = panel.send("我的订单到哪了?")
    assert repr(panel) == f"You: 我的订单到哪了?\nAssistant: {turn.reply}"
    assert panel._repr_mimebundle_()[0]["text/plain"] == repr(panel)


def test_what_is_sent_can_be_json(panel, listener) -> None:
    panel.send("我的订单到哪了?")
    json.dumps(listener.sent)
    json.dumps(panel.messages)
    json.dumps(panel.info)


def test_a_message_that_is_refused_is_an_error_in_code_and_a_bubble_in_front(panel) -> None:
    with pytest.raises(MessageRefused):
        panel.send("  \u200b ")
    (message,) = panel.messages
    assert message["state"] == "failed"
    assert message["error"]["code"] == "MessageRefused"
    assert panel.info["busy"] is False
    panel.send("你好")
    assert panel.messages[-1]["state"] == "done"


def test_nobody_unknown_is_served(make_assistant) -> None:
    from csproto import ChatPanel

    with pytest.raises(CustomerUnknown):
        ChatPanel(make_assistant(), "C999")


def test_a_question_has_choices_and_sending_one_answers_it(panel, engine) -> None:
    panel.send(RETURN)
    (choice, _) = panel.messages[0]["choices"]
    assert panel.messages[0]["waiting"]["action"] == "confirm_return"
    assert tickets(engine, "return") == 0
    panel.send(choice["text"])
    assert panel.messages[1]["decisions"][0]["write"] == "return"
    assert tickets(engine, "return") == 1


# -- stopping


def stopped_after(panel, step: str, text: str) -> list[Exception]:
    """Send from a thread, and stop once a step has been published; what `send` raised."""
    listener, outcome = listening(panel), []

    def send() -> None:
        try:
            panel.send(text)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    deadline = time.monotonic() + 60
    while step not in [s["step"] for s in listener.steps] and time.monotonic() < deadline:
        time.sleep(0.001)
    panel.stop()
    thread.join(60)
    assert not thread.is_alive()
    return outcome


def test_a_stop_before_the_writes_leaves_everything_as_it_was(make_panel, engine, endpoint) -> None:
    """The order system takes half a second, so there is time to press Stop."""
    panel = make_panel(Faults(latency=0.5))
    panel.send("你好")
    before = copy.deepcopy(panel.chat._conversation)
    (error,) = stopped_after(panel, "start", HUMAN)
    assert isinstance(error, Stopped)
    assert running_requests(endpoint) == 0
    assert panel.messages[-1]["state"] == "stopped"
    assert panel.messages[-1]["decisions"] == []
    assert tickets(engine, "handoff") == 0
    assert panel.chat._conversation == before
    panel.send(HUMAN)
    assert [m["state"] for m in panel.messages] == ["done", "done"], (
        "it takes the place of the stopped one"
    )
    assert tickets(engine, "handoff") == 1


def test_a_stop_during_the_writes_completes_the_turn(make_panel, engine) -> None:
    """What is written has to be told."""
    panel = make_panel(Faults(latency=0.5))
    assert stopped_after(panel, "triage", HUMAN) == []
    (message,) = panel.messages
    assert message["state"] == "done"
    assert message["decisions"][0]["facts"]["ticket"] in message["reply"]
    assert tickets(engine, "handoff") == 1


def test_a_stop_before_the_message_has_its_turn_counts_too(make_assistant) -> None:
    chat, stop = ChatSession(make_assistant(), "C001"), StopSignal()
    stop.set()
    assert [step["step"] for step in chat.run("你好", stop)] == ["start", "stopped"]
    assert chat.messages[-1]["state"] == "stopped"


# -- sending again, and taking up again


def test_a_message_that_is_sent_again_is_written_once(panel, engine) -> None:
    """The database fails after the write, so the customer does not hear of it at first."""
    desk = panel.chat.assistant
    keep = desk.keep
    lose_the_end(desk)
    with pytest.raises(OrderSystemDown):
        panel.send(HUMAN)
    assert panel.messages[-1]["error"]["code"] == "OrderSystemDown"
    assert tickets(engine, "handoff") == 1
    desk.keep = keep
    panel.send(HUMAN)
    assert [m["state"] for m in panel.messages] == ["done"]
    assert tickets(engine, "handoff") == 1
    assert panel.messages[0]["decisions"][0]["rule"] == "human.handoff", "not that one is open"


def test_another_text_does_not_take_the_place_of_a_failed_one(panel) -> None:
    with pytest.raises(MessageRefused):
        panel.send("x" * 2001)
    panel.send("你好")
    panel.send("你好")
    assert [m["state"] for m in panel.messages] == ["failed", "done", "done"]


def test_a_conversation_is_taken_up_again_by_another_panel(make_panel, engine) -> None:
    first = make_panel()
    first.send("你好")
    first.send(RETURN)
    number = first.info["conversation"]
    second = make_panel(conversation=number)
    assert second.info["conversation"] == number
    for before, after in zip(first.messages, second.messages, strict=True):
        for key in ("text", "triage", "reply", "waiting", "choices", "state"):
            assert after[key] == before[key], key
    assert second.messages[-1]["choices"]
    second.send("是的")
    assert tickets(engine, "return") == 1
    for customer, unknown in (("C002", number), ("C001", "nothing")):
        with pytest.raises(ConversationUnknown):
            make_panel(customer=customer, conversation=unknown)


# -- around it


def test_thumbs_are_audit_rows(panel, engine) -> None:
    turn = panel.send("我的订单到哪了?")
    name = panel.messages[0]["id"]
    panel.rate(name, 1)
    panel.rate(name, -1)
    with Session(engine) as session:
        rows = session.scalars(
            select(Audit).where(Audit.action.like("thumbs%")).order_by(Audit.key)
        ).all()
    assert [(r.action, r.rule, r.customer_id) for r in rows] == [
        ("thumbs_up", turn.decisions[0].rule, "C001"),
        ("thumbs_down", turn.decisions[0].rule, "C001"),
    ]
    assert panel.messages[0]["rating"] == -1


def test_what_was_wrong_stands_beside_the_thumb(panel, engine) -> None:
    panel.send("你好")
    panel.rate(panel.messages[0]["id"], -1)
    panel.rate(panel.messages[0]["id"], -1, "misunderstood")
    assert panel.messages[0]["why"] == "misunderstood"
    with Session(engine) as session:
        rows = session.scalars(select(Audit.detail).order_by(Audit.key))
        assert list(rows) == ["", "misunderstood"]


def test_each_stage_has_its_time(panel) -> None:
    turn = panel.send(RETURN)
    (message,) = panel.messages
    assert list(message["times"]) == ["facts", "understood", "rule", "written", "said"]
    assert min(message["times"].values()) >= 0
    assert sum(message["times"].values()) <= turn.total_ms + 1, "the stages do not overlap"


def test_the_orders_follow_what_is_written(panel) -> None:
    panel._publisher.flush()
    before = {order["id"]: order for order in panel.orders}
    assert before["789012"]["status"] == "paid"
    assert before["789012"]["open"] == []
    panel.send("我的订单#789012还没发货,能催一下吗?")
    panel._publisher.flush()
    after = {order["id"]: order for order in panel.orders}
    assert after["789012"]["open"] == ["urge"]
    assert after["123456"] == before["123456"]


def test_an_earlier_conversation_is_listed_and_gone_on_with(panel, listener, engine) -> None:
    panel.send(RETURN)
    number = panel.info["conversation"]
    panel.new()
    assert panel.messages == []
    panel._on_message(panel, {"type": "conversations"}, [])
    panel._runner.submit(lambda: None).result(30)
    panel._publisher.flush()
    (earlier,) = listener.sent[-1]["conversations"]
    assert (earlier["id"], earlier["title"], earlier["turns"]) == (number, RETURN, 1)
    panel.resume(number)
    panel.send("是")
    assert tickets(engine, "return") == 1
    panel.new("C002")
    with pytest.raises(ConversationUnknown):
        panel.resume(number)


def test_the_demo_is_reset_only_where_it_is_the_demo(panel, engine) -> None:
    panel.send(HUMAN)
    panel.reset_demo()
    panel._publisher.flush()
    assert (panel.messages, tickets(engine, "handoff")) == ([], 0)
    assert panel.info["demo"]
    with Session(engine) as session, session.begin():
        session.add(Customer(id="real", name="Real", language="en", joined_at=NOW))
    panel.send(HUMAN)
    with pytest.raises(NotTheDemo):
        panel.reset_demo()
    assert tickets(engine, "handoff") == 1


def test_without_a_desk_the_panel_opens_one(server, monkeypatch, tmp_path) -> None:
    """On the server that is running, with the demo shop of the settings."""
    from csproto import ChatPanel

    monkeypatch.setenv("CSPROTO_BASE_URL", server[0])
    monkeypatch.setenv("CSPROTO_API_KEY", server[1] or "")
    monkeypatch.setenv("CSPROTO_DB", f"sqlite:///{tmp_path / 'own.db'}")
    panel = ChatPanel()
    assert panel.send("你好").reply
    panel.close()


def test_another_customer_begins_anew(panel) -> None:
    panel.send("你好")
    panel.new("C002")
    assert (panel.messages, panel.info["customer"]) == ([], "C002")
    panel.send("Where is my order?")
    assert panel.chat._conversation.customer_id == "C002"
    with pytest.raises(CustomerUnknown):
        panel.new("C999")
    assert panel.info["customer"] == "C002"


def test_the_export_says_what_was_written(panel) -> None:
    panel.send(HUMAN)
    assert "hand-off ticket" in panel.export()
    assert "转人工工单" in panel.export(language="zh")


def test_exports(panel) -> None:
    hostile = "<img src=x onerror=alert(1)> **bold** [link](javascript:alert(1)) `code`"
    panel.send(hostile)
    exported = json.loads(panel.export("json"))
    assert exported["messages"] == panel.messages
    assert exported["customer"] == "C001"
    markdown = panel.export("markdown")
    quoted = next(line for line in markdown.splitlines() if "onerror" in line)
    assert not re.search(r"(?<!\\)[<*\[`]", quoted), quoted
    assert f"`{panel.messages[0]['decisions'][0]['rule']}`" in markdown
    with pytest.raises(ValueError, match="format"):
        panel.export("pdf")


@pytest.fixture
def own_endpoint(endpoint) -> Any:
    """The engine, for a test that changes its address."""
    return copy.copy(endpoint)


def test_the_engine_may_go_and_come_back(make_assistant, own_endpoint) -> None:
    from csproto import ChatPanel

    panel, alive = ChatPanel(make_assistant(on=own_endpoint)), own_endpoint.base_url
    own_endpoint.base_url = DEAD
    with pytest.raises(NoServer, match="csproto serve"):
        panel.send("你好")
    assert panel.info["engine"]["ok"] is False
    assert panel.messages[-1]["error"]["code"] == "NoServer"
    own_endpoint.base_url = alive
    assert panel.send("你好").reply
    assert panel.info["engine"]["ok"] is True
    assert [m["state"] for m in panel.messages] == ["done"]
    panel.close()


def test_a_server_restarted_at_another_address_is_found(
    make_assistant, own_endpoint, endpoint, monkeypatch, tmp_path
) -> None:
    chat, state = ChatSession(make_assistant(on=own_endpoint), "C001"), tmp_path / "server.json"
    server = {"base_url": endpoint.base_url, "api_key": endpoint.api_key, "pid": os.getpid()}
    state.write_text(json.dumps(server))
    monkeypatch.setenv("CSPROTO_STATE", str(state))
    own_endpoint.base_url = DEAD
    chat.assistant.similar = lambda text: (Message("system", "of the model before"),)
    chat.assistant.guess = lambda text: {"of the model before": 100}
    list(chat.run("你好", StopSignal()))
    assert chat.messages[-1]["state"] == "done"
    assert endpoint_of(chat.assistant).base_url == endpoint.base_url
    assert chat.assistant.similar("你好") == ()
    assert "of the model before" not in chat.assistant.guess("你好")


def test_a_panel_without_an_engine_is_still_a_panel(make_assistant, own_endpoint) -> None:
    from csproto import ChatPanel

    assistant = make_assistant(on=own_endpoint)
    own_endpoint.base_url = DEAD
    panel = ChatPanel(assistant)
    assert panel.info["engine"]["ok"] is False
    panel.close()


def test_what_the_front_end_sends_does_what_the_methods_do(panel, listener) -> None:
    def front(**content: Any) -> None:
        panel._on_message(panel, content, [])
        panel._runner.submit(lambda: None).result(30)
        panel._publisher.flush()

    front(type="ready")
    assert {"type": "alive"} in listener.sent
    front(type="send", text="你好")
    front(type="rate", id=panel.messages[0]["id"], rating=1)
    assert panel.messages[0]["rating"] == 1
    front(type="export", form="json")
    file = next(content for content in listener.sent if content["type"] == "file")
    assert json.loads(file["text"])["messages"] == panel.messages
    front(type="export", form="markdown", language="zh")
    assert listener.sent[-1]["text"].startswith("# 客服助手"), (
        "in the language the reader has chosen"
    )
    front(type="rate", id="nothing", rating=1)
    assert listener.sent[-1] == {"type": "problem", "code": "MessageUnknown"}
    front(type="new", customer="C002")
    assert panel.info["customer"] == "C002"
    front(type="nonsense")


# -- without a browser

NOTEBOOK = """
from contextlib import ExitStack
from csproto import ChatPanel
from csproto.opening import open_desk
stack = ExitStack()
panel = ChatPanel(stack.enter_context(open_desk()), language="en")
turn = panel.send(TEXT)
""", """
panel
""", """
assert repr(panel) == f"You: {TEXT}\\nAssistant: {turn.reply}"
print(panel)
"""  # fmt: skip


@pytest.fixture
def executed(server, tmp_path, monkeypatch) -> Path:
    """A notebook that papermill has run, with the text as its parameter."""
    monkeypatch.setenv("CSPROTO_BASE_URL", server[0])
    monkeypatch.setenv("CSPROTO_API_KEY", server[1] or "")
    monkeypatch.setenv("CSPROTO_DB", f"sqlite:///{tmp_path / 'kernel.db'}")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in ('TEXT = ""', *NOTEBOOK)]
    )
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.cells[-1].metadata["tags"] = ["nbval-check-output"]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(
        tmp_path / "in.ipynb",
        tmp_path / "out.ipynb",
        {"TEXT": "我的订单到哪了?"},
        execution_timeout=300,
    )
    return tmp_path / "out.ipynb"


def test_papermill_runs_it_and_the_output_is_the_transcript(executed) -> None:
    *_, shown, printed = nbformat.read(executed, as_version=4).cells
    (output,) = shown.outputs
    assert output.data["text/plain"] == printed.outputs[0].text.rstrip("\n")
    assert output.data["text/plain"].startswith("You: 我的订单到哪了?\nAssistant: ")
    assert "application/vnd.jupyter.widget-view+json" in output.data


@pytest.mark.long
def test_nbval_finds_the_same_transcript_again(executed, tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "-p",
        "no:cacheprovider",
        executed.name,
    ]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


# -- the package


def test_both_languages_have_the_same_words() -> None:
    def keys(table: dict[str, Any]) -> set[str]:
        return {f"{k}.{i}" for k, v in table.items() for i in (v if isinstance(v, dict) else [""])}

    assert keys(words()["zh"]) == keys(words()["en"])
    table, handbook = interface(default_handbook())["en"], default_handbook()
    assert table["writes"].keys() == set(get_args(WriteKind))
    assert table["acts"].keys() == set(get_args(Act))
    assert table["intents"].keys() == set(handbook.intents)
    texts = json.dumps([rule.model_dump() for rule in handbook.rules.values()])
    assert set(PLACEHOLDER.findall(texts)) <= table["fact_names"].keys()
    assert table["whys"].keys() == {*get_args(Why)} - {""}
    used = set(re.findall(r"\bw\.(\w+)", front_end()))
    assert used <= table.keys(), used - table.keys()


def test_the_notebook_has_the_picture_of_the_panel() -> None:
    """Where no widget runs, the reader sees the one that the browser test has drawn."""
    notebook = nbformat.read(ROOT / "notebooks" / "05_chat_panel.ipynb", as_version=4)
    (kept,) = [cell.attachments for cell in notebook.cells if "attachments" in cell]
    picture = (ROOT / "docs" / "screens" / "panel.png").read_bytes()
    assert base64.b64decode(kept["panel.png"]["image/png"]) == picture
    assert len(picture) <= 120_000


def test_the_front_end_is_small() -> None:
    folder = ROOT / "src" / "csproto"
    others = {"docs.js": 50, "staff.js": 150}  # pages that are not the chat
    lines = {path: path.read_text().count("\n") for path in folder.rglob("*.js")}
    assert sum(count for path, count in lines.items() if path.name not in others) <= 1_000
    assert all(lines[folder / "web" / "static" / name] <= most for name, most in others.items())
    parts = {path.stem for path in (folder / "chat" / "front_end").iterdir()}
    assert parts == set(PARTS), "each file is part of the script"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, csproto; raise SystemExit(bool({'anywidget', 'sglang'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
