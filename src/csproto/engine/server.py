"""Start, await and stop a SGLang server, or attach to a running one. A server started here never outlives its owner."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3

from csproto import settings
from csproto.errors import CsprotoError

CPU_FLAGS = (
    "--device",
    "cpu",
    "--max-total-tokens",
    "32768",
    "--sleep-on-idle",
)  # the KV pool is zeroed at start: no larger than needed; an idle server leaves the cores alone
WAKING = 3.0  # seconds to wait for `/health`; SGLang answers it after one when all is well
Progress = Callable[[str], None]

_pool = urllib3.PoolManager(maxsize=64, retries=False)  # many visitors of the page ask at once
_waking = threading.Lock()
_woken_at: dict[str, float] = {}


class ServerFailed(CsprotoError):
    """The server did not start, or ended before it was ready."""


class NoServer(CsprotoError):
    """Nothing to attach to."""


class Server:
    """A SGLang server process of our own.

    model: a folder or a hub id. port 0 takes a free one. extra: further flags for `sglang.launch_server`.
    Use as a context manager, or call `start`, `wait_ready` and `stop`.
    """

    product, ready_path, usual_start = "SGLang", "/ready", "15 to 45 s"

    def __init__(
        self,
        model: str | Path = settings.MINI_MODEL,
        *,
        port: int = 0,
        extra: Sequence[str] = (),
        served_name: str | None = None,
        log: Path | None = None,
    ) -> None:
        self.model, self.extra = str(model), list(extra)
        self.port = port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.served_name = served_name or name_of(self.model)
        self.api_key, self.admin_key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.log = log or Path(tempfile.mkdtemp(prefix="csproto-")) / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.startup_seconds: float | None = None

    def command(self) -> list[str]:
        """The command line. Keys are not in it: they travel in the environment."""
        flags = [
            "--model-path",
            self.model,
            "--served-model-name",
            self.served_name,
            "--port",
            str(self.port),
            "--skip-server-warmup",
        ]
        return [sys.executable, "-m", "csproto.engine.launch", *flags, *(() if gpu_name() else CPU_FLAGS), *self.extra]

    def start(self) -> Self:
        """Start the process; returns at once. Raises ServerFailed for a folder that holds no model, or a port in use."""
        self._check()
        self.log.touch(mode=0o600)
        keys = {"CSPROTO_SERVER_API_KEY": self.api_key, "CSPROTO_SERVER_ADMIN_KEY": self.admin_key}
        environment = {
            **os.environ,
            **keys,
            "CSPROTO_OWNER": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1" if Path(self.model).is_dir() else "0"),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return self

    def wait_ready(self, timeout: float = 180.0, progress: Progress | None = None) -> Self:
        """Wait until the server answers. `progress` gets one line a second.

        Raises ServerFailed with the last log lines at once when the process dies, or after `timeout` seconds.
        """
        assert self.process is not None, "start() first"
        began = time.monotonic()
        while not answers(self.base_url, path=self.ready_path):
            seconds = time.monotonic() - began
            if self.process.poll() is not None:
                raise ServerFailed(
                    f"The {self.product} server ended while it was starting (exit code {self.process.returncode}). {self._log_hint()}"
                )
            if seconds > timeout:
                self.stop()
                raise ServerFailed(
                    f"The {self.product} server was not ready after {timeout:.0f} s and was stopped. {self._log_hint()}"
                )
            if progress:
                progress(
                    f"starting {self.product} with {self.served_name}: {seconds:.0f} s (about {self.usual_start} on a CPU)"
                )
            time.sleep(0.2)
        self.startup_seconds = time.monotonic() - began
        return self

    def stop(self) -> None:
        """End the server and everything it started."""
        if self.process is None:
            return
        for sign, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                break
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # children that outlived the launcher
        self.process = None

    def __enter__(self) -> Self:
        try:
            return self.start().wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        self.stop()

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's log, keys masked."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return mask("\n".join(text.splitlines()[-lines:]), self.api_key, self.admin_key)

    def _log_hint(self) -> str:
        return f"Last lines of its log ({self.log}):\n{self.log_tail()}"

    def _check(self) -> None:
        """Find what can be known to be wrong before half a minute is spent on it."""
        folder = Path(self.model)
        if folder.is_dir() or self.model.startswith((".", "/")):
            for name in ("config.json", "tokenizer.json"):
                try:
                    json.loads((folder / name).read_text(encoding="utf-8"))
                except (OSError, ValueError) as error:
                    raise ServerFailed(
                        f"{folder} holds no usable model: {name} is missing or damaged ({type(error).__name__}). Rebuild it with `csproto model build`, or name another model."
                    ) from error
            if not any(folder.glob("*.safetensors")):
                raise ServerFailed(
                    f"{folder} holds no weights (*.safetensors). Rebuild it with `csproto model build`, or name another model."
                )
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise ServerFailed(
                    f"Port {self.port} is in use. Name another one with --port, or leave it out to take a free one."
                )


def name_of(model: str) -> str:
    """The name a model is served under: one that `csproto model build` made is known by the record beside its weights."""
    return "csproto-mini" if (Path(model) / "training.json").is_file() else model


def free_port() -> int:
    """A TCP port of the loopback interface that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(base_url: str, timeout: float = 2.0, path: str = "/ready") -> bool:
    """Whether a server at this URL says it is ready.

    SGLang's `/ready` needs no key and costs nothing. A server that has once stalled for
    20 s answers 503 there until somebody asks its `/health`, however well it works
    again. So a 503 is not believed before `/health` has been asked too.
    Takes milliseconds for a server that is ready or gone, up to `timeout` for a silent
    one, and up to WAKING seconds more for one that has stalled.
    """
    status = _status(base_url + path, timeout)
    if status == 503 and path == Server.ready_path:
        _wake(base_url)
        status = _status(base_url + path, timeout)
    return status == 200


