"""The web page and its API: answers, streams, sign-in, limits, safety."""

import asyncio
import concurrent.futures
import copy
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from scripted import lose_the_end
from sqlalchemy import select
from sqlalchemy.orm import Session
from support import running_requests

from csproto.engine.server import free_port
from csproto.shop.orders import Faults
from csproto.shop.store import Audit, Ticket
from csproto.web.app import create_app
from csproto.web.errors import SignedOut
from csproto.web.health import Health
from csproto.web.limits import Limits
from csproto.web.visitors import COOKIE, Signer

DEAD = "http://127.0.0.1:9"
HUMAN = "I want to talk to a human agent"  # a message that writes a ticket
RETURN = "我要退换货,订单号123456,衣服尺码偏小"
SLOW = Faults(latency=0.5)  # so that an answer cannot be complete before it is stopped
ROOMY = Limits(burst=10_000, per_minute=10_000)


@pytest.fixture
def client(make_assistant) -> TestClient:
    return TestClient(create_app(make_assistant(), limits=ROOMY), raise_server_exceptions=False)


@pytest.fixture
def limited(make_assistant) -> Callable[..., TestClient]:
    return lambda **limits: TestClient(create_app(make_assistant(), limits=Limits(**limits)))


@pytest.fixture
def serving(make_assistant) -> Iterator[Callable[..., str]]:
    """Serve over real sockets; returns the URL."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(app: Any = None, **limits: Any) -> str:
        app = app or create_app(make_assistant(), limits=Limits(**limits) if limits else ROOMY)
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}"

    yield serve
    for server, thread in servers:
        server.should_exit = server.force_exit = True
        thread.join(10)


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in blocks
    ]


# -- answers


def test_the_blogs_request_gets_the_blogs_response(client) -> None:
    answer = client.post("/api/chat", json={"input": "我的订单到哪了?"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["response"] == body["reply"]
    assert body["decisions"][0]["rule"]
    assert body["usage"]["total_ms"] > 0


def test_a_question_comes_with_buttons_and_pressing_one_sends_its_text(client, engine) -> None:
    asked = client.post("/api/chat", json={"input": RETURN}).json()
    assert asked["decisions"][0]["rule"] == "return.no_reason.7d"
    assert asked["waiting"] == {
        "action": "confirm_return",
        "intent": "return_exchange",
        "orders": ["123456"],
    }
    assert [choice["kind"] for choice in asked["choices"]] == ["yes_no", "yes_no"]
    assert tickets(engine) == []
    done = client.post("/api/chat", json={"input": asked["choices"][0]["text"]}).json()
    assert done["decisions"][0]["action"] == "return_registered"
    assert (done["waiting"], done["choices"]) == (None, [])
    assert tickets(engine) == ["return"]
    said = [message["text"] for message in client.get("/api/session").json()["messages"]]
    assert said == [RETURN, asked["choices"][0]["text"]], "pressed or typed, it reads the same"


def tickets(engine) -> list[str]:
    with Session(engine) as session:
        return list(session.scalars(select(Ticket.kind).where(Ticket.customer_id == "C001")))


@pytest.mark.parametrize("body", [{"input": ""}, {"input": "  \n"}, {}])
def test_empty_input_is_told_what_to_write(client, body) -> None:
    answer = client.post("/api/chat", json=body)
    assert answer.status_code == 200
    assert "我的订单" in answer.json()["response"]
    english = client.post("/api/chat", json=body, headers={"Accept-Language": "en-GB"})
    assert "Where is my order" in english.json()["response"]
    assert COOKIE not in answer.cookies, "nothing was said, so nobody need be remembered"


def test_a_stream_has_its_events_in_order(client) -> None:
    answer = client.post("/api/chat/stream", json={"input": "订单123456到哪了?另外帮我开发票"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    got = events(answer.text)
    names = [name for name, _ in got]
    done = got[-1][1]
    decisions = [data for name, data in got if name == "decision"]
    assert names == ["triage", *["decision"] * len(decisions), "token", "done"]
    sure = {"sure": done["sure"], "runner_up": done["runner_up"]}
    assert got[0][1] == done["triage"] | sure
    assert decisions == done["decisions"]
    assert got[-2][1] == {"text": done["reply"]}


def test_a_visitor_is_remembered_and_others_are_not_shown(client) -> None:
    client.post("/api/chat", json={"input": "你好"})
    client.post("/api/chat", json={"input": "我的订单到哪了?"})
    assert [m["text"] for m in client.get("/api/session").json()["messages"]] == [
        "你好",
        "我的订单到哪了?",
    ]
    stranger = TestClient(client.app)
    assert stranger.get("/api/session").json()["messages"] == []
    forged = client.cookies[COOKIE].split(".")[0] + "." + "0" * 64
    assert stranger.get("/api/session", cookies={COOKIE: forged}).json()["messages"] == []


def test_rating_export_and_new(client, engine) -> None:
    client.post("/api/chat", json={"input": HUMAN})
    state = client.get("/api/session").json()
    rated = client.post("/api/session/rate", json={"id": state["messages"][0]["id"], "rating": 1})
    assert rated.json()["messages"][0]["rating"] == 1
    with Session(engine) as session:
        row = session.scalars(select(Audit).where(Audit.action == "thumbs_up")).one()
        assert row.customer_id == "C001"
    file = client.get("/api/session/export").headers["content-disposition"]
    assert file == 'attachment; filename="chat.md"'
    exported = json.loads(client.get("/api/session/export?form=json").text)
    assert exported["messages"] == rated.json()["messages"]
    for language, title in (("zh", "# 客服助手"), ("en", "# Customer service")):
        assert client.get(f"/api/session/export?language={language}").text.startswith(title)
    fresh = client.post("/api/session", json={"customer": "C002"}).json()
    assert (fresh["messages"], fresh["info"]["customer"]) == ([], "C002")
    assert client.post("/api/session", json={"customer": "C999"}).status_code == 404


# -- a conversation that outlives the process


def test_a_conversation_is_taken_up_again_after_a_restart(make_assistant) -> None:
    before, after = (TestClient(create_app(make_assistant(), limits=ROOMY)) for _ in range(2))
    asked = before.post("/api/chat", json={"input": RETURN}).json()
    number = before.get("/api/session").json()["info"]["conversation"]
    state = after.post("/api/session", json={"conversation": number}).json()
    assert state["info"]["conversation"] == number
    (message,) = state["messages"]
    for key in ("triage", "waiting", "choices", "reply"):
        assert message[key] == asked[key], key
    done = after.post("/api/chat", json={"input": "是的"}).json()
    assert done["decisions"][0]["action"] == "return_registered"


def test_nobody_takes_up_the_conversation_of_another_customer(client) -> None:
    client.post("/api/chat", json={"input": "你好"})
    number = client.get("/api/session").json()["info"]["conversation"]
    other = TestClient(client.app)
    other.post("/api/session", json={"customer": "C002"})
    other.post("/api/chat", json={"input": "hello"})
    for wish in ({"conversation": number}, {"conversation": "0" * 32}):
        answer = other.post("/api/session", json=wish)
        assert (answer.status_code, answer.json()["error"]) == (404, "ConversationUnknown")
    assert [m["text"] for m in other.get("/api/session").json()["messages"]] == ["hello"]


def test_a_turn_that_was_cut_off_while_it_wrote_is_completed(make_assistant, engine) -> None:
    """The writes are made, then the database fails, then the process ends."""
    assistant = make_assistant()
    lose_the_end(assistant)
    client = TestClient(create_app(assistant, limits=ROOMY))
    answer = client.post("/api/chat", json={"input": HUMAN})
    assert (answer.status_code, answer.json()["error"]) == (503, "OrderSystemDown")
    assert tickets(engine) == ["handoff"]
    number = client.get("/api/session").json()["info"]["conversation"]

    client = TestClient(create_app(make_assistant(), limits=ROOMY))
    state = client.post("/api/session", json={"conversation": number}).json()
    assert [(m["text"], m["state"]) for m in state["messages"]] == [(HUMAN, "stopped")]
    done = client.post("/api/chat", json={"input": HUMAN}).json()
    assert done["decisions"][0]["facts"]["ticket"] in done["reply"]
    assert tickets(engine) == ["handoff"]
    assert [m["state"] for m in client.get("/api/session").json()["messages"]] == ["done"]


# -- who a visitor is


def test_whoever_signs_visitors_in_decides_who_they_are(make_assistant) -> None:
    client = TestClient(create_app(make_assistant(), sign_in=lambda request, wished: "C003"))
    state = client.post("/api/session", json={"customer": "C001"}).json()
    assert state["info"]["customer"] == "C003"
    assert state["info"]["customers"] == []


@pytest.mark.parametrize("path", ["stop", "rate"])
def test_there_is_nothing_to_do_for_somebody_unknown(client, path) -> None:
    body = {"id": "m1", "rating": 1} if path == "rate" else {}
    assert client.post(f"/api/session/{path}", json=body).status_code == 404


class SignInDesk:
    """A shop's own sign-in: it knows who is signed in, whatever the visitor would like to be."""

    def __init__(self) -> None:
        self.customer: str | None = "C001"

    def __call__(self, request: Any, wished: str | None) -> str:
        if self.customer is None:
            raise SignedOut("nobody is signed in")
        return self.customer


