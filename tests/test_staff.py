"""The staff: what waits, taking and closing a ticket, and what its customer is told.

The store is tested on SQLite, and on PostgreSQL where one is installed.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from scripted import says, scripted
from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from support import NOW

from csproto.chat.tickets import progress, with_conversations
from csproto.cli import main
from csproto.desk.conversation import Conversation
from csproto.desk.handbook import default_handbook
from csproto.settings import SettingInvalid
from csproto.shop.facts import NO_TICKET, URGENT, Write, WriteKind
from csproto.shop.migrations import migrate
from csproto.shop.orders import STAFF_ACTIONS, OrderApi
from csproto.shop.retention import prune
from csproto.shop.store import Audit, Base, Customer, Order, Ticket, open_engine
from csproto.shop.tickets import (
    StaffWordsInvalid,
    TicketClosed,
    TicketTaken,
    TicketUnknown,
    close,
    find,
    take,
    waiting,
)
from csproto.web.app import create_app
from csproto.web.configured import configured_app
from csproto.web.limits import Limits
from csproto.web.visitors import Signer

ROOMY = Limits(burst=10_000, per_minute=10_000)
STORY = "I want to talk to a human agent, my number is 555-0199"
HANDOFF = Write("handoff", detail=STORY, escalated=True)
LATER = NOW + timedelta(minutes=5)


@pytest.fixture
def shop(empty_database: str) -> Iterator[Engine]:
    """A shop with one customer and one order, on each database in turn."""
    engine = open_engine(empty_database)
    migrate(engine)
    with Session(engine) as session, session.begin():
        session.add(Customer(id="C001", name="Lin", language="en", joined_at=NOW))
        session.flush()
        order = {"item": "kettle", "category": "home", "amount": 12900, "paid_at": NOW}
        session.add(Order(id="789012", customer_id="C001", created_at=NOW, **order))
    yield engine
    engine.dispose()


def opened(engine: Engine, write: Write = HANDOFF, key: str = "k", at: datetime = NOW) -> int:
    """Open a ticket as the desk does, and return its number."""
    return OrderApi(engine).write(key, "C001", write, at, "rule")


def audit(engine: Engine) -> list[tuple[str, str, str]]:
    """What the audit table says about the staff: customer, action and detail of each row."""
    with Session(engine) as session:
        by_staff = select(Audit).where(Audit.action.in_(STAFF_ACTIONS)).order_by(Audit.at)
        return [(row.customer_id, row.action, row.detail) for row in session.scalars(by_staff)]


# -- the store


def test_urgent_tickets_come_first_then_the_newest_and_closed_ones_not(shop: Engine) -> None:
    writes = [
        (Write("complaint", "789012", "old complaint"), 9),
        (Write("payment", "789012", "payment"), 8),
        (Write("urge", "789012", "late", escalated=True), 7),
        (Write("trace", "789012", "new trace"), 2),
        (Write("change", "789012", "newest"), 1),
    ]
    for place, (write, hours) in enumerate(writes):
        opened(shop, write, f"k{place}", NOW - timedelta(hours=hours))
    expected = ["late", "payment", "newest", "new trace", "old complaint"]
    assert [ticket.summary for ticket in waiting(shop)] == expected
    close(shop, waiting(shop)[0].id, "Anna", NOW)
    assert [ticket.summary for ticket in waiting(shop)] == expected[1:]


def test_only_kinds_that_open_a_ticket_are_urgent() -> None:
    assert set(URGENT) <= set(get_args(WriteKind)) - set(NO_TICKET)


def test_a_ticket_is_taken_and_closed_and_both_are_in_the_audit_table(shop: Engine) -> None:
    number = opened(shop)
    take(shop, number, " Anna ", NOW)
    (ticket,) = waiting(shop)
    assert (ticket.taken_by, ticket.taken_at, ticket.closed) == ("Anna", NOW, False)
    close(shop, number, "Bo", LATER, "called back")
    ticket = find(shop, number)
    assert (ticket.closed, ticket.closed_by, ticket.closed_at) == (True, "Bo", LATER)
    assert (ticket.taken_by, ticket.note) == ("Anna", "called back")
    assert audit(shop) == [
        ("C001", "ticket_taken", f"ticket {number} by Anna"),
        ("C001", "ticket_closed", f"ticket {number} by Bo"),
    ]


def test_taking_again_changes_nothing(shop: Engine) -> None:
    number = opened(shop)
    take(shop, number, "Anna", NOW)
    assert take(shop, number, "Anna", LATER).taken_at == NOW
    assert len(audit(shop)) == 1


def test_of_many_who_take_a_ticket_at_once_one_wins_and_the_others_hear_who(shop: Engine) -> None:
    number, names = opened(shop), [f"colleague {place}" for place in range(8)]
    barrier = threading.Barrier(len(names))

    def attempt(name: str) -> str:
        barrier.wait()
        try:
            return f"won: {take(shop, number, name, NOW).taken_by}"
        except TicketTaken as error:
            return str(error)

    with ThreadPoolExecutor(len(names)) as pool:
        told = list(pool.map(attempt, names))
    winner = find(shop, number).taken_by
    assert told.count(f"won: {winner}") == 1
    lost = [text for text in told if not text.startswith("won")]
    assert len(lost) == 7
    assert all(f"was taken by {winner} on 2026-03-10" in text for text in lost)
    assert len(audit(shop)) == 1


def test_what_is_closed_or_not_there_is_told_in_words_and_nothing_changes(shop: Engine) -> None:
    number = opened(shop)
    close(shop, number, "Anna", NOW, "done")
    for again in (lambda: close(shop, number, "Anna", LATER), lambda: take(shop, number, "B", NOW)):
        with pytest.raises(TicketClosed, match=r"closed by Anna on 2026-03-10 at 04:00 UTC, so"):
            again()
    for nobody in (number + 1, 0, -1, 2**31, 10**30):
        for look in (find, lambda e, n: take(e, n, "B", NOW), lambda e, n: close(e, n, "B", NOW)):
            with pytest.raises(TicketUnknown, match="csproto tickets"):
                look(shop, nobody)
    assert (find(shop, number).closed_at, find(shop, number).note) == (NOW, "done")
    assert len(audit(shop)) == 1


def test_a_name_is_needed_and_words_have_a_length(shop: Engine) -> None:
    number = opened(shop)
    for name, note in (("  ", ""), ("x" * 81, ""), ("Anna", "x" * 501)):
        with pytest.raises(StaffWordsInvalid, match="Nothing was changed"):
            close(shop, number, name, NOW, note)
    with pytest.raises(StaffWordsInvalid):
        take(shop, number, "", NOW)
    assert (find(shop, number).closed, audit(shop)) == (False, [])


@pytest.mark.parametrize("kind", ["handoff", "complaint", "payment"])
def test_a_closed_ticket_blocks_no_new_one_and_a_taken_one_does(shop: Engine, kind: Any) -> None:
    write = Write(kind, "789012", "first")
    number = opened(shop, write, "one")
    take(shop, number, "Anna", NOW)
    assert opened(shop, replace(write, detail="more"), "two") == number
    assert find(shop, number).summary == "first\nmore"
    close(shop, number, "Anna", NOW)
    assert (kind, "789012") not in OrderApi(shop).facts("C001").open_tickets
    assert opened(shop, replace(write, detail="again"), "three") != number
    assert find(shop, number).summary == "first\nmore"


def test_words_said_while_a_ticket_is_being_closed_are_not_lost(shop: Engine) -> None:
    """They wait for the end of the closing, and go onto a new ticket."""
    number = opened(shop, key="one")
    with ThreadPoolExecutor(1) as pool, Session(shop) as session:
        session.get_one(Ticket, number).closed = True
        session.flush()
        second = pool.submit(opened, shop, replace(HANDOFF, detail="and one more thing"), "two")
        with pytest.raises(TimeoutError):
            second.result(0.5)
        session.commit()
        assert second.result(10) != number
    assert find(shop, number).summary == STORY
    assert [ticket.summary for ticket in waiting(shop)] == ["and one more thing"]


def test_a_return_that_is_withdrawn_closes_its_ticket_without_staff(shop: Engine) -> None:
    with Session(shop) as session, session.begin():
        session.get_one(Order, "789012").shipped_at = NOW
        session.get_one(Order, "789012").delivered_at = NOW
    number = opened(shop, Write("return", "789012"), "one")
    opened(shop, Write("withdraw", "789012"), "two", LATER)
    ticket = find(shop, number)
    assert (ticket.closed_at, ticket.closed_by) == (LATER, "")
    with pytest.raises(TicketClosed, match="was closed on 2026-03-10"):
        take(shop, number, "Anna", NOW)


# -- what is kept


def test_forgetting_a_customer_keeps_who_worked_and_no_word_of_the_customer(shop: Engine) -> None:
    number = opened(shop)
    take(shop, number, "Anna", NOW)
    close(shop, number, "Bo", LATER, "Lin's number is 555-0199")
    OrderApi(shop).forget("C001")
    assert audit(shop) == [
        ("", "ticket_taken", f"ticket {number} by Anna"),
        ("", "ticket_closed", f"ticket {number} by Bo"),
    ]
    with shop.connect() as connection:
        rows = [
            tuple(r) for t in Base.metadata.sorted_tables for r in connection.execute(select(t))
        ]
    for word in ("555-0199", "C001", "Lin"):
        assert word not in str(rows)


def test_a_closed_ticket_is_kept_from_its_end_on_and_goes_with_its_note(shop: Engine) -> None:
    old = opened(shop, Write("urge", "789012", "old"), "one", NOW - timedelta(days=90))
    recent = opened(shop, Write("urge", "789012", "recent"), "two", NOW - timedelta(days=90))
    close(shop, old, "Anna", NOW - timedelta(days=60), "phoned")
    close(shop, recent, "Anna", NOW - timedelta(days=1), "phoned")
    assert prune(shop, NOW - timedelta(days=30))["closed tickets"] == 1
    with pytest.raises(TicketUnknown):
        find(shop, old)
    assert find(shop, recent).note == "phoned"


# -- the conversation, and what the customer is told


@pytest.fixture
def talk(engine: Engine) -> Callable[..., Conversation]:
    """Talk to a desk without a model on the demo shop; returns the conversation."""
    desk = scripted(OrderApi(engine), says("human_agent"))

    def say(text: str = STORY, conversation: Conversation | None = None) -> Conversation:
        conversation = conversation or desk.open("C001")
        desk.turn(conversation, text)
        return conversation

    return say


def test_staff_see_the_conversations_of_a_ticket(engine: Engine, talk: Any) -> None:
    first, second = talk(), talk("a person, please")
    (ticket,) = waiting(engine)
    shown = with_conversations(engine, ticket, default_handbook())
    assert (shown["customer"], shown["name"], shown["urgent"]) == ("C001", "林晓", True)
    said = {c["id"]: [m["text"] for m in c["messages"]] for c in shown["conversations"]}
    assert said == {first.id: [STORY]}, "the second one was told that a ticket is open already"
    assert shown["conversations"][0]["messages"][0]["reply"]
    assert second.id not in said
    prune(engine, NOW + timedelta(days=1))
    assert with_conversations(engine, ticket, default_handbook())["conversations"] == []


def test_a_customer_is_told_what_became_of_the_tickets_of_a_conversation(
    engine: Engine, talk: Any
) -> None:
    conversation = talk()
    (ticket,) = waiting(engine)
    number, at = f"T{ticket.id:05d}", NOW.isoformat()

    def told() -> list[dict[str, Any]]:
        return progress(engine, conversation.id, "C001")

    assert told() == [{"number": number, "kind": "handoff", "state": "open", "at": at}]
    take(engine, ticket.id, "Anna", LATER)
    assert (told()[0]["state"], told()[0]["at"]) == ("taken", LATER.isoformat())
    close(engine, ticket.id, "Anna", LATER, "note")
    assert told()[0]["state"] == "closed"
    assert "Anna" not in str(told())
    for other in ((conversation.id, "C002"), ("", "C001"), (conversation.id[:-1], "C001")):
        assert progress(engine, *other) == []


# -- the command


@dataclass
class Ended:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: Engine
) -> Callable[..., Ended]:
    """Runs `csproto tickets` on the demo shop, in this process, which saves seconds each time."""

    def run(*words: str) -> Ended:
        monkeypatch.setenv("CSPROTO_DB", str(engine.url))
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr("sys.argv", ["csproto", "tickets", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(int(end.value.code or 0), *capsys.readouterr())

    return run


def test_the_list_fits_80_columns(command: Any, engine: Engine) -> None:
    words = "请转人工，我的订单一直没有人处理，我已经等了很久了，请尽快联系我，谢谢您的帮助"
    number = opened(engine, Write("refund_overdue", "", f"order: none\n- {words}"), "k", NOW)
    take(engine, number, "a colleague with a very long name", NOW)
    opened(engine, Write("urge", "789012", "order: 789012\n- late"), "l", NOW)
    shown = command()
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    wide = [sum(2 if ord(sign) > 0x2E7F else 1 for sign in line) for line in lines]
    assert max(wide) <= 80
    first, second = (line for line in lines if line.strip().startswith("T0"))
    assert "refund_overdue !" in first
    assert "请转人工" in first
    assert "C001" in second
    assert "late" in second
    assert lines[-1] == "2 tickets"
    as_json = json.loads(command("--json").stdout)
    assert [(t["ticket"], t["urgent"]) for t in as_json] == [(number, True), (number + 1, False)]


def test_show_take_and_close(command: Any, engine: Engine, talk: Any) -> None:
    talk()
    (ticket,) = waiting(engine)
    shown = command("show", str(ticket.id)).stdout
    for words in (
        f"T{ticket.id:05d}: handoff, urgent",
        "C001 林晓",
        f"customer: {STORY}",
        "desk:  ",
    ):
        assert words in shown
    assert "taken by Anna" in command("take", f"T{ticket.id:05d}", "--by", "Anna").stdout
    lost = command("take", str(ticket.id), "--by", "Bo")
    assert (lost.returncode, lost.stdout) == (1, "")
    assert "was taken by Anna" in lost.stderr
    done = command("close", str(ticket.id), "--by", "Bo", "--note", "called back")
    assert done.returncode == 0, done.stderr
    twice = command("close", str(ticket.id), "--by", "Bo")
    assert (twice.returncode, twice.stdout) == (1, "")
    assert "was closed by Bo" in twice.stderr
    assert "note: called back" in command("show", str(ticket.id)).stdout
    unknown = command("show", "99")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "There is no ticket T00099" in unknown.stderr
    for wrong in (["show", "seven"], ["take", "1"], ["close"]):
        assert command(*wrong).returncode == 2, wrong


# -- the API of the page


TOKEN = "a-token-for-tests-only"
BEARER = {"Authorization": f"Bearer {TOKEN}", "Accept-Language": "en"}


@pytest.fixture
def desk(engine: Engine) -> Any:
    """A desk without a model on the demo shop, where every message asks for a human."""
    return scripted(OrderApi(engine), says("human_agent"))


@pytest.fixture
def app(desk: Any) -> Any:
    return create_app(desk, staff_token=TOKEN, limits=ROOMY)


def signed_in(app: Any, name: str = "Anna", **options: Any) -> TestClient:
    """A browser in which a member of staff has signed in."""
    browser = TestClient(app, headers={"Accept-Language": "en"}, **options)
    answer = browser.post("/api/staff/session", json={"token": TOKEN, "by": name})
    assert answer.json() == {"by": name}
    return browser


STAFF_ROUTES = [
    ("GET", "/api/staff/tickets"),
    ("GET", "/api/staff/tickets/1"),
    ("POST", "/api/staff/tickets/1/take"),
    ("POST", "/api/staff/tickets/1/close"),
]


def test_without_a_token_in_the_settings_there_is_no_staff_page(desk: Any) -> None:
    client = TestClient(create_app(desk, limits=ROOMY))
    pages = [("GET", "/staff"), ("GET", "/staff/words.json"), ("POST", "/api/staff/session")]
    for method, path in [*pages, *STAFF_ROUTES]:
        body = {} if method == "POST" else None
        for headers in ({}, BEARER, {"Authorization": "Bearer "}):
            assert client.request(method, path, json=body, headers=headers).status_code == 404, path


@pytest.mark.parametrize(("method", "path"), STAFF_ROUTES)
def test_nobody_but_staff_reaches_a_ticket(
    app: Any, engine: Engine, talk: Any, method: str, path: str
) -> None:
    talk()
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Cookie": "csproto_staff=forged.cookie"},
        {"Cookie": f"csproto_staff={TOKEN}"},
        {"Cookie": f"csproto_session={Signer().sign('x')}"},
    ):
        client = TestClient(app, client=(str(headers), 1))  # each with its own rate
        body = {"by": "Mallory"} if method == "POST" else None
        answer = client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
        assert STORY not in answer.text
    assert (find(engine, 1).taken_by, find(engine, 1).closed) == ("", False)


def test_the_cookie_of_the_staff_is_not_the_token_and_ends(
    app: Any, desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = signed_in(app, "Ärztin 林")
    (cookie,) = client.cookies.jar
    assert TOKEN not in str(cookie.value)
    sent = client.post("/api/staff/session", json={"token": TOKEN, "by": "Anna"}).headers
    for word in ("HttpOnly", "SameSite=strict", "Path=/api/staff", "Max-Age=28800"):
        assert word in sent["set-cookie"]
    assert "Secure" not in sent["set-cookie"]
    secure = signed_in(app, base_url="https://testserver")
    over_https = secure.post("/api/staff/session", json={"token": TOKEN, "by": "Anna"})
    assert "Secure" in over_https.headers["set-cookie"]
    for token, status in ((TOKEN, 200), (TOKEN + "x", 401)):  # other processes, other tokens
        other = TestClient(create_app(desk, staff_token=token), cookies=client.cookies)
        assert other.get("/api/staff/tickets").status_code == status
    now = time.time()
    monkeypatch.setattr("csproto.web.staff.time.time", lambda: now + 8 * 3600 + 60)
    assert client.get("/api/staff/tickets").json()["error"] == "staff_signed_out"


def test_signing_out_forgets_the_cookie(app: Any) -> None:
    client = signed_in(app)
    assert client.get("/api/staff/tickets").json()["by"] == "Anna"
    assert client.post("/api/staff/session/end", json={}).status_code == 200
    assert client.get("/api/staff/tickets").status_code == 401


def test_tokens_can_be_tried_a_few_times_only(app: Any) -> None:
    """After that even the right one is refused, for this address and a while."""
    client = TestClient(app)
    tries = [
        client.post("/api/staff/session", json={"token": f"guess {n}", "by": "x"}) for n in range(3)
    ]
    tries += [
        client.get("/api/staff/tickets", headers={"Authorization": f"Bearer guess {n}"})
        for n in range(2)
    ]
    assert [answer.status_code for answer in tries] == [401] * 5
    right = client.get("/api/staff/tickets", headers=BEARER)
    assert right.status_code == 429
    assert 1 <= int(right.headers["retry-after"]) <= 12
    assert client.post("/api/staff/session", json={"token": TOKEN, "by": "x"}).status_code == 429
    elsewhere = TestClient(app, client=("192.0.2.7", 1))
    for _ in range(10):
        assert elsewhere.get("/api/staff/tickets", headers=BEARER).status_code == 200


def test_a_ticket_from_the_list_to_its_end(app: Any, engine: Engine, talk: Any) -> None:
    talk()
    anna, bo = signed_in(app), signed_in(app, "Bo")
    (ticket,) = anna.get("/api/staff/tickets").json()["tickets"]
    assert (ticket["kind"], ticket["urgent"], ticket["taken_by"]) == ("handoff", True, "")
    path = f"/api/staff/tickets/{ticket['ticket']}"
    shown = anna.get(path).json()
    assert shown["name"] == "林晓"
    assert shown["conversations"][0]["messages"][0]["text"] == STORY
    assert anna.post(f"{path}/take", json={"by": "Bo"}).json()["taken_by"] == "Anna", "the cookie's"
    lost = bo.post(f"{path}/take", json={})
    assert (lost.status_code, lost.json()["error"]) == (409, "TicketTaken")
    assert "Anna has taken ticket T00001" in lost.json()["response"]
    assert bo.post(f"{path}/close", json={"note": "phoned"}).json()["closed_by"] == "Bo"
    twice = anna.post(f"{path}/close", json={})
    assert (twice.status_code, twice.json()["error"]) == (409, "TicketClosed")
    assert "by Bo" in twice.json()["response"]
    assert anna.get("/api/staff/tickets").json()["tickets"] == []
    assert anna.get("/api/staff/tickets/77").json()["error"] == "TicketUnknown"
    with Session(engine) as session:
        staff_rows = select(Audit).where(Audit.action.in_(STAFF_ACTIONS))
        assert all(row.request for row in session.scalars(staff_rows)), "it can be found in the log"


def test_a_program_with_the_token_says_who_works(app: Any, talk: Any) -> None:
    talk()
    client = TestClient(app, headers=BEARER)
    path = "/api/staff/tickets/1"
    nobody = client.post(f"{path}/take", json={})
    assert (nobody.status_code, nobody.json()["error"]) == (422, "StaffWordsInvalid")
    assert client.post(f"{path}/take", json={"by": "Anna"}).json()["taken_by"] == "Anna"
    assert client.post(f"{path}/close", json={"by": "x" * 81}).status_code == 422
    assert client.post(f"{path}/close", json={"who": "Anna"}).json()["error"] == "unknown_field"
    assert client.post(f"{path}/close", json={"by": "Anna", "note": "a\0b"}).status_code == 422
    assert client.post(f"{path}/close", json={"by": "Anna"}).json()["closed"] is True


def test_other_sites_and_forms_cannot_work_on_tickets(app: Any, engine: Engine, talk: Any) -> None:
    talk()
    client = signed_in(app)
    for path in ("tickets/1/take", "tickets/1/close", "session", "session/end"):
        evil = client.post(f"/api/staff/{path}", json={}, headers={"Origin": "http://evil.example"})
        assert evil.status_code == 403
        assert client.post(f"/api/staff/{path}", data={"note": "x"}).status_code == 415
    assert (find(engine, 1).taken_by, find(engine, 1).closed) == ("", False)


def test_the_token_is_in_no_log_and_no_answer(app: Any, talk: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    talk()
    client = signed_in(app)
    answers = [
        client.get(path).text for path in ("/staff", "/staff/words.json", "/static/staff.js")
    ]
    answers += [client.get("/api/staff/tickets").text, client.get("/api/staff/tickets/1").text]
    client.post("/api/staff/tickets/1/take", json={})
    TestClient(app).get("/api/staff/tickets", headers=BEARER)
    assert "POST /api/staff/session: 200" in caplog.text
    for text in (caplog.text, *answers):
        assert TOKEN not in text
    assert STORY not in caplog.text


def test_the_staff_page_is_as_strict_as_the_chat(app: Any) -> None:
    client = TestClient(app)
    page = client.get("/staff")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for word in ("<style", " style=", "<script>", "http", "onclick"):
        assert word not in page.text
    for name in ("staff.js", "staff.css"):
        text = client.get(f"/static/{name}").text
        assert "innerHTML" not in text
        assert "://" not in text
    words, used = (
        client.get("/staff/words.json").json(),
        page.text + client.get("/static/staff.js").text,
    )
    for word in re.findall(r'data-word="(\w+)"|\bw\.(\w+)', used):
        assert "".join(word) in words["zh"].keys() & words["en"].keys(), word


def test_a_token_that_can_be_guessed_is_no_token(desk: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("CSPROTO_STAFF_TOKEN", "short")
    with pytest.raises(SettingInvalid, match="CSPROTO_STAFF_TOKEN has 5 characters"):
        configured_app(desk)
    monkeypatch.setenv("CSPROTO_STAFF_TOKEN", TOKEN)
    assert TestClient(configured_app(desk)).get("/staff").status_code == 400, "not 127.0.0.1"
    local = TestClient(configured_app(desk), base_url="http://127.0.0.1")
    assert local.get("/staff").status_code == 200


def test_the_customers_chat_is_told_and_nobody_elses(make_assistant: Any, engine: Engine) -> None:
    """Also after the page was loaded anew, and after the process was started anew."""
    app = create_app(make_assistant(), staff_token=TOKEN, limits=ROOMY)
    customer, other = TestClient(app), TestClient(app)
    assert customer.get("/api/tickets").json() == []
    customer.post("/api/chat", json={"input": STORY})
    other.post("/api/chat", json={"input": "你好"})
    (ticket,) = customer.get("/api/tickets").json()
    assert (ticket["number"], ticket["state"]) == ("T00001", "open")
    staff = signed_in(app)
    for deed, state in (("take", "taken"), ("close", "closed")):
        staff.post(f"/api/staff/tickets/1/{deed}", json={})
        assert [t["state"] for t in customer.get("/api/tickets").json()] == [state]
        assert "Anna" not in customer.get("/api/tickets").text
    assert other.get("/api/tickets").json() == []
    number = customer.get("/api/session").json()["info"]["conversation"]
    later = TestClient(create_app(make_assistant(), limits=ROOMY))
    later.post("/api/session", json={"conversation": number})
    assert [t["state"] for t in later.get("/api/tickets").json()] == ["closed"]
    assert "T00002" in customer.post("/api/chat", json={"input": STORY}).json()["reply"]
