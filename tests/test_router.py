"""Two servers behind a router do what one server does; a lost one costs nobody an answer."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import sglang as sgl
import urllib3
from fastapi.testclient import TestClient
from sqlalchemy.engine import Engine
from test_web import ROOMY

from csproto.desk import transcript
from csproto.desk.transcript import Message
from csproto.engine.endpoint import CallOptions, Endpoint, Stopped, StopSignal, WrongKey
from csproto.engine.router import FLAGS, Fleet, Router
from csproto.engine.running import find, running_model
from csproto.engine.server import NoServer, Server, answers
from csproto.opening import desk_on
from csproto.shop import demo
from csproto.shop.orders import OrderApi
from csproto.shop.store import open_engine
from csproto.web.app import create_app

SAID = ("我的订单到哪了?", "789012 能催一下吗", "Where is my order?", "转人工")
CUSTOMERS = [f"C00{n}" for n in range(1, 7)]


@pytest.fixture(scope="module")
def fleet(apart: None) -> Iterator[Fleet]:
    """Two workers and a router, started as `csproto serve --workers 2` does it."""
    started = Fleet(workers=2)
    try:
        yield started.start().wait_ready(timeout=400)
    finally:
        started.stop()


@pytest.fixture
def routed(fleet: Fleet) -> Endpoint:
    return Endpoint(fleet.base_url, fleet.api_key)


@pytest.fixture
def of_fleet(fleet: Fleet) -> dict[str, str]:
    return {"CSPROTO_BASE_URL": fleet.base_url, "CSPROTO_API_KEY": fleet.api_key}


def shop(folder: Path) -> Engine:
    engine = open_engine(f"sqlite:///{folder / 'shop.db'}")
    demo.fill(engine, datetime.now(UTC))
    return engine


def talk(desk: Any, count: int, turns: int = 3, workers: int = 8) -> tuple[list[Any], float]:
    """Let many customers say a few things each; the results, and the share that was reused."""
    conversations = [desk.open(CUSTOMERS[n % len(CUSTOMERS)]) for n in range(count)]
    results = []
    for turn in range(turns):
        said = [(c, SAID[(turn + n) % len(SAID)]) for n, c in enumerate(conversations)]
        results += desk.turns(said, workers=workers)
    good = [result for result in results if not isinstance(result, Exception)]
    reusable = sum(result.reusable_tokens for result in good)
    return results, sum(result.reused_tokens for result in good) / max(reusable, 1)


def requests_of(fleet: Fleet) -> list[int]:
    """How many requests each worker has answered, by the router's figures."""
    host, port = fleet.router._metrics
    text = urllib3.request("GET", f"http://{host}:{port}/metrics", timeout=10).data.decode()
    lines = [line for line in text.splitlines() if line.startswith("smg_worker_cb_outcomes_total")]
    return [
        sum(
            int(line.split()[-1]) for line in lines if server.base_url in line and "success" in line
        )
        for server in fleet.servers
    ]


# -- the same as one server


def test_a_router_is_found_and_asked_what_it_knows(
    fleet: Fleet, routed: Endpoint, of_fleet, monkeypatch
) -> None:
    assert routed.is_router
    assert routed.model_name == fleet.served_name
    assert routed.generates(30)
    assert answers(fleet.base_url)
    assert running_model(fleet.base_url, fleet.api_key)["served_model_name"] == fleet.served_name
    for name, value in of_fleet.items():
        monkeypatch.setenv(name, value)
    assert find() == (fleet.base_url, fleet.api_key)
    with pytest.raises(WrongKey):
        Endpoint(fleet.base_url, "wrong")
    commands = [psutil.Process(s.process.pid).cmdline() for s in (fleet.router, *fleet.servers)]
    assert not any(fleet.api_key in word for words in commands for word in words)