ROUTES = {
    "chat": ("POST", "/api/chat", {"input": "我的订单到哪了?"}),
    "nothing said": ("POST", "/api/chat", {"input": " "}),
    "stream": ("POST", "/api/chat/stream", {"input": "我的订单到哪了?"}),
    "nothing streamed": ("POST", "/api/chat/stream", {}),
    "session": ("GET", "/api/session", None),
    "new": ("POST", "/api/session", {"customer": "C001"}),
    "stop": ("POST", "/api/session/stop", {}),
    "rate": ("POST", "/api/session/rate", {"id": "m1", "rating": 1}),
    "json": ("GET", "/api/session/export?form=json", None),
    "markdown": ("GET", "/api/session/export", None),
    "orders": ("GET", "/api/orders", None),
    "conversations": ("GET", "/api/conversations", None),
    "tickets": ("GET", "/api/tickets", None),
}
DEMO_ONLY = {"/api/demo/reset"}  # a shop with a sign-in does not have it


@pytest.fixture
def signed_in(make_assistant) -> tuple[TestClient, SignInDesk]:
    """A visitor who has asked about an order, of a shop with a sign-in."""
    desk = SignInDesk()
    client = TestClient(
        create_app(make_assistant(), sign_in=desk, limits=ROOMY), raise_server_exceptions=False
    )
    assert "123456" in client.post("/api/chat", json={"input": "订单123456到哪了?"}).json()["reply"]
    return client, desk


