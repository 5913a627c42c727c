"""Starts, awaits and stops a SGLang server, or finds one that is running.

A server that is started here never outlives the process that started it.
"""

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

# The KV pool is filled with zeros at the start, so it is no larger than needed. With
# --sleep-on-idle, an idle server leaves the cores to others.
CPU_FLAGS = ("--device", "cpu", "--max-total-tokens", "32768", "--sleep-on-idle")
WAKING = 3.0  # seconds to wait for `/health`; SGLang answers it after one second if all is well
Progress = Callable[[str], None]  # gets one line of text for the user

_pool = urllib3.PoolManager(maxsize=64, retries=False)  # many visitors of the page ask at once
_waking = threading.Lock()
_woken_at: dict[str, float] = {}  # base URL to the time when `/health` was last asked


class ServerFailed(CsprotoError):
    """The server did not start, or ended before it was ready."""


class NoServer(CsprotoError):
    """The server that was named does not answer."""


class Server:
    """A SGLang server process. Use it as a context manager, or call its methods.

    model: a model folder, or the id of a model on the Hugging Face hub.
    port: 0 takes a free one.
    extra: further flags for `sglang.launch_server`.
    served_name: the name that the server gives its model; see `name_of` for the
        default.
    log: the file for the server's output; a new one in a temporary folder unless given.
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
        """Return the command line. The keys are not in it; the environment has them."""
        words = [sys.executable, "-m", "csproto.engine.launch"]
        words += ["--model-path", self.model, "--served-model-name", self.served_name]
        words += ["--port", str(self.port), "--skip-server-warmup"]
        return [*words, *(() if gpu_name() else CPU_FLAGS), *self.extra]

    def start(self) -> Self:
        """Start the process, and return at once.

        Raises ServerFailed if the folder has no usable model, or if the port is in use.
        """
        self._check()
        self.log.touch(mode=0o600)
        offline = "1" if Path(self.model).is_dir() else "0"
        environment = {
            **os.environ,
            "CSPROTO_SERVER_API_KEY": self.api_key,
            "CSPROTO_SERVER_ADMIN_KEY": self.admin_key,
            "CSPROTO_OWNER": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", offline),
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
        """Wait until the server answers.

        timeout: in seconds.
        progress: called about five times a second.

        Raises ServerFailed with the last lines of the log: at once if the process ends,
        and after `timeout`, when the process is stopped.
        """
        assert self.process is not None, "start() first"
        began = time.monotonic()
        while not answers(self.base_url, path=self.ready_path):
            seconds = time.monotonic() - began
            if self.process.poll() is not None:
                raise ServerFailed(
                    f"The {self.product} server ended while it was starting "
                    f"(exit code {self.process.returncode}). {self._log_hint()}"
                )
            if seconds > timeout:
                self.stop()
                raise ServerFailed(
                    f"The {self.product} server was not ready after {timeout:.0f} s and was "
                    f"stopped. {self._log_hint()}"
                )
            if progress:
                progress(
                    f"starting {self.product} with {self.served_name}: {seconds:.0f} s "
                    f"(about {self.usual_start} on a CPU)"
                )
            time.sleep(0.2)
        self.startup_seconds = time.monotonic() - began
        return self

    def stop(self) -> None:
        """End the server and every process that it started."""
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
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        self.stop()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the server's log, with the keys masked."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return mask("\n".join(text.splitlines()[-lines:]), self.api_key, self.admin_key)

    def _log_hint(self) -> str:
        return f"Last lines of its log ({self.log}):\n{self.log_tail()}"

    def _check(self) -> None:
        """Raise ServerFailed for faults that can be found before a start of half a minute."""
        folder = Path(self.model)
        if folder.is_dir() or self.model.startswith((".", "/")):
            _check_model(folder)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise ServerFailed(
                    f"Port {self.port} is in use. Name another one with --port, "
                    "or leave it out to take a free one."
                )


def _check_model(folder: Path) -> None:
    """Raise ServerFailed if a folder has no readable config, tokenizer or weights."""
    for name in ("config.json", "tokenizer.json"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ServerFailed(
                f"{folder} holds no usable model: {name} is missing or damaged "
                f"({type(error).__name__}). Rebuild it with `csproto model build`, "
                "or name another model."
            ) from error
    if not any(folder.glob("*.safetensors")):
        raise ServerFailed(
            f"{folder} holds no weights (*.safetensors). "
            "Rebuild it with `csproto model build`, or name another model."
        )


def name_of(model: str) -> str:
    """Return the name under which a model is served.

    It is `csproto-mini` for a model that `csproto model build` made, which has a record
    of its training beside its weights, and the model's folder or id for any other.
    """
    return "csproto-mini" if (Path(model) / "training.json").is_file() else model


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(base_url: str, timeout: float = 2.0, path: str = "/ready") -> bool:
    """Return whether a server at this URL says that it is ready.

    SGLang's `/ready` needs no key and costs nothing. But once a server has stalled for
    20 s, it answers 503 there until somebody asks its `/health`, even if it works
    again. So after a 503 `/health` is asked too, and then `/ready` again.

    Takes milliseconds if the server is ready or gone, up to `timeout` seconds if it is
    silent, and up to WAKING seconds more if it has stalled.
    """
    status = _status(base_url + path, timeout)
    if status == 503 and path == Server.ready_path:
        _wake(base_url)
        status = _status(base_url + path, timeout)
    return status == 200


def _status(url: str, timeout: float) -> int:
    """Return the status of the answer to a GET, or 0 if there is no answer."""
    with suppress(urllib3.exceptions.HTTPError, OSError):
        return _pool.request("GET", url, timeout=timeout).status
    return 0


def _wake(base_url: str) -> None:
    """Ask `/health`, which generates a token and thereby makes `/ready` true again.

    Callers that come at the same time, or within a second, share one request. A request
    that comes too early is not lost: the server works on it for 20 s, whether we wait
    or not.
    """
    came_at = time.monotonic()
    with _waking:
        if _woken_at.get(base_url, float("-inf")) < came_at - 1:
            _status(f"{base_url}/health", WAKING)
            _woken_at[base_url] = time.monotonic()


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that carries a key; no header without a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def gpu_name() -> str | None:
    """Return the name of the first NVIDIA GPU, or None.

    The driver is asked, because importing torch only for this would take seconds.
    """
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
    """Replace the keys in a text by `***`, and any value that SGLang's log prints as a key."""
    for key in filter(None, keys):
        text = text.replace(key, "***")
    return re.sub(r"(api_key'?\"?[=:]\s*)(['\"])(?!\*)[^'\"]+\2", r"\1\2***\2", text)


