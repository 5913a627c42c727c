"""What a client sees at each limit. Every limit is run into for real, and what came back is kept with the keys masked."""

import os
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pandas as pd
import urllib3

from csproto import settings
from csproto.assistant import Assistant
from csproto.engine.endpoint import CallOptions, Endpoint, EngineError
from csproto.engine.server import Server, bearer, mask
from csproto.errors import CsprotoError

TOO_LONG = 150_000  # characters: more tokens than the usual contexts hold
NOBODY = "http://127.0.0.1:9"  # the discard port
PATIENCE = 120.0  # seconds


def engine_limits(endpoint: Endpoint) -> pd.DataFrame:
    """Run into each limit of a SGLang server once: the type of the error raised, and what it says."""
    with deaf() as silent:
        probes: dict[str, Callable[[], Any]] = {
            "nobody at the address": lambda: Endpoint(NOBODY),
            "silent for half a second": lambda: Endpoint(silent, read_timeout=0.5),
            "another server's key": lambda: Endpoint(endpoint.base_url, "another server's key"),
            "prompt beyond the context": lambda: _generate(endpoint, "长" * TOO_LONG),
            "a grammar that is none": lambda: _generate(endpoint, "你好", ebnf="root ::= ("),
            "a schema as an object": lambda: _generate(endpoint, "你好", json_schema={"type": "object"}),
            "output cut at its limit": lambda: _ask(endpoint, "你好", tokens=2, ebnf='root ::= "[" [a-z]{90} "]"'),
        }
        rows = [(limit, *_seen(probe, endpoint.api_key or "")) for limit, probe in probes.items()]
    return pd.DataFrame(rows, columns=["limit", "raised", "says"]).set_index("limit")


def _seen(call: Callable[[], Any], *keys: str) -> tuple[str, str]:
    try:
        call()
    except CsprotoError as error:
        return type(error).__name__, mask(str(error), *keys).splitlines()[0]
    return "nothing", "answered"


def _generate(endpoint: Endpoint, text: str, **parameters: Any) -> bytes:
    return endpoint.post("/generate", {"text": text, "sampling_params": {"max_new_tokens": 1, **parameters}})


def _ask(endpoint: Endpoint, text: str, tokens: int, ebnf: str) -> None:
    """A generation through the DSL, where a truncated output is an error."""
    import sglang as sgl

    @sgl.function
    def ask(s):  # type: ignore[no-untyped-def]
        s += sgl.user(text)
        s += sgl.assistant(sgl.gen("answer", max_tokens=tokens))

    ask.run(backend=endpoint.with_options(CallOptions(ebnf=ebnf)), use_thread=False)


