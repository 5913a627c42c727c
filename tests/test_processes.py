"""Several web processes on one PostgreSQL: one customer's chat, whichever of them answers."""

import concurrent.futures
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from databases import cluster
from sqlalchemy import delete, insert, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from test_web import HUMAN, events
from web_process import Page, web_process  # noqa: F401

from csproto.shop import demo
from csproto.shop.orders import OrderApi
from csproto.shop.store import Audit, Order, RateRow, Ticket, VisitorRow, open_engine
from csproto.web.locks import ALONE, Locks, shareable
from csproto.web.rates import SharedRates
from csproto.web.visitors import COOKIE, Signer

SECRET, OTHER = "s" * 32, "o" * 32
CANCEL = "I want to cancel order 789012"
ROOMY = {"CSPROTO_LIMIT_BURST": "10000", "CSPROTO_LIMIT_PER_MINUTE": "60"}


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL server of this file's own."""
    with cluster() as (url, _):
        yield url


@pytest.fixture
def shop(database: str) -> Engine:
    """The demo shop, filled anew. Its present is today, as that of a process is."""
    engine = open_engine(database)
    demo.fill(engine, datetime.now(UTC))
    return engine


@pytest.fixture(scope="module")
def pages(database: str, server: Any, tmp_path_factory: Any) -> Iterator[list[Page]]:
    """Two web processes on one database and one model server, for all tests here."""
    demo.fill(open_engine(database), datetime.now(UTC))
    environment = {"CSPROTO_DB": database, "CSPROTO_COOKIE_SECRETS": SECRET} | ROOMY
    started = [Page(tmp_path_factory.mktemp("web"), environment, slow=False) for _ in range(2)]
    for page in started:
        page.wait_for("/readyz", 200)
    yield started
    for page in started:
        page.process.kill()
        page.process.wait(30)


@pytest.fixture
def two(pages: list[Page], shop: Engine) -> list[Page]:
    """The two processes, on a fresh shop."""
    return pages


@pytest.fixture
def slow(web_process, shop: Engine, database: str) -> Page:  # noqa: F811
    """A third process, whose order system takes its time."""
    environment = {"CSPROTO_DB": database, "CSPROTO_COOKIE_SECRETS": SECRET} | ROOMY
    return web_process(slow=True, **environment)


def send(page: Page, cookie: str, path: str, body: Any = None) -> httpx.Response:
    """POST, or GET without a body, as the visitor with this cookie."""
    method = "GET" if body is None else "POST"
    headers = {"Cookie": f"{COOKIE}={cookie}"}
    return httpx.request(method, page.url + path, json=body, headers=headers, timeout=90)


