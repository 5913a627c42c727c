"""What a desk asks of its server before any message, and what it does when the server changes.

Small HTTP servers stand in for SGLang; none of them has to generate anything.
"""

import gc
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from csproto.chat import engine as chat_engine
from csproto.chat.engine import endpoint_of, engine_state
from csproto.desk.reader import read_ahead
from csproto.desk.transcript import Message
from csproto.engine.endpoint import Endpoint
from csproto.opening import desk_on, open_desk
from csproto.shop.orders import OrderApi


class Model(BaseHTTPRequestHandler):
    """What a server says of its model. `reads` lets a prompt be read; `key` is wanted."""

    name, key, reads, reading = "one", "", threading.Event(), threading.Event()
    warmed: list[str] = []
    delay = 0.0

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/ready":
            self._send(200, "")
        elif self.key and self.headers.get("Authorization") != f"Bearer {self.key}":
            self._send(401, {"error": "Unauthorized"})
        else:
            architectures = ["Qwen2ForCausalLM"]
            self._send(200, {"model_path": f"of/{self.name}", "architectures": architectures})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reading.set()
        self.reads.wait(60)
        time.sleep(self.delay)
        self.warmed.append(self.name)
        self._send(200, {"text": "", "meta_info": {}})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[], type[Model]]]:
    """Starts a server, and returns the class that says how it answers."""
    servers: list[ThreadingHTTPServer] = []

    def start() -> type[Model]:
        class Fresh(Model):
            reads, reading, warmed = threading.Event(), threading.Event(), []

        server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        Fresh.url, Fresh.stop = f"http://127.0.0.1:{server.server_port}", server.shutdown
        Fresh.reads.set()
        servers.append(server)
        Fresh.close = lambda: (server.shutdown(), server.server_close())
        return Fresh

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No other server is known. Returns the state file."""
    state = tmp_path / "state.json"
    monkeypatch.setenv("CSPROTO_STATE", str(state))
    monkeypatch.delenv("CSPROTO_BASE_URL", raising=False)
    monkeypatch.delenv("CSPROTO_API_KEY", raising=False)
    monkeypatch.setattr(chat_engine, "LOOK_AGAIN", 0.0)
    return state


def serves(state: Path, url: str, key: str = "k") -> None:
    state.write_text(json.dumps({"base_url": url, "api_key": key, "pid": os.getpid()}))


def test_another_model_at_the_url_is_noticed_and_said(serve, engine, caplog) -> None:
    there = serve()
    desk = desk_on(Endpoint(there.url), OrderApi(engine))
    reader = desk.reader
    assert engine_state(desk) == {"ok": True, "model": "of/one"}
    assert desk.reader is reader, "nothing has changed"
    there.name = "two"
    with caplog.at_level(logging.WARNING):
        assert engine_state(desk) == {"ok": True, "model": "of/two"}
    assert f"goes on with the model of/two at {there.url}; before it was of/one" in caplog.text
    assert there.warmed == ["one", "two"], "the new model has read the prompt"


def test_a_named_server_is_never_left_for_another_one(serve, engine, alone, tmp_path) -> None:
    there, ours = serve(), serve()
    with open_desk(there.url, database=f"sqlite:///{tmp_path / 'named.db'}") as desk:
        there.close()
        serves(alone, ours.url)
        assert engine_state(desk) == {"ok": False, "model": "of/one"}
        assert endpoint_of(desk).base_url == there.url


def test_a_server_on_another_machine_is_never_left_either(serve, engine, alone) -> None:
    there, ours = serve(), serve()
    desk = desk_on(Endpoint(there.url), OrderApi(engine))
    endpoint_of(desk).base_url = "http://192.0.2.1:9"  # an address that nobody has
    serves(alone, ours.url)
    assert engine_state(desk)["ok"] is False
    assert endpoint_of(desk).base_url == "http://192.0.2.1:9"


def test_a_server_that_was_restarted_elsewhere_is_found(serve, engine, alone) -> None:
    before, after = serve(), serve()
    after.name = "two"
    desk = desk_on(Endpoint(before.url), OrderApi(engine))
    before.close()
    assert engine_state(desk)["ok"] is False
    serves(alone, after.url)
    assert engine_state(desk) == {"ok": True, "model": "of/two"}
    assert endpoint_of(desk).base_url == after.url


def test_a_server_restarted_at_the_same_port_has_another_key(serve, engine, alone) -> None:
    there = serve()
    there.key = "before"
    desk = desk_on(Endpoint(there.url, "before"), OrderApi(engine))
    there.key = "after"
    serves(alone, there.url, "after")
    assert engine_state(desk)["ok"]
    assert endpoint_of(desk).api_key == "after"


def test_a_server_that_fails_while_it_is_taken_up_is_no_crash(serve, engine, alone, caplog) -> None:
    before, after = serve(), serve()
    desk = desk_on(Endpoint(before.url), OrderApi(engine))
    before.close()
    after.key = "another"  # the desk is refused
    serves(alone, after.url, "wrong")
    for _ in range(3):
        assert engine_state(desk) == {"ok": False, "model": "of/one"}
    assert caplog.text.count("cannot use the server") == 1, "it is said once"


def test_nobody_waits_while_a_new_model_reads_its_instructions(
    serve, engine, alone, monkeypatch
) -> None:
    monkeypatch.setattr(chat_engine, "RENEWAL", 0.2)
    before, after = serve(), serve()
    after.name = "two"
    desk = desk_on(Endpoint(before.url), OrderApi(engine))
    before.close()
    after.reads.clear()
    serves(alone, after.url)
    assert engine_state(desk) == {"ok": False, "model": "of/one"}, "it is still starting"
    assert after.reading.wait(20)
    assert engine_state(desk)["ok"] is False
    after.reads.set()
    deadline = time.monotonic() + 20
    while not (found := engine_state(desk))["ok"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == {"ok": True, "model": "of/two"}
    assert after.warmed == ["two"], "read once, however often it was asked for"


# The prompt that all customers share.


def test_a_prompt_is_read_once_for_all_desks_that_are_made_at_the_same_time(serve, engine) -> None:
    there = serve()
    there.delay = 0.3
    endpoint = Endpoint(there.url)
    copies = [endpoint, *(endpoint.with_options(endpoint.options) for _ in range(5))]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: desk_on(one, OrderApi(engine)), copies))
    assert there.warmed == ["one"]


def test_an_endpoint_that_read_ahead_can_be_forgotten(serve) -> None:
    there = serve()
    endpoint = Endpoint(there.url)
    read_ahead(endpoint, (Message("system", "hello"),))
    known = weakref.ref(endpoint)
    del endpoint
    gc.collect()
    assert known() is None