@contextmanager
def deaf() -> Iterator[str]:
    """The URL of somebody who accepts calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def crowd(endpoint: Endpoint, count: int, tokens: int) -> Counter[str]:
    """Send `count` generations of `tokens` tokens at the same moment, and count what became of them."""
    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(lambda _: _outcome(endpoint, tokens), range(count)))


def _outcome(endpoint: Endpoint, tokens: int) -> str:
    body = {"text": "你好", "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True}}
    try:
        endpoint.post("/generate", body)
    except EngineError as error:
        return f"{type(error).__name__}: {mask(str(error), endpoint.api_key or '')}"
    return "answered"


def drain(server: Server, endpoint: Endpoint, tokens: int) -> dict[str, Any]:
    """End a server with SIGTERM while it writes `tokens` tokens for somebody, and tell what each client sees."""
    assert server.process is not None, "start() first"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_outcome, endpoint, tokens)
        _until(lambda: any(load["num_running_reqs"] for load in endpoint.get_json("/v1/loads")["loads"]))
        os.kill(server.process.pid, signal.SIGTERM)
        began = time.monotonic()
        _until(lambda: _status("GET", f"{server.base_url}/ready", None) != 200)
        seen: dict[str, Any] = {"/ready": _status("GET", f"{server.base_url}/ready", None)}
        seen |= {"a new request": _outcome(endpoint, 1), "the answer under way": answer.result()}
    server.process.wait(PATIENCE)
    return seen | {"gone after (s)": round(time.monotonic() - began, 1), "exit code": server.process.returncode}


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"What was waited for has not come about in {PATIENCE:.0f} s.")
        time.sleep(0.05)


def page_limits(assistant: Assistant) -> pd.DataFrame:
    """Run into each limit of the web page once: the HTTP status, when to come back, and what a visitor reads."""
    from fastapi.testclient import TestClient

    from csproto.web.app import create_app
    from csproto.web.limits import Limits

    client = TestClient(create_app(assistant), headers={"Accept-Language": "en"})
    once = TestClient(create_app(assistant, limits=Limits(burst=1, per_minute=1)), headers={"Accept-Language": "en"})
    once.post("/api/chat", json={"input": ""})
    stranger = {"Origin": "https://elsewhere.example"}
    answers = {
        "an empty message": client.post("/api/chat", json={"input": ""}),
        "a message too long": client.post("/api/chat", json={"input": "长" * (settings.MAX_MESSAGE_CHARS + 1)}),
        "a body too large": client.post("/api/chat", json={"input": "长" * Limits.body}),
        "no JSON object": client.post("/api/chat", json=["你好"]),
        "a page of another site": client.post("/api/chat", json={"input": "你好"}, headers=stranger),
        "too many in a minute": once.post("/api/chat", json={"input": "你好"}),
    }
    rows = [
        (limit, a.status_code, a.headers.get("retry-after", ""), a.json()["response"]) for limit, a in answers.items()
    ]
    return pd.DataFrame(rows, columns=["limit", "status", "retry after (s)", "says"]).set_index("limit")


def page_health(assistant: Assistant) -> pd.DataFrame:
    """What `/health` of the page says with this engine, and with one that is gone. A server that `csproto serve` runs is out of sight meanwhile: the page would turn to it."""
    from fastapi.testclient import TestClient

    from csproto.web.app import create_app

    lost = Assistant(assistant.endpoint.with_options(CallOptions()), assistant.orders)
    lost.endpoint.base_url = NOBODY
    with tempfile.TemporaryDirectory() as folder, environment("CSPROTO_STATE", f"{folder}/none.json"):
        answers = [TestClient(create_app(each)).get("/health") for each in (assistant, lost)]
    rows = [(answer.status_code, answer.json().get("reason", ""), answer.json()["versions"]) for answer in answers]
    return pd.DataFrame(rows, index=["the engine answers", "it is gone"], columns=["status", "reason", "versions"])


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """With an environment variable set to this, for this process; afterwards it is as it was."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


DOORS = {  # path to the verb it is asked with
    "/ready": "GET",
    "/health": "GET",
    "/metrics": "GET",
    "/v1/models": "GET",
    "/server_info": "GET",
    "/v1/loads": "GET",
    "/flush_cache": "POST",
}


def doors(server: Server) -> pd.DataFrame:
    """The status each path answers with: without a key, with the user's, with the administrator's."""
    keys = {"no key": None, "user key": server.api_key, "admin key": server.admin_key}
    rows = {
        path: {name: _status(verb, server.base_url + path, key) for name, key in keys.items()}
        for path, verb in DOORS.items()
    }
    return pd.DataFrame(rows).T


def _status(verb: str, url: str, key: str | None) -> int:
    return urllib3.request(verb, url, headers=bearer(key), timeout=30, retries=False).status


def metrics(base_url: str) -> dict[str, float]:
    """The server's counters and gauges by name, summed over their labels. Empty without `--enable-metrics`."""
    response = urllib3.request("GET", f"{base_url}/metrics", timeout=30, retries=False)
    found: dict[str, float] = {}
    for line in response.data.decode().splitlines() if response.status == 200 else ():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found
