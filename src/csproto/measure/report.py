"""Figures drawn from played cases: shares with intervals, by language, by intent, by sureness."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from csproto.measure.statistics import wilson

KINDS = ("intent", "orders", "action", "writes")
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
PREDICTED = (
    "id turn text triage sure runner_up decisions writes reply orders_after usage error"
).split()
CLARIFYING = ("clarify", "offer_human")


@dataclass
class Report:
    """The turns of an evaluation, one row each, and what they say.

    repeat: how often each case was played.
    """

    rows: Sequence[dict[str, Any]]
    repeat: int = 1

    def __post_init__(self) -> None:
        self.frame = pd.DataFrame([_flat(row) for row in self.rows])

    def share(self, kind: str, frame: pd.DataFrame | None = None) -> dict[str, Any] | None:
        """The share of turns that state `kind` and have it right, with n and interval.

        None if none states it.
        """
        return _share((self.frame if frame is None else frame)[f"{kind}_right"].dropna())

    def shares(self, frame: pd.DataFrame | None = None) -> dict[str, Any]:
        return {kind: self.share(kind, frame) for kind in KINDS}

    def unwanted_writes(self) -> list[dict[str, Any]]:
        """Turns in which something was written that was not expected.

        A hand-off after misses is never one.
        """
        found = []
        for row in self.rows:
            stated = (row.get("expect") or {}).get("writes")
            if stated is None or row["right"].get("writes"):
                continue
            alternatives = stated if stated and isinstance(stated[0], list) else [stated]
            written = [write["kind"] for write in row["writes"]]
            if all(_more(written, expected, row) for expected in alternatives):
                names = ("id", "turn", "text", "sure", "writes")
                found.append({name: row.get(name) for name in names})
        return found

    def by_threshold(self) -> list[dict[str, Any]]:
        """What a threshold of sureness would give.

        Share of turns answered, and of these the share right.
        """
        stated = self.frame[self.frame.intent_right.notna() & self.frame.sure.notna()]
        found = []
        for threshold in THRESHOLDS:
            answered = stated[stated.sure >= threshold]
            if len(stated) and len(answered):
                right = float(answered.intent_right.astype(bool).mean())
                coverage = len(answered) / len(stated)
                found.append(
                    {
                        "threshold": threshold,
                        "coverage": round(coverage, 4),
                        "accuracy": round(right, 4),
                    }
                )
        return found

    def by_intent(self) -> pd.DataFrame:
        """Per expected intent (the first alternative): n, share right, interval."""
        stated = self.frame[self.frame.intent_right.notna()]
        rows = []
        for intent, group in stated.groupby("want_intent"):
            right = int(group.intent_right.astype(bool).sum())
            low, high = wilson(right, len(group))
            rows.append(
                {
                    "intent": intent,
                    "n": len(group),
                    "accuracy": right / len(group),
                    "low": low,
                    "high": high,
                }
            )
        columns = ["intent", "n", "accuracy", "low", "high"]
        return pd.DataFrame(rows, columns=columns).set_index("intent")

    def confusion(self) -> pd.DataFrame:
        """Expected intents (the first alternative) by row, recognised ones by column."""
        stated = self.frame[self.frame.want_intent.notna()]
        return pd.crosstab(stated.want_intent, stated.intent)

    def pass_k(self) -> float | None:
        """Share of cases right in every one of the repeats, as tau-bench counts."""
        if self.repeat < 2:
            return None
        return round(float(self.frame.groupby("id").all_right.all().mean()), 4)

    def as_dict(self) -> dict[str, Any]:
        """The summary that `csproto eval --json` prints."""
        frame = self.frame
        third = frame[(frame.turn == 3) & frame.states_something]
        unwanted = self.unwanted_writes()
        figures = {
            "turns": len(frame),
            "errors": int(frame.error.notna().sum()),
            **self.shares(),
            "third_turn": _share(third.all_right),
            "all_right": _share(frame[frame.states_something].all_right),
            "unwanted_writes": {"count": len(unwanted), "list": unwanted},
            "clarifications": _share(frame.clarifies),
            "by_threshold": self.by_threshold(),
            "by_lang": {str(lang): self.shares(group) for lang, group in frame.groupby("lang")},
            "by_intent": {str(n): round(row.accuracy, 4) for n, row in self.by_intent().iterrows()},
            "json_valid": _share(
                ~frame.error.fillna("").str.startswith(("GenerationTruncated", "ValueError"))
            ),
            "reused": self._reused(),
            "latency_ms": self._quantiles("total_ms"),
            "ttft_ms": self._quantiles("ttft_ms"),
        }
        if (share := self.pass_k()) is not None:
            figures["pass_k"] = {"k": self.repeat, "share": share}
        return figures

    def _reused(self) -> float | None:
        reusable = self.frame.reusable_tokens.sum()
        return round(float(self.frame.reused_tokens.sum() / reusable), 4) if reusable else None

    def _quantiles(self, name: str) -> dict[str, float] | None:
        values = self.frame[name].dropna()
        return (
            {f"p{q}": round(float(values.quantile(q / 100)), 1) for q in (50, 95)}
            if len(values)
            else None
        )

    def write_predictions(self, path: Path) -> None:
        """One JSON object a turn, with or without expectations."""
        lines = (
            json.dumps({n: row.get(n) for n in PREDICTED}, ensure_ascii=False) for row in self.rows
        )
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the figures that are drawn from it."""
    wishes = (row.get("triage") or {}).get("wishes", [])
    expect, right, usage = row.get("expect") or {}, row.get("right") or {}, row.get("usage") or {}
    wanted = expect.get("intent")
    flat = {
        name: row.get(name) for name in ("id", "lang", "turn", "text", "sure", "runner_up", "error")
    }
    flat |= {f"{kind}_right": right.get(kind) for kind in KINDS}
    flat |= {"intent": wishes[0]["intent"] if wishes else None}
    flat |= {"want_intent": wanted[0] if isinstance(wanted, list) else wanted}
    flat |= {
        "all_right": all(right.values()) and not row.get("error"),
        "states_something": bool(right),
    }
    flat |= {"clarifies": any(d["action"] in CLARIFYING for d in row.get("decisions") or [])}
    names = ("total_ms", "ttft_ms", "reusable_tokens", "reused_tokens", "completion_tokens")
    return flat | {name: usage.get(name, None if name.endswith("ms") else 0) for name in names}


def _more(written: Sequence[str], expected: Sequence[str], row: dict[str, Any]) -> bool:
    """Whether more was written than expected, apart from a hand-off after misses."""
    rules = {decision["rule"] for decision in row.get("decisions") or []}
    rest = list(written)
    if "human.after_misses" in rules and "handoff" in rest:
        rest.remove("handoff")
    for kind in expected:
        if kind in rest:
            rest.remove(kind)
    return bool(rest)


def _share(values: "pd.Series[bool]") -> dict[str, Any] | None:
    if values.empty:
        return None
    right, n = int(values.astype(bool).sum()), len(values)
    low, high = wilson(right, n)
    return {"share": round(right / n, 4), "n": n, "ci95": [round(low, 4), round(high, 4)]}