def _status(url: str, timeout: float) -> int:
    """The status a GET is answered with; 0 when there is no answer."""
    with suppress(urllib3.exceptions.HTTPError, OSError):
        return _pool.request("GET", url, timeout=timeout).status
    return 0


def _wake(base_url: str) -> None:
    """Ask `/health`, which generates a token and by that makes `/ready` true again.

    Callers that come at once, or within a second, share one question. One that is asked
    too early is not lost: the server goes on with it for 20 s, whether we wait or not.
    """
    came_at = time.monotonic()
    with _waking:
        if _woken_at.get(base_url, float("-inf")) < came_at - 1:
            _status(f"{base_url}/health", WAKING)
            _woken_at[base_url] = time.monotonic()


def bearer(key: str | None) -> dict[str, str]:
    """The header that shows a key; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def gpu_name() -> str | None:
    """The first NVIDIA GPU, or None. Asked of the driver: importing torch only for this would take seconds."""
    with suppress(OSError, subprocess.SubprocessError):
        out = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        return out.splitlines()[0].strip() if out.strip() else None
    return None


def mask(text: str, *keys: str) -> str:
    """The text with every key replaced, and whatever stands where SGLang's log prints keys."""
    for key in filter(None, keys):
        text = text.replace(key, "***")
    return re.sub(r"(api_key'?\"?[=:]\s*)(['\"])(?!\*)[^'\"]+\2", r"\1\2***\2", text)


# -- the state file: how other commands find the server that `csproto serve` runs


def write_state(server: Server) -> Path:
    """Say how `server` is reached, in a file only this user can read."""
    path = settings.state_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = {
        "base_url": server.base_url,
        "api_key": server.api_key,
        "admin_key": server.admin_key,
        "pid": os.getpid(),
        "model": server.served_name,
    }
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(state))
    temporary.replace(path)
    return path


def read_state() -> dict[str, str] | None:
    """The server that `csproto serve` runs, or None when there is none or it does not answer.

    The file is removed only when its process is gone, or when it names none: a server
    that is slow, stalled or full is still the one to come back to.
    """
    path = settings.state_file()
    try:
        state: dict[str, str] = json.loads(path.read_text())
        base_url, alive = state["base_url"], _is_alive(int(state["pid"]))
    except OSError:
        return None  # no file, or none that can be read right now: too many open files, say
    except (ValueError, KeyError, TypeError):
        alive = False
    if not alive:
        path.unlink(missing_ok=True)
        return None
    return state if answers(base_url) else None


def remove_state() -> None:
    """Remove the state file, unless it is another process's by now."""
    path = settings.state_file()
    with suppress(OSError, ValueError, KeyError, TypeError):
        if int(json.loads(path.read_text())["pid"]) == os.getpid():
            path.unlink(missing_ok=True)


def find(base_url: str | None = None) -> tuple[str, str | None] | None:
    """URL and key of the server to use: the one named, else `CSPROTO_BASE_URL`, else the state file's; None when there is none.

    Raises NoServer when a named one does not answer.
    """
    if url := base_url or settings.base_url():
        if not answers(url):
            raise NoServer(f"No SGLang server is ready at {url}. Start one with `csproto serve`, or check the URL.")
        state = read_state()
        key = state["api_key"] if state and state["base_url"] == url else None
        return url, settings.api_key() or key
    if state := read_state():
        return state["base_url"], state["api_key"]
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
