"""Starts, awaits and stops a SGLang server, and asks whether one is ready.

A server that is started here never outlives the process that started it.
"""

import os
import re
import secrets
import shutil
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
from csproto.engine.model_folder import fault_of, name_of
from csproto.engine.start import Watch, tail
from csproto.errors import CsprotoError

# Flags of SGLang that this class sets itself, and what sets them instead.
OURS = {
    "--port": "--port in front of `--`",
    "--model": "--model in front of `--`",
    "--model-path": "--model in front of `--`",
    "--api-key": "the environment variable CSPROTO_API_KEY: every user of the machine can read "
    "a command line",
    "--admin-api-key": "nothing: it is made anew for each server",
    "--chat-template": "a file chat_template.jinja in data/models/NAME, where NAME is the last "
    "part of the model's id or path: the desk writes the messages itself",
}
ROUTER_READY = "/readiness"  # 200 while at least one worker is well
WAKING = 3.0  # seconds to wait for `/health`; SGLang answers it after one second if all is well
SHOWN = 90  # characters of a line of the log, as progress
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
    extra: further flags for `sglang.launch_server`. With `--host`, the server listens
        there too.
    api_key: the key that callers need; a random one unless given.
    served_name: the name that the server gives its model; see `name_of` for the
        default.
    log: the file for the server's output; a new one in a temporary folder unless given.
    """

    product, ready_path = "SGLang", "/ready"

    def __init__(
        self,
        model: str | Path = settings.MINI_MODEL,
        *,
        port: int = 0,
        extra: Sequence[str] = (),
        api_key: str | None = None,
        served_name: str | None = None,
        log: Path | None = None,
    ) -> None:
        self.model, self.extra = str(model), list(extra)
        self.port = port or free_port()
        self.base_url = f"http://{_host(self.extra)}:{self.port}"
        self.served_name = served_name or name_of(self.model)
        self.api_key = api_key or secrets.token_urlsafe(24)
        self.admin_key = secrets.token_urlsafe(24)
        scratch = Path(tempfile.gettempdir()) / f"csproto-{secrets.token_hex(8)}"
        self.log, self._own_log = log or scratch / "server.log", log is None
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self.startup_seconds: float | None = None

    def command(self) -> list[str]:
        """Return the command line. The keys are not in it; the environment has them."""
        words = [sys.executable, "-m", "csproto.engine.launch"]
        words += ["--model-path", self.model, "--served-model-name", self.served_name]
        words += ["--port", str(self.port), "--skip-server-warmup"]
        return [*words, *self.extra]

    def start(self) -> Self:
        """Start the process, and return at once.

        Raises ServerFailed if the folder has no usable model, if the port is in use, or if a
        flag cannot be given.
        """
        self._check()
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
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
        """Wait until the server answers, however long it takes to download and load its model.

        timeout: the seconds for which the server may do nothing, see `Watch`.
        progress: called about five times a second with the last line of the log.

        Raises ServerFailed with the last lines of the log: at once if the process ends,
        and after `timeout`, when the process is stopped.
        """
        assert self.process is not None, "start() first"
        began, watch = time.monotonic(), Watch(self.process.pid, self.log)
        while not answers(self.base_url, path=self.ready_path):
            if self.process.poll() is not None:
                raise ServerFailed(
                    f"The {self.product} server ended while it was starting "
                    f"(exit code {self.process.returncode}). {self._log_hint()}"
                )
            if watch.silent() > timeout:
                self.stop()
                raise ServerFailed(
                    f"The {self.product} server did nothing for {timeout:.0f} s while it was "
                    f"starting, and was stopped. {self._log_hint()}"
                )
            if progress:
                seconds = time.monotonic() - began
                progress(
                    f"starting {self.product} with {self.served_name}: {seconds:.0f} s "
                    f"({self.log_tail(1)[:SHOWN] or 'no output yet'})"
                )
            time.sleep(0.2)
        self.startup_seconds = time.monotonic() - began
        return self

    def watch(self) -> None:
        """Wait until the process ends. Raises ServerFailed then."""
        assert self.process is not None, "start() first"
        code = self.process.wait()
        raise ServerFailed(
            f"The {self.product} ended by itself (exit code {code}). {self._log_hint()}"
        )

    def stop(self) -> None:
        """End the server and every process that it started.

        The log stays if the server failed; it is removed with its temporary folder if the
        server ran until now.
        """
        if self.process is None:
            return
        ran = self.startup_seconds is not None and self.process.poll() is None
        for sign, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                break
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # children that outlived the launcher
        self.process = None
        if ran and self._own_log:
            shutil.rmtree(self.log.parent, ignore_errors=True)

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
        # A process that was forked from the owner has this object too, and may end first.
        if getattr(self, "_owner", None) == os.getpid():
            self.stop()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the server's log, with the keys masked."""
        return mask("\n".join(tail(self.log, lines)), self.api_key, self.admin_key)

    def _log_hint(self) -> str:
        return f"Last lines of its log ({self.log}):\n{self.log_tail()}"

    def _check(self) -> None:
        """Raise ServerFailed for faults that can be found before a start of half a minute."""
        for word in self.extra:
            if other := OURS.get(word.partition("=")[0]):
                raise ServerFailed(f"{word.partition('=')[0]} cannot be given here. Use {other}.")
        self._check_model()
        with socket.socket() as probe:
            if probe.connect_ex((_host(self.extra), self.port)) == 0:
                raise ServerFailed(
                    f"Port {self.port} is in use. Name another one with --port, "
                    "or leave it out to take a free one."
                )

    def _check_model(self) -> None:
        folder = Path(self.model)
        named_as_path = self.model.startswith((".", "/")) and not folder.is_file()
        if (folder.is_dir() or named_as_path) and (fault := fault_of(folder)):
            raise ServerFailed(fault)


