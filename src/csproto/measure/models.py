"""What was measured of each model, kept in data/measured/models and shown in docs/models.md."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csproto.desk.profile import Profile
from csproto.errors import CsprotoError
from csproto.measure.bench.machine import hardware, versions
from csproto.settings import DATA, REPOSITORY

FOLDER = DATA / "measured" / "models"
PAGE = REPOSITORY / "docs" / "models.md"
# A name of a record: "Qwen2.5-0.5B-similar8" matches, "../x" does not.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HEAD = """# Models on the same desk

Written by `python -m csproto.measure.models` from `data/measured/models/`. Each row was measured by

    csproto serve --model FOLDER
    csproto eval --baselines --record NAME

on the messages and dialogues of `data/eval`, greedy and with the limits of the model's profile,
unless its row says otherwise. "Answered" is the share of turns that were not asked back, and "right
of those" their intents at these limits. "Unwanted" are writes that nobody asked for. Latency
depends on the machine, which each record names.

| model | turns | intent | Chinese | English | orders | action | unwanted | answered | right of \
those | turn p50 | measured on |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
# The model that has to be measured yet, by the beginning of its record's name.
MISSING = "Qwen2.5-7B"
MISSING_ROW = (
    "| Qwen2.5-7B-Instruct | not yet: `make setup GPU=1`, then the two commands above |"
    + " |" * 10
    + "\n"
)


def record(
    figures: Mapping[str, Any],
    profile: Profile,
    data: list[str],
    workers: int,
    *,
    temperature: float = 0.0,
    repeat: int = 1,
    calibrated: bool = False,
) -> dict[str, Any]:
    """Return what is kept of an evaluation.

    figures: the summary of the report. data: the names of the sets, with the half.
    workers: conversations at once. temperature, repeat: how it was played.
    calibrated: whether the limits of the profile were left out, to find new ones.
    """
    unwanted = figures["unwanted_writes"]
    ids = [f"{row['id']}:{row['turn']}" for row in unwanted["list"]]
    brief = {**figures, "unwanted_writes": {"count": unwanted["count"], "ids": ids}}
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "data": data,
        "workers": workers,
        "temperature": temperature,
        "repeat": repeat,
        "calibrated": calibrated,
        "profile": profile.model_dump(exclude={"prompt"}) | {"own_prompt": bool(profile.prompt)},
        "hardware": hardware(),
        "versions": versions(),
        "figures": brief,
    }


def record_file(name: str, folder: Path = FOLDER) -> Path:
    """Return the file of a record. Raises CsprotoError for a name that is no file name."""
    if not NAME.fullmatch(name):
        raise CsprotoError(f"{name!r} is no name for a record: letters, digits and ._- please.")
    return folder / f"{name}.json"


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record into its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def page(folder: Path = FOLDER) -> str:
    """Return the page with one row a record, and the baselines measured beside them."""
    rows, baselines, missing = "", "", MISSING_ROW
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows += _row(path.stem, kept)
        if path.stem.casefold().startswith(MISSING.casefold()):
            missing = ""
        for name, found in kept["figures"].get("baselines", {}).items():
            languages = " | ".join(_percent(found["by_lang"].get(lang)) for lang in ("zh", "en"))
            turns = found["intent"]["n"]
            baselines += f"| {name} (beside {path.stem}) | {turns} | "
            baselines += f"{_percent(found['intent'])} | {languages} |" + " |" * 7 + "\n"
    return HEAD + rows + baselines + missing


def _row(name: str, kept: Mapping[str, Any]) -> str:
    figures, machine = kept["figures"], kept["hardware"]
    languages = [_percent(figures["by_lang"].get(lang, {}).get("intent")) for lang in ("zh", "en")]
    asked, latency = figures["clarifications"], figures["latency_ms"]
    cells = [
        ", ".join([name, *_conditions(kept)]),
        f"{figures['turns']} ({', '.join(kept['data'])})",
        _percent(figures["intent"]),
        *languages,
        _percent(figures["orders"]),
        _percent(figures["action"]),
        str(figures["unwanted_writes"]["count"]),
        f"{1 - asked['share']:.1%}" if asked else "-",
        _right_of_those(figures["by_threshold"], kept["profile"]["limits"]["answering"]),
        f"{latency['p50'] / 1000:.2f} s, {kept['workers']} at once" if latency else "-",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}",
    ]
    return f"| {' | '.join(cells)} |\n"


def _conditions(kept: Mapping[str, Any]) -> list[str]:
    """Return what was otherwise than usual, in words. Older records say less."""
    found = []
    if similar := kept["profile"]["similar"]:
        found.append(f"{similar} similar lines")
    if temperature := kept.get("temperature", 0):
        found.append(f"temperature {temperature}")
    if (repeat := kept.get("repeat", 1)) > 1:
        found.append(f"each case {repeat} times")
    if kept.get("calibrated", False):
        found.append("without limits")
    return found


def _right_of_those(by_threshold: list[Mapping[str, Any]], limit: float) -> str:
    """Return the accuracy of what was answered, at the threshold next to the limit."""
    if not limit or not by_threshold:
        return "-"
    at = min(by_threshold, key=lambda at: abs(at["threshold"] - limit))
    return f"{at['accuracy']:.1%}"


def _percent(share: Mapping[str, Any] | None) -> str:
    return f"{share['share']:.1%}" if share else "-"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}.")