def test_every_route_that_touches_a_chat_is_among_the_routes_tested(client) -> None:
    paths = {
        path for path in client.get("/openapi.json").json()["paths"] if path.startswith("/api/")
    }
    assert paths - DEMO_ONLY == {path.partition("?")[0] for _, path, _ in ROUTES.values()}


@pytest.mark.parametrize("route", ROUTES)
def test_signed_out_no_route_answers(signed_in, route) -> None:
    client, desk = signed_in
    desk.customer = None
    method, path, body = ROUTES[route]
    for language, words in (("zh", "登录"), ("en", "sign in")):
        answer = client.request(method, path, json=body, headers={"Accept-Language": language})
        assert (answer.status_code, answer.json()["error"]) == (401, "SignedOut")
        assert words in answer.json()["response"].lower()
        assert "123456" not in answer.text
    desk.customer = "C001"
    assert len(client.get("/api/session").json()["messages"]) == 1, "the same customer goes on"


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_leads_another_customer_to_the_chat_of_the_one_before(signed_in, route) -> None:
    client, desk = signed_in
    cookie, desk.customer = client.cookies[COOKIE], "C002"
    method, path, body = ROUTES[route]
    answer = client.request(method, path, json=body)
    expected = 404 if route in ("stop", "rate", "json", "markdown") else 200
    assert answer.status_code == expected
    state = client.get("/api/session").json()
    assert state["info"]["customer"] == "C002"
    assert "123456" not in answer.text + json.dumps(state)
    desk.customer = "C001"
    for kept in (cookie, client.cookies[COOKIE]):
        client.cookies.set(COOKIE, kept)
        assert client.get("/api/session").json()["messages"] == [], "it is gone for good"


def test_a_new_customer_gets_a_chat_and_a_cookie(signed_in) -> None:
    client, desk = signed_in
    before, desk.customer = client.cookies[COOKIE], "C002"
    answer = client.post("/api/chat", json={"input": "订单123456到哪了?"})
    assert answer.json()["decisions"][0]["rule"] == "order.not_found"
    assert answer.headers["set-cookie"].split(";")[0] != f"{COOKIE}={before}"
    assert json.loads(client.get("/api/session/export?form=json").text)["customer"] == "C002"
    assert len(client.app.state.site.visitors) == 1


