"""What an operator sets and sees of the page, and what it withstands."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from test_web import DEAD, HUMAN, RETURN, ROOMY, events, own_endpoint, tickets  # noqa: F401
from web_process import Relay, drip, gateway_error, replaced

from csproto import settings
from csproto.engine.endpoint import Endpoint, EngineGarbled
from csproto.web.app import create_app
from csproto.web.configured import configured_app
from csproto.web.examples import FILE, record
from csproto.web.limits import Limits
from csproto.web.serving import server_for
from csproto.web.starting import Starting

TOKEN = "a token for Prometheus"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def client(make_assistant) -> TestClient:
    app = create_app(make_assistant(), limits=ROOMY, metrics_token=TOKEN)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def configured(make_assistant, monkeypatch) -> Iterator[Callable[..., str]]:
    """Serves the page as `csproto web` does, with environment variables; returns the URL."""
    servers = []

    def serve(**environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(f"CSPROTO_{name}", value)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        starting = Starting(lambda hand_over: None, lambda: None)
        starting.app = configured_app(make_assistant())
        server = server_for(starting, "127.0.0.1", port)
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


# -- alive, ready, healthy


def test_ready_is_not_alive(make_assistant, own_endpoint) -> None:  # noqa: F811
    client = TestClient(create_app(make_assistant(on=own_endpoint), limits=ROOMY))
    site = client.app.state.site
    assert [client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    alive, own_endpoint.base_url = own_endpoint.base_url, DEAD
    site.readiness._known = (float("-inf"), "")
    down = client.get("/readyz")
    assert (down.status_code, client.get("/livez").status_code) == (503, 200)
    assert "engine" in down.json()["reason"]
    assert int(down.headers["retry-after"]) > 0
    own_endpoint.base_url = alive
    assert client.get("/readyz").status_code == 200


def test_a_process_that_ends_takes_no_message(client, engine) -> None:
    client.app.state.site.answers.close()
    for path in ("/api/chat", "/api/chat/stream"):
        answer = client.post(path, json={"input": HUMAN})
        assert (answer.status_code, answer.json()["error"]) == (503, "network")
        assert int(answer.headers["retry-after"]) > 0
    assert tickets(engine) == []
    assert [client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 503]


# -- figures


def figures(client: TestClient) -> dict[str, float]:
    text = client.get("/metrics", headers=BEARER).text
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines())
        if not name.startswith("#")
    }


def test_there_are_figures_only_for_whoever_has_the_token(client, make_assistant) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}):
        assert client.get("/metrics", headers=headers).status_code == 401
    assert client.get("/metrics", headers=BEARER).status_code == 200
    without = TestClient(create_app(make_assistant(), limits=ROOMY))
    for headers in ({}, BEARER, {"Authorization": "Bearer "}):
        assert without.get("/metrics", headers=headers).status_code == 404


def test_what_the_desk_does_can_be_counted(client) -> None:
    said = [client.post("/api/chat", json={"input": text}).json() for text in (RETURN, "不用了")]
    said += [client.post("/api/chat", json={"input": text}).json() for text in (RETURN, "是的")]
    usages = [turn["usage"] for turn in said]
    assert said[1]["triage"]["act"] == "deny"
    found = figures(client)
    assert found['csproto_messages_total{end="done"}'] == 4
    asked = 'csproto_decisions_total{action="confirm_return",intent="return_exchange"}'
    assert found[asked] == 2
    assert found['csproto_confirmations_total{answer="no"}'] == 1
    assert found['csproto_confirmations_total{answer="yes"}'] == 1
    assert found['csproto_writes_total{kind="return"}'] == 1
    computed = sum(usage["prompt_tokens"] - usage["cached_tokens"] for usage in usages)
    assert found['csproto_tokens_total{kind="computed"}'] == computed
    reused = sum(usage["cached_tokens"] for usage in usages)
    assert found['csproto_tokens_total{kind="reused"}'] == reused > 0
    assert found["csproto_turn_seconds_count"] == found["csproto_ttft_seconds_count"] == 4
    seconds = sum(usage["total_ms"] for usage in usages) / 1000
    assert found["csproto_turn_seconds_sum"] == pytest.approx(seconds)
    assert found['csproto_open_tickets{kind="return"}'] == 1
    assert found["csproto_database_up"] == found["csproto_visitors"] == 1
    assert found["csproto_answers_under_way"] == 0


def test_what_fails_can_be_counted(make_assistant, own_endpoint) -> None:  # noqa: F811
    limits = Limits(burst=2, per_minute=1)
    assistant = make_assistant(on=own_endpoint)
    client = TestClient(create_app(assistant, limits=limits, metrics_token=TOKEN))
    own_endpoint.base_url = DEAD
    client.post("/api/chat", json={"input": HUMAN})
    client.post("/api/session/rate", json={"id": "m9", "rating": 1})
    client.post("/api/chat", json={"input": HUMAN})
    found = figures(client)
    assert found['csproto_errors_total{type="NoServer"}'] == 1
    assert found['csproto_messages_total{end="failed"}'] == 1
    assert found['csproto_refused_total{code="rate",status="429"}'] == 1


def test_no_figure_names_a_customer_or_an_order(client) -> None:
    for text in (RETURN, "是的", "订单55511122到哪了", "投诉 zyxplanted", HUMAN):
        client.post("/api/chat", json={"input": text})
    text = client.get("/metrics", headers=BEARER).text
    for word in ("C001", "123456", "55511122", "zyxplanted", "林晓", "T0000"):
        assert word not in text


def test_figures_say_that_the_database_is_down(client, engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE ticket RENAME TO elsewhere")
    found = figures(client)
    assert found["csproto_database_up"] == 0
    assert not [name for name in found if name.startswith("csproto_open_tickets")]


# -- behind a proxy


def post(url: str, address: str = "", **headers: str) -> httpx.Response:
    sent = headers | ({"X-Forwarded-For": address} if address else {})
    return httpx.post(f"{url}/api/session", json={}, headers=sent, timeout=60)


def test_each_customer_behind_a_trusted_proxy_has_a_rate(configured) -> None:
    url = configured(TRUSTED_PROXIES="127.0.0.0/8", LIMIT_BURST="2", LIMIT_PER_MINUTE="1")
    visits = [post(url, f"203.0.113.{last}").status_code for last in (1, 1, 1, 2)]
    assert visits == [200, 200, 429, 200]
    forged = [post(url, f"198.51.100.{last}, 203.0.113.3").status_code for last in range(3)]
    assert forged == [200, 200, 429], "only what the trusted proxy itself added counts"


def test_a_stranger_cannot_choose_an_address(configured) -> None:
    url = configured(TRUSTED_PROXIES="10.0.0.1", LIMIT_BURST="2", LIMIT_PER_MINUTE="1")
    assert [post(url, f"203.0.113.{n}").status_code for n in range(3)] == [200, 200, 429]
    assert (
        "Secure" not in post(configured(), **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    )


def test_cookies_are_secure_behind_https(configured) -> None:
    https = {"X-Forwarded-Proto": "https"}
    trusting = configured(TRUSTED_PROXIES="127.0.0.1")
    assert "; Secure" in post(trusting, **https).headers["set-cookie"]
    assert "; Secure" not in post(trusting).headers["set-cookie"]
    assert "; Secure" in post(configured(SECURE_COOKIES="1")).headers["set-cookie"]


def test_the_page_answers_to_the_names_it_is_given(configured) -> None:
    url = configured(HOSTS="shop.example, www.shop.example")

    def ask(path: str, name: str) -> int:
        return httpx.get(url + path, headers={"Host": name}, timeout=60).status_code

    assert [ask("/", n) for n in ("shop.example", "www.shop.example:443")] == [200, 200]
    assert [ask("/", n) for n in ("127.0.0.1", "evil.example", "shop.example.evil")] == [400] * 3
    assert ask("/readyz", "10.1.2.3") == ask("/livez", "10.1.2.3") == 200, "probes have no name"


def sign_in(request: Any, wished: str | None) -> str:
    """A shop's own sign-in, which believes a header of its proxy."""
    return request.headers["x-customer"]