def _host(extra: Sequence[str]) -> str:
    """Return where a server with these flags is reached from this machine."""
    words = [word for flag in extra for word in flag.split("=", 1)]
    host = words[words.index("--host") + 1] if "--host" in words[:-1] else "127.0.0.1"
    return "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(
    base_url: str, timeout: float = 2.0, path: str = "/ready", key: str | None = None
) -> bool:
    """Return whether a server at this URL says that it is ready.

    SGLang's `/ready` needs no key and costs nothing; a proxy in front of it may want
    the `key`. But once a server has stalled for 20 s, it answers 503 there until
    somebody asks its `/health`, even if it works again. So after a 503 `/health` is
    asked too, and then `/ready` again.

    Takes milliseconds if the server is ready or gone, up to `timeout` seconds if it is
    silent, and up to WAKING seconds more if it has stalled.
    """
    return readiness(base_url, timeout, path, key) == 200


def readiness(
    base_url: str, timeout: float = 2.0, path: str = "/ready", key: str | None = None
) -> int:
    """Return the status that a server gives when asked whether it is ready; 0 for none."""
    status = _status(base_url + path, timeout, key)
    if status == 404 and path == Server.ready_path:  # sglang-router has another path
        return _status(base_url + ROUTER_READY, timeout, key)
    if status == 503 and path == Server.ready_path:
        _wake(base_url, key)
        status = _status(base_url + path, timeout, key)
    return status


def _status(url: str, timeout: float, key: str | None) -> int:
    """Return the status of the answer to a GET, or 0 if there is no answer."""
    with suppress(urllib3.exceptions.HTTPError, OSError):
        return _pool.request("GET", url, timeout=timeout, headers=bearer(key)).status
    return 0


def _wake(base_url: str, key: str | None) -> None:
    """Ask `/health`, which generates a token and thereby makes `/ready` true again.

    Callers that come at the same time, or within a second, share one request. A request
    that comes too early is not lost: the server works on it for 20 s, whether we wait
    or not.
    """
    came_at = time.monotonic()
    with _waking:
        if _woken_at.get(base_url, float("-inf")) < came_at - 1:
            _status(f"{base_url}/health", WAKING, key)
            _woken_at[base_url] = time.monotonic()


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that carries a key; no header without a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def mask(text: str, *keys: str) -> str:
    """Replace the keys in a text by `***`, and any value that SGLang's log prints as a key."""
    for key in filter(None, keys):
        text = text.replace(key, "***")
    return re.sub(r"(api_key'?\"?[=:]\s*)(['\"])(?!\*)[^'\"]+\2", r"\1\2***\2", text)
