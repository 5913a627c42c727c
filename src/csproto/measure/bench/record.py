"""What is kept of a comparison: figures by arm and load, single rounds, and ratios."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from csproto.measure.bench.arms import Arm
from csproto.measure.bench.engines import Engine
from csproto.measure.bench.figures import ratio, summary
from csproto.measure.bench.load import Pass

# The figures that are compared, and where they are in a summary. In the first two more is
# better, in the others less.
COMPARED = {
    "turns_per_s": ("turns_per_s",),
    "conversations_per_s": ("conversations_per_s",),
    "ttft_ms_p50": ("ttft_ms", "p50"),
    "ttft_ms_p95": ("ttft_ms", "p95"),
    "latency_ms_p50": ("latency_ms", "p50"),
    "latency_ms_p95": ("latency_ms", "p95"),
    "tpot_ms_p50": ("tpot_ms", "p50"),
    "computed_tokens_per_turn": ("computed_tokens_per_turn",),
    "output_tokens_per_turn": ("output_tokens_per_turn",),
}
HEADLINES = (
    ("turns_per_s", "closed-16"),
    ("ttft_ms_p50", "closed-4"),
    ("latency_ms_p50", "closed-4"),
)
# Flags that say nothing about speed.
PRIVATE_FLAGS = ("--model", "--model-path", "--port", "--host", "--served-model-name")


def of_arm(
    arm: Arm, first: Mapping[str, Any], passes: Mapping[str, Sequence[Pass]]
) -> dict[str, Any]:
    """Return the figures of one arm: `loads` of all rounds together, `rounds` of each round."""
    return {
        "letter": arm.letter,
        "title": arm.title,
        "engine": arm.engine,
        **first,
        "loads": {load: summary(each, arm.read) for load, each in passes.items()},
        "rounds": {
            load: [_compared(summary([one], arm.read)) for one in each]
            for load, each in passes.items()
        },
    }


def _compared(figures: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, path in COMPARED.items():
        value: Any = figures
        for key in path:
            value = value and value[key]
        found[name] = value
    return found


def of_engine(
    engine: Engine,
    idle: float | None,
    alone: Mapping[str, Sequence[float]],
    memory: Sequence[float],
) -> dict[str, Any]:
    """Return the figures of one server; None for what is only known if it was started here."""
    seconds = engine.server.startup_seconds if engine.server else None
    return {
        "startup_s": seconds and round(seconds, 1),
        "flags": _flags(engine.server.command()) if engine.server else None,
        "idle_share_of_a_core": idle,
        "peak_memory_mb": max(memory, default=None),
        "alone_tokens_per_s": alone,
    }


def _flags(command: Sequence[str]) -> list[str]:
    """Return the flags of a command line, without those that name places of this machine."""
    start = next(place for place, word in enumerate(command) if word.startswith("--"))
    kept, skip = [], False
    for word in command[start:]:
        if not skip and word not in PRIVATE_FLAGS:
            kept.append(word)
        skip = word in PRIVATE_FLAGS
    return kept


def ratios(arms: Mapping[str, Any], engines: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the first arm over every other one, for each load and figure.

    Its engine over the other engines is in the list, too.
    """
    ours, *others = arms
    found = []
    for other in others:
        for load, rounds in arms[ours]["rounds"].items():
            for figure in COMPARED:
                pairs = [
                    (mine[figure], theirs[figure])
                    for mine, theirs in zip(rounds, arms[other]["rounds"][load], strict=True)
                    if mine[figure] and theirs[figure]
                ]
                if pairs:
                    found.append(_named(ours, other, load, figure) | ratio(pairs))
    first, *rest = engines
    for other in rest:
        for at_once, speeds in engines[first]["alone_tokens_per_s"].items():
            pairs = list(zip(speeds, engines[other]["alone_tokens_per_s"][at_once], strict=True))
            found.append(_named(first, other, f"alone-{at_once}", "tokens_per_s") | ratio(pairs))
        mine, theirs = engines[first]["peak_memory_mb"], engines[other]["peak_memory_mb"]
        if mine and theirs:
            found.append(_named(first, other, "all", "peak_memory_mb") | ratio([(mine, theirs)]))
    return found


def _named(ours: str, other: str, load: str, figure: str) -> dict[str, Any]:
    return {"of": ours, "over": other, "load": load, "figure": figure}


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Return a record as text: arms by load, engines, and the main ratios with intervals."""
    heads = (
        "turns/s",
        "TTFT",
        "latency",
        "p95",
        "TPOT",
        "computed",
        "reused",
        "JSON",
        "turn 3",
        "errors",
    )
    for arm in record["arms"].values():
        yield f"({arm['letter']}) {arm['title']}; first turn {arm['first_turn_ms']} ms"
        yield f"  {'':10}" + "".join(f"{head:>10}" for head in heads)
        for load, found in arm["loads"].items():
            times = [
                (found[key] or {}).get(q) for key, q in (("ttft_ms", "p50"), ("latency_ms", "p50"))
            ]
            times += [(found["latency_ms"] or {}).get("p95"), (found["tpot_ms"] or {}).get("p50")]
            rest = [found[key] for key in ("computed_tokens_per_turn", "reused", "json_valid")]
            values = [
                found["turns_per_s"],
                *times,
                *rest,
                found["third_turn"]["accuracy"],
                found["errors"],
            ]
            yield f"  {load:10}" + "".join(
                f"{'' if value is None else value:>10}" for value in values
            )
    for name, engine in record["engines"].items():
        speeds = " / ".join(
            f"{median(values):.0f}" for values in engine["alone_tokens_per_s"].values()
        )
        yield (
            f"{name}: start {engine['startup_s']} s, memory {engine['peak_memory_mb']} MiB, "
            f"alone {speeds} tokens/s"
        )
    for found in record["ratios"]:
        if found["figure"] in COMPARED and (found["figure"], found["load"]) not in HEADLINES:
            continue
        pair = f"{found['of']} / {found['over']}"
        middle = f"{found['figure']:26} {found['load']:10} {pair}: {found['ratio']:.2f}"
        yield (
            f"{middle} ({found['low']:.2f} to {found['high']:.2f}, {found['n']} rounds)"
            if found["n"] > 1
            else middle
        )