def test_another_customers_sign_in_stops_the_answer_under_way(make_assistant, serving) -> None:
    desk = SignInDesk()
    url = serving(create_app(make_assistant(SLOW), sign_in=desk, limits=ROOMY))
    with (
        httpx.Client(base_url=url, timeout=30) as client,
        client.stream("POST", "/api/chat/stream", json={"input": RETURN}) as answer,
    ):
        cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
        desk.customer = "C002"
        assert httpx.get(f"{url}/api/session", headers=cookie, timeout=30).json()["messages"] == []
        last = events("".join(answer.iter_text()))[-1]
        assert (last[0], last[1]["error"]) == ("error", "stopped")


def test_a_signed_in_customer_whom_the_shop_does_not_know_is_told_so(make_assistant) -> None:
    client = TestClient(
        create_app(make_assistant(), sign_in=lambda request, wished: "C999", limits=ROOMY)
    )
    for path, body in (
        ("/api/chat", {"input": "你好"}),
        ("/api/chat/stream", {"input": "你好"}),
        ("/api/session", {}),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]) == (404, "CustomerUnknown")


def test_the_demo_visitor_stays_who_they_chose_to_be(client) -> None:
    client.post("/api/session", json={"customer": "C002"})
    client.post("/api/chat", json={"input": "你好"})
    state = client.get("/api/session").json()
    assert (state["info"]["customer"], len(state["messages"])) == ("C002", 1)
    assert client.post("/api/session", json={"customer": "C999"}).status_code == 404
    assert len(client.get("/api/session").json()["messages"]) == 1, (
        "nothing is lost by a wish that is refused"
    )
    cookie = client.cookies[COOKIE]
    client.post("/api/session", json={"customer": "C003"})
    client.cookies.set(COOKIE, cookie)
    assert client.get("/api/session").json()["messages"] == [], "a chat never changes hands"


# -- the engine


@pytest.fixture
def own_endpoint(endpoint) -> Any:
    """The engine, for a test that changes its address."""
    return copy.copy(endpoint)


def test_health_tells_the_truth(make_assistant, own_endpoint) -> None:
    client = TestClient(create_app(make_assistant(on=own_endpoint)))
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["versions"]["sglang"] == "0.5.23"
    client.app.state.site.health._known = (float("-inf"), "")
    own_endpoint.base_url = DEAD
    down = client.get("/health")
    assert down.status_code == 503
    assert "does not answer" in down.json()["reason"]
    assert int(down.headers["retry-after"]) > 0


def test_many_who_ask_a_silent_engine_for_its_health_wait_together(
    make_assistant, own_endpoint, monkeypatch
) -> None:
    """Else they would stand in line, and the page's threads with them."""
    monkeypatch.setattr("csproto.chat.engine.PATIENCE", 0.5)
    assistant = make_assistant(on=own_endpoint)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        concurrent.futures.ThreadPoolExecutor(20) as pool,
    ):
        own_endpoint.base_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        health = Health(assistant)
        began = time.monotonic()
        assert health.reason()
        one = time.monotonic() - began
        assert all(pool.map(lambda _: health.reason(), range(20)))
        assert time.monotonic() - began - one < 5 * one


def test_without_an_engine_visitors_are_told_so_and_shown_nothing_of_it(
    make_assistant, own_endpoint
) -> None:
    client = TestClient(create_app(make_assistant(on=own_endpoint)))
    alive, own_endpoint.base_url = own_endpoint.base_url, DEAD
    answer = client.post("/api/chat", json={"input": "你好"})
    assert answer.status_code == 503
    assert answer.json()["error"] == "NoServer"
    (event,) = events(client.post("/api/chat/stream", json={"input": "你好"}).text)
    assert event[0] == "error"
    shown = (
        answer.text
        + json.dumps(client.get("/api/session").json())
        + client.get("/api/session/export?form=json").text
    )
    shown += client.get("/health").text
    for secret in (DEAD, alive, own_endpoint.api_key or "no key", "csproto serve"):
        assert secret not in shown
    own_endpoint.base_url = alive
    assert client.post("/api/chat", json={"input": "你好"}).status_code == 200


