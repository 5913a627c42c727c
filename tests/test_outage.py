"""A database that hangs, is gone, full or read-only: everybody is told so in time."""

import asyncio
import copy
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from databases import cluster
from fastapi.testclient import TestClient
from sqlalchemy import event, func, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from support import NOW
from test_web import ROOMY, ROUTES, SignInDesk, events, serving  # noqa: F401

from csproto.chat.session import ChatSession
from csproto.engine.endpoint import StopSignal
from csproto.opening import desk_on
from csproto.shop import demo
from csproto.shop.orders import OrderApi, OrderSystemDown
from csproto.shop.store import ConversationRow, Ticket, open_engine
from csproto.web.app import create_app
from csproto.web.visitors import COOKIE

NEEDS_NO_DATABASE = {"nothing said", "nothing streamed", "json", "markdown"}
WORDS = {"zh": "订单系统暂时没有回应", "en": "order system does not answer"}


def assistant_on(engine: Engine, endpoint: Any) -> Any:
    return desk_on(endpoint, OrderApi(engine), clock=lambda: NOW)


def outcome(answer: httpx.Response) -> tuple[int, str]:
    """Status and code, of a stream the code of its last event."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        return answer.status_code, events(answer.text)[-1][1].get("error", "")
    if answer.headers["content-type"] != "application/json":
        return answer.status_code, ""
    told = answer.json()
    return answer.status_code, "" if isinstance(told, list) else told.get("error") or ""


def check_told(route: str, language: str, answer: httpx.Response) -> None:
    """Plain words and a time to come back, in the visitor's language, nothing of the database."""
    if route in NEEDS_NO_DATABASE:
        assert answer.status_code == 200, route
        return
    status, code = outcome(answer)
    assert code == "OrderSystemDown", (route, answer.text)
    if route == "stream" and status == 200:
        assert WORDS[language] in events(answer.text)[-1][1]["response"]
    else:
        assert status == 503, route
        assert int(answer.headers["retry-after"]) > 0
        assert WORDS[language] in answer.json()["response"]
    assert "psycopg" not in answer.text
    assert "sqlite" not in answer.text


# -- PostgreSQL that hangs or is gone


@pytest.fixture
def postgres_server() -> Iterator[tuple[str, psutil.Process]]:
    with cluster() as (url, server):
        yield url, psutil.Process(server.pid)


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and its children. PostgreSQL starts and ends workers at any time."""
    return [process, *process.children(recursive=True)]


def suspend(process: psutil.Process) -> None:
    for each in family(process):
        with suppress(psutil.NoSuchProcess):
            each.suspend()


def resume(process: psutil.Process) -> None:
    for each in family(process):
        with suppress(psutil.NoSuchProcess):
            each.resume()


def kill(process: psutil.Process) -> None:
    all_of_them = family(process)
    for each in all_of_them:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(all_of_them, 10)


@pytest.fixture
def visited(postgres_server, endpoint, serving) -> tuple[str, dict[tuple[str, str], str]]:  # noqa: F811
    """A page on PostgreSQL, and a visitor's cookie for each route and language."""
    engine = open_engine(postgres_server[0], patience=0.5)
    demo.fill(engine, NOW)
    url = serving(create_app(assistant_on(engine, endpoint), limits=ROOMY))
    cookies = {}
    for route, language in itertools.product(ROUTES, WORDS):
        answer = httpx.post(f"{url}/api/chat", json={"input": "你好"}, timeout=60)
        assert answer.status_code == 200
        cookies[route, language] = answer.cookies[COOKIE]
    return url, cookies