# The state file, by which other commands find the server that `csproto serve` runs.


def write_state(server: Server) -> Path:
    """Write how `server` is reached, into a file that only this user can read.

    Returns the file.
    """
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
    """Return the content of the state file, or None if no server answers.

    A file that another user made is passed over.

    The file is removed only if the process that wrote it is gone, or if the file does
    not say which process that is. A server that is slow, stalled or full keeps its
    file, because callers come back to it.
    """
    path = settings.state_file()
    try:
        if path.stat().st_uid not in (os.getuid(), 0):
            return None  # whoever made the file could send customers to a server of theirs
        state: dict[str, str] = json.loads(path.read_text())
        base_url, alive = state["base_url"], _is_alive(int(state["pid"]))
    except OSError:
        return None  # no file, or it cannot be read right now: too many open files, say
    except (ValueError, KeyError, TypeError):
        alive = False
    if not alive:
        path.unlink(missing_ok=True)
        return None
    return state if answers(base_url) else None


def remove_state() -> None:
    """Remove the state file, unless another process has written it since."""
    path = settings.state_file()
    with suppress(OSError, ValueError, KeyError, TypeError):
        if int(json.loads(path.read_text())["pid"]) == os.getpid():
            path.unlink(missing_ok=True)


def find(base_url: str | None = None) -> tuple[str, str | None] | None:
    """Return URL and key of the server to use, or None if there is none.

    base_url: the server to use. Unless given, it is the one in `CSPROTO_BASE_URL`, or
        else the one in the state file.

    Raises NoServer if a server is named, here or in `CSPROTO_BASE_URL`, and does not
    answer.
    """
    if url := base_url or settings.base_url():
        if not answers(url):
            raise NoServer(
                f"No SGLang server is ready at {url}. "
                "Start one with `csproto serve`, or check the URL."
            )
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