def test_a_client_that_goes_away_frees_its_generation(serving, make_assistant, endpoint) -> None:
    url = serving(create_app(make_assistant(SLOW), limits=ROOMY))
    with httpx.stream(
        "POST", f"{url}/api/chat/stream", json={"input": RETURN}, timeout=60
    ) as answer:
        assert answer.status_code == 200
        cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/api/session", headers=cookie, timeout=60).json()["info"]["busy"]:
        assert time.monotonic() < deadline
    assert running_requests(endpoint) == 0
    (message,) = httpx.get(f"{url}/api/session", headers=cookie, timeout=60).json()["messages"]
    assert (message["state"], message["reply"]) == ("stopped", "")


def test_stop_ends_an_answer(serving, make_assistant) -> None:
    url = serving(create_app(make_assistant(SLOW), limits=ROOMY))
    with (
        httpx.Client(base_url=url, timeout=30) as client,
        httpx.Client(base_url=url, timeout=30) as other,
        client.stream("POST", "/api/chat/stream", json={"input": RETURN}) as answer,
    ):
        cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
        state = other.post("/api/session/stop", json={}, headers=cookie).json()
        assert state["messages"][0]["state"] == "stopped"
        last = events("".join(answer.iter_text()))[-1]
        assert (last[0], last[1]["error"]) == ("error", "stopped")


# -- limits


def test_too_large(limited) -> None:
    client = limited(body=1000)
    assert client.post("/api/chat", json={"input": "x" * 1000}).status_code == 413
    chunks = (b"x" * 400 for _ in range(4))  # no length announced
    assert (
        client.post(
            "/api/chat", content=chunks, headers={"Content-Type": "application/json"}
        ).status_code
        == 413
    )


def test_too_long(client) -> None:
    answer = client.post("/api/chat", json={"input": "退" * 2001})
    assert (answer.status_code, answer.json()["error"]) == (413, "too_long")


