"""A server behind a proxy: every answer that does not come from SGLang is told apart in words."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3

from csproto.engine.endpoint import (
    Endpoint,
    EngineBusy,
    EngineGarbled,
    EngineUnreachable,
    StopSignal,
)
from csproto.engine.running import find, read_state
from csproto.engine.server import NoServer
from csproto.errors import CsprotoError
from csproto.opening import connected

KEY = "the key"
MODEL = {"model_path": "Qwen/Qwen2.5-7B-Instruct", "served_model_name": "qwen"}


class Proxy(BaseHTTPRequestHandler):
    """Answers every path with `status` and `body`, if the key is right or none is wanted."""

    status, body, wants_key = 200, json.dumps(MODEL), False
    headers_sent: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        wrong = self.wants_key and self.headers.get("Authorization") != f"Bearer {KEY}"
        body = (b"<html>sign in</html>") if wrong else self.body.encode()
        status = 401 if wrong else self.status
        if "//" in self.path:
            status = 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if 300 <= status < 400:
            self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Proxy]]:
    """A proxy. No other server is known, and no key."""

    class Fresh(Proxy):
        url = ""

    monkeypatch.setenv("CSPROTO_STATE", str(tmp_path / "state.json"))
    monkeypatch.delenv("CSPROTO_BASE_URL", raising=False)
    monkeypatch.delenv("CSPROTO_API_KEY", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as server:
        Fresh.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Fresh
        server.shutdown()


def test_a_slash_at_the_end_of_the_url_does_no_harm(proxy, monkeypatch) -> None:
    assert find(proxy.url + "/") == (proxy.url, None)
    monkeypatch.setenv("CSPROTO_BASE_URL", proxy.url + "/")
    assert find() == (proxy.url, None)


def test_a_proxy_that_wants_a_key_gets_it(proxy, monkeypatch) -> None:
    proxy.wants_key = True
    with pytest.raises(NoServer, match=r"does not accept the API key\. Set CSPROTO_API_KEY"):
        find(proxy.url)
    monkeypatch.setenv("CSPROTO_API_KEY", KEY)
    assert find(proxy.url) == (proxy.url, KEY)


@pytest.mark.parametrize("status", [502, 504, 302, 404])
def test_a_proxy_without_a_server_behind_it_is_named(proxy, status: int) -> None:
    proxy.status, proxy.body = status, "<html><h1>Bad Gateway</h1></html>"
    with pytest.raises(NoServer, match=f"gives the status {status}.*proxy"):
        find(proxy.url)
    kind = EngineBusy if status in (502, 504) else EngineUnreachable
    with pytest.raises(kind, match=r"\(a web page\)") as told:
        Endpoint(proxy.url)
    assert "<" not in str(told.value)


def test_a_login_page_is_no_server(proxy) -> None:
    proxy.body = "<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(EngineGarbled, match="Check the URL"):
        Endpoint(proxy.url)


# The server that `csproto serve` runs has its key in the state file.


def serve_state(path: Path, url: str) -> None:
    path.write_text(json.dumps({"base_url": url, "api_key": KEY, "pid": os.getpid()}))


def test_a_key_for_another_server_is_not_sent_to_our_own(proxy, monkeypatch, tmp_path) -> None:
    serve_state(tmp_path / "state.json", proxy.url)
    monkeypatch.setenv("CSPROTO_API_KEY", "of another server")
    assert find(proxy.url) == (proxy.url, KEY)
    monkeypatch.setenv("CSPROTO_BASE_URL", proxy.url)
    assert find() == (proxy.url, KEY)


def test_a_state_file_of_another_user_is_not_believed(proxy, monkeypatch, tmp_path) -> None:
    serve_state(tmp_path / "state.json", proxy.url)
    assert read_state()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert read_state() is None
    assert (tmp_path / "state.json").exists()


def test_a_state_file_written_meanwhile_is_not_removed(proxy, monkeypatch, tmp_path) -> None:
    path = tmp_path / "state.json"
    path.write_text("half")
    read, text = Path.read_text, iter(["half", "a server that has just started"])
    monkeypatch.setattr(Path, "read_text", lambda self, *_, **__: next(text))
    assert read_state() is None
    monkeypatch.setattr(Path, "read_text", read)
    assert path.exists()


# Another model than the one that runs.


def test_another_model_than_the_one_that_runs_is_refused(proxy) -> None:
    for same in (None, "Qwen/Qwen2.5-7B-Instruct", "qwen"):
        with connected(proxy.url, same) as found:
            assert found == (proxy.url, None)
    wanted = r"Qwen3-8B is asked for.*runs Qwen/Qwen2\.5-7B-Instruct.*--model"
    with pytest.raises(CsprotoError, match=wanted), connected(proxy.url, "Qwen3-8B"):
        pass


def test_folders_are_told_apart_by_where_they_are(proxy, tmp_path) -> None:
    """Two models of ours have the same served name."""
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "training.json").touch()
    proxy.body = json.dumps({"model_path": str(ours), "served_model_name": "csproto-mini"})
    with connected(proxy.url, str(tmp_path / "other" / ".." / "ours")):
        pass
    with pytest.raises(CsprotoError, match="is asked for"), connected(proxy.url, str(other)):
        pass


# Stopping.


@pytest.mark.parametrize("when", ["before watch", "after watch"])
def test_a_stop_after_the_last_byte_is_no_error(proxy, when: str) -> None:
    stop = StopSignal()
    response = urllib3.request("GET", proxy.url, preload_content=False)
    if when == "before watch":
        response.read()
        stop.set()
        stop.watch(response)
    else:
        stop.watch(response)
        response.read()
        stop.set()
    assert stop.is_set


def test_a_stop_of_a_connection_that_was_reset_is_no_error() -> None:
    class Reset:
        def shutdown(self) -> None:
            raise OSError(107, "Transport endpoint is not connected")

    stop = StopSignal()
    stop.watch(Reset())
    stop.set()
    assert stop.is_set


def test_nobody_at_the_url_is_told_so(proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NoServer, match="csproto serve"):
        find(f"http://127.0.0.1:{port}")
