"""Finds the server that runs: the one that is named, or the one of `csproto serve`.

`csproto serve` writes into its state file how its server is reached.
"""

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import urllib3

from csproto import settings
from csproto.engine.server import NoServer, ServerFailed, answers, bearer, readiness

MODEL_INFO = ("/model_info", "/get_model_info")  # of a server, and of sglang-router


class Reached(Protocol):
    """A server, or several behind a router: how it is reached."""

    base_url: str
    api_key: str
    admin_key: str
    served_name: str


def write_state(server: Reached) -> Path:
    """Write how `server` is reached, into a file that only this user can read.

    Returns the file. Raises ServerFailed if its folder belongs to another user, who could
    read the keys or put another file in its place.
    """
    path = settings.state_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid not in (os.getuid(), 0):
        raise ServerFailed(
            f"{path.parent} belongs to another user, so the server's keys are not written there. "
            "Name a file of your own in CSPROTO_STATE."
        )
    state = {
        "base_url": server.base_url,
        "api_key": server.api_key,
        "admin_key": server.admin_key,
        "pid": os.getpid(),
        "model": server.served_name,
    }
    temporary = path.with_suffix(f".{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # never into a file that was there before
    with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
        file.write(json.dumps(state))
    temporary.replace(path)
    return path


def read_state() -> dict[str, str] | None:
    """Return the content of the state file, or None if no server answers.

    The file is removed only if the process that wrote it is gone, or if the file does
    not say which process that is. A server that is slow, stalled or full keeps its
    file, because callers come back to it. A file of another user is not believed.
    """
    path = settings.state_file()
    try:
        if path.stat().st_uid != os.getuid():
            return None
        text = path.read_text()
    except OSError:
        return None  # no file, or it cannot be read right now: too many open files, say
    try:
        state: dict[str, str] = json.loads(text)
        base_url, alive = state["base_url"], _is_alive(int(state["pid"]))
    except (ValueError, KeyError, TypeError):
        alive = False
    if not alive:
        with suppress(OSError):
            if path.read_text() == text:  # a server may have started since
                path.unlink()
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

    The key of the server that `csproto serve` runs comes from the state file, that of
    any other server from `CSPROTO_API_KEY`.

    Raises NoServer if a server is named, here or in `CSPROTO_BASE_URL`, and does not
    answer.
    """
    if url := (base_url or settings.base_url() or "").rstrip("/"):
        state = read_state()
        ours = state and state["base_url"] == url
        key = state["api_key"] if state and ours else settings.api_key()
        if (status := readiness(url, key=key)) != 200:
            raise NoServer(_why_not(url, status))
        return url, key
    if state := read_state():
        return state["base_url"], state["api_key"]
    return None


def _why_not(url: str, status: int) -> str:
    """Return why the server at a URL cannot be used, by the status of its answer."""
    if status in (401, 403):
        return (
            f"What answers at {url} does not accept the API key. Set CSPROTO_API_KEY to the key "
            "of the server, or of the proxy in front of it."
        )
    if status in (0, 503):
        found = "" if status == 0 else " It answers that it is still starting, or has stalled."
        return (
            f"No SGLang server is ready at {url}.{found} "
            "Start one with `csproto serve`, or check the URL."
        )
    return (
        f"No SGLang server is ready at {url}: what answers there gives the status {status}. "
        "Check the URL, and the proxy if there is one: does it reach the server?"
    )


def running_model(base_url: str, key: str | None = None) -> dict[str, str]:
    """Return what a server says of its model (`/model_info`); nothing if it does not say."""
    with suppress(urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
        for path in MODEL_INFO:
            url = f"{base_url}{path}"
            found = urllib3.request("GET", url, timeout=5.0, retries=False, headers=bearer(key))
            if found.status != 404:
                return {name: str(value) for name, value in found.json().items()}
    return {}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
