"""From what came of every message to figures, and from figures to ratios with intervals.

Arithmetic only.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from csproto.desk.handbook import default_handbook
from csproto.desk.triage import Triage
from csproto.measure.bench.load import Pass, Played
from csproto.measure.play import judged
from csproto.measure.statistics import bootstrap

Read = Callable[[str], Triage | None]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share lies, interpolated linearly.

    It is type 7 of Hyndman and Fan (1996).
    """
    return float(np.quantile(values, share))


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return p50, p95 and p99, or None without values."""
    return {f"p{q}": round(quantile(values, q / 100), 2) for q in (50, 95, 99)} if values else None


def share(flags: Sequence[bool]) -> float | None:
    """Return the share that is true, or None without flags."""
    return round(fmean(flags), 4) if flags else None


def summary(passes: Sequence[Pass], read: Read) -> dict[str, Any]:
    """Return the figures of one or more passes of the same load.

    Times are in milliseconds, rates per second of wall clock. `ttft_ms` is the time
    until the customer sees the reply.
    """
    played = [one for each in passes for one in each.played]
    seconds = sum(each.seconds for each in passes)
    turns = [one.turn for one in played if one.turn]
    whole = [call.meta for one in played for call in one.calls if call.meta.get("finish_reason")]
    later = [one.turn for one in played if one.turn and one.place > 1]
    conversations = sum(each.conversations for each in passes)
    first = [one.calls[0].text if one.calls else "" for one in played]
    count = max(1, len(played))

    def per_turn(key: str) -> float:
        return round(sum(meta[key] for meta in whole) / count, 2)

    return {
        "conversations": conversations,
        "turns": len(played),
        "errors": sum(bool(one.error) for one in played),
        "first_error": next((one.error for one in played if one.error), None),
        "seconds": round(seconds, 3),
        "turns_per_s": round(len(turns) / seconds, 3),
        "conversations_per_s": round(conversations / seconds, 3),
        "ttft_ms": quantiles([turn.ttft_ms for turn in turns]),
        "latency_ms": quantiles([turn.total_ms for turn in turns]),
        "tpot_ms": quantiles(_token_times(played)),
        "calls_per_turn": round(sum(len(one.calls) for one in played) / count, 3),
        "prompt_tokens_per_turn": per_turn("prompt_tokens"),
        "cached_tokens_per_turn": per_turn("cached_tokens"),
        "computed_tokens_per_turn": round(per_turn("prompt_tokens") - per_turn("cached_tokens"), 2),
        "output_tokens_per_turn": per_turn("completion_tokens"),
        "reused": _ratio_of(
            sum(t.reused_tokens for t in later), sum(t.reusable_tokens for t in later)
        ),
        "json_valid": share([read(text) is not None for text in first]),
        "third_turn": _third(played),
        "client_cpu_ms_per_turn": round(
            sum(each.client_seconds for each in passes) / count * 1000, 2
        ),
    }


def _token_times(played: Sequence[Played]) -> list[float]:
    """Return the milliseconds per output token after the first event, one for each generation.

    The first event may hold several tokens. Only generations of several events that
    were read to their end count.
    """
    return [
        (call.ended - call.first) / (call.meta["completion_tokens"] - call.first_tokens) * 1000
        for one in played
        for call in one.calls
        if call.meta.get("finish_reason") and call.meta["completion_tokens"] > call.first_tokens
    ]


def _third(played: Sequence[Played]) -> dict[str, Any]:
    """Return on how many third turns intent, orders and action are all right.

    Only turns for which an action is expected count. An error is wrong.
    """
    right = [_is_right(one) for one in played if one.place == 3 and one.said.expect.action]
    return {"n": len(right), "accuracy": share(right)}


def _is_right(one: Played) -> bool:
    if one.turn is None:
        return False
    expect = one.said.expect.model_copy(update={"writes": None})
    return all(judged(expect, one.turn.as_dict(default_handbook())).values())


def _ratio_of(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def ratio(
    pairs: Sequence[tuple[float, float]], seed: int = 0, draws: int = 10_000
) -> dict[str, Any]:
    """Return the geometric mean of ours over theirs, with a bootstrap 95 % interval.

    pairs: ours and theirs, one pair for each round.

    Pairs are drawn with replacement, and the interval has the percentiles of the means
    (Efron, 1979). Differences between rounds are in it; differences between days or
    machines are not. With few pairs it is too narrow, so `n` stands beside it.
    """
    logs = [math.log(mine / theirs) for mine, theirs in pairs]
    middle, low, high = (
        round(math.exp(x), 4) for x in (fmean(logs), *bootstrap(logs, np.mean, draws, seed))
    )
    return {"ratio": middle, "low": low, "high": high, "n": len(logs)}
