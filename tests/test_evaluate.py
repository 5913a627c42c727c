"""The figures an evaluation draws from its turns."""

import json

import pandas as pd
import pytest

from csproto.evaluate import Report
from csproto.measure.statistics import wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]
)
def test_wilson(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-4)


def test_an_interval_holds_its_share() -> None:
    """To the last digit: what draws it would take a negative half-width for a mistake."""
    for n in range(1, 200):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1


def turn(
    case: str, place: int, intent: str | None = "other", action: str | None = None, **more: object
) -> dict[str, object]:
    row = {"id": case, "lang": "en", "turn": place, "text": "hi", "error": None, "replies": 1, "grounded": 1}
    row |= {"fallbacks": 0, "reused_tokens": 1, "reusable_tokens": 1, "ttft_ms": 1.0, "total_ms": 1.0}
    row |= {"want_intent": "other", "want_order_id": None, "want_action": "small_talk" if action else None}
    row |= dict.fromkeys(("want_reason", "want_address", "want_more", "reason", "address", "more"))
    return row | {"intent": intent, "order_id": "", "copied_id": "", "action": action, **more}


def test_a_case_passes_when_all_its_turns_are_right_in_every_repeat() -> None:
    turns = [
        [turn("both", 1), turn("both", 2)],
        [turn("both", 1), turn("both", 2)],
        [turn("once", 1), turn("once", 2, intent="invoice")],
        [turn("once", 1), turn("once", 2)],
        [turn("never", 1, intent="invoice")],
        [turn("never", 1, intent="invoice")],
        [turn("failed", 1)],
        [turn("failed", 1, intent=None, error="EngineError: gone")],
    ]
    report = Report(pd.DataFrame([row for rows in turns for row in rows]), repeat=2)
    assert report.pass_k() == 0.25


def test_a_third_turn_is_right_when_all_that_is_stated_is() -> None:
    rows = [
        turn("a", 3, action="small_talk"),
        turn("b", 3, action="handoff"),
        turn("c", 3, action="small_talk", intent="invoice"),
        turn("d", 2, action="handoff"),  # no third turn
        turn("e", 3),  # states no action
    ]
    figures = Report(pd.DataFrame(rows)).as_dict()
    assert figures["third_turn_accuracy"] == round(1 / 3, 4)
    assert figures["action_accuracy"] == 0.5


def test_what_no_turn_states_has_no_figure() -> None:
    figures = Report(pd.DataFrame([turn("a", 1, intent=None) | {"want_intent": None}])).as_dict()
    for name in ("intent_accuracy", "order_id_exact", "order_id_copied", "action_accuracy", "third_turn_accuracy"):
        assert figures[name] is None
    json.dumps(figures, allow_nan=False)


def test_figures_can_be_drawn_when_every_turn_has_failed() -> None:
    row = {"id": "a", "lang": "en", "turn": 1, "text": "hi", "error": "ValidationError: no JSON"}
    row |= {"want_intent": "other", "want_order_id": "1", "want_action": None}
    row |= {"want_reason": "torn", "want_address": None, "want_more": ["invoice"]}
    figures = Report(pd.DataFrame([row])).as_dict()
    assert (figures["intent_accuracy"], figures["json_valid"], figures["errors"]) == (0, 0, 1)
    assert figures["slots"]["reason"] == {"n": 1, "exact": 0, "overlapping": 0}
