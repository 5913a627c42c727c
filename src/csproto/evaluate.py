"""How good a model is at this job: every figure from real turns against real facts, with confidence intervals."""

import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from csproto.errors import CsprotoError
from csproto.keywords import keyword_triage
from csproto.measure.statistics import wilson
from csproto.settings import DATA
from csproto.shop import demo
from csproto.shop.orders import OrderApi
from csproto.shop.store import open_engine
from csproto.transcript import clean
from csproto.triage import Intent

if TYPE_CHECKING:
    from csproto.engine.endpoint import Endpoint

SETS = (DATA / "eval" / "handwritten.jsonl", DATA / "eval" / "dialogues.jsonl")
STOCK = DATA / "eval" / "stock_phrases.txt"  # what everybody says (退货, hello): these lines stand in the corpus too
SLOTS = ("reason", "address", "more")


class BadCases(CsprotoError):
    """A line of an evaluation file that cannot be used."""


class Expected(BaseModel):
    """What is expected of one turn; what is left out is not measured."""

    model_config = ConfigDict(extra="forbid")

    intent: Intent | None = None
    order_id: str | None = None
    action: str | None = None
    reason: str | None = None
    address: str | None = None
    more: list[Intent] | None = None
    act: str | None = None


class CaseTurn(BaseModel):
    """One message of a case."""

    text: str
    expect: Expected = Expected()


class Case(BaseModel):
    """A conversation of one turn or more with a demo customer."""

    id: str
    lang: str
    customer: str = "C001"
    turns: list[CaseTurn]


