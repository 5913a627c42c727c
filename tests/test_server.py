"""Starting, finding and stopping a real SGLang server.

Every failure is one clear line, and no process is left behind.
"""

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
from csproto.engine import hardware
from csproto.engine.running import find, read_state, remove_state, write_state
from csproto.engine.server import NoServer, Server, ServerFailed, answers, mask

IMPORTS = """
from csproto.engine.cpu import make_torchvision_importable
make_torchvision_importable()
import sglang.srt.entrypoints.http_server
"""

GPU = "0, GPU-1, NVIDIA H200, 143771, 143000, 580.65.06, 9.0"  # a line of `nvidia-smi`

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
    """Return a process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process], timeout: float) -> bool:
    return not psutil.wait_procs(processes, timeout)[1]


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert owner.stdout.readline() == "ready\n"
    processes = family(pid)
    assert len(processes) >= 3  # launcher, scheduler, detokenizer
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert gone(processes, 10)


def test_a_server_starts_in_time_and_stops_completely(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A driver that lists a GPU does not make torch use it: the CPU plug-in serves, and the
    # KV pool must be as small as it is without the driver.
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{GPU}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Server(log=tmp_path / "server.log") as server:
        assert server.process is not None
        assert server.startup_seconds is not None
        # Twice the imports of SGLang's launcher, on the same machine under the same load, is
        # plenty: a start that waits for anything else takes longer.
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True)
        assert server.startup_seconds < 4 * (time.monotonic() - began)
        processes = family(server.process.pid)
        words = " ".join(word for p in processes for word in p.cmdline())
        assert server.api_key not in words
        assert server.admin_key not in words
        assert (server.log.stat().st_mode & 0o777) == 0o600
        assert server.api_key not in server.log_tail(10_000)
        headers = {"Authorization": f"Bearer {server.api_key}"}
        about = httpx.get(f"{server.base_url}/server_info", headers=headers).json()
        if hardware.torch_cuda() is None:
            assert (about["device"], about["max_total_tokens"]) == ("cpu", 32768)
    assert gone(processes, 10)


def test_a_damaged_model_folder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(settings.MINI_MODEL, folder)
    (folder / "config.json").write_text('{"architectures": [')
    with pytest.raises(
        ServerFailed, match=r"config\.json is missing or damaged.*csproto model build"
    ):
        Server(folder).start()
    with pytest.raises(ServerFailed, match=r"config\.json is missing"):
        Server(tmp_path).start()


def test_damaged_weights_end_the_start_at_once_with_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(settings.MINI_MODEL, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    began = time.monotonic()
    with (
        pytest.raises(ServerFailed, match="ended while it was starting") as failure,
        Server(folder),
    ):
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
    stale = {"base_url": "http://127.0.0.1:9", "api_key": "k", "pid": dead.pid}
    for text in (json.dumps(stale), "not json", "{}"):
        path.write_text(text)
        assert read_state() is None
        assert not path.exists()
    assert find() is None


# A server that stalls and then works again.


class Latched(BaseHTTPRequestHandler):
    """Answers as SGLang does after a stall.

    `/ready` answers 503 until somebody has asked `/health` and the server generates
    again.
    """

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
    """A stalled server, with a state file that names it."""

    class Fresh(Latched):
        asked: list[str] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as server:
        Fresh.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state = tmp_path / "state.json"
        content = {"base_url": Fresh.url, "api_key": "k", "pid": os.getpid()}
        state.write_text(json.dumps(content))
        monkeypatch.setenv("CSPROTO_STATE", str(state))
        monkeypatch.setenv("CSPROTO_BASE_URL", "")
        yield Fresh
        server.shutdown()


def test_a_server_that_generates_again_is_ready_again(latched) -> None:
    assert answers(latched.url)
    assert latched.asked == ["/ready", "/health", "/ready"]
    assert answers(latched.url)
    assert latched.asked.count("/health") == 1, "`/health` costs a token, and is not needed here"


@pytest.mark.parametrize("ask", [read_state, find])
def test_a_stalled_server_is_found_again_by_its_state_file(latched, ask) -> None:
    latched.generates = False
    assert ask() is None
    assert settings.state_file().exists(), "the process is alive, only slow"
    latched.generates = True
    time.sleep(1.1)  # `/health` is asked once a second at most
    assert ask() is not None


def test_a_stalled_server_is_found_again_by_its_url(latched) -> None:
    assert find(latched.url) == (latched.url, "k")


def test_a_stalled_server_is_found_again_by_panel_and_page(
    latched, make_assistant, endpoint
) -> None:
    from csproto.chat.engine import engine_state

    stalled = endpoint.with_options(endpoint.options)  # a copy
    stalled.base_url, stalled.api_key = latched.url, "k"  # as the state file says
    assert engine_state(make_assistant(on=stalled))["ok"]


def test_many_callers_of_a_stalled_server_share_one_request(latched) -> None:
    latched.generates = False
    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        assert not any(pool.map(lambda _: answers(latched.url), range(60)))
    seconds = int(time.monotonic() - began)
    assert latched.asked.count("/health") <= 1 + seconds, "one a second at most"


def test_the_state_file_of_a_silent_server_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "state.json"
    monkeypatch.setenv("CSPROTO_STATE", str(path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        path.write_text(json.dumps({"base_url": url, "api_key": "k", "pid": os.getppid()}))
        assert read_state() is None
        remove_state()
        assert path.exists(), "another process wrote it"
    path.write_text(json.dumps({"base_url": url, "api_key": "k", "pid": os.getpid()}))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", unreadable)
        assert read_state() is None
    assert path.exists()
    remove_state()
    assert not path.exists()


def test_a_state_file_that_another_user_made_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server
) -> None:
    """Else whoever is first to make a folder in /tmp could send customers to a server of theirs."""
    if os.getuid() != 0:
        pytest.skip("only root can give a file to another user")
    path = tmp_path / "state.json"
    monkeypatch.setenv("CSPROTO_STATE", str(path))
    path.write_text(json.dumps({"base_url": server[0], "api_key": "k", "pid": os.getpid()}))
    assert read_state()
    os.chown(path, 65534, 65534)
    assert read_state() is None
    assert path.exists()


def unreadable(*_: object, **__: object) -> str:
    raise OSError("too many open files")


@pytest.mark.long
def test_after_a_stall_of_25_seconds_everything_works_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine
) -> None:
    """The page's `/health` is asked during the whole stall, as an operator's probe would.

    That is what makes SGLang report that it is not ready.
    """
    from fastapi.testclient import TestClient

    from csproto.engine.endpoint import Endpoint
    from csproto.opening import desk_on
    from csproto.shop.orders import OrderApi
    from csproto.web.app import create_app

    monkeypatch.setenv("CSPROTO_STATE", str(tmp_path / "state.json"))
    monkeypatch.setenv("CSPROTO_BASE_URL", "")
    with Server() as server:
        state = write_state(server)
        scheduler = next(p for p in family(server.process.pid) if p.name() == "sglang::scheduler")
        desk = desk_on(Endpoint(server.base_url, server.api_key), OrderApi(engine))
        page = TestClient(create_app(desk))
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


def test_other_commands_find_the_server_that_serve_runs(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    environment = {**os.environ, "CSPROTO_STATE": str(state), "CSPROTO_API_KEY": "chosen"}
    environment.pop("CSPROTO_BASE_URL", None)
    process = subprocess.Popen(
        # A shell makes processes in the background ignore Ctrl-C, which is needed
        # below.
        ["env", "--default-signal=INT", sys.executable, "-m", "csproto.cli", "serve"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "is ready at" in process.stdout.readline()
        assert "the one in CSPROTO_API_KEY" in process.stdout.readline()
        assert state.stat().st_mode & 0o777 == 0o600
        written = json.loads(state.read_text())
        assert written["api_key"] == "chosen"
        refused = httpx.get(f"{written['base_url']}/model_info")
        assert refused.status_code == 401
        ask = [sys.executable, "-m", "csproto.cli", "ask", "我的订单789012到哪了", "--json"]
        answer = subprocess.run(
            ask, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        assert "starting one" not in answer.stderr
        assert json.loads(answer.stdout)["decisions"][0]["action"]
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


def printed_by(code: str) -> str:
    """Run Python code in a new process and return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_is_quick() -> None:
    timed = """
import time
began = time.perf_counter()
import csproto, csproto.cli, csproto.engine.server
print(time.perf_counter() - began)
"""
    heavy = "import csproto, csproto.cli, sys; print({'torch', 'sglang'} & sys.modules.keys())"
    assert printed_by(heavy).strip() == "set()"
    assert min(float(printed_by(timed)) for _ in range(3)) < 1.0