def ask_all(url: str, cookies: dict[tuple[str, str], str]) -> dict[tuple[str, str], httpx.Response]:
    """Ask every route in both languages at once, beside more open pages than there are threads."""

    def ask(key: tuple[str, str]) -> httpx.Response:
        method, path, body = ROUTES[key[0]]
        headers = {"Accept-Language": key[1], "Cookie": f"{COOKIE}={cookies[key]}"}
        return httpx.request(method, url + path, json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(100) as pool:
        for _ in range(60):
            pool.submit(httpx.get, f"{url}/api/session", timeout=60)
        return dict(zip(cookies, pool.map(ask, cookies), strict=True))


@pytest.mark.parametrize("trouble", [suspend, kill])
def test_a_database_that_does_not_answer_stops_nobody_but_says_so(
    postgres_server, visited, trouble
) -> None:
    (url, cookies), process = visited, postgres_server[1]
    trouble(process)
    try:
        with ThreadPoolExecutor(2) as pool:
            began = time.monotonic()
            asked = pool.submit(ask_all, url, cookies)
            health = pool.submit(httpx.get, f"{url}/health", timeout=10)
            pages = 0
            while not asked.done():
                assert httpx.get(f"{url}/", timeout=30).status_code == 200
                pages += 1
                time.sleep(0.1)
            # A page that had to wait for the database would come once or twice meanwhile.
            assert pages >= 4, "the page freezes"
            assert time.monotonic() - began < 30
        for (route, language), answer in asked.result().items():
            check_told(route, language, answer)
        assert health.result().status_code == 503
        assert "database" in health.result().json()["reason"]
        newcomer = httpx.post(f"{url}/api/chat/stream", json={"input": "你好"}, timeout=60)
        assert outcome(newcomer) == (503, "OrderSystemDown")
    finally:
        if trouble is suspend:
            resume(process)
    if trouble is suspend:
        deadline = time.monotonic() + 20
        while httpx.get(f"{url}/health", timeout=60).status_code != 200:
            assert time.monotonic() < deadline
        # The message that had no answer is sent again.
        for answer in ask_all(url, cookies).values():
            assert answer.status_code == 200
            assert outcome(answer)[1] in ("", "empty")


@pytest.mark.parametrize("trouble", [suspend, kill])
def test_the_command_line_says_it_in_one_line(postgres_server, run_cli, trouble) -> None:
    url, process = postgres_server
    assert run_cli("db", "init", CSPROTO_DB=url).returncode == 0
    trouble(process)
    try:
        commands = (
            ["tickets"],
            ["ask", "hi"],
            ["db", "forget", "C005"],
            ["db", "init"],
            ["db", "migrate"],
        )
        with ThreadPoolExecutor(2) as pool:
            for done in pool.map(
                lambda words: run_cli(*words, CSPROTO_DB=url, timeout=60), commands
            ):
                assert done.returncode == 1
                assert "cannot be used" in done.stderr
                assert len(done.stderr.strip().splitlines()) == 1
                assert done.stdout == ""
    finally:
        if trouble is suspend:
            resume(process)


def test_a_slow_statement_is_given_up_and_a_migration_is_not(postgres_server) -> None:
    url, process = postgres_server
    engine = open_engine(url, patience=0.5)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="statement timeout"), engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(30)"))
    assert time.monotonic() - began < 5
    with open_engine(url, patience=None).connect() as connection:
        connection.execute(text("SELECT pg_sleep(2)"))

    connection = engine.connect()
    connection.execute(text("SELECT 1"))
    suspend(process)
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="has not answered"):
            connection.execute(text("SELECT 1"))
        connection.close()
        with pytest.raises(OperationalError):
            engine.connect()
        assert time.monotonic() - began < 10
    finally:
        resume(process)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


# -- SQLite that is full or read-only


def fill_up(engine: Engine) -> None:
    """Take all the room there is, and see to it that no more is found."""
    with engine.connect() as connection:
        pages = connection.scalar(text("PRAGMA page_count"))

    @event.listens_for(engine, "connect")
    def small(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 4}")

    engine.dispose()
    for size in (4_000, 400, 40):
        with pytest.raises(OperationalError, match="full"):
            add_rows(engine, size, 10_000)


def add_rows(engine: Engine, size: int, count: int) -> None:
    for number in range(count):
        row = ConversationRow(
            id=f"{size}-{number}", customer_id="x", started_at=NOW, transcript=["x" * size]
        )
        with Session(engine) as session, session.begin():
            session.add(row)