def load_cases(path: Path) -> list[Case]:
    """The cases of a JSONL file. Raises BadCases with the line that is wrong."""
    cases = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadCases(f"{path} cannot be read: {error.strerror}. Name a JSONL file with --data.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                cases.append(Case.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                raise BadCases(f"{path}, line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    return cases


def evaluate(
    endpoint: "Endpoint",
    cases: Sequence[Case],
    *,
    temperature: float = 0.0,
    repeat: int = 1,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> "Report":
    """Play every case `repeat` times, `workers` at once, each on a fresh demo shop. One row per turn.

    A turn that fails is a row with its error and counts as wrong; the case ends there.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "fresh.db"
        now = datetime.now(UTC)
        engine = open_engine(f"sqlite:///{fresh}")
        demo.fill(engine, now)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()

        def play(job: tuple[int, Case]) -> list[dict[str, Any]]:
            place, case = job
            path = Path(folder) / f"{place}.db"
            shutil.copy(fresh, path)
            rows = _play(endpoint, case, f"sqlite:///{path}", now, temperature)
            path.unlink()
            return rows

        jobs = list(enumerate(case for _ in range(repeat) for case in cases))
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(workers) as pool:
            for done, new in enumerate(pool.map(play, jobs), 1):
                rows += new
                if progress:
                    progress(done, len(jobs))
    return Report(pd.DataFrame(rows), repeat)


def _play(endpoint: "Endpoint", case: Case, database: str, now: datetime, temperature: float) -> list[dict[str, Any]]:
    from csproto.assistant import Assistant

    engine = open_engine(database)
    rows = []
    try:
        assistant = Assistant(endpoint, OrderApi(engine), clock=lambda: now, temperature=temperature)
        conversation = assistant.open(case.customer)
        for place, turn in enumerate(case.turns, 1):
            row: dict[str, Any] = {"id": case.id, "lang": case.lang, "turn": place, "text": turn.text}
            row |= {f"want_{key}": value for key, value in turn.expect.model_dump(mode="json").items()}
            try:
                rows.append(row | _outcome(assistant.turn(conversation, turn.text)))
            except (CsprotoError, ValidationError) as error:
                rows.append(row | {"error": f"{type(error).__name__}: {error}"})
                break
    finally:
        engine.dispose()
    return rows


def _outcome(turn: Any) -> dict[str, Any]:
    return {
        **turn.triage.model_dump(mode="json"),
        "order_id": turn.meant.order_id,
        "copied_id": turn.triage.order_id,
        "action": turn.decision.action,
        "rule": turn.decision.rule,
        "reply": turn.reply,
        "replies": len(turn.parts),
        "grounded": sum(not part.rejected for part in turn.parts),
        "fallbacks": sum(part.fallback for part in turn.parts),
        "rejected": [sentence for part in turn.parts for sentence in part.rejected],
        "ttft_ms": turn.ttft_ms,
        "total_ms": turn.total_ms,
        "reusable_tokens": turn.reusable_tokens,
        "reused_tokens": turn.reused_tokens,
        "completion_tokens": turn.usage.completion_tokens,
        "error": None,
    }


@dataclass
class Report:
    """The turns of an evaluation, `frame` one row each, and the figures drawn from them."""

    frame: pd.DataFrame
    repeat: int = 1

    def __post_init__(self) -> None:
        frame = self.frame
        for key in ("intent", "order_id", "action"):
            if key not in frame:
                frame[key] = None
            stated = frame[f"want_{key}"].notna()
            frame[f"{key}_right"] = (frame[key] == frame[f"want_{key}"]).where(stated)
        rights = frame[["intent_right", "order_id_right", "action_right"]]
        frame["all_right"] = rights.fillna(True).astype(bool).all(axis=1)

    def share(self, key: str) -> float | None:
        """The share of turns that state `key` and have it right; None when none states it."""
        stated = self.frame[f"{key}_right"].dropna()
        return round(float(stated.astype(bool).mean()), 4) if len(stated) else None

    def by_intent(self) -> pd.DataFrame:
        """Per expected intent: n, share right, Wilson interval."""
        stated = self.frame[self.frame.want_intent.notna()]
        rows = []
        for intent, group in stated.groupby("want_intent"):
            right = int(group.intent_right.astype(bool).sum())
            low, high = wilson(right, len(group))
            rows.append({"intent": intent, "n": len(group), "accuracy": right / len(group), "low": low, "high": high})
        return (
            pd.DataFrame(rows).set_index("intent") if rows else pd.DataFrame(columns=["n", "accuracy", "low", "high"])
        )

    def confusion(self) -> pd.DataFrame:
        """Expected intents by row, recognised ones by column."""
        names = [intent.value for intent in Intent]
        table = pd.crosstab(self.frame.want_intent, self.frame.intent)
        return table.reindex(index=names, columns=names, fill_value=0)

    def slots(self) -> dict[str, Any]:
        """Per slot: turns that state it, share right letter by letter, share where one text holds the other."""
        found = {}
        for slot in SLOTS:
            stated = self.frame[self.frame[f"want_{slot}"].notna()]
            pairs = [
                (_plain(want), _plain(got))
                for want, got in zip(stated[f"want_{slot}"], stated.get(slot, [None] * len(stated)), strict=True)
            ]
            if pairs:
                exact = sum(want == got for want, got in pairs) / len(pairs)
                touching = sum(bool(got) and (want in got or got in want) for want, got in pairs) / len(pairs)
                found[slot] = {"n": len(pairs), "exact": round(exact, 4), "overlapping": round(touching, 4)}
        return found

    def pass_k(self) -> float | None:
        """Share of cases right in every one of the repeats, as tau-bench counts."""
        if self.repeat < 2:
            return None
        runs = self.frame.groupby("id")["all_right"].all()
        return round(float(runs.mean()), 4)

    def as_dict(self) -> dict[str, Any]:
        """The figures as `csproto eval --json` prints them."""
        frame = self.frame
        right, n = int(frame.intent_right.fillna(False).astype(bool).sum()), int(frame.want_intent.notna().sum())
        third = frame[(frame.turn == 3) & frame.want_action.notna()]
        errors = frame["error"].fillna("")
        replies = int(frame.replies.sum()) if "replies" in frame else 0
        seen = frame.text.map(normal).isin(stock_phrases() | {""}) if "text" in frame else pd.Series(False, frame.index)
        figures = {
            "n": len(frame),
            "intent_accuracy": self.share("intent"),
            "intent_ci95": [round(x, 4) for x in wilson(right, n)],
            "by_intent": {name: round(row.accuracy, 4) for name, row in self.by_intent().iterrows()},
            "by_lang": {lang: Report(group.copy(), self.repeat)._short() for lang, group in frame.groupby("lang")},
            "intent_accuracy_without_stock_phrases": Report(frame[~seen].copy()).share("intent"),
            "order_id_exact": self.share("order_id"),
            "order_id_copied": self._copied(),
            "action_accuracy": self.share("action"),
            "third_turn_accuracy": round(float(third.all_right.mean()), 4) if len(third) else None,
            "json_valid": round(float((~errors.str.startswith(("GenerationTruncated", "ValidationError"))).mean()), 4),
            "errors": int((errors != "").sum()),
            "slots": self.slots(),
            "replies": replies,
            "grounded": round(float(frame.grounded.sum() / replies), 4) if replies else None,
            "fallbacks": int(frame.fallbacks.sum()) if replies else 0,
            "reused": round(float(frame.reused_tokens.sum() / max(1, frame.reusable_tokens.sum())), 4)
            if replies
            else None,
            "latency_ms": self._quantiles("total_ms"),
            "ttft_ms": self._quantiles("ttft_ms"),
        }
        if (k := self.pass_k()) is not None:
            figures["pass_k"] = {"k": self.repeat, "share": k}
        return figures

    def _short(self) -> dict[str, Any]:
        right, n = (
            int(self.frame.intent_right.fillna(False).astype(bool).sum()),
            int(self.frame.want_intent.notna().sum()),
        )
        return {
            "n": len(self.frame),
            "intent_accuracy": self.share("intent"),
            "intent_ci95": [round(x, 4) for x in wilson(right, n)],
            "order_id_exact": self.share("order_id"),
            "action_accuracy": self.share("action"),
        }

    def _copied(self) -> float | None:
        """The share of order ids that the model alone had right, before what the message settles by itself."""
        stated = self.frame[self.frame.want_order_id.notna()]
        if stated.empty or "copied_id" not in stated:
            return None
        return round(float((stated.copied_id == stated.want_order_id).mean()), 4)

    def _quantiles(self, key: str) -> dict[str, float] | None:
        if key not in self.frame:
            return None
        return {f"p{q}": round(float(self.frame[key].quantile(q / 100)), 1) for q in (50, 95)}

    def write_predictions(self, path: Path) -> None:
        """One JSON object per turn: what was expected and what came."""
        records = json.loads(self.frame.to_json(orient="records", force_ascii=False))
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def normal(text: str) -> str:
    """A line for comparing sets with the corpus: NFKC, lower case, letters only, single spaces."""
    text = re.sub(r"[^\w']|[\d_]", " ", unicodedata.normalize("NFKC", text).lower())
    return re.sub(r"(?<=[\u3400-\u9fff]) +(?=[\u3400-\u9fff])", "", " ".join(text.split()))


@cache
def stock_phrases() -> frozenset[str]:
    """The normalised lines that the sets may share with the corpus."""
    return frozenset(line for line in STOCK.read_text(encoding="utf-8").splitlines() if line)


def keyword_report(cases: Sequence[Case]) -> dict[str, Any]:
    """The keyword baseline on the same messages: intent and order id, without any dialogue."""
    rows = []
    for case in cases:
        for place, turn in enumerate(case.turns, 1):
            row = {"id": case.id, "lang": case.lang, "turn": place, "error": None}
            row |= {f"want_{k}": v for k, v in turn.expect.model_dump(mode="json").items()} | {"want_action": None}
            rows.append(row | keyword_triage(turn.text).model_dump(mode="json"))
    return Report(pd.DataFrame(rows))._short()


def _plain(value: Any) -> str:
    """A slot's value for comparing: case, spaces and closing marks do not matter."""
    if isinstance(value, list):
        return ",".join(sorted(value))
    return clean(value or "").lower().replace(" ", "").strip(".,!?。了")
