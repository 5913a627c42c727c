"""What a launch costs and when a server is ready, watched from outside: what notebook 02 measures."""

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
from csproto.engine.server import NoServer, Server, bearer, find
from csproto.measure.bench.machine import hardware, memory_mb, processes
from csproto.settings import DATA, MINI_MODEL, SGLANG_VERSION

PROBES = ("/model_info", "/ready", "/health")
RECORDED = DATA / "measured" / "launches.json"

# Each variant is one change to the launch that this project does by itself on a CPU.
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
    ("--host", "host", "127.0.0.1 keeps it on this machine; 0.0.0.0 shows it to the network, keys or not"),
    ("--port", "port", "30000 unless named; we take a free one"),
    ("--tp", "tp_size", "GPUs that share one model"),
    ("--device", "device", "cpu here; a GPU is found by itself"),
    ("--mem-fraction-static", "mem_fraction_static", "share of memory for weights and KV pool together"),
    (
        "--max-total-tokens",
        "max_total_tokens",
        "size of the KV pool in tokens; say it on a CPU, where memory is shared",
    ),
    ("--context-length", "context_length", "longest prompt and answer together; none: the model's own"),
    ("--max-running-requests", "max_running_requests", "requests in one batch; none: as many as fit"),
    ("--max-queued-requests", "max_queued_requests", "requests that may wait; one more gets a 503; none: no bound"),
    ("--grammar-backend", "grammar_backend", "who compiles grammars"),
    ("--attention-backend", "attention_backend", "who computes attention; csproto_cpu is this project's C kernel"),
    ("--schedule-policy", "schedule_policy", "who goes first: fcfs, or lpm for the longest cached prefix"),
    ("--enable-metrics", "enable_metrics", "Prometheus counters under /metrics"),
    ("--enable-cache-report", "enable_cache_report", "cached tokens in the usage of the OpenAI routes"),
    ("--skip-server-warmup", "skip_server_warmup", "no request of its own before it calls itself ready"),
    ("--sleep-on-idle", "sleep_on_idle", "an idle server leaves the cores alone; without it, it polls"),
    ("--log-level", "log_level", "info shows every batch; warning and error hide what you will look for"),
)


@dataclass
class Launch:
    """A server to work with. `server` is ours and None when the server was there before; `timeline` says which probe answered what, when."""

    base_url: str
    api_key: str | None
    server: Server | None
    timeline: pd.DataFrame
    shm_mb: float = 0.0  # shared memory the launch took


@contextmanager
def launched(base_url: str | None = None, model: str | None = None, *, patience: float = 600.0) -> Iterator[Launch]:
    """The server named, or one of our own that is watched while it starts. Raises NoServer, ServerFailed."""
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
    """Ask every probe twice a second until all have said 200 three times. The server's own wait then raises if it has died or is late."""
    rows: list[dict[str, Any]] = []
    began, good = time.monotonic(), 0
    while server.process and server.process.poll() is None and time.monotonic() - began < patience and good < 3:
        now = _probe(server.base_url, server.api_key, began)
        good += all(row["status"] == 200 for row in now)
        rows += now
        time.sleep(0.5)
    server.wait_ready(timeout=5)
    server.startup_seconds = next(r["seconds"] for r in rows if r["probe"] == "/ready" and r["status"] == 200)
    return pd.DataFrame(rows)


def _probe(base_url: str, api_key: str | None, launched_at: float) -> list[dict[str, Any]]:
    """The status each probe gives now; 0 while nobody listens."""
    rows = []
    for path in PROBES:
        asked = time.monotonic()
        try:
            status = urllib3.request("GET", base_url + path, headers=bearer(api_key), timeout=5.0, retries=False).status
        except urllib3.exceptions.HTTPError:
            status = 0
        ms = 1000 * (time.monotonic() - asked)
        rows.append({"seconds": asked - launched_at, "probe": path, "status": status, "ms": ms})
    return rows


def first_answers(timeline: pd.DataFrame) -> pd.DataFrame:
    """Per probe: seconds until it was first asked and said 200, and how long its quickest such answer took."""
    good = timeline[timeline["status"] == 200].groupby("probe", sort=False)
    return pd.DataFrame({"200 after s": good["seconds"].first().round(1), "answer took ms": good["ms"].min().round()})


def held_mb(server: Server) -> float:
    """MiB that the server's processes hold together."""
    return memory_mb(processes(server)) or 0.0


def understood(endpoint: Endpoint) -> pd.DataFrame:
    """Each launch flag, and what the running server made of it. Keys are not asked for: /server_info would show them."""
    info = endpoint.get_json("/server_info")
    rows = [{"flag": flag, "this server": _short(info.get(field)), "what it is for": use} for flag, field, use in FLAGS]
    return pd.DataFrame(rows).set_index("flag")


def _short(value: Any) -> str:
    return Path(value).name if isinstance(value, str) and value.startswith("/") else str(value)


def mentions(names: Sequence[str]) -> dict[str, int]:
    """In how many source files of the installed SGLang each name stands. None means: nothing reads it."""
    from importlib.util import find_spec

    spec = find_spec("sglang")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    texts = [path.read_text(errors="replace") for path in Path(spec.submodule_search_locations[0]).rglob("*.py")]
    return {name: sum(name in text for text in texts) for name in names}


# -- what the flags cost


def measure_launches(variants: Mapping[str, tuple[str, ...]] = VARIANTS, repeat: int = 1) -> dict[str, Any]:
    """Start a server with each variant, `repeat` times in turn, and note seconds to ready and MiB held; with hardware, version and date."""
    rows = []
    for number in range(repeat):
        for name, extra in variants.items():
            with Server(extra=extra) as server:
                rows.append(
                    {"variant": name, "round": number, "seconds": server.startup_seconds, "mib": held_mb(server)}
                )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "sglang": SGLANG_VERSION,
        "hardware": hardware(),
        "launches": rows,
    }


def record(found: Mapping[str, Any], path: Path = RECORDED) -> None:
    """Keep a measurement for the notebook's readers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def recorded(path: Path = RECORDED) -> dict[str, Any]:
    """The measurement that comes with the repository."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def launch_costs(found: Mapping[str, Any]) -> pd.DataFrame:
    """Per variant the median seconds to ready and MiB held, and the range of both."""
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