def test_too_fast(limited) -> None:
    client = limited(burst=3, per_minute=1)
    answers = [client.post("/api/chat", json={}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert client.get("/").status_code == 200, "looking costs nothing"


def test_a_customer_who_writes_too_fast_is_told_when_to_come_back(make_assistant) -> None:
    client = TestClient(create_app(make_assistant(messages_per_minute=1), limits=ROOMY))
    assert client.post("/api/chat", json={"input": "你好"}).status_code == 200
    answer = client.post("/api/chat", json={"input": "你好"})
    assert (answer.status_code, answer.json()["error"]) == (429, "rate")
    assert int(answer.headers["retry-after"]) > 0


@contextmanager
def slot_held(client: TestClient, customer: str = "C009") -> Iterator[None]:
    """Hold a slot, as an answer under way does."""

    async def join() -> Any:
        return client.app.state.site.answers.queue.join(customer)

    place = asyncio.run(join())
    assert place.has_slot
    try:
        yield
    finally:
        place.leave()


def test_too_many_at_once(limited) -> None:
    client = limited(running=1, waiting=0)
    with slot_held(client):
        answer = client.post("/api/chat", json={"input": "你好"})
    assert (answer.status_code, answer.json()["error"]) == (503, "EngineBusy")
    assert int(answer.headers["retry-after"]) > 0
    assert client.post("/api/chat", json={"input": "你好"}).status_code == 200


def test_one_message_of_a_visitor_at_a_time(client) -> None:
    client.post("/api/session", json={})
    visitor = client.app.state.site.visitors.find(client.cookies[COOKIE])
    with visitor.alone():
        answer = client.post("/api/chat", json={"input": "你好"})
    assert (answer.status_code, answer.json()["error"]) == (429, "busy")
    assert client.post("/api/chat", json={"input": "你好"}).status_code == 200


def test_sessions_are_bounded_in_number_and_age(make_assistant) -> None:
    app = create_app(make_assistant(), limits=Limits(sessions=3, session_age=100, burst=100))
    clients = [TestClient(app) for _ in range(5)]
    for client in clients:
        client.post("/api/session", json={"customer": "C002"})
    assert len(app.state.site.visitors) == 3
    customers = [c.get("/api/session").json()["info"]["customer"] for c in clients]
    assert customers == ["C001", "C001", "C002", "C002", "C002"]
    for visitor in app.state.site.visitors._all.values():
        visitor.seen_at -= 101
    assert clients[-1].get("/api/session").json()["info"]["customer"] == "C001"
    assert len(app.state.site.visitors) == 0


@pytest.mark.timeout(600)
def test_fifty_sessions_of_three_turns_do_not_mix(serving) -> None:
    """Each asks for an order of its customer, and gets no number of anybody else's.

    More come than are answered at once, and nobody is refused.
    """
    url = serving(burst=10_000, per_minute=10_000, wait_seconds=300)
    refusals: list[int] = []
    orders = {
        "C003": "300007",
        "C005": "500001",
        "C006": "600001",
        "C007": "700001",
        "C009": "900001",
    }

    def visit(number: int) -> list[tuple[int, str]]:
        customer = list(orders)[number % len(orders)]
        got = []
        with httpx.Client(base_url=url, timeout=300) as client:
            client.post("/api/session", json={"customer": customer})
            for text in (f"订单{orders[customer]}到哪了?", "快递单号多少", "你好"):
                for _ in range(10):
                    answer = client.post("/api/chat", json={"input": text})
                    if answer.status_code == 200:
                        break
                    refusals.append(answer.status_code)
                    time.sleep(int(answer.headers["retry-after"]))
                got.append((answer.status_code, answer.json()["response"]))
            texts = [m["text"] for m in client.get("/api/session").json()["messages"]]
            assert all(orders[customer] in text for text in texts if "到哪了" in text)
        others = [order for name, order in orders.items() if name != customer]
        assert not [order for order in others for _, reply in got if order in reply]
        return got

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        statuses = [status for got in pool.map(visit, range(50)) for status, _ in got]
    assert len(statuses) == 150
    assert set(statuses) == {200}
    assert refusals == [], "those beyond the sixteen that are answered at once wait"
    assert statuses.count(200) >= 75


# -- safety


def test_every_answer_carries_the_security_headers(client) -> None:
    for answer in (
        client.get("/"),
        client.get("/nothing"),
        client.post("/api/chat", content=b"no json"),
        client.get("/docs"),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"


def test_the_pages_hold_no_inline_script_or_style_and_nothing_from_elsewhere(client) -> None:
    for path in ("/", "/docs"):
        text = client.get(path).text
        assert "<style" not in text
        assert " style=" not in text
        assert "<script>" not in text
        assert "http" not in text
    for name in ("chat.js", "page.js", "docs.js", "chat.css", "page.css"):
        text = client.get(f"/static/{name}").text
        assert "innerHTML" not in text
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/app.py").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_are_refused(client, headers) -> None:
    assert client.post("/api/chat", json={"input": "你好"}, headers=headers).status_code == 403


def test_a_form_is_refused_and_so_is_a_foreign_host_name(client) -> None:
    assert client.post("/api/chat", data={"input": "你好"}).status_code == 415
    text = {"Content-Type": "text/plain"}
    assert client.post("/api/chat", content=b'{"input": "x"}', headers=text).status_code == 415
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    same = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/chat", json={}, headers=same).status_code == 200


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(client) -> None:
    cookie = client.post("/api/session", json={}).headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=7200"):
        assert word in cookie
    over_https = TestClient(client.app, base_url="https://testserver").post("/api/session", json={})
    assert "Secure" in over_https.headers["set-cookie"]


def test_signatures() -> None:
    one, other = Signer(), Signer()
    assert one.read(one.sign("abc")) == "abc"
    for forged in (
        other.sign("abc"),
        "abc",
        "abc.",
        ".",
        "",
        None,
        one.sign("abc") + "0",
        "xyz." + one.sign("abc")[4:],
        "é.ü",
    ):
        assert one.read(forged) is None


def test_malformed_requests_are_told_so(client) -> None:
    json_type = {"Content-Type": "application/json"}
    for body in (b"{", b"[]", b"null", b'{"input": 5}', b"\xff"):
        answer = client.post("/api/chat", content=body, headers=json_type)
        assert answer.status_code in (400, 422), body
        assert "JSON" in answer.json()["response"]
    assert client.get("/api/chat").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_the_openapi_document_holds_under_generated_requests(make_assistant, own_endpoint) -> None:
    """Every answer is one that the document names, and none is a 5xx but the 503."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    app = create_app(make_assistant(on=own_endpoint), limits=ROOMY)
    own_endpoint.base_url = DEAD  # so that thousands of messages need no answer: they get a 503
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.response_schema_conformance,
    ]
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=50,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            answer = case.call()
            if answer.status_code == 503:
                assert "retry-after" in {name.lower() for name in answer.headers}
                case.validate_response(answer, checks=checks[1:])
            else:
                case.validate_response(answer, checks=checks)

        holds()
