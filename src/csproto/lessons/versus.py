"""The recorded comparison with vLLM beside what the blog claims.

The figures are read from `data/benchmarks`.
"""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from csproto.errors import CsprotoError
from csproto.settings import DATA

FOLDER = DATA / "benchmarks"
OURS, BY_HAND, FAIR = "csproto", "vllm-by-hand", "vllm-structured"

# The blog's figures as ours over vLLM's, and the load and figure of our record beside each.
# More is better in the first row only.
CLAIMS = {
    "requests a second": (13.7 / 8.2, "closed-16", "turns_per_s"),
    "time to first token": (190 / 320, "closed-4", "ttft_ms_p50"),
    "latency of a turn": (820 / 1450, "closed-4", "latency_ms_p50"),
    "peak memory": (14.2 / 16.8, "all", "peak_memory_mb"),
}
SHARES = {"JSON valid": ("json_valid", 1.00, 0.87), "third turn right": ("third_turn", 0.96, 0.73)}


class NotRecorded(CsprotoError):
    """No comparison of this name has been recorded."""


def recorded(name: str) -> dict[str, Any]:
    """Return the record `data/benchmarks/NAME.json`. Raises NotRecorded."""
    path = FOLDER / f"{name}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotRecorded(
            f"There is no record data/benchmarks/{name}.json. `make bench` measures against vLLM "
            "and writes cpu.json (half an hour on two quiet cores)."
        ) from error
    return found


def where(record: Mapping[str, Any]) -> str:
    """Return what a record was measured on, and when."""
    machine, versions = record["hardware"], record["versions"]
    place = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    engines = f"SGLang {versions.get('sglang', '?')}, vLLM {versions.get('vllm', '?')}"
    return f"{record['when'][:10]}, {place}; {engines}, {record['model']}"


def ratio_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the blog's ratios (ours over vLLM's), and ours with 95 % intervals.

    One column is against JSON cleaned by hand, one against vLLM's own structured output.
    """
    rows = {
        name: {
            "the blog says": f"{says:.2f}",
            "vLLM, cleaned by hand": _ratio(record, BY_HAND, load, figure),
            "vLLM, structured output": _ratio(record, FAIR, load, figure),
        }
        for name, (says, load, figure) in CLAIMS.items()
    }
    return pd.DataFrame(rows).T


def _ratio(record: Mapping[str, Any], other: str, load: str, figure: str) -> str:
    """Return one ratio of the record as text."""
    ours, theirs = _names(record, OURS), _names(record, other)
    for found in record["ratios"]:
        same = (found["load"], found["figure"]) == (load, figure)
        if same and found["of"] in ours and found["over"] in theirs:
            spread = f" ({found['low']:.2f} to {found['high']:.2f})" if found["n"] > 1 else ""
            return f"{found['ratio']:.2f}{spread}"
    return "not in the record"


def _names(record: Mapping[str, Any], arm: str) -> set[str]:
    """Return an arm's name and its engine's: memory is recorded by engine, the rest by arm."""
    return {arm, *([record["arms"][arm]["engine"]] if arm in record["arms"] else [])}


def share_table(record: Mapping[str, Any], load: str = "closed-4") -> pd.DataFrame:
    """Return valid JSON and right third turns of each arm, below the blog's two figures."""
    rows: dict[str, dict[str, Any]] = {
        "the blog, SGLang": {name: says for name, (_, says, _) in SHARES.items()},
        "the blog, vLLM": {name: says for name, (_, _, says) in SHARES.items()},
    }
    for arm in record["arms"].values():
        found = arm["loads"].get(load, {})
        third = (found.get("third_turn") or {}).get("accuracy")
        rows[arm["title"]] = {"JSON valid": found.get("json_valid"), "third turn right": third}
    return pd.DataFrame(rows).T


def engine_speeds(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the output tokens a second of each engine alone, without the desk.

    By the number of requests at once: median, lowest and highest round.
    """
    rows = [
        {"engine": name, "at once": int(at_once), "tokens/s": speed}
        for name, engine in record["engines"].items()
        for at_once, speeds in engine["alone_tokens_per_s"].items()
        for speed in speeds
    ]
    groups = pd.DataFrame(rows).groupby(["engine", "at once"], sort=False)["tokens/s"]
    return groups.agg(["median", "min", "max"]).reset_index()


def answers(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the recorded ratios in words, for the table of claims."""
    if record is None:
        return dict.fromkeys(CLAIMS, "not measured here: run `make bench`")
    return {
        str(name): f"{row['vLLM, cleaned by hand']} over vLLM cleaned by hand, "
        f"{row['vLLM, structured output']} over vLLM structured"
        for name, row in ratio_table(record).to_dict("index").items()
    }
