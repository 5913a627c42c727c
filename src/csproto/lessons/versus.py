"""The recorded comparison with vLLM, put beside what the blog claims: figures are read from `data/benchmarks`, never made up here."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from csproto.errors import CsprotoError
from csproto.settings import DATA

FOLDER = DATA / "benchmarks"
OURS, BY_HAND, FAIR = "csproto", "vllm-by-hand", "vllm-structured"

# What the blog says, as ours over vLLM's; the load and figure of our record that answer. More is better in the first row only.
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
    """The record `data/benchmarks/NAME.json`. Raises NotRecorded."""
    path = FOLDER / f"{name}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotRecorded(
            f"data/benchmarks/{name}.json is not there: nothing has been measured under this name. `make bench` measures against vLLM and writes cpu.json (half an hour on two quiet cores)."
        ) from error
    return found


def where(record: Mapping[str, Any]) -> str:
    """What a record was measured on, and when."""
    machine, versions = record["hardware"], record["versions"]
    place = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return f"{record['when'][:10]}, {place}; SGLang {versions.get('sglang', '?')}, vLLM {versions.get('vllm', '?')}, {record['model']}"


def ratio_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """The blog's ratios (ours over vLLM's), and ours with 95 % intervals: against JSON cleaned by hand, and against vLLM's own structured output."""
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
    """A ratio of the record. Memory stands there by engine, everything else by arm."""
    arms = record["arms"]
    names = (
        {OURS, *([arms[OURS]["engine"]] if OURS in arms else [])},
        {other, *([arms[other]["engine"]] if other in arms else [])},
    )
    for found in record["ratios"]:
        if found["of"] in names[0] and found["over"] in names[1] and (found["load"], found["figure"]) == (load, figure):
            spread = f" ({found['low']:.2f} to {found['high']:.2f})" if found["n"] > 1 else ""
            return f"{found['ratio']:.2f}{spread}"
    return "not in the record"


def share_table(record: Mapping[str, Any], load: str = "closed-4") -> pd.DataFrame:
    """JSON validity and third turns that are right, per arm of the record, under the blog's two figures."""
    rows: dict[str, dict[str, Any]] = {"the blog, SGLang": {name: says for name, (_, says, _) in SHARES.items()}}
    rows |= {"the blog, vLLM": {name: says for name, (_, _, says) in SHARES.items()}}
    for arm in record["arms"].values():
        found = arm["loads"].get(load, {})
        third = found.get("third_turn") or {}
        rows[arm["title"]] = {"JSON valid": found.get("json_valid"), "third turn right": third.get("accuracy")}
    return pd.DataFrame(rows).T


def engine_speeds(record: Mapping[str, Any]) -> pd.DataFrame:
    """Output tokens a second of each engine without our workflow, by how many requests at once: median, lowest and highest round."""
    rows = [
        {"engine": name, "at once": int(at_once), "tokens/s": speed, "round": number}
        for name, engine in record["engines"].items()
        for at_once, speeds in engine["alone_tokens_per_s"].items()
        for number, speed in enumerate(speeds)
    ]
    groups = pd.DataFrame(rows).groupby(["engine", "at once"], sort=False)["tokens/s"]
    return groups.agg(["median", "min", "max"]).reset_index()


def answers(record: Mapping[str, Any] | None) -> dict[str, str]:
    """The recorded ratios in words, for the table of claims; says what to run where nothing is recorded."""
    if record is None:
        return dict.fromkeys(CLAIMS, "not measured here: run `make bench`")
    table = ratio_table(record).to_dict("index")
    return {
        str(
            name
        ): f"{row['vLLM, cleaned by hand']} over vLLM cleaned by hand, {row['vLLM, structured output']} over vLLM structured"
        for name, row in table.items()
    }
