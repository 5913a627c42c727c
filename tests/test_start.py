"""A start takes as long as it takes: a server is given up when it does nothing, and not before.

Scripts stand in for the engine, because only our side of the start is meant here.
"""

import os
import sys
import time
from pathlib import Path

import pytest

from csproto.engine import hardware
from csproto.engine.server import Server, ServerFailed

PATIENCE = 4.0  # seconds without a sign of life
BUSY = 3 * PATIENCE  # seconds that the start takes
# Works for a while in one of two ways, and then is ready.
WORKS = """
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
way, port, seconds, scratch = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
began = time.monotonic()
while time.monotonic() - began < seconds:
    if way == "prints":
        print(f"\\rLoading [{time.monotonic()}/shards]", end="", flush=True)
    else:
        scratch.write_bytes(bytes(2**25))
    time.sleep(0.3)

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", port), Ready).serve_forever()
"""


class Scripted(Server):
    """Runs Python code in place of SGLang."""

    code, words = "", ()

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.code, *self.words]


def scripted(code: str, *words: object) -> Scripted:
    server = Scripted()
    server.code = code
    server.words = tuple(str(server.port) if w == "PORT" else str(w) for w in words)
    return server


@pytest.mark.parametrize("way", ["prints", "writes"])
def test_a_start_that_goes_on_is_waited_for(tmp_path: Path, way: str) -> None:
    said: list[str] = []
    server = scripted(WORKS, way, "PORT", BUSY, tmp_path / "download")
    try:
        server.start().wait_ready(timeout=PATIENCE, progress=said.append)
        assert server.startup_seconds > PATIENCE
    finally:
        server.stop()
    if way == "prints":
        assert any("(Loading [" in text for text in said), "the log's last line is the progress"


def test_a_start_that_does_nothing_ends_with_its_last_words() -> None:
    server = scripted(
        "print('waiting for another process', flush=True); import time; time.sleep(99)"
    )
    with pytest.raises(ServerFailed, match=r"did nothing for 2 s(.|\n)*waiting for another"):
        server.start().wait_ready(timeout=2)
    assert server.process is None
    assert server.log.exists(), "the message names it"


def test_progress_shows_no_key() -> None:
    server = scripted(
        "import os, time; print(os.environ['CSPROTO_SERVER_API_KEY'], flush=True);time.sleep(99)"
    )
    said: list[str] = []
    with pytest.raises(ServerFailed):
        server.start().wait_ready(timeout=1.5, progress=said.append)
    assert any("(***)" in text for text in said)
    assert not any(server.api_key in text for text in said)


@pytest.mark.parametrize(
    ("flag", "use"),
    [
        ("--port", "--port in front of"),
        ("--api-key=secret", "CSPROTO_API_KEY"),
        ("--model-path", "--model in front of"),
        ("--admin-api-key", "made anew"),
        ("--chat-template", "chat_template.jinja"),
    ],
)
def test_a_flag_that_would_be_swallowed_is_refused(flag: str, use: str) -> None:
    with pytest.raises(ServerFailed, match=f"{flag.partition('=')[0]} cannot be given.*{use}"):
        Server(extra=[flag, "1"]).start()


def test_a_server_is_asked_where_it_listens() -> None:
    assert Server(port=1, extra=["--host", "10.0.0.7"]).base_url == "http://10.0.0.7:1"
    assert Server(port=1, extra=["--host=0.0.0.0"]).base_url == "http://127.0.0.1:1"


def test_the_log_goes_with_a_server_that_worked(tmp_path: Path) -> None:
    server = scripted(WORKS, "prints", "PORT", 0, tmp_path / "none").start().wait_ready()
    folder = server.log.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert not folder.exists()


def test_a_forked_child_does_not_end_the_server_of_its_parent(tmp_path: Path) -> None:
    server = scripted(WORKS, "prints", "PORT", 0, tmp_path / "none").start().wait_ready()
    process = server.process
    try:
        if not (child := os.fork()):
            server.__del__()
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.3)
        assert process.poll() is None
    finally:
        server.stop()


# A folder without model, and one with another form of it.


@pytest.mark.parametrize("tokenizer", ["tokenizer.model", "vocab.json"])
@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model-00001-of-00002.safetensors"])
def test_models_in_other_forms_are_started(tmp_path: Path, tokenizer: str, weights: str) -> None:
    from csproto.engine.model_folder import fault_of

    (tmp_path / "config.json").write_text("{}")
    assert "there is no tokenizer" in fault_of(tmp_path)
    (tmp_path / tokenizer).write_text("{}")
    assert "there are no weights" in fault_of(tmp_path)
    assert "csproto model build" not in fault_of(tmp_path), "it is not a model of ours"
    (tmp_path / weights).touch()
    assert fault_of(tmp_path) is None


# Which GPU serves.

SMI = """#!/bin/sh
echo "0, GPU-aa11, NVIDIA A10, 23028, 22500, 580.65.06, 8.6"
echo "1, GPU-bb22, NVIDIA H200, 143771, 143000, 580.65.06, 9.0"
"""


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver that lists two GPUs, and a torch that can use them."""
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(hardware, "torch_cuda", lambda: "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        (None, "NVIDIA A10"),
        ("1", "NVIDIA H200"),
        ("GPU-bb", "NVIDIA H200"),
        ("", None),
        ("-1", None),
        ("7,0", None),
    ],
)
def test_hidden_gpus_do_not_count(two_gpus, monkeypatch, visible, name) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.gpu_name() == name


def test_a_gpu_is_of_no_use_to_a_cpu_build_of_torch(two_gpus, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "torch_cuda", lambda: None)
    assert hardware.gpu_name() is None
    assert [gpu.capability for gpu in hardware.gpus()] == [8.6, 9.0]


def test_the_build_of_torch_is_read_without_importing_it() -> None:
    import torch

    assert hardware.torch_cuda() == torch.version.cuda
    lines = "__version__ = '2.14.1'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
    assert hardware.CUDA.search(lines)[1] == "13.0"
    assert hardware.CUDA.search(lines.replace("'13.0'", "None")) is None
