"""The chat panel without a browser: what it publishes, how it goes back, and that it stays usable when the engine is gone."""

import copy
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from csproto import settings
from csproto.assistant import MessageRefused
from csproto.chat.messages import apply, new_message
from csproto.chat.publisher import Publisher
from csproto.chat.session import ChatSession, NothingToTakeBack
from csproto.chat.words import words
from csproto.engine.endpoint import Stopped, StopSignal
from csproto.engine.server import NoServer
from csproto.policy import default_rules
from csproto.shop.orders import CustomerUnknown, Faults
from csproto.shop.store import Audit, ConversationRow, Ticket

DEAD = "http://127.0.0.1:9"  # nobody listens on the discard port
TWO_WISHES = [
    "快递单号多少,另外帮我开发票",
    "123456的快递单号是多少,顺便开张发票",
    "订单123456到哪了?另外789012催一下发货",
]
HUMAN = "I want to talk to a human agent"  # a message that writes a ticket each time
LONG_ADDRESS = (
    "把订单789012的地址改成" + "浙江省杭州市西湖区文三路" * 8 + "477号"
)  # the engine has to write all of it, twice


class Listener:
    """Stands where a browser would: keeps what is sent, and puts it together the way `chat.js` does."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.times: list[float] = []

    def __call__(self, content: dict[str, Any]) -> None:
        self.sent.append(copy.deepcopy(content))
        self.times.append(time.monotonic())

    @property
    def batches(self) -> list[dict[str, Any]]:
        return [content for content in self.sent if content["type"] == "steps"]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [step for batch in self.batches for step in batch["steps"]]

    def message(self) -> dict[str, Any]:
        first, *rest = self.steps
        message = copy.deepcopy(first["message"])
        for step in rest:
            apply(message, step)
        return message


@pytest.fixture
def panel(make_assistant):
    from csproto import ChatPanel

    panel = ChatPanel(make_assistant(), language="en")
    yield panel
    panel.close()


@pytest.fixture
def listener(panel) -> Listener:
    panel._tell = Listener()
    panel._publisher._send = panel._tell
    return panel._tell


def audit(engine, *actions: str) -> list[str]:
    with Session(engine) as session:
        return list(session.scalars(select(Audit.key).where(Audit.action.in_(actions)).order_by(Audit.key)))


def tickets(engine, kind: str) -> int:
    with Session(engine) as session:
        return session.scalar(select(func.count()).where(Ticket.kind == kind)) or 0


# -- the publisher


def test_ten_thousand_pieces_arrive_complete_and_in_order() -> None:
    listener = Listener()
    publisher = Publisher(listener)
    publisher.step({"step": "start", "message": new_message(1, "hello")})
    began = time.monotonic()
    for number in range(10_000):
        publisher.step({"step": "token", "text": f"{number} "})
        if number % 100 == 0:
            time.sleep(0.005)  # so that they come in many batches
    publisher.step({"step": "stopped"})
    publisher.flush()
    seconds = time.monotonic() - began
    publisher.close()
    assert listener.message()["reply"].split() == [str(number) for number in range(10_000)]
    assert [batch["number"] for batch in listener.batches] == list(range(1, len(listener.batches) + 1))
    assert 5 < len(listener.batches) <= seconds * 30 + 2
    assert min(b - a for a, b in zip(listener.times, listener.times[1:], strict=False)) > 0.03


def test_a_snapshot_is_what_the_numbered_steps_make_together() -> None:
    listener = Listener()
    publisher = Publisher(listener, rate=1000)
    publisher.step({"step": "start", "message": new_message(1, "hello")})
    for number in range(200):
        publisher.step({"step": "token", "text": f"{number} "})
        if number == 100:
            publisher.snapshot()
    publisher.flush()
    publisher.close()
    place = next(i for i, content in enumerate(listener.sent) if content["type"] == "snapshot")
    snapshot = listener.sent[place]
    early = Listener()
    early.sent = listener.sent[:place]
    assert snapshot["message"] == early.message()
    assert snapshot["number"] == early.batches[-1]["number"]
    assert snapshot["message"]["reply"].split()[-1] == "100"


def test_a_front_end_that_is_gone_does_not_end_the_publisher() -> None:
    heard: list[dict[str, Any]] = []

    def send(content: dict[str, Any]) -> None:
        if len(heard) == 0:
            heard.append({})
            raise OSError("no front end")
        heard.append(content)

    publisher = Publisher(send, rate=1000)
    publisher.step({"step": "token", "text": "a"})
    publisher.flush()
    publisher.step({"step": "token", "text": "b"})
    publisher.flush()
    publisher.close()
    assert heard[-1]["steps"] == [{"step": "token", "text": "b"}]


# -- saying something


def test_send_is_the_whole_way_and_its_steps_make_the_kept_message(panel, listener) -> None:
    turn = panel.send("我的订单到哪了?")
    assert turn.reply
    assert [step["step"] for step in listener.steps[:3]] == ["start", "triage", "decision"]
    assert listener.steps[-1]["step"] == "done"
    (message,) = panel.messages
    assert message == listener.message()
    assert message["reply"] == turn.reply
    assert message["parts"][0]["source"] == panel.chat.assistant.rules.sources[turn.decision.rule]
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


def test_a_turn_costs_little_more_than_in_plain_python(panel) -> None:
    """The publisher waits up to 33 ms for its next message; that and the copies are all there is."""
    panel.send("你好")
    extra = []
    for _ in range(7):
        began = time.perf_counter()
        turn = panel.send("我的订单到哪了?")
        extra.append((time.perf_counter() - began) * 1000 - turn.total_ms)
    assert statistics.median(extra) <= 50, extra


# -- stopping


def running_requests(endpoint) -> int:
    return sum(entry.get("num_running_reqs", 0) for entry in endpoint.get_json("/v1/loads")["loads"])


def stopped_after(panel, listener, step: str, text: str) -> float:
    """Send from a thread, stop once a step has been published; the seconds until the panel is free again."""
    outcome: list[BaseException] = []
    listener.sent.clear()

    def send() -> None:
        try:
            panel.send(text)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    deadline = time.monotonic() + 60
    while step not in [s["step"] for s in listener.steps] and time.monotonic() < deadline:
        time.sleep(0.001)
    began = time.monotonic()
    panel.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(outcome[0], Stopped)
    return time.monotonic() - began


@pytest.mark.parametrize("step", ["start", "triage"])
def test_stop_before_the_first_word(panel, listener, endpoint, step: str) -> None:
    """Within a second, in one of a few attempts: other work on the machine holds up any."""
    assert any(stopped_after(panel, listener, step, LONG_ADDRESS) < 1 for _ in range(4))
    assert running_requests(endpoint) == 0
    assert panel.messages[-1]["state"] == "stopped"
    assert panel.send("你好").reply


def test_stop_after_the_first_words(make_assistant) -> None:
    """Two wishes, and an order system that takes its time before the second: the first answer stands, the second never comes."""
    from csproto import ChatPanel

    panel = ChatPanel(make_assistant(Faults(latency=0.4)), language="en")
    listener = panel._publisher._send = Listener()
    try:
        text = next((text for text in TWO_WISHES if len(panel.send(text).parts) > 1), None)
        assert text, "none of these was answered as two wishes"
        panel.new()
        listener.sent.clear()
        stopped_after(panel, listener, "token", text)
        message = panel.messages[-1]
        assert message["state"] == "stopped"
        assert message["reply"]
    finally:
        panel.close()


def test_a_stop_while_the_order_system_is_asked_writes_nothing(make_assistant, engine) -> None:
    from csproto import ChatPanel

    panel = ChatPanel(make_assistant(Faults(latency=1)), language="en")
    listener = panel._publisher._send = Listener()
    try:
        stopped_after(panel, listener, "triage", HUMAN)
        assert tickets(engine, "handoff") == 0
        assert panel.messages[-1]["parts"] == []
        panel.retry()
        assert tickets(engine, "handoff") == 1
    finally:
        panel.close()


def test_a_stop_before_the_message_has_its_turn_counts_too(make_assistant) -> None:
    chat, stop = ChatSession(make_assistant(), "C001"), StopSignal()
    stop.set()
    assert [step["step"] for step in chat.run("你好", stop)] == ["start", "stopped"]
    assert chat.messages[-1]["state"] == "stopped"


# -- going back


def test_undo_puts_the_conversation_back_and_says_what_stays(panel, engine) -> None:
    panel.send("你好")
    before = copy.deepcopy(panel.chat._conversation)
    panel.send(HUMAN)
    assert tickets(engine, "handoff") == 1
    panel.undo()
    after = panel.chat._conversation
    assert (after.transcript, after.state, after.queue) == (before.transcript, before.state, before.queue)
    assert [m["kind"] for m in panel.messages] == ["turn", "notice"]
    assert panel.messages[-1]["writes"] == [{"kind": "handoff", "order_id": "", "rule": "human.handoff"}]
    assert "hand-off ticket" in repr(panel)
    assert tickets(engine, "handoff") == 1
    with Session(engine) as session:
        row = session.get(ConversationRow, after.id)
        assert [list(m) for m in after.transcript] == row.transcript


def test_a_write_after_undo_is_a_new_one_and_after_retry_the_same(panel, engine) -> None:
    panel.send(HUMAN)
    panel.retry()
    assert tickets(engine, "handoff") == 1
    panel.undo()
    panel.send(HUMAN)
    assert tickets(engine, "handoff") == 1  # one of a customer is open at a time
    assert len(audit(engine, "handoff")) == 2


def test_no_key_is_used_twice_when_an_older_message_is_repeated(panel, engine) -> None:
    panel.send(HUMAN)
    panel.send(HUMAN)
    panel.undo()
    panel.retry()
    panel.send(HUMAN)
    numbers = [int(key.split(":")[1]) for key in audit(engine, "handoff")]
    assert len(set(numbers)) == len(numbers) == 3


def test_edit_replaces_the_last_message(panel) -> None:
    panel.send("你好")
    panel.send(HUMAN)
    panel.edit("我的订单到哪了?")
    assert [m["text"] for m in panel.messages if m["kind"] == "turn"] == ["你好", "我的订单到哪了?"]
    said = [m.content for m in panel.chat._conversation.transcript if m.role == "user"]
    assert said == ["你好", "我的订单到哪了?"]


def test_nothing_can_be_taken_back_from_an_empty_chat(panel) -> None:
    for action in (panel.undo, panel.retry):
        with pytest.raises(NothingToTakeBack):
            action()


# -- around it


def test_thumbs_are_audit_rows(panel, engine) -> None:
    turn = panel.send("我的订单到哪了?")
    name = panel.messages[0]["id"]
    panel.rate(name, 1)
    panel.rate(name, -1)
    with Session(engine) as session:
        rows = session.scalars(select(Audit).where(Audit.action.like("thumbs%")).order_by(Audit.key)).all()
    assert [(r.action, r.rule, r.customer_id) for r in rows] == [
        ("thumbs_up", turn.decision.rule, "C001"),
        ("thumbs_down", turn.decision.rule, "C001"),
    ]
    assert panel.messages[0]["rating"] == -1


def test_another_customer_begins_anew(panel) -> None:
    panel.send("你好")
    panel.new("C002")
    assert (panel.messages, panel.info["customer"]) == ([], "C002")
    panel.send("Where is my order?")
    assert panel.chat._conversation.customer_id == "C002"
    with pytest.raises(CustomerUnknown):
        panel.new("C999")
    assert panel.info["customer"] == "C002"


def test_exports(panel) -> None:
    hostile = "<img src=x onerror=alert(1)> **bold** [link](javascript:alert(1)) `code`"
    panel.send(hostile)
    exported = json.loads(panel.export("json"))
    assert exported["messages"] == panel.messages
    assert exported["customer"] == "C001"
    markdown = panel.export("markdown")
    quoted = next(line for line in markdown.splitlines() if "onerror" in line)
    assert not re.search(r"(?<!\\)[<*\[`]", quoted), quoted
    assert f"`{panel.messages[0]['parts'][0]['rule']}`" in markdown
    with pytest.raises(ValueError, match="format"):
        panel.export("pdf")


def test_the_engine_may_go_and_come_back(panel) -> None:
    endpoint = panel.chat.assistant.endpoint
    alive = endpoint.base_url
    panel.chat.assistant.endpoint = down = copy.copy(endpoint)
    down.base_url = DEAD
    began = time.monotonic()
    with pytest.raises(NoServer, match="csproto serve"):
        panel.send("你好")
    assert time.monotonic() - began < 10, "nobody waits for an engine that is not there"
    assert panel.info["engine"]["ok"] is False
    assert panel.messages[-1]["error"]["code"] == "NoServer"
    down.base_url = alive
    assert panel.retry().reply
    assert panel.info["engine"]["ok"] is True
    assert [m["state"] for m in panel.messages] == ["done"]


def test_a_server_restarted_at_another_address_is_found(panel, monkeypatch, tmp_path) -> None:
    endpoint = panel.chat.assistant.endpoint
    state = tmp_path / "server.json"
    state.write_text(json.dumps({"base_url": endpoint.base_url, "api_key": endpoint.api_key, "pid": os.getpid()}))
    monkeypatch.setenv("CSPROTO_STATE", str(state))
    panel.chat.assistant.endpoint = down = copy.copy(endpoint)
    down.base_url = DEAD
    assert panel.send("你好").reply
    assert panel.chat.assistant.endpoint.base_url == endpoint.base_url


def test_a_panel_without_an_engine_is_still_a_panel(make_assistant) -> None:
    from csproto import ChatPanel

    assistant = make_assistant()
    assistant.endpoint = copy.copy(assistant.endpoint)
    assistant.endpoint.base_url = DEAD
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
    assert listener.sent[-1]["text"].startswith("# 客服助手"), "in the language the reader has chosen"
    front(type="undo")
    front(type="undo")
    assert listener.sent[-1] == {"type": "problem", "code": "NothingToTakeBack"}
    front(type="new", customer="C002")
    assert panel.info["customer"] == "C002"
    front(type="nonsense")


# -- without a browser

NOTEBOOK = """
import os
from csproto import ChatPanel
from csproto.assistant import Assistant
from csproto.engine.endpoint import Endpoint
from csproto.shop.orders import OrderApi
from csproto.shop.database import open_database
endpoint = Endpoint(os.environ["CSPROTO_BASE_URL"], os.environ.get("CSPROTO_API_KEY"))
panel = ChatPanel(Assistant(endpoint, OrderApi(open_database())), language="en")
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
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in ('TEXT = ""', *NOTEBOOK)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.cells[-1].metadata["tags"] = ["nbval-check-output"]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(
        tmp_path / "in.ipynb", tmp_path / "out.ipynb", {"TEXT": "我的订单到哪了?"}, execution_timeout=300
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
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", executed.name]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


# -- the package


def test_both_languages_have_the_same_words() -> None:
    def keys(table: dict[str, Any]) -> set[str]:
        return {f"{k}.{i}" for k, v in table.items() for i in (v if isinstance(v, dict) else [""])}

    assert keys(words()["zh"]) == keys(words()["en"])
    assert words()["en"]["rules"].keys() == default_rules().sources.keys()
    facts = re.findall(r"\{(\w+)\}", (settings.DATA / "replies.yaml").read_text(encoding="utf-8"))
    assert set(facts) <= words()["en"]["fact_names"].keys()
    used = set(re.findall(r"\bw\.(\w+)", (settings.REPOSITORY / "src/csproto/chat/chat.js").read_text()))
    assert used <= words()["en"].keys(), used - words()["en"].keys()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys; import csproto; raise SystemExit('anywidget' in sys.modules or 'sglang' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
