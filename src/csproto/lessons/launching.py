"""Watches a server while it starts: when it is ready, and what a launch costs."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import urllib3

from csproto.engine.endpoint import Endpoint
from csproto.engine.running import find
from csproto.engine.server import NoServer, Server, bearer
from csproto.measure.bench.machine import hardware, memory_mb, processes
from csproto.settings import DATA, MINI_MODEL, SGLANG_VERSION

PROBES = ("/model_info", "/ready", "/health")
RECORDED = DATA / "measured" / "launches.json"

# Each variant is one change to the launch of `csproto serve` on a CPU.
VARIANTS: dict[str, tuple[str, ...]] = {
    "as csproto serve": (),
    "--max-total-tokens 4096": ("--max-total-tokens", "4096"),
    "--max-total-tokens 262144": ("--max-total-tokens", "262144"),
    "--context-length 1024": ("--context-length", "1024"),
    "--max-running-requests 4": ("--max-running-requests", "4"),
    "--grammar-backend llguidance": ("--grammar-backend", "llguidance"),
    "--disable-radix-cache": ("--disable-radix-cache",),
    "--enable-metrics": ("--enable-metrics",),
    "--log-level error": ("--log-level", "error"),
}

# Flag, the field of /server_info that shows what the server made of it, and what it is for.
FLAGS: tuple[tuple[str, str, str], ...] = (
    ("--model-path", "model_path", "a folder with config, tokenizer and weights, or a hub id"),
    ("--served-model-name", "served_model_name", "the name clients ask for"),
    ("--host", "host", "127.0.0.1 keeps it on this machine; 0.0.0.0 shows it to the network"),
    ("--port", "port", "30000 unless named; we take a free one"),
    ("--tp", "tp_size", "GPUs that share one model"),
    ("--device", "device", "cpu here; a GPU is found by itself"),
    (
        "--mem-fraction-static",
        "mem_fraction_static",
        "share of memory for weights and KV pool together",
    ),
    (
        "--max-total-tokens",
        "max_total_tokens",
        "size of the KV pool in tokens; say it on a CPU, where memory is shared",
    ),
    (
        "--context-length",
        "context_length",
        "most tokens of prompt and answer together; None: the model's own limit",
    ),
    (
        "--max-running-requests",
        "max_running_requests",
        "requests in one batch; None: as many as fit",
    ),
    (
        "--max-queued-requests",
        "max_queued_requests",
        "requests that may wait; one more gets a 503; None: no limit",
    ),
    ("--grammar-backend", "grammar_backend", "what compiles grammars"),
    (
        "--attention-backend",
        "attention_backend",
        "what computes attention; csproto_cpu is this project's C kernel",
    ),
    (
        "--schedule-policy",
        "schedule_policy",
        "who goes first: fcfs, or lpm for the longest cached prefix",
    ),
    ("--enable-metrics", "enable_metrics", "Prometheus counters under /metrics"),
    (
        "--enable-cache-report",
        "enable_cache_report",
        "cached tokens in the usage of the OpenAI routes",
    ),
    ("--skip-server-warmup", "skip_server_warmup", "no test request before it calls itself ready"),
    (
        "--sleep-on-idle",
        "sleep_on_idle",
        "an idle server leaves the cores alone; otherwise it polls",
    ),
    ("--log-level", "log_level", "info shows every batch; warning and error hide them"),
)


@dataclass
class Launch:
    """A server to work with.

    server: None if the server was there before. timeline: what each probe answered and
    when, with the columns `seconds`, `probe`, `status` and `ms`. shm_mb: the shared memory
    that the launch took.
    """

    base_url: str
    api_key: str | None
    server: Server | None
    timeline: pd.DataFrame
    shm_mb: float = 0.0


@contextmanager
def launched(
    base_url: str | None = None, model: str | None = None, *, patience: float = 600.0
) -> Iterator[Launch]:
    """Yield the server at a URL, or start one and watch it.

    patience: the most seconds that a start may take.

    Raises NoServer and ServerFailed.
    """
    if base_url:
        found = find(base_url)
        if found is None:
            raise NoServer(f"No SGLang server is ready at {base_url}.")
        yield Launch(*found, None, pd.DataFrame(_probe(*found, time.monotonic())))
        return
    before = shutil.disk_usage("/dev/shm").used
    server = Server(model or MINI_MODEL).start()
    try:
        timeline = _watch(server, patience)
        shm_mb = (shutil.disk_usage("/dev/shm").used - before) / 1e6
        yield Launch(server.base_url, server.api_key, server, timeline, shm_mb)
    finally:
        server.stop()


def _watch(server: Server, patience: float) -> pd.DataFrame:
    """Ask every probe twice a second until all have said 200 three times.

    Raises ServerFailed if the server has died or is not ready in time.
    """
    assert server.process is not None, "start() first"
    rows: list[dict[str, Any]] = []
    began, good = time.monotonic(), 0
    while server.process.poll() is None and time.monotonic() - began < patience and good < 3:
        now = _probe(server.base_url, server.api_key, began)
        good += all(row["status"] == 200 for row in now)
        rows += now
        time.sleep(0.5)
    server.wait_ready(timeout=5)
    ready = (row["seconds"] for row in rows if row["probe"] == "/ready" and row["status"] == 200)
    server.startup_seconds = next(ready)
    return pd.DataFrame(rows)


def _probe(base_url: str, api_key: str | None, launched_at: float) -> list[dict[str, Any]]:
    """Return the status that each probe gives now; 0 while nobody listens."""
    rows = []
    headers = bearer(api_key)
    for path in PROBES:
        asked, url = time.monotonic(), base_url + path
        try:
            status = urllib3.request("GET", url, headers=headers, timeout=5.0, retries=False).status
        except urllib3.exceptions.HTTPError:
            status = 0
        ms = 1000 * (time.monotonic() - asked)
        rows.append({"seconds": asked - launched_at, "probe": path, "status": status, "ms": ms})
    return rows


def first_answers(timeline: pd.DataFrame) -> pd.DataFrame:
    """Return for each probe when it first said 200, and how long its fastest such answer took."""
    good = timeline[timeline["status"] == 200].groupby("probe", sort=False)
    first, fastest = good["seconds"].first().round(1), good["ms"].min().round()
    return pd.DataFrame({"200 after s": first, "answer took ms": fastest})


def held_mb(server: Server) -> float:
    """Return the MiB that all processes of a server hold together."""
    return memory_mb(processes(server)) or 0.0


def understood(endpoint: Endpoint) -> pd.DataFrame:
    """Return each launch flag with the value that the running server uses.

    The API keys are not in the table.
    """
    info = endpoint.get_json("/server_info")
    rows = [(flag, _short(info.get(field)), use) for flag, field, use in FLAGS]
    columns = ["flag", "this server", "what it is for"]
    return pd.DataFrame(rows, columns=columns).set_index("flag")


def _short(value: Any) -> str:
    return Path(value).name if isinstance(value, str) and value.startswith("/") else str(value)


def mentions(names: Sequence[str]) -> dict[str, int]:
    """Return in how many source files of the installed SGLang each name stands.

    Nothing reads a name that is in none of them.
    """
    from importlib.util import find_spec

    spec = find_spec("sglang")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    files = Path(spec.submodule_search_locations[0]).rglob("*.py")
    texts = [path.read_text(errors="replace") for path in files]
    return {name: sum(name in text for text in texts) for name in names}


# -- what the flags cost


def measure_launches(
    variants: Mapping[str, tuple[str, ...]] = VARIANTS, repeat: int = 1
) -> dict[str, Any]:
    """Start a server with each variant, `repeat` times in turn.

    Returns the seconds until each was ready and the MiB it held, with hardware, version
    and date.
    """
    rows = []
    for number in range(repeat):
        for name, extra in variants.items():
            with Server(extra=extra) as server:
                figures = {"seconds": server.startup_seconds, "mib": held_mb(server)}
            rows.append({"variant": name, "round": number, **figures})
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "sglang": SGLANG_VERSION,
        "hardware": hardware(),
        "launches": rows,
    }


def record(found: Mapping[str, Any], path: Path = RECORDED) -> None:
    """Write a measurement to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def recorded(path: Path = RECORDED) -> dict[str, Any]:
    """Read the measurement that comes with the repository."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def launch_costs(found: Mapping[str, Any]) -> pd.DataFrame:
    """Return for each variant the medians and the range of seconds until ready and MiB held."""
    frame = pd.DataFrame(found["launches"])
    groups = frame.groupby("variant", sort=False)
    return pd.DataFrame(
        {
            "seconds": groups["seconds"].median(),
            "seconds low": groups["seconds"].min(),
            "seconds high": groups["seconds"].max(),
            "MiB": groups["mib"].median(),
            "MiB low": groups["mib"].min(),
            "MiB high": groups["mib"].max(),
        }
    )
