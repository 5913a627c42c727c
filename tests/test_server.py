"""The server handle: a real SGLang server that is found, awaited, refused with one clear line, and never left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from csproto import settings
from csproto.engine.server import (
    NoServer,
    Server,
    ServerFailed,
    answers,
    find,
    mask,
    read_state,
    remove_state,
    write_state,
)

START_AND_WAIT = """
import sys, time
from csproto.engine.server import Server
server = Server().start()
print(server.process.pid, flush=True)
server.wait_ready()
print("ready", flush=True)
time.sleep(600)
"""


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process], timeout: float) -> bool:
    return not psutil.wait_procs(processes, timeout)[1]


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", START_AND_WAIT], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert owner.stdout.readline() == "ready\n"
    processes = family(pid)
    assert len(processes) >= 3  # launcher, scheduler, detokenizer
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert gone(processes, 10)


def test_starts_within_the_bar_and_stops_clean(tmp_path: Path) -> None:
    with Server(log=tmp_path / "server.log") as server:
        assert server.process is not None
        assert server.startup_seconds is not None
        assert server.startup_seconds < 60  # 30 s is the bar on a quiet machine; tests share theirs
        processes = family(server.process.pid)
        words = " ".join(word for p in processes for word in p.cmdline())
        assert server.api_key not in words
        assert server.admin_key not in words
        assert (server.log.stat().st_mode & 0o777) == 0o600
        assert server.api_key not in server.log_tail(10_000)
    assert gone(processes, 10)


def test_a_damaged_model_folder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(settings.MINI_MODEL, folder)
    (folder / "config.json").write_text('{"architectures": [')
    with pytest.raises(ServerFailed, match=r"config\.json is missing or damaged.*csproto model build"):
        Server(folder).start()
    with pytest.raises(ServerFailed, match=r"config\.json is missing"):
        Server(tmp_path).start()


def test_damaged_weights_end_the_start_at_once_with_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(settings.MINI_MODEL, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    began = time.monotonic()
    with pytest.raises(ServerFailed, match="ended while it was starting") as failure, Server(folder):
        pass
    assert "safetensors" in str(failure.value).lower()
    assert time.monotonic() - began < 90


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerFailed, match=f"Port {port} is in use"):
            Server(port=port).start()


def test_no_server_at_the_url() -> None:
    with pytest.raises(NoServer, match="csproto serve"):
        find("http://127.0.0.1:9")


def test_a_stale_state_file_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    monkeypatch.setenv("CSPROTO_STATE", str(path))
    monkeypatch.delenv("CSPROTO_BASE_URL", raising=False)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for text in (json.dumps({"base_url": "http://127.0.0.1:9", "api_key": "k", "pid": dead.pid}), "not json", "{}"):
        path.write_text(text)
        assert read_state() is None
        assert not path.exists()
    assert find() is None


# -- a server that stalls, and goes on


class Latched(BaseHTTPRequestHandler):
    """Says 503 on `/ready` as SGLang does after a stall: until `/health` has found that it generates again."""

    ready, generates = False, True
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/health":
            time.sleep(0.2)
            type(self).ready = self.generates
        self.send_response(200 if self.ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def latched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Latched]]:
    """A stalled server, and a state file that names it."""

    class Fresh(Latched):
        asked: list[str] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as server:
        Fresh.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state = tmp_path / "state.json"
        state.write_text(json.dumps({"base_url": Fresh.url, "api_key": "k", "pid": os.getpid()}))
        monkeypatch.setenv("CSPROTO_STATE", str(state))
        monkeypatch.setenv("CSPROTO_BASE_URL", "")
        yield Fresh
        server.shutdown()


def test_a_server_that_generates_again_is_ready_again(latched) -> None:
    assert answers(latched.url)
    assert latched.asked == ["/ready", "/health", "/ready"]
    assert answers(latched.url)
    assert latched.asked.count("/health") == 1, "a ready server is asked nothing that costs a token"


@pytest.mark.parametrize("ask", [read_state, find])
def test_every_way_to_a_server_comes_back_to_one_that_has_stalled(latched, ask) -> None:
    latched.generates = False
    assert ask() is None
    assert settings.state_file().exists(), "the process lives: it is only slow"
    latched.generates = True
    time.sleep(1.1)  # a question is not repeated within a second
    assert ask() is not None


def test_a_named_server_that_has_stalled_is_come_back_to(latched) -> None:
    assert find(latched.url) == (latched.url, os.environ.get("CSPROTO_API_KEY") or "k")


def test_the_panel_and_the_page_come_back_to_a_stalled_engine(latched, make_assistant) -> None:
    from csproto.chat.engine import engine_state

    assistant = make_assistant()
    assistant.endpoint = assistant.endpoint.with_options(assistant.endpoint.options)
    assistant.endpoint.base_url = latched.url
    assert engine_state(assistant)["ok"]


def test_many_who_ask_a_stalled_server_share_one_question(latched) -> None:
    latched.generates = False
    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        assert not any(pool.map(lambda _: answers(latched.url), range(60)))
    assert latched.asked.count("/health") <= 1 + int(time.monotonic() - began), "one a second at the most"


def test_the_state_file_of_a_silent_server_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    monkeypatch.setenv("CSPROTO_STATE", str(path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        path.write_text(json.dumps({"base_url": url, "api_key": "k", "pid": os.getppid()}))
        assert read_state() is None
        remove_state()
        assert path.exists(), "it is another process's"
    path.write_text(json.dumps({"base_url": url, "api_key": "k", "pid": os.getpid()}))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError("too many open files")))
        assert read_state() is None
    assert path.exists()
    remove_state()
    assert not path.exists()


@pytest.mark.long
def test_a_stall_of_25_seconds_is_over_when_it_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine) -> None:
    """The page's health is asked all the while, as an operator's probe would: that is what makes SGLang give itself up."""
    from fastapi.testclient import TestClient

    from csproto.assistant import Assistant
    from csproto.engine.endpoint import Endpoint
    from csproto.shop.orders import OrderApi
    from csproto.web.app import create_app

    monkeypatch.setenv("CSPROTO_STATE", str(tmp_path / "state.json"))
    monkeypatch.setenv("CSPROTO_BASE_URL", "")
    with Server() as server:
        state = write_state(server)
        scheduler = next(p for p in family(server.process.pid) if p.name() == "sglang::scheduler")
        page = TestClient(create_app(Assistant(Endpoint(server.base_url, server.api_key), OrderApi(engine))))
        scheduler.suspend()
        try:
            began = time.monotonic()
            while time.monotonic() - began < 25:
                assert page.get("/health").status_code == 503
                page.get("/api/session")
                time.sleep(1)
            assert httpx.get(f"{server.base_url}/ready").status_code == 503
        finally:
            scheduler.resume()
        assert state.exists()
        began = time.monotonic()
        while page.get("/health").status_code != 200:
            assert time.monotonic() - began < 20
        assert httpx.get(f"{server.base_url}/ready").status_code == 200
        assert page.get("/api/session").json()["info"]["engine"]["ok"]
        assert page.post("/api/chat", json={"input": "我的订单到哪了?"}).status_code == 200
        assert find() == (server.base_url, server.api_key)


def test_serve_leaves_a_state_file_by_which_others_attach(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    environment = {**os.environ, "CSPROTO_STATE": str(state)}
    environment.pop("CSPROTO_BASE_URL", None)
    process = subprocess.Popen(
        # Ctrl-C must work in tests that run in the background too, where a shell has it ignored.
        ["env", "--default-signal=INT", sys.executable, "-m", "csproto.cli", "serve"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "is ready at" in process.stdout.readline()
        assert state.stat().st_mode & 0o777 == 0o600
        ask = [sys.executable, "-m", "csproto.cli", "ask", "我的订单789012到哪了", "--json"]
        answer = subprocess.run(ask, env=environment, capture_output=True, text=True, timeout=120, check=True)
        assert "starting one" not in answer.stderr
        assert json.loads(answer.stdout)["decision"]["action"]
        again = subprocess.run(
            [sys.executable, "-m", "csproto.cli", "serve"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert again.returncode == 1
        assert "already running" in again.stderr
    finally:
        processes = family(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert gone(processes, 10)
    assert not state.exists()


def test_keys_are_masked_wherever_the_log_prints_them() -> None:
    line = "server_args={'api_key': 'secret-1', 'admin_api_key': 'secret-2'} Bearer secret-3"
    assert "secret" not in mask(line, "secret-3")


def test_importing_the_package_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import csproto, csproto.cli, csproto.engine.server; print(time.perf_counter() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    code = "import csproto, csproto.cli, sys; print({'torch', 'sglang'} & sys.modules.keys())"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert heavy == "set()"
    assert min(seconds) < 1.0
