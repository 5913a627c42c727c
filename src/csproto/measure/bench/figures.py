"""From what came of every turn to figures, and from figures of the same round to ratios with their intervals. Arithmetic only."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from csproto.measure.bench.load import Pass, Played
from csproto.measure.statistics import bootstrap
from csproto.reply import SentenceCutter, ungrounded
from csproto.triage import Triage
from csproto.turn import Part
from csproto.wording import language_of

Read = Callable[[str], Triage | None]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies, interpolated linearly between neighbours (type 7 of Hyndman and Fan, 1996)."""
    return float(np.quantile(values, share))


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99, or None of nothing."""
    return {f"p{q}": round(quantile(values, q / 100), 2) for q in (50, 95, 99)} if values else None


def share(flags: Sequence[bool]) -> float | None:
    """The share that is true, or None of nothing."""
    return round(fmean(flags), 4) if flags else None


def summary(passes: Sequence[Pass], read: Read) -> dict[str, Any]:
    """The figures of one or more passes of the same load. Times in ms, rates per second of wall clock.

    ttft_ms: to the first reply text a customer sees. reply_token_ms: to the first text of the reply as it leaves the engine, shown or not; what
    lies between the two is the check, which waits for a sentence.
    """
    played = [one for each in passes for one in each.played]
    seconds = sum(each.seconds for each in passes)
    turns = [one.turn for one in played if one.turn]
    whole = [call.meta for one in played for call in one.calls if call.meta.get("finish_reason")]
    later = [one.turn for one in played if one.turn and one.place > 1]
    count = max(1, len(played))

    def per_turn(key: str) -> float:
        return round(sum(meta[key] for meta in whole) / count, 2)

    return {
        "conversations": sum(each.conversations for each in passes),
        "turns": len(played),
        "errors": sum(bool(one.error) for one in played),
        "first_error": next((one.error for one in played if one.error), None),
        "seconds": round(seconds, 3),
        "turns_per_s": round(len(turns) / seconds, 3),
        "conversations_per_s": round(sum(each.conversations for each in passes) / seconds, 3),
        "ttft_ms": quantiles([turn.ttft_ms for turn in turns]),
        "latency_ms": quantiles([turn.total_ms for turn in turns]),
        "reply_token_ms": quantiles(
            [(one.calls[1].first - one.began) * 1000 for one in played if len(one.calls) > 1]
        ),
        "tpot_ms": quantiles(_token_times(played)),
        "calls_per_turn": round(sum(len(one.calls) for one in played) / count, 3),
        "prompt_tokens_per_turn": per_turn("prompt_tokens"),
        "cached_tokens_per_turn": per_turn("cached_tokens"),
        "computed_tokens_per_turn": round(per_turn("prompt_tokens") - per_turn("cached_tokens"), 2),
        "output_tokens_per_turn": per_turn("completion_tokens"),
        "reused": _ratio_of(
            sum(t.reused_tokens for t in later), sum(t.reusable_tokens for t in later)
        ),
        "json_valid": share(
            [bool(one.calls) and read(one.calls[0].text) is not None for one in played]
        ),
        "third_turn": _third(played),
        "replies_grounded": share(
            [_grounded(one, part) for one in played if one.turn for part in one.turn.parts]
        ),
        "templates": sum(part.fallback for turn in turns for part in turn.parts),
        "client_cpu_ms_per_turn": round(
            sum(each.client_seconds for each in passes) / count * 1000, 2
        ),
    }


def _token_times(played: Sequence[Played]) -> list[float]:
    """Milliseconds per output token after the first event, which may hold several; one value for each generation of several events that was read to its end."""
    return [
        (call.ended - call.first) / (call.meta["completion_tokens"] - call.first_tokens) * 1000
        for one in played
        for call in one.calls
        if call.meta.get("finish_reason") and call.meta["completion_tokens"] > call.first_tokens
    ]


def _third(played: Sequence[Played]) -> dict[str, Any]:
    """Intent, order id and action all right on turn 3, over the conversations that state them; an error is wrong."""
    stated = [one for one in played if one.place == 3 and one.said.expect.action]
    right = [
        one.turn is not None
        and one.turn.triage.intent == one.said.expect.intent
        and one.turn.meant.order_id == one.said.expect.order_id
        and one.turn.decision.action == one.said.expect.action
        for one in stated
    ]
    return {"n": len(right), "accuracy": share(right)}


def _grounded(one: Played, part: Part) -> bool:
    """Whether every sentence that was shown holds what the reply check asks for."""
    cutter = SentenceCutter()
    sentences = cutter.feed(part.reply) + cutter.finish()
    language = language_of(one.said.text, one.language)
    return not any(ungrounded(s, part.decision.rule, language, part.facts) for s in sentences)


def _ratio_of(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def ratio(
    pairs: Sequence[tuple[float, float]], seed: int = 0, draws: int = 10_000
) -> dict[str, Any]:
    """How many times theirs is ours: the geometric mean of ours over theirs, one pair a round, with a bootstrap 95 % interval.

    The interval: pairs drawn with replacement, percentiles of the means (Efron, 1979). What differs between rounds is in it, what differs between
    days or machines is not; of few pairs it is too narrow, so `n` stands beside it.
    """
    logs = [math.log(mine / theirs) for mine, theirs in pairs]
    middle, low, high = (
        round(math.exp(x), 4) for x in (fmean(logs), *bootstrap(logs, np.mean, draws, seed))
    )
    return {"ratio": middle, "low": low, "high": high, "n": len(logs)}