def forbid_writing(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA query_only=ON")


def read_only(engine: Engine) -> None:
    event.listen(engine, "connect", forbid_writing)
    engine.dispose()


def writable(engine: Engine) -> None:
    event.remove(engine, "connect", forbid_writing)
    engine.dispose()


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("trouble", [fill_up, read_only])
def test_a_database_that_cannot_be_written_is_no_bug_of_the_page(
    endpoint, engine, trouble, language
) -> None:
    client = TestClient(
        create_app(assistant_on(engine, endpoint), limits=ROOMY), raise_server_exceptions=False
    )
    assert client.get("/health").status_code == 200
    client.post("/api/chat", json={"input": "你好"})
    trouble(engine)
    client.app.state.site.health._known = (float("-inf"), "")
    health = client.get("/health")
    assert (health.status_code, "database" in health.json()["reason"]) == (503, True)
    for route in ("chat", "stream", "rate"):
        # In a full database small changes of a visitor's own rows may still find room.
        asker = (
            TestClient(client.app) if trouble is fill_up and route in ("chat", "stream") else client
        )
        method, path, body = ROUTES[route]
        answer = asker.request(method, path, json=body, headers={"Accept-Language": language})
        if not (trouble is fill_up and asker is client and answer.status_code == 200):
            check_told(route, language, answer)
    assert client.get("/api/session").status_code == 200, "what can be read is shown"


def test_a_message_that_could_not_be_kept_is_sent_again(endpoint, engine) -> None:
    chat = ChatSession(assistant_on(engine, endpoint), "C001")
    list(chat.run("你好", StopSignal()))
    before = copy.deepcopy(chat._conversation)
    read_only(engine)
    for said in ("你好", "转人工"):  # one that writes nothing, one that opens a ticket
        list(chat.run(said, StopSignal()))
        assert isinstance(chat.last_error, OrderSystemDown)
        assert chat._conversation == before
    writable(engine)
    list(chat.run("转人工", StopSignal()))
    assert [message["state"] for message in chat.messages] == ["done", "failed", "done"]
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Ticket)) == 1


def test_the_command_line_on_a_read_only_file(run_cli, server, engine, tmp_path: Path) -> None:
    url = f"sqlite:///file:{tmp_path / 'shop.db'}?mode=ro&uri=true"
    assert run_cli("tickets", CSPROTO_DB=url).returncode == 0, "reading is all it does"
    for words in (["ask", "转人工"], ["db", "forget", "C005"], ["db", "init", "--yes"]):
        done = run_cli(*words, CSPROTO_DB=url)
        assert done.returncode == 1, words
        assert "cannot be used" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


# -- the event loop, and the probe


def test_no_query_and_no_sign_in_holds_up_the_event_loop(endpoint, engine) -> None:
    """One that waits would hold up every visitor, and the health check with them."""
    on_the_loop: list[str] = []
    queries = itertools.count()

    def look(what: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        on_the_loop.append(what)

    class Desk(SignInDesk):
        def __call__(self, request: Any, wished: str | None) -> str:
            look("sign-in")
            return super().__call__(request, wished)

    @event.listens_for(engine, "before_cursor_execute")
    def watch(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        next(queries)
        look(statement)

    app = create_app(assistant_on(engine, endpoint), sign_in=Desk(), limits=ROOMY)
    for method, path, body in ROUTES.values():
        newcomer, visitor = TestClient(app), TestClient(app)
        visitor.post("/api/chat", json={"input": "你好"})
        newcomer.request(method, path, json=body)
        visitor.request(method, path, json=body)
    TestClient(app).get("/health")
    assert next(queries) > 50
    assert on_the_loop == []


def test_the_health_check_leaves_nothing_behind(endpoint, engine) -> None:
    client = TestClient(create_app(assistant_on(engine, endpoint)))
    for _ in range(3):
        client.app.state.site.health._known = (float("-inf"), "")
        assert client.get("/health").status_code == 200
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(ConversationRow)) == 0
