"""What the settings of a server cost and bring: each server is started in turn and given the same conversations. What notebook 06 sweeps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from csproto.assistant import Assistant
from csproto.engine.server import Progress, Server
from csproto.evaluate import Case
from csproto.lessons.launching import held_mb
from csproto.measure.bench.arms import ARMS
from csproto.measure.bench.clients import TimedEndpoint
from csproto.measure.bench.figures import summary
from csproto.measure.bench.load import Load, Pass, Shops, play_load, shops
from csproto.measure.bench.work import conversations
from csproto.settings import MINI_MODEL

ARM = ARMS["csproto"]
PATIENCE = 600.0  # seconds a server may take to start


@dataclass
class Sweep:
    """What came of a sweep: `loads`, one row per setting; `turns`, one row per message of the conversation that was played alone."""

    loads: pd.DataFrame
    turns: pd.DataFrame


def sweep(
    settings: Mapping[str, Sequence[str]],
    texts: Sequence[str],
    *,
    at_once: int,
    per_client: int = 2,
    rounds: int = 2,
    model: str | Path | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Start one server after the other, each with the flags of a setting; play `texts` alone, then a load `at_once`, `rounds` times.

    One server runs at a time. Raises ServerFailed.
    """
    loads, turns = [], []
    for name, flags in settings.items():
        server = Server(model or MINI_MODEL, extra=flags).start()
        try:
            server.wait_ready(timeout=PATIENCE)
            client = TimedEndpoint(server.base_url, server.api_key)
            turns += [{"setting": name, **row} for row in converse(client, texts, rounds)]
            row = load_figures(client, at_once, per_client, rounds)
            loads.append({"setting": name, **row, "MiB": held_mb(server), "start s": server.startup_seconds})
        finally:
            server.stop()
        if progress:
            progress(f"{name}: {row['turns/s']:.1f} turns/s, first words after {row['TTFT ms']:.0f} ms")
    return Sweep(pd.DataFrame(loads).set_index("setting"), pd.DataFrame(turns))


def converse(
    client: TimedEndpoint, texts: Sequence[str], rounds: int, customer: str = "C001"
) -> Iterator[dict[str, Any]]:
    """One conversation after the other with the same messages, nothing else going on: one row per message."""
    with shops() as place:
        for number in range(1, rounds + 1):
            assistant = Assistant(client.apart(), place.fresh(), clock=lambda: place.now)
            conversation = assistant.open(customer)
            for turn, text in enumerate(texts, 1):
                answer = assistant.turn(conversation, text)
                computed = answer.usage.prompt_tokens - answer.usage.cached_tokens
                yield {
                    "round": number,
                    "turn": turn,
                    "ms": answer.total_ms,
                    "TTFT ms": answer.ttft_ms,
                    "computed": computed,
                }


def load_figures(client: TimedEndpoint, at_once: int, per_client: int, rounds: int) -> dict[str, Any]:
    """Figures of `at_once` conversations going on at a time, `per_client` for each place, `rounds` times: medians with the lowest and highest round."""
    with shops() as place:
        _play(client, place, 1, 2, "warm-up")
        passes = [_play(client, place, at_once, at_once * per_client, f"round-{number}") for number in range(rounds)]
    whole = summary(passes, ARM.read)
    each = [summary([one], ARM.read) for one in passes]
    found: dict[str, Any] = {"at once": at_once}
    found |= _spread("turns/s", [one["turns_per_s"] for one in each])
    found |= _spread("TTFT ms", [one["ttft_ms"]["p50"] for one in each if one["ttft_ms"]])
    found |= {
        "p95 ms": (whole["latency_ms"] or {}).get("p95"),
        "reused": whole["reused"],
        "JSON valid": whole["json_valid"],
    }
    return found | {"computed a turn": whole["computed_tokens_per_turn"], "errors": whole["errors"]}


def _play(client: TimedEndpoint, place: Shops, at_once: int, count: int, seed: str) -> Pass:
    cases: list[Case] = conversations(place.first, seed, count)
    return play_load(Load(seed, count, at_once), ARM, client, cases, place, seed, lambda: None)


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest; not a number where every turn failed."""
    if not values:
        return dict.fromkeys((name, f"{name} low", f"{name} high"), float("nan"))
    return {name: median(values), f"{name} low": min(values), f"{name} high": max(values)}


def saving(turns: pd.DataFrame, ours: str, other: str, since: int = 3) -> float:
    """By what share the median turn is faster in `ours` than in `other`, from turn `since` on; negative when it is slower."""
    late = turns[turns["turn"] >= since]
    times = late.groupby("setting")["ms"].median()
    return float(1 - times[ours] / times[other])
