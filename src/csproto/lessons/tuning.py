"""What the settings of a server cost and bring.

One server after the other is started, and each is given the same conversations.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from csproto.engine.server import Progress, Server
from csproto.lessons.launching import held_mb
from csproto.measure.bench.arms import ARMS
from csproto.measure.bench.clients import TimedEndpoint
from csproto.measure.bench.figures import summary
from csproto.measure.bench.load import Load, Pass, Shops, play_load, shops
from csproto.measure.bench.work import conversations
from csproto.opening import desk_on
from csproto.settings import MINI_MODEL

ARM = ARMS["csproto"]
PATIENCE = 600.0  # seconds a server may take to start


@dataclass
class Sweep:
    """What a sweep measured.

    loads: one row for each setting. turns: one row for each message of the conversation
    that was played alone.
    """

    loads: pd.DataFrame
    turns: pd.DataFrame


def sweep(
    settings: Mapping[str, Sequence[str]],
    texts: Iterable[str],
    *,
    at_once: int,
    per_client: int = 2,
    rounds: int = 2,
    model: str | Path | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Start one server after the other, and measure each under the same work.

    settings: the further flags of each server.
    texts: the conversation that is played alone.
    at_once, per_client, rounds: as in `load_figures`.

    Raises ServerFailed.
    """
    loads, turns = [], []
    for name, flags in settings.items():
        server = Server(model or MINI_MODEL, extra=flags).start()
        try:
            server.wait_ready(timeout=PATIENCE)
            client = TimedEndpoint(server.base_url, server.api_key)
            turns += [{"setting": name, **row} for row in converse(client, texts, rounds)]
            row = load_figures(client, at_once, per_client, rounds)
            held = {"MiB": held_mb(server), "start s": server.startup_seconds}
            loads.append({"setting": name, **row, **held})
        finally:
            server.stop()
        if progress:
            progress(f"{name}: {row['turns/s']:.1f} turns/s, reply after {row['TTFT ms']:.0f} ms")
    return Sweep(pd.DataFrame(loads).set_index("setting"), pd.DataFrame(turns))


def converse(
    client: TimedEndpoint, texts: Iterable[str], rounds: int, customer: str = "C001"
) -> Iterator[dict[str, Any]]:
    """Play the same conversation several times, alone. Yields one row for each message."""
    texts = list(texts)
    with shops() as place:
        for number in range(1, rounds + 1):
            desk = desk_on(client.apart(), place.fresh(), clock=lambda: place.now)
            conversation = desk.open(customer)
            for turn, text in enumerate(texts, 1):
                answer = desk.turn(conversation, text)
                yield {
                    "round": number,
                    "turn": turn,
                    "ms": answer.total_ms,
                    "TTFT ms": answer.ttft_ms,
                    "computed": answer.usage.prompt_tokens - answer.usage.cached_tokens,
                }


def load_figures(
    client: TimedEndpoint, at_once: int, per_client: int, rounds: int
) -> dict[str, Any]:
    """Play `at_once` conversations at a time, and return the figures.

    Each of these clients plays `per_client` conversations one after the other, and all of
    it is done `rounds` times. A figure is the median of the rounds; `low` and `high` are the
    lowest and the highest round.
    """
    with shops() as place:
        _play(client, place, 1, 2, "warm-up")
        passes = [
            _play(client, place, at_once, at_once * per_client, f"round-{number}")
            for number in range(rounds)
        ]
    whole = summary(passes, ARM.read)
    each = [summary([one], ARM.read) for one in passes]
    found: dict[str, Any] = {"at once": at_once}
    found |= _spread("turns/s", [one["turns_per_s"] for one in each])
    found |= _spread("TTFT ms", [one["ttft_ms"]["p50"] for one in each if one["ttft_ms"]])
    return found | {
        "p95 ms": (whole["latency_ms"] or {}).get("p95"),
        "reused": whole["reused"],
        "JSON valid": whole["json_valid"],
        "computed a turn": whole["computed_tokens_per_turn"],
        "errors": whole["errors"],
    }


def _play(client: TimedEndpoint, place: Shops, at_once: int, count: int, seed: str) -> Pass:
    cases = conversations(seed, count)
    return play_load(Load(seed, count, at_once), ARM, client, cases, place, seed, lambda: None)


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest value; not a number if there is no value."""
    if not values:
        return dict.fromkeys((name, f"{name} low", f"{name} high"), float("nan"))
    return {name: median(values), f"{name} low": min(values), f"{name} high": max(values)}


def saving(turns: pd.DataFrame, ours: str, other: str, since: int = 3) -> float:
    """Return by what share the median turn is faster in `ours` than in `other`.

    Only turns from number `since` on count. The share is negative if `ours` is slower.
    """
    late = turns[turns["turn"] >= since]
    times = late.groupby("setting")["ms"].median()
    return float(1 - times[ours] / times[other])