def test_csproto_web_can_sign_visitors_in(configured) -> None:
    url = configured(SIGN_IN="test_web_operator:sign_in")
    state = post(url, **{"X-Customer": "C002"}).json()
    assert (state["info"]["customer"], state["info"]["customers"]) == ("C002", [])


def test_documents_and_versions_can_be_hidden(configured) -> None:
    url = configured(PUBLIC_DOCS="0")
    paths = ("/docs", "/openapi.json")
    assert [httpx.get(url + path, timeout=60).status_code for path in paths] == [404, 404]
    assert httpx.get(f"{url}/health", timeout=60).json() == {"status": "ok", "versions": {}}


@pytest.mark.parametrize(
    ("name", "value"), [("LIMIT_BURST", "many"), ("SECURE_COOKIES", "yes"), ("SIGN_IN", "no:no")]
)
def test_a_setting_that_cannot_be_used_is_named(configured, name: str, value: str) -> None:
    with pytest.raises(settings.SettingInvalid, match=f"CSPROTO_{name} is '{value}'"):
        configured(**{name: value})


# -- requests


def test_head_is_a_get_without_the_body(client) -> None:
    for path in ("/", "/docs", "/health", "/livez", "/readyz", "/api/session", "/static/page.js"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"") == (200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/nothing").status_code == 404


@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_is_not_there_and_what_is_not_taken(client, language: str) -> None:
    asked = {"Accept-Language": language}
    gone = client.get("/api/chats", headers=asked)
    assert (gone.status_code, gone.json()["error"]) == (404, "no_such_address")
    for method, path, allowed in (
        ("GET", "/api/chat", "POST"),
        ("DELETE", "/api/session", "GET, HEAD, POST"),
        ("PUT", "/", "GET, HEAD"),
    ):
        body = {} if method != "GET" else None
        answer = client.request(method, path, json=body, headers=asked)
        assert (answer.status_code, answer.json()["error"]) == (405, "wrong_method")
        assert answer.headers["allow"] == allowed
        assert allowed in answer.json()["response"]


@pytest.mark.parametrize(
    ("path", "body", "got", "near"),
    [
        ("/api/chat", {"imput": "你好"}, "imput", "input"),
        ("/api/chat/stream", {"input": "你好", "lang": "zh"}, "lang", "input"),
        ("/api/session", {"custommer": "C002"}, "custommer", "customer"),
        ("/api/session", {"conversation_id": "x"}, "conversation_id", "conversation"),
        ("/api/session/rate", {"id": "m1", "rate": 1}, "rate", "rating"),
        ("/api/chat", {"\ud800": 1}, "\ufffd", "input"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_name(client, path, body, got, near) -> None:
    client.post("/api/chat", json={"input": "你好"})
    kind = {"Content-Type": "application/json", "Accept-Language": "en"}
    answer = client.post(path, content=json.dumps(body), headers=kind)
    assert (answer.status_code, answer.json()["error"]) == (422, "unknown_field")
    assert f"no field `{got}`" in answer.json()["response"]
    assert f"Did you mean `{near}`" in answer.json()["response"]


def shape(value: Any) -> Any:
    """The names in an answer, without what changes from one time to the next."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    if isinstance(value, str) and value.startswith("event:"):
        return [(name, shape(data)) for name, data in events(value)]
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def test_every_call_has_an_example_that_is_as_the_answers_are(client) -> None:
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    assert shape(record(client)) == shape(recorded)
    document = client.get("/openapi.json").json()["paths"]
    for path, methods in document.items():
        for method, operation in methods.items():
            example = recorded[f"{method.upper()} {path}"]
            shown = operation["responses"]["200"]["content"][example["type"]]["example"]
            assert shown == example["answer"]
            if example["body"] is not None:
                sent = operation["requestBody"]["content"]["application/json"]
                assert sent["example"] == example["body"]


# -- what it withstands


def test_half_a_character_spoils_nothing(client) -> None:
    kind = {"Content-Type": "application/json"}
    answer = client.post("/api/chat", content=b'{"input": "hello \\ud800 there"}', headers=kind)
    assert answer.status_code == 200
    for path in ("/api/session", "/api/session/export", "/api/session/export?form=json"):
        assert client.get(path).status_code == 200
    for body in (b'{"customer": "\\ud800"}', b'{"customer": "C\\u0000"}'):
        assert client.post("/api/session", content=body, headers=kind).status_code in (404, 422)


def test_many_messages_make_no_large_session(make_assistant) -> None:
    limits = Limits(burst=1000, per_minute=1000, messages=5)
    client = TestClient(create_app(make_assistant(messages_per_minute=1), limits=limits))
    for number in range(12):
        client.post("/api/chat", json={"input": f"你好 {number}"})
    texts = [message["text"] for message in client.get("/api/session").json()["messages"]]
    assert texts == [f"你好 {number}" for number in range(7, 12)]


def test_a_flood_of_strangers_drives_out_nobody_who_came_back(make_assistant) -> None:
    app = create_app(make_assistant(), limits=Limits(sessions=5, burst=100, per_minute=1000))
    client = TestClient(app)
    client.post("/api/chat", json={"input": RETURN})
    client.get("/api/session")
    for _ in range(20):
        TestClient(app).post("/api/session", json={})
    done = client.post("/api/chat", json={"input": "是的"}).json()
    assert done["decisions"][0]["action"] == "return_registered"
    assert len(app.state.site.visitors) == 5


def test_looking_has_a_rate_too(make_assistant) -> None:
    limits = Limits(burst=1, per_minute=1, looks=3)
    client = TestClient(create_app(make_assistant(), limits=limits))
    looks = [client.get("/api/session").status_code for _ in range(4)]
    assert looks == [200, 200, 200, 429]
    assert client.get("/").status_code == client.get("/livez").status_code == 200


def open_socket(url: str, data: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(data)
    return connection


def test_half_sent_requests_are_not_waited_for(configured) -> None:
    url = configured(LIMIT_BODY_SECONDS="1")
    whole = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    half_head = b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    half_body = half_head + b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    with (
        open_socket(url, b"") as silent,
        open_socket(url, half_head) as head,
        open_socket(url, whole) as kept,
        open_socket(url, half_body) as body,
    ):
        assert b"200 OK" in kept.recv(65536)
        kept.sendall(half_head)  # the second request of a connection that is kept
        assert read_all(body).startswith(b"HTTP/1.1 408")
        assert [read_all(each) for each in (silent, head, kept)] == [b""] * 3


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection; the socket's time-out ends the test."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def test_an_answer_that_only_drips_is_given_up(make_assistant, server) -> None:
    """Four bytes a second never trip a read time-out, and would hold a slot for minutes."""
    endpoint = Endpoint(Relay(server[0], drip).start().url, server[1])
    limits = Limits(burst=100, per_minute=1000, turn_seconds=2, running=1)
    client = TestClient(create_app(make_assistant(on=endpoint), limits=limits))
    answer = client.post("/api/chat", json={"input": HUMAN})
    assert (answer.status_code, answer.json()["error"]) == (503, "EngineTimeout")
    name, last = events(client.post("/api/chat/stream", json={"input": HUMAN}).text)[-1]
    assert (name, last["error"]) == ("error", "EngineTimeout")
    assert len(client.app.state.site.answers) == 0, "the slot is free"


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (replaced(b"data: {", b"data: ["), "EngineGarbled"),
        (replaced(b'"text"', b'"test"'), "EngineGarbled"),
        (replaced(b'"meta_info"', b'"beta_info"'), "EngineGarbled"),
        (replaced(b'"cached_tokens"', b'"crashd_tokens"'), "EngineGarbled"),
        (gateway_error, "EngineBusy"),
    ],
)
def test_a_spoilt_answer_of_the_engine_is_an_error_of_the_engine(
    make_assistant, server, spoil, error: str, caplog
) -> None:
    endpoint = Endpoint(Relay(server[0], spoil).start().url, server[1])
    client = TestClient(create_app(make_assistant(on=endpoint), limits=ROOMY))
    answer = client.post("/api/chat", json={"input": HUMAN})
    assert (answer.status_code, answer.json()["error"]) == (503, error)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_page_of_html_is_no_engine(configured) -> None:
    """The wrong URL: our own page answers there, or JSON of somebody else."""
    url = configured()
    with pytest.raises(EngineGarbled, match="does not speak as a SGLang server"):
        Endpoint(f"{url}/docs?")
    with pytest.raises(EngineGarbled, match="does not speak as a SGLang server"):
        Endpoint(f"{url}/openapi.json?")
