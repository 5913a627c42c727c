"""The page as a process: its start, its end, its log, and what it keeps of a customer."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from test_outage import postgres_server, resume, suspend  # noqa: F401
from test_web import HUMAN, events
from web_process import Relay, web_process  # noqa: F401

from csproto.shop.database import open_database
from csproto.shop.store import Audit, ConversationRow, Ticket, open_engine
from csproto.web.starting import PAUSE


def tickets(folder: Path) -> list[str]:
    with Session(open_engine(f"sqlite:///{folder / 'shop.db'}")) as session:
        return list(session.scalars(select(Ticket.kind)))


def log_lines(page) -> list[dict[str, str]]:
    return [json.loads(line) for line in page.log.read_text().splitlines()]


# -- the end


@pytest.mark.parametrize("drain", ["60", "0.1"])
def test_after_sigterm_answers_end_and_no_message_is_taken_or_lost(
    web_process,  # noqa: F811
    tmp_path: Path,
    drain: str,
) -> None:
    """With time, the answer is completed. Without, its customer is told to send it again."""
    page = web_process(slow=True, CSPROTO_DRAIN_SECONDS=drain)
    with (
        httpx.Client(base_url=page.url, timeout=60) as client,
        client.stream("POST", "/api/chat/stream", json={"input": HUMAN}) as answer,
    ):
        assert answer.status_code == 200
        page.process.terminate()
        page.wait_for("/livez", 0, 503)
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{page.url}/api/chat", json={"input": HUMAN}, timeout=60)
        name, last = events("".join(answer.iter_text()))[-1]
    assert page.process.wait(60) == 0
    if drain == "60":
        assert (name, last["decisions"][0]["write"]) == ("done", "handoff")
        assert tickets(tmp_path) == ["handoff"]
        return
    assert (name, last["error"]) == ("error", "network")
    assert tickets(tmp_path) == []
    again = httpx.post(f"{web_process().url}/api/chat", json={"input": HUMAN}, timeout=60)
    assert again.json()["decisions"][0]["write"] == "handoff"
    assert tickets(tmp_path) == ["handoff"]


def test_sigterm_before_there_is_an_engine_ends_the_process(web_process) -> None:  # noqa: F811
    page = web_process(ready=False, CSPROTO_BASE_URL="http://127.0.0.1:9")
    page.wait_for("/livez", 200)
    page.process.terminate()
    assert page.process.wait(60) == 0


def test_sigterm_ends_serve_with_its_server_and_its_state_file(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    environment = {**os.environ, "CSPROTO_STATE": str(state)}
    process = subprocess.Popen([sys.executable, "-m", "csproto.cli", "serve"], env=environment)
    try:
        while not state.exists():
            assert process.poll() is None
            time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert not state.exists()
    assert not psutil.wait_procs(children, 30)[1], "nothing of it runs on"


# -- the start


def test_the_page_waits_for_its_engine(web_process, server) -> None:  # noqa: F811
    relay = Relay(server[0])
    page = web_process(
        ready=False, CSPROTO_BASE_URL=relay.url, CSPROTO_API_KEY=os.environ["CSPROTO_API_KEY"]
    )
    page.wait_for("/livez", 200)
    for path in ("/readyz", "/health", "/", "/api/session"):
        answer = httpx.get(page.url + path, timeout=30)
        assert answer.status_code == 503, path
        assert int(answer.headers["retry-after"]) > 0
    answer = httpx.post(f"{page.url}/api/chat", json={"input": HUMAN}, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (503, "NoServer")
    while not (waiting := [line for line in log_lines(page) if "waiting" in line["message"]]):
        assert page.process.poll() is None
        time.sleep(0.2)
    time.sleep(3 * PAUSE)  # time for more tries
    assert len(waiting) == 1, "said once, not at every try"
    assert relay.url in waiting[0]["message"]
    relay.start()
    page.wait_for("/readyz", 200)
    assert httpx.get(f"{page.url}/api/session", timeout=30).status_code == 200


def test_the_page_waits_for_its_database(
    web_process,  # noqa: F811
    postgres_server: tuple[str, psutil.Process],  # noqa: F811
) -> None:
    url, process = postgres_server
    suspend(process)
    try:
        page = web_process(ready=False, CSPROTO_DB=url)
        page.wait_for("/livez", 200)
        page.wait_for("/readyz", 503)
    finally:
        resume(process)
    page.wait_for("/readyz", 200)


def test_what_waiting_does_not_mend_ends_the_process(web_process) -> None:  # noqa: F811
    for environment, word in (
        ({"CSPROTO_API_KEY": "wrong"}, "does not accept the API key"),
        ({"CSPROTO_DB": "sqlite:////proc/none/shop.db"}, "cannot be used"),
        ({"CSPROTO_SIGN_IN": "nowhere:nobody"}, "cannot be imported"),
        ({"CSPROTO_LIMIT_BURST": "many"}, "no number"),
    ):
        page = web_process(ready=False, **environment)
        assert page.process.wait(120) == 1
        assert word in page.log.read_text().splitlines()[-1]
        assert "Traceback" not in page.log.read_text()
        page.log.unlink()


# -- the log, and what is kept of a customer

WORDS = ("zyxplanted", "wvuplanted", "13911112222")
NAMES = ("C001", "林晓")


def files_with(folder: Path, *words: str) -> list[tuple[str, str]]:
    return [
        (path.name, word)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for word in words
        if word.encode() in path.read_bytes()
    ]


def test_a_request_has_one_number_from_the_page_to_the_audit_row(
    web_process,  # noqa: F811
    tmp_path: Path,
) -> None:
    page = web_process()
    for wish, number in (("req-0001-ab", "req-0001-ab"), ("no\tgood {}", ""), ("1", "")):
        headers = {"X-Request-Id": wish}
        answer = httpx.post(f"{page.url}/api/chat", json={"input": HUMAN}, headers=headers)
        given = answer.headers["x-request-id"]
        assert given == number or (len(given) == 16 and given != wish)
        while len(messages := [m["message"] for m in log_lines(page) if m["request"] == given]) < 2:
            time.sleep(0.1)  # the page's line follows the answer
        assert "turn 1: 31 characters" in messages[0]
        assert "POST /api/chat: 200" in messages[1]
    with Session(open_engine(f"sqlite:///{tmp_path / 'shop.db'}")) as session:
        assert session.scalars(select(Audit.request)).first() == "req-0001-ab"


def test_forgetting_leaves_nothing_of_a_customer_in_any_file(
    web_process,  # noqa: F811
    run_cli,
    tmp_path: Path,
) -> None:
    """The page runs on meanwhile. Its memory keeps nothing that it would still show."""
    page, database = web_process(), {"CSPROTO_DB": f"sqlite:///{tmp_path / 'shop.db'}"}
    with httpx.Client(base_url=page.url, timeout=60) as client:
        client.post("/api/session", json={"customer": "C001"})
        for text in (HUMAN, f"{WORDS[0]} please call {WORDS[2]}", f"投诉 {WORDS[1]}", "是的"):
            assert client.post("/api/chat", json={"input": text}).status_code == 200
        found = files_with(tmp_path, *WORDS, *NAMES)
        assert {word for _, word in found} == {*WORDS, *NAMES}, "what is planted can be found"
        assert "web.log" not in dict(found)
        done = run_cli("db", "forget", "C001", **database)
        assert done.returncode == 0, done.stderr
        assert files_with(tmp_path, *WORDS, *NAMES) == []
        assert [*every_value(tmp_path / "shop.db", *WORDS, *NAMES)] == []
        for path in ("/api/session", "/api/session/export", "/api/session/export?form=json"):
            answer = client.get(path)
            assert answer.status_code == 404 or answer.json()["messages"] == []
            assert not [word for word in WORDS if word in answer.text]
    assert page.status("/readyz") == 200


def every_value(path: Path, *words: str):
    """Every value of every table that has one of the words."""
    connection = sqlite3.connect(path)
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
        for row in connection.execute(f"SELECT * FROM {table}"):
            yield from (value for value in row for word in words if word in str(value))
    connection.close()


def test_a_file_that_is_busy_is_no_reason_to_say_that_all_is_gone(run_cli, tmp_path: Path) -> None:
    database = {"CSPROTO_DB": f"sqlite:///{tmp_path / 'shop.db'}"}
    assert run_cli("db", "init", **database).returncode == 0
    reader = sqlite3.connect(tmp_path / "shop.db")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM customer").fetchone()
    done = run_cli("db", "forget", "C005", **database)
    assert done.returncode == 1
    assert "may still be in the database's file" in done.stderr
    reader.close()
    assert run_cli("db", "prune", **database).returncode == 0
    assert files_with(tmp_path, "C005") == []


def test_prune_erases_what_is_older_than_the_setting(run_cli, engine, tmp_path: Path) -> None:
    """What is younger stays, and so do open tickets."""
    now = datetime.now(UTC)
    with Session(engine) as session, session.begin():
        for name, days in (("old", 40), ("new", 20)):
            at = now - timedelta(days=days)
            session.add(
                ConversationRow(
                    id=name, customer_id="C001", started_at=at, turns=1, state={}, transcript=[name]
                )
            )
            session.add(Audit(key=name, at=at, customer_id="C001", action="urge", rule="r"))
            for closed in (True, False):
                session.add(
                    Ticket(
                        customer_id="C001",
                        order_id=f"{name}{closed}",
                        kind="urge",
                        closed=closed,
                        created_at=at,
                        summary=name,
                    )
                )
    database = {"CSPROTO_DB": f"sqlite:///{tmp_path / 'shop.db'}", "CSPROTO_KEEP_DAYS": "30"}
    done = run_cli("db", "prune", **database)
    assert done.returncode == 0, done.stderr
    assert "1 conversations, 1 closed tickets, 1 audit rows" in done.stdout
    with Session(engine) as session:
        assert session.scalars(select(ConversationRow.id)).all() == ["new"]
        assert session.scalars(select(Audit.key)).all() == ["new"]
        orders = set(session.scalars(select(Ticket.order_id)))
    assert orders == {"newTrue", "newFalse", "oldFalse"}


# -- commands that must not destroy


def test_a_filled_database_is_not_emptied_without_a_yes(run_cli, tmp_path: Path) -> None:
    database = {"CSPROTO_DB": f"sqlite:///{tmp_path / 'shop.db'}"}
    assert run_cli("db", "init", **database).returncode == 0
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.execute("UPDATE customer SET name = 'kept' WHERE id = 'C001'")
    connection.commit()
    done = run_cli("db", "init", **database)
    assert done.returncode == 1
    assert "customers" in done.stderr
    assert "--yes" in done.stderr
    name = "SELECT name FROM customer WHERE id = 'C001'"
    assert connection.execute(name).fetchone() == ("kept",)
    assert run_cli("db", "init", "--yes", **database).returncode == 0
    assert connection.execute(name).fetchone() != ("kept",)
    connection.close()


@pytest.mark.parametrize("words", [["tickets"], ["db", "forget", "C001"], ["db", "prune"]])
def test_a_command_that_looks_fills_no_fresh_database(run_cli, tmp_path: Path, words) -> None:
    database = {"CSPROTO_DB": f"sqlite:///{tmp_path / 'shop.db'}"}
    done = run_cli(*words, **database)
    assert done.returncode == 1
    assert "csproto db migrate" in done.stderr
    assert run_cli("db", "migrate", **database).returncode == 0
    done = run_cli("tickets", **database)
    assert done.stdout.strip() == "0 tickets"
    connection = sqlite3.connect(tmp_path / "shop.db")
    assert connection.execute("SELECT count(*) FROM customer").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("empty_database", ["sqlite", "postgresql"], indirect=True)
def test_four_first_starts_at_once_all_succeed(empty_database: str) -> None:
    """Each finds an empty database and wants to fill it."""

    def start(_: int) -> int:
        with open_database(empty_database).connect() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM customer").scalar_one()

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(start, range(4)))
    assert len(set(counts)) == 1
    assert counts[0] > 0


# -- doctor


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CSPROTO_BASE_URL": "http://127.0.0.1:9"}, ["nothing is ready at http://127.0.0.1:9"]),
        ({"CSPROTO_API_KEY": "wrong"}, ["does not accept the key", "CSPROTO_API_KEY"]),
        ({"CSPROTO_DB": "postgresql+psycopg://a:secret@127.0.0.1:9/x"}, ["cannot be used"]),
        ({"CSPROTO_DB": "nonsense"}, ["correct CSPROTO_DB"]),
    ],
)
def test_doctor_finds_a_server_or_database_that_cannot_be_used(
    run_cli, server, environment, words
) -> None:
    done = run_cli("doctor", **environment)
    assert done.returncode == 1
    told = " ".join(done.stdout.split())  # wrapped to fit the terminal
    for word in words:
        assert word in told
    assert "secret" not in done.stdout + done.stderr


def test_doctor_creates_no_database(run_cli, server, tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    assert run_cli("doctor", CSPROTO_DB=f"sqlite:///{file}").returncode == 0
    assert not file.exists()