def visitor_of(page: Page, customer: str = "C001") -> str:
    answer = httpx.post(f"{page.url}/api/session", json={"customer": customer}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.cookies[COOKIE]


def rows(engine: Engine, table: Any, **values: Any) -> list[Any]:
    with Session(engine) as session:
        return list(session.scalars(select(table).filter_by(**values)))


def test_one_chat_goes_on_in_whichever_process_answers(two, shop: Engine) -> None:
    one, other = two
    cookie = visitor_of(one)

    # A question that is asked by one process, and answered to the other.
    asked = send(one, cookie, "/api/chat", {"input": CANCEL}).json()
    assert asked["waiting"]["action"] == "confirm_cancel", asked
    done = send(other, cookie, "/api/chat", {"input": "yes"}).json()
    assert done["decisions"][0]["action"] == "cancelled", done
    assert [row.action for row in rows(shop, Audit)] == ["cancel"]
    (order,) = rows(shop, Order, id="789012")
    assert order.cancelled_at

    # Both show the same chat, and a rating in one is seen in the other.
    states = [send(page, cookie, "/api/session").json() for page in (one, other)]
    assert states[0]["messages"] == states[1]["messages"]
    assert [message["text"] for message in states[0]["messages"]] == [CANCEL, "yes"]
    last = states[0]["messages"][-1]["id"]
    assert send(one, cookie, "/api/session/rate", {"id": last, "rating": 1}).status_code == 200
    assert send(other, cookie, "/api/session").json()["messages"][-1]["rating"] == 1

    # A message that is sent again under its sender's name gets the same answer.
    human = {"input": HUMAN, "id": "a-name-of-its-own"}
    first = send(one, cookie, "/api/chat", human).json()
    assert first["decisions"][0]["write"] == "handoff"
    again = send(other, cookie, "/api/chat", human).json()
    assert again["response"] == first["response"]
    assert len(rows(shop, Ticket, kind="handoff")) == 1
    assert len(send(one, cookie, "/api/session").json()["messages"]) == 3

    # A new conversation, and no chat for whoever has no cookie of ours.
    assert send(other, cookie, "/api/session", {}).json()["messages"] == []
    assert send(one, cookie, "/api/session").json()["messages"] == []
    forged = Signer([OTHER.encode()]).sign("abc")
    assert send(one, forged, "/api/session").json()["info"]["conversation"] == ""


def test_the_same_conversation_at_the_same_time_is_answered_by_one(two, shop: Engine) -> None:
    """The other process says that the message before is still being answered."""
    one, other = two
    cookie = visitor_of(one)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            work = [
                pool.submit(send, p, cookie, "/api/chat", {"input": HUMAN}) for p in (one, other)
            ]
            answers = [job.result() for job in work]
            told = sorted((a.status_code, a.json().get("error") or "") for a in answers)
            assert told in ([(200, ""), (429, "busy")], [(200, ""), (200, "")]), told
    assert len(rows(shop, Ticket, kind="handoff")) == 1
    texts = [m["text"] for m in send(one, cookie, "/api/session").json()["messages"]]
    assert len(texts) >= 3


def test_rates_are_counted_over_both(two, shop: Engine) -> None:
    """Somebody has just posted all but 6 of the 10,000 requests that are allowed at once."""
    with shop.begin() as connection:
        due = time.time() + 9_994  # one comes back in a second
        connection.execute(insert(RateRow).values(name="post 127.0.0.1", due=due))
    answers = [httpx.post(f"{two[n % 2].url}/api/chat", json={}, timeout=60) for n in range(30)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:6] == [200] * 6
    refused = {n % 2 for n, status in enumerate(statuses) if status == 429}
    assert refused == {0, 1}, statuses
    assert all(int(a.headers["retry-after"]) > 0 for a in answers if a.status_code == 429)


def test_a_process_killed_in_the_midst_of_a_turn_costs_no_write_and_none_twice(
    slow: Page, two: list[Page], shop: Engine
) -> None:
    """The customer sends the message again, and the other process goes on with it."""
    other = two[0]
    cookie = visitor_of(other)
    sending = threading.Thread(
        target=lambda: _quietly(send, slow, cookie, "/api/chat", {"input": HUMAN})
    )
    sending.start()
    deadline = time.monotonic() + 60
    # Between the decision and the write, or between the write and the reply.
    while not rows(shop, VisitorRow)[0].conversation_id:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    busy = send(other, cookie, "/api/session").json()
    assert busy["info"]["busy"] is True
    assert busy["messages"][-1]["text"] == HUMAN
    assert send(other, cookie, "/api/chat", {"input": HUMAN}).status_code == 429
    slow.process.send_signal(signal.SIGKILL)
    slow.process.wait(30)
    sending.join(30)

    state = send(other, cookie, "/api/session").json()
    assert (state["info"]["busy"], state["messages"][-1]["state"]) == (False, "stopped")
    again = send(other, cookie, "/api/chat", {"input": HUMAN})
    assert again.status_code == 200, again.text
    assert again.json()["decisions"][0]["write"] == "handoff"
    assert len(rows(shop, Ticket)) == len(rows(shop, Audit)) == 1
    messages = send(other, cookie, "/api/session").json()["messages"]
    assert [message["state"] for message in messages] == ["done"]


def _quietly(function: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(httpx.HTTPError):
        function(*arguments)


def test_an_answer_can_be_stopped_from_another_process(
    slow: Page, two: list[Page], shop: Engine
) -> None:
    other = two[0]
    cookie = visitor_of(slow)
    headers = {"Cookie": f"{COOKIE}={cookie}"}
    with httpx.stream(
        "POST", f"{slow.url}/api/chat/stream", json={"input": HUMAN}, headers=headers, timeout=90
    ) as answer:
        assert answer.status_code == 200
        state = send(other, cookie, "/api/session/stop", {}).json()
        name, last = events("".join(answer.iter_text()))[-1]
    assert (name, last["error"]) == ("error", "stopped")
    assert state["messages"][-1]["state"] == "stopped"
    assert rows(shop, Ticket) == []


def test_forgetting_a_customer_erases_the_chats_that_processes_share(two, shop: Engine) -> None:
    one, other = two
    cookie = visitor_of(one)
    assert send(one, cookie, "/api/chat", {"input": "zyxplanted"}).status_code == 200
    assert "zyxplanted" in str(rows(shop, VisitorRow)[0].chat)
    OrderApi(shop).forget("C001")
    assert rows(shop, VisitorRow) == []
    for page in (one, other):
        told = send(page, cookie, "/api/session")
        assert "zyxplanted" not in told.text
        assert send(page, cookie, "/api/session/export").status_code == 404


# -- who may serve beside whom


def test_a_second_process_that_cannot_share_is_refused_in_words(
    web_process,  # noqa: F811
    postgres_database: Callable[[], str],
) -> None:
    """One SQLite file has one process, and PostgreSQL needs a secret that all know."""
    database = postgres_database()
    for environment, words in (
        ({}, ["serves the SQLite database", "PostgreSQL"]),
        ({"CSPROTO_DB": database}, ["CSPROTO_COOKIE_SECRETS", "openssl rand -hex 32"]),
    ):
        first = web_process(**environment)
        second = web_process(ready=False, **environment)
        assert second.process.wait(120) == 1
        told = second.log.read_text().splitlines()[-1]
        for word in words:
            assert word in told
        assert first.status("/readyz") == 200
        first.process.kill()
        first.process.wait(30)
        first.log.unlink()
    third = web_process(CSPROTO_DB=database)  # the one before it was killed
    assert third.status("/readyz") == 200


def test_a_secret_that_can_be_guessed_is_refused(web_process) -> None:  # noqa: F811
    page = web_process(ready=False, CSPROTO_COOKIE_SECRETS="short")
    assert page.process.wait(120) == 1
    assert "fewer than 32" in page.log.read_text().splitlines()[-1]


def test_a_secret_is_changed_without_losing_anybody() -> None:
    """First a new one is accepted everywhere, then it signs, then the old one goes."""
    before, both, signs, after = (
        Signer([key.encode() for key in keys])
        for keys in ([SECRET], [SECRET, OTHER], [OTHER, SECRET], [OTHER])
    )
    old, new = before.sign("abc"), signs.sign("abc")
    assert old == both.sign("abc") != new
    assert [s.read(old) for s in (before, both, signs, after)] == ["abc", "abc", "abc", None]
    assert [s.read(new) for s in (before, both, signs, after)] == [None, "abc", "abc", "abc"]


# -- locks and rates by themselves


def test_a_lock_is_had_by_one_and_ends_with_its_connection(shop: Engine) -> None:
    one, other = Locks(shop), Locks(shop)
    assert one.take("a")
    assert not other.take("a")
    assert not one.take("a"), "not even here"
    assert other.is_taken("a")
    assert not other.is_taken("b")
    with other.held("a", patience=0.1) as ours:
        assert not ours
    one.give("a")
    with other.held("a") as ours:
        assert ours
        assert one.is_taken("a")
    # The server ends the connection of whoever has the lock: as when the process dies.
    assert one.take("a")
    ended = text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    )
    with shop.connect() as connection:
        connection.execute(ended)
    with other.held("a", patience=5) as ours:
        assert ours
    assert one.take("b"), "it has a new connection"


def test_processes_share_if_all_have_a_secret(shop: Engine) -> None:
    one, other = Locks(shop), Locks(shop)
    with shareable(shop, one, True), shareable(shop, other, True):
        assert not Locks(shop).take(ALONE)


def test_a_rate_is_a_bucket_that_fills_again(shop: Engine) -> None:
    with shop.begin() as connection:
        connection.execute(delete(RateRow))
    rates = [SharedRates(shop), SharedRates(shop)]
    waits = [rates[n % 2].spend("x", burst=4, per_second=2.0) for n in range(6)]
    assert waits[:4] == [0.0] * 4
    assert all(wait and 0 < wait <= 0.5 for wait in waits[4:]), waits
    time.sleep(0.6)
    assert rates[0].spend("x", burst=4, per_second=2.0) == 0.0
    assert rates[0].spend("y", burst=4, per_second=2.0) == 0.0


def test_two_never_take_the_last_token_together(shop: Engine) -> None:
    rates = [SharedRates(open_engine(str(shop.url))) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waits = list(pool.map(lambda n: rates[n % 4].spend("z", 10, 0.01), range(40)))
    assert sum(wait == 0.0 for wait in waits) == 10


def test_without_a_database_each_process_counts_by_itself() -> None:
    nowhere = open_engine("postgresql+psycopg://shop@127.0.0.1:9/none")
    rates, began = SharedRates(nowhere), time.monotonic()
    assert [rates.spend("x", 1, 1.0) for _ in range(3)] == [None] * 3
    assert time.monotonic() - began < 10
