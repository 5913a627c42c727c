"""A message whose answer was lost is sent again, and counts once.

The queue of questions makes it matter: a yes that counted twice would answer the question
after the one that the customer has read.
"""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from scripted import YES, lose_the_end, says, scripted
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.chat.session import KEPT_IDS, ChatSession
from csproto.desk.triage import Triage, Wish
from csproto.shop.orders import OrderApi
from csproto.shop.store import Order
from csproto.web.app import create_app
from csproto.web.limits import Limits

ROOMY = Limits(burst=10_000, per_minute=10_000)
BOTH = "cancel 789012 and let me return 123456"
TWO = Triage(
    wishes=(
        Wish("cancel_order", ("789012",), {}),
        Wish("return_exchange", ("123456",), {"remedy": "refund", "cause": "size"}),
    )
)


def means(text: str) -> Triage:
    return {BOTH: TWO, "yes": YES}.get(text, says("other"))


@pytest.fixture
def desk(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes a desk without a model, which the chat must not look for."""
    monkeypatch.setattr(ChatSession, "_check_engine", lambda chat: None)
    state = {"ok": True, "model": "scripted"}
    monkeypatch.setattr("csproto.web.site.engine_state", lambda assistant: state)
    return lambda: scripted(OrderApi(engine), means)


def client_of(desk: Any) -> TestClient:
    return TestClient(create_app(desk, limits=ROOMY))


def ask(client: TestClient, text: str, name: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/chat", json={"input": text, "id": name}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def order(engine: Engine, number: str) -> tuple[str, str]:
    with Session(engine) as session:
        found = session.get_one(Order, number)
        return found.status, found.refund


def test_a_yes_that_is_sent_again_is_no_answer_to_the_next_question(desk: Any, engine: Any) -> None:
    client = client_of(desk())
    assert ask(client, BOTH, "a")["waiting"]["intent"] == "cancel_order"
    first = ask(client, "yes", "b")
    assert first["waiting"]["intent"] == "return_exchange"
    assert ask(client, "yes", "b") == first
    assert ask(client, "ｙes", "b") == first, "full-width letters are the same letters"
    stream = client.post("/api/chat/stream", json={"input": "yes", "id": "b"})
    assert stream.headers["x-message-id"] == "m2"
    names = [line for line in stream.text.splitlines() if line.startswith("event")]
    assert names[0] == "event: triage"
    assert names[-1] == "event: done"
    assert first["reply"] in stream.text
    assert order(engine, "123456") == ("delivered", "none"), "nobody has agreed to the return"
    assert len(client.get("/api/session").json()["messages"]) == 2
    ask(client, "yes", "c")
    assert order(engine, "123456") == ("delivered", "requested"), "a yes of its own counts"


def test_it_is_known_after_the_process_was_started_anew(desk: Any, engine: Engine) -> None:
    before = client_of(desk())
    ask(before, BOTH, "a")
    first = ask(before, "yes", "b")
    number = before.get("/api/session").json()["info"]["conversation"]
    after = client_of(desk())
    after.post("/api/session", json={"conversation": number})
    again = ask(after, "yes", "b")
    assert (again["reply"], again["waiting"]) == (first["reply"], first["waiting"])
    assert order(engine, "123456") == ("delivered", "none")
    ask(after, "yes", "c")
    assert order(engine, "123456") == ("delivered", "requested")


def test_a_message_without_an_answer_is_answered_when_it_comes_again(
    desk: Any, engine: Engine
) -> None:
    """The writes were made, then the database failed: no answer was kept, so none is repeated."""
    broken = desk()
    keep = broken.keep
    client = client_of(broken)
    ask(client, BOTH, "a")
    lose_the_end(broken)
    lost = client.post("/api/chat", json={"input": "yes", "id": "b"})
    assert (lost.status_code, lost.json()["error"]) == (503, "OrderSystemDown")
    broken.keep = keep
    done = ask(client, "yes", "b")
    assert done["decisions"][0]["action"] == "cancelled"
    assert done["waiting"]["intent"] == "return_exchange"
    assert ask(client, "yes", "b")["reply"] == done["reply"]
    assert order(engine, "123456") == ("delivered", "none")


@pytest.mark.parametrize("name", ["", "d"])
def test_a_name_belongs_to_one_message_of_one_conversation(desk: Any, name: str) -> None:
    """An empty name is none; another text is another message; so is another conversation's."""
    client = client_of(desk())
    ask(client, BOTH, name)
    ask(client, "yes", name)
    assert len(client.get("/api/session").json()["messages"]) == 2
    client.post("/api/session", json={})
    assert ask(client, BOTH, name)["waiting"]["intent"] == "return_exchange"
    assert len(client.get("/api/session").json()["messages"]) == 1


def test_the_names_kept_are_few_and_stay_with_their_messages(desk: Any, engine: Engine) -> None:
    client = client_of(desk())
    for place in range(KEPT_IDS + 3):
        ask(client, f"hello {place}", f"n{place}" if place % 2 else "")
    number = client.get("/api/session").json()["info"]["conversation"]
    after = client_of(desk())
    after.post("/api/session", json={"conversation": number})
    count = len(after.get("/api/session").json()["messages"])
    last = KEPT_IDS + 1
    ask(after, f"hello {last}", f"n{last}")
    assert len(after.get("/api/session").json()["messages"]) == count, "known, so not answered anew"
    ask(after, "hello 1", "n1")
    assert len(after.get("/api/session").json()["messages"]) == count + 1, "too long ago"


def test_a_repeated_answer_is_counted_as_what_it_is(desk: Any) -> None:
    client = TestClient(create_app(desk(), limits=ROOMY, metrics_token="t"))
    for _ in range(3):
        ask(client, BOTH, "a")
    figures = client.get("/metrics", headers={"Authorization": "Bearer t"}).text
    assert 'csproto_messages_total{end="done"} 1.0' in figures
    assert 'csproto_messages_total{end="again"} 2.0' in figures
