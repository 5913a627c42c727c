"""The server handle: a real SGLang server that is found, awaited, refused with one clear line, and never left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from csproto import settings
from csproto.server import NoServer, Server, ServerFailed, find, mask, read_state

START_AND_WAIT = """
import sys, time
from csproto.server import Server
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
    code = "import time; t = time.perf_counter(); import csproto, csproto.cli, csproto.server; print(time.perf_counter() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    code = "import csproto, csproto.cli, sys; print({'torch', 'sglang'} & sys.modules.keys())"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert heavy == "set()"
    assert min(seconds) < 1.0