def test_grammars_streams_and_figures_go_through(routed: Endpoint) -> None:
    @sgl.function
    def program(s):  # type: ignore[no-untyped-def]
        s += sgl.user("one, two or three?")
        s += sgl.assistant(sgl.gen("answer", max_tokens=8, temperature=0))

    pieces: list[str] = []
    ebnf = 'root ::= "one" | "two" | "three"\n'
    for attempt in range(2):
        options = CallOptions(ebnf, on_text=pieces.append, routing_key="k", rivals=2)
        state = program.run(backend=routed.with_options(options), use_thread=False)
        assert state["answer"] in ("one", "two", "three")
        meta = state.get_meta_info("answer")
        assert meta["output_top_logprobs"]
        assert (meta["cached_tokens"] > 0) == (attempt == 1), "it went where the prefix is"
    assert "".join(pieces[: len(pieces) // 2])


def test_a_stop_reaches_the_worker_through_the_router(fleet: Fleet, routed: Endpoint) -> None:
    @sgl.function
    def program(s):  # type: ignore[no-untyped-def]
        s += sgl.user("go on")
        s += sgl.assistant(sgl.gen("answer", max_tokens=2000, temperature=0))

    stop = StopSignal()
    options = CallOptions('root ::= "{" [a-z]{1900,1990} "}"', stop=stop)
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Stopped):
        program.run(backend=routed.with_options(options), use_thread=False)
    workers = [Endpoint(server.base_url, server.api_key) for server in fleet.servers]
    deadline = time.monotonic() + 10
    while any(w.get_json("/v1/loads")["loads"][0]["num_running_reqs"] for w in workers):
        assert time.monotonic() < deadline, "the worker goes on for nobody"
        time.sleep(0.1)


def test_commands_and_page_work_through_the_router(
    fleet: Fleet, routed: Endpoint, of_fleet, run_cli, tmp_path: Path
) -> None:
    database = {"CSPROTO_DB": f"sqlite:///{tmp_path / 'cli.db'}"}
    done = run_cli("ask", "我的订单#789012还没发货,能催一下吗?", "--json", **of_fleet, **database)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decisions"][0]["action"] == "urge_ticket"
    done = run_cli("doctor", **of_fleet, **database)
    assert f"{fleet.base_url} serves" in done.stdout, done.stdout
    cases = tmp_path / "cases.jsonl"
    case = {
        "id": "1",
        "lang": "zh",
        "turns": [{"text": SAID[1], "expect": {"intent": "urge_shipment"}}],
    }
    cases.write_text(json.dumps(case) + "\n")
    done = run_cli("eval", "--data", str(cases), "--json", **of_fleet, **database)
    assert done.returncode == 0, done.stderr

    desk = desk_on(routed, OrderApi(shop(tmp_path)))
    client = TestClient(create_app(desk, limits=ROOMY))
    for path in ("/readyz", "/health"):
        assert client.get(path).status_code == 200, path
    assert client.post("/api/chat", json={"input": "转人工"}).status_code == 200


def test_a_conversation_stays_where_its_prefix_is(
    fleet: Fleet, routed: Endpoint, tmp_path: Path
) -> None:
    """As much is reused as on one server, and both workers have something to do."""
    before = requests_of(fleet)
    results, through = talk(desk_on(routed, OrderApi(shop(tmp_path)), temperature=0.0), 24)
    assert not [result for result in results if isinstance(result, Exception)]
    loads = [now - then for now, then in zip(requests_of(fleet), before, strict=True)]
    one = Endpoint(fleet.servers[0].base_url, fleet.api_key)
    _, alone = talk(desk_on(one, OrderApi(shop(tmp_path)), temperature=0.0), 24)
    print(f"\nreuse through the router {through:.4f}, on one server {alone:.4f}, requests {loads}")
    assert through > alone - 0.01
    assert min(loads) > 0.3 * sum(loads), loads


def test_a_routing_key_says_nothing_of_the_nonce() -> None:
    first = Message("system", '{"nonce":"123456789012345","orders":[]}')
    key = transcript.routing_key([Message("system", "prompt"), first, Message("user", "hi")])
    later = [Message("system", "prompt"), first, *[Message("user", '{"nonce":"1"}')] * 2]
    assert key == transcript.routing_key(later)
    assert len(key) == 16
    assert "123456789012345" not in key
    assert transcript.routing_key([Message("system", "prompt")]) == ""


# -- without a worker


def test_without_a_worker_the_router_is_not_ready() -> None:
    key = "k" * 32
    router = Router(["http://127.0.0.1:9"], api_key=key).start()
    try:
        deadline = time.monotonic() + 60
        while not answers(router.base_url, path="/liveness"):
            assert router.process.poll() is None, router.log_tail()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not answers(router.base_url)
        with pytest.raises(NoServer, match="still starting"):
            find(router.base_url)
    finally:
        router.stop()


def test_the_flags_are_those_of_the_router() -> None:
    from argparse import ArgumentParser

    from sglang_router.router_args import RouterArgs

    parser = ArgumentParser(allow_abbrev=False)
    RouterArgs.add_cli_args(parser, use_router_prefix=False)
    assert parser.parse_args([*FLAGS]).assignment_mode


class Load(threading.Thread):
    """Customers who talk without a pause, until told to stop."""

    def __init__(self, desk: Any, customers: int = 6) -> None:
        super().__init__(daemon=True)
        self.desk, self.customers, self.going = desk, customers, True
        self.failed: list[Exception] = []
        self.seconds: list[float] = []

    def _one(self, number: int) -> None:
        while self.going:
            conversation = self.desk.open(CUSTOMERS[number % len(CUSTOMERS)])
            for text in SAID:
                began = time.monotonic()
                try:
                    self.desk.turn(conversation, text)
                except Exception as error:
                    self.failed.append(error)
                self.seconds.append(time.monotonic() - began)
                if not self.going:
                    return

    def run(self) -> None:
        with ThreadPoolExecutor(self.customers) as pool:
            list(pool.map(self._one, range(self.customers)))

    def end(self) -> None:
        self.going = False
        self.join(120)
        worst = max(self.seconds)
        print(f"\n{len(self.seconds)} turns, {len(self.failed)} failed, the longest {worst:.1f} s")


@pytest.fixture
def load(routed: Endpoint, tmp_path: Path) -> Iterator[Load]:
    desk = desk_on(routed, OrderApi(shop(tmp_path)), messages_per_minute=None)
    started = Load(desk)
    started.start()
    time.sleep(5)
    yield started
    started.going = False


def kill(server: Server) -> None:
    """Kill a worker with all its processes at once."""
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait(30)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_killed_under_load_costs_nobody_an_answer(fleet: Fleet, load: Load) -> None:
    """And it takes part again when it is back."""
    victim = fleet.servers[1]
    kill(victim)
    time.sleep(20)
    assert fleet.router.states()[victim.base_url] is False
    before = requests_of(fleet)[1]
    victim.start().wait_ready(timeout=400)
    deadline = time.monotonic() + 60
    while requests_of(fleet)[1] == before:
        assert time.monotonic() < deadline, "it gets nothing"
        time.sleep(0.5)
    load.end()
    assert load.failed == []
    assert max(load.seconds) < 30


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_that_hangs_is_given_up(fleet: Fleet, load: Load) -> None:
    """Those it was answering wait for a time-out, and all others go on."""
    victim = fleet.servers[1]
    family = [psutil.Process(victim.process.pid)]
    family += family[0].children(recursive=True)
    for process in family:
        process.suspend()
    try:
        began = time.monotonic()
        while fleet.router.states()[victim.base_url]:
            assert time.monotonic() - began < 30
            time.sleep(0.2)
        found = time.monotonic() - began
        time.sleep(30)
    finally:
        for process in family:
            process.resume()
    load.end()
    print(f"found after {found:.1f} s")
    assert len(load.failed) <= load.customers, "at most one for each that was under way"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_that_is_added_takes_part(fleet: Fleet, load: Load) -> None:
    with Server(api_key=fleet.api_key) as third:
        fleet.router.add(third.base_url)
        deadline = time.monotonic() + 60
        while not fleet.router.states().get(third.base_url):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(10)
        fleet.servers.append(third)
        try:
            assert requests_of(fleet)[-1] > 0
        finally:
            fleet.servers.remove(third)
        load.end()
        assert load.failed == []
