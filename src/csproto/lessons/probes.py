"""What a client sees at each limit of the server and of the page.

Every limit is reached for real. Keys in the answers are masked.
"""

import copy
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
from csproto.desk.assistant import Assistant
from csproto.engine.endpoint import CallOptions, Endpoint, EngineError
from csproto.engine.server import Server, bearer, mask
from csproto.errors import CsprotoError
from csproto.opening import desk_on
from csproto.shop.orders import OrderApi

TOO_LONG = 150_000  # characters: more tokens than the usual contexts hold
NOBODY = "http://127.0.0.1:9"  # the discard port
PATIENCE = 120.0  # seconds
HELLO = "你好"  # hello


def engine_limits(endpoint: Endpoint) -> pd.DataFrame:
    """Reach each limit of a SGLang server once.

    Returns the type of the error that is raised, and the first line of its text.
    """
    cut = 'root ::= "[" [a-z]{90} "]"'
    with deaf() as silent:
        probes: dict[str, Callable[[], Any]] = {
            "nobody at the address": lambda: Endpoint(NOBODY),
            "silent for half a second": lambda: Endpoint(silent, read_timeout=0.5),
            "another server's key": lambda: Endpoint(endpoint.base_url, "another server's key"),
            "prompt beyond the context": lambda: _generate(endpoint, "长" * TOO_LONG),
            "a grammar that is none": lambda: _generate(endpoint, HELLO, ebnf="root ::= ("),
            "a schema as an object": lambda: _generate(
                endpoint, HELLO, json_schema={"type": "object"}
            ),
            "output cut at its limit": lambda: _ask(endpoint, HELLO, tokens=2, ebnf=cut),
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
    body = {"text": text, "sampling_params": {"max_new_tokens": 1, **parameters}}
    return endpoint.post("/generate", body)


def _ask(endpoint: Endpoint, text: str, tokens: int, ebnf: str) -> None:
    """Generate with a SGLang program, in which a truncated output is an error."""
    import sglang as sgl

    @sgl.function
    def ask(s):  # type: ignore[no-untyped-def]
        s += sgl.user(text)
        s += sgl.assistant(sgl.gen("answer", max_tokens=tokens))

    ask.run(backend=endpoint.with_options(CallOptions(ebnf=ebnf)), use_thread=False)


@contextmanager
def deaf() -> Iterator[str]:
    """Yield the URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def crowd(endpoint: Endpoint, count: int, tokens: int) -> Counter[str]:
    """Send `count` requests for `tokens` tokens at the same moment, and count the outcomes."""
    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(lambda _: _outcome(endpoint, tokens), range(count)))


def _outcome(endpoint: Endpoint, tokens: int) -> str:
    body = {"text": HELLO, "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True}}
    try:
        endpoint.post("/generate", body)
    except EngineError as error:
        return f"{type(error).__name__}: {mask(str(error), endpoint.api_key or '')}"
    return "answered"


def drain(server: Server, endpoint: Endpoint, tokens: int) -> dict[str, Any]:
    """Send SIGTERM to a server while it writes an answer of `tokens` tokens.

    Returns what each client sees, and how the server ended.
    """
    assert server.process is not None, "start() first"

    def busy() -> bool:
        return any(load["num_running_reqs"] for load in endpoint.get_json("/v1/loads")["loads"])

    def ready() -> int:
        return _status("GET", f"{server.base_url}/ready", None)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_outcome, endpoint, tokens)
        _until(busy)
        os.kill(server.process.pid, signal.SIGTERM)
        began = time.monotonic()
        _until(lambda: ready() != 200)
        seen: dict[str, Any] = {"/ready": ready()}
        seen |= {"a new request": _outcome(endpoint, 1), "the answer under way": answer.result()}
    server.process.wait(PATIENCE)
    seconds = round(time.monotonic() - began, 1)
    return seen | {"gone after (s)": seconds, "exit code": server.process.returncode}


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"This has not happened within {PATIENCE:.0f} s.")
        time.sleep(0.05)


def page_limits(desk: Assistant) -> pd.DataFrame:
    """Reach each limit of the web page once.

    Returns the HTTP status, the seconds to wait, and what a visitor reads.
    """
    from fastapi.testclient import TestClient

    from csproto.web.app import create_app
    from csproto.web.limits import Limits

    english, strict = {"Accept-Language": "en"}, Limits(burst=1, per_minute=1)
    client = TestClient(create_app(desk), headers=english)
    once = TestClient(create_app(desk, limits=strict), headers=english)
    once.post("/api/chat", json={"input": ""})

    def sent(text: str, by: TestClient = client, **headers: str) -> Any:
        return by.post("/api/chat", json={"input": text}, headers=headers)

    answers = {
        "an empty message": sent(""),
        "a message too long": sent("长" * (settings.MAX_MESSAGE_CHARS + 1)),
        "a body too large": sent("长" * Limits().body),
        "no JSON object": client.post("/api/chat", json=[HELLO]),
        "a page of another site": sent(HELLO, Origin="https://elsewhere.example"),
        "too many in a minute": sent(HELLO, once),
    }
    rows = [
        (limit, a.status_code, a.headers.get("retry-after", ""), a.json()["response"])
        for limit, a in answers.items()
    ]
    columns = ["limit", "status", "retry after (s)", "says"]
    return pd.DataFrame(rows, columns=columns).set_index("limit")


def page_health(endpoint: Endpoint, orders: OrderApi) -> pd.DataFrame:
    """Ask the page's `/health` twice: with this engine, and with one that is gone.

    A server of `csproto serve` is hidden meanwhile, because the page would go on with it.
    """
    from fastapi.testclient import TestClient

    from csproto.web.app import create_app

    gone = copy.copy(endpoint)
    gone.base_url = NOBODY
    with (
        tempfile.TemporaryDirectory() as folder,
        environment("CSPROTO_STATE", f"{folder}/none.json"),
    ):
        pages = [create_app(desk_on(each, orders)) for each in (endpoint, gone)]
        answers = [TestClient(page).get("/health") for page in pages]
    rows = [(a.status_code, a.json().get("reason", ""), a.json()["versions"]) for a in answers]
    columns = ["status", "reason", "versions"]
    return pd.DataFrame(rows, index=["the engine answers", "it is gone"], columns=columns)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable of this process, and restore it afterwards."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


PATHS = {  # and the method of the request
    "/ready": "GET",
    "/health": "GET",
    "/metrics": "GET",
    "/v1/models": "GET",
    "/server_info": "GET",
    "/v1/loads": "GET",
    "/flush_cache": "POST",
}


def who_may(server: Server) -> pd.DataFrame:
    """Return the HTTP status of each path without a key, with the user's and the admin's."""
    keys = {"no key": None, "user key": server.api_key, "admin key": server.admin_key}
    rows = {
        path: {name: _status(method, server.base_url + path, key) for name, key in keys.items()}
        for path, method in PATHS.items()
    }
    return pd.DataFrame(rows).T


def _status(method: str, url: str, key: str | None) -> int:
    return urllib3.request(method, url, headers=bearer(key), timeout=30, retries=False).status


def metrics(base_url: str) -> dict[str, float]:
    """Return the server's counters and gauges by name, summed over their labels.

    Empty without `--enable-metrics`.
    """
    response = urllib3.request("GET", f"{base_url}/metrics", timeout=30, retries=False)
    found: dict[str, float] = {}
    for line in response.data.decode().splitlines() if response.status == 200 else ():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found
