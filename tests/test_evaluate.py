"""The figures that an evaluation draws from its turns."""

import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from csproto.desk import profile
from csproto.desk.profile import Profile, change_profile, profile_of, writable_profile
from csproto.desk.state import Limits
from csproto.errors import CsprotoError
from csproto.measure import models
from csproto.measure.baselines import Keywords
from csproto.measure.cases import BadCases, Case
from csproto.measure.evaluate import half, limits_for
from csproto.measure.play import play_all
from csproto.measure.report import Report
from csproto.measure.statistics import wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_wilson(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-4)


def test_an_interval_holds_its_share() -> None:
    """To the last digit: what draws it would take a negative half-width for a mistake."""
    for n in range(1, 200):
        for right in range(n + 1):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1


def turn(case: str, place: int = 1, *, sure: float = 0.9, **more: Any) -> dict[str, Any]:
    """One turn that was played, right in all that it states unless `more` says otherwise."""
    row: dict[str, Any] = {
        "id": case,
        "lang": "en",
        "turn": place,
        "text": "hi",
        "error": None,
        "triage": {"act": "ask", "wishes": [{"intent": "other", "orders": []}]},
        "sure": sure,
        "runner_up": None,
        "decisions": [{"action": "small_talk", "rule": "other.small_talk", "order": None}],
        "writes": [],
        "usage": {"total_ms": 10.0, "ttft_ms": 9.0, "reusable_tokens": 4, "reused_tokens": 3},
        "expect": {"intent": "other", "writes": []},
        "right": {"intent": True, "writes": True},
    }
    return row | more


def write(*kinds: str) -> list[dict[str, str]]:
    return [{"kind": kind, "order": "1"} for kind in kinds]


def test_a_case_passes_when_all_its_turns_are_right_in_every_repeat() -> None:
    wrong = {"right": {"intent": False}}
    rows = [turn("both"), turn("both", 2), turn("both"), turn("both", 2)]
    rows += [turn("once"), turn("once", 2, **wrong), turn("once"), turn("once", 2)]
    rows += [turn("never", **wrong), turn("never", **wrong)]
    rows += [turn("failed"), turn("failed", error="EngineError: gone")]
    assert Report(rows, repeat=2).pass_k() == 0.25


def test_a_third_turn_is_right_when_all_that_it_states_is() -> None:
    rows = [
        turn("a", 3),
        turn("b", 3, right={"intent": True, "writes": False}),
        turn("c", 2, right={"intent": False}),  # no third turn
        turn("d", 3, right={}, expect={}),  # states nothing
    ]
    assert Report(rows).as_dict()["third_turn"]["share"] == 0.5


def test_unwanted_writes_are_those_beyond_every_alternative() -> None:
    rows = [
        turn("wanted", writes=write("urge"), expect={"writes": ["urge"]}),
        turn("missing", expect={"writes": ["urge"]}, right={"writes": False}),
        turn("more", writes=write("urge"), right={"writes": False}),
        turn("either", writes=write("urge"), expect={"writes": [[], ["urge"]]}),
        turn(
            "twice",
            writes=write("urge", "urge"),
            expect={"writes": [[], ["urge"]]},
            right={"writes": False},
        ),
        turn(
            "after misses",
            writes=write("handoff"),
            decisions=[{"action": "handoff", "rule": "human.after_misses", "order": None}],
            right={"writes": False},
        ),
    ]
    assert [row["id"] for row in Report(rows).unwanted_writes()] == ["more", "twice"]


def test_limits_ask_back_their_share_and_lie_above_every_unwanted_write() -> None:
    rows = [turn(str(n), sure=n / 100) for n in range(1, 101)]
    rows.append(turn("bad", sure=0.7, writes=write("urge"), right={"writes": False}))
    limits = limits_for(Report(rows), asked_back=0.1)
    assert limits.answering == pytest.approx(0.11, abs=0.01)
    assert limits.writing == pytest.approx(0.701)
    assert limits_for(Report([turn("a", sure=0.999)]), 0.0) == Limits(0.99, 0.99)


def test_written_limits_leave_the_rest_of_a_profile_alone(tmp_path: Path) -> None:
    before = Profile(prompt="short", sampling={"temperature": 0.3})
    (tmp_path / "csproto.json").write_text(before.model_dump_json(), encoding="utf-8")
    change_profile(str(tmp_path), {"limits": Limits(0.4, 0.9)})
    assert profile_of(tmp_path) == before.model_copy(update={"limits": Limits(0.4, 0.9)})


@pytest.fixture
def profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of profiles with the default one alone."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(profile.FOLDER / profile.DEFAULT, folder)
    monkeypatch.setattr(profile, "FOLDER", folder)
    return folder


@pytest.mark.parametrize("model", ["someone/model-7B", "/srv/elsewhere/model-7B"])
def test_a_model_without_a_folder_here_has_limits_too(profiles: Path, model: str) -> None:
    assert profile_of(model).limits == Limits(0.5, 0.8)
    assert change_profile(model, {"limits": Limits(0.4, 0.9)}) == profiles / "model-7B.yaml"
    assert profile_of(model).limits == Limits(0.4, 0.9)
    assert profile_of("someone/model-8B").limits == Limits(0.5, 0.8)


def test_limits_that_cannot_be_written_are_refused_before_the_hours_of_measuring(
    profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != profiles)  # the tests may run as root
    with pytest.raises(CsprotoError, match="not writable"):
        writable_profile("someone/model-7B")


def test_what_a_profile_leaves_out_is_as_in_the_default_one(tmp_path: Path) -> None:
    """A model whose file says nothing of limits still asks back."""
    (tmp_path / "csproto.json").write_text('{"sampling": {"temperature": 0.7, "top_k": 20}}')
    found = profile_of(tmp_path)
    assert found.limits == profile_of("of nobody").limits == Limits(0.5, 0.8)
    assert isinstance(found.sampling["top_k"], int), "SGLang takes no 20.0"
    (tmp_path / "csproto.json").write_text('{"limits": {"answering": 0.6}}')
    assert profile_of(tmp_path).limits == Limits(0.6, 0.8)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"sampling": {"repetition_penalty": 1.05}}', "repetition_penalty"),
        ('{"sampling": {"max_new_tokens": 5}}', "max_new_tokens"),
        ("[1]", "no list of names"),
        ("{", "csproto.json"),
    ],
)
def test_a_profile_that_would_fail_in_the_first_turn_is_refused(
    tmp_path: Path, text: str, word: str
) -> None:
    (tmp_path / "csproto.json").write_text(text)
    with pytest.raises(profile.ProfileError, match=word):
        profile_of(tmp_path)


def test_every_sampling_parameter_of_a_profile_is_one_of_sglangs_frontend() -> None:
    from sglang.lang.ir import SglFunction

    assert set(get_args(profile.Sampling)) <= set(inspect.signature(SglFunction.run).parameters)


def case(number: str, customer: str = "C001") -> Case:
    return Case(id=number, lang="en", customer=customer, turns=[{"text": "hi"}])  # type: ignore[list-item]


def test_a_half_goes_by_the_number_at_the_end() -> None:
    cases = [case("zh-001"), case("zh-002"), case("13")]
    assert [c.id for c in half(cases, "odd")] == ["zh-001", "13"]
    assert [c.id for c in half(cases, "even")] == ["zh-002"]
    with pytest.raises(BadCases, match="greeting does not end in a number"):
        half([case("greeting")], "odd")


def test_an_unknown_customer_is_named_before_anything_is_played() -> None:
    def make_desk(*_: object) -> Any:
        raise AssertionError("a case was played")

    with pytest.raises(BadCases, match="Case two: the demo shop has no customer C999"):
        play_all([case("one"), case("two", "C999")], make_desk)


def test_a_higher_threshold_answers_fewer_and_is_right_more_often() -> None:
    rows = [turn(str(n), sure=0.55, right={"intent": n % 2 == 0}) for n in range(10)]
    rows += [turn(f"sure {n}", sure=0.97) for n in range(10)]
    by_threshold = {row["threshold"]: row for row in Report(rows).by_threshold()}
    assert (by_threshold[0.5]["coverage"], by_threshold[0.5]["accuracy"]) == (1.0, 0.75)
    assert (by_threshold[0.95]["coverage"], by_threshold[0.95]["accuracy"]) == (0.5, 1.0)


def test_what_no_turn_states_has_no_figure() -> None:
    figures = Report([turn("a", expect={}, right={})]).as_dict()
    for name in ("intent", "orders", "action", "third_turn"):
        assert figures[name] is None
    json.dumps(figures, allow_nan=False)


def test_figures_can_be_drawn_when_every_turn_has_failed() -> None:
    row = {"id": "a", "lang": "en", "turn": 1, "text": "hi", "error": "ValueError: no JSON"}
    row |= {"expect": {"intent": "other"}, "right": {"intent": False}, "writes": []}
    figures = Report([row]).as_dict()
    assert figures["intent"]["share"] == 0
    assert figures["json_valid"]["share"] == 0
    assert figures["errors"] == 1


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("转人工", "human_agent"),
        ("cancel it", "cancel_order"),
        ("退货", "return_exchange"),
        ("hi", "other"),
    ],
)
def test_keywords(text: str, intent: str) -> None:
    assert Keywords().intents([text]) == [intent]


def test_the_record_of_a_model_becomes_a_row(tmp_path: Path) -> None:
    row = turn("x-1", lang="zh", text="你好", writes=write("urge"))
    row["usage"]["total_ms"] = 1500.0
    row["right"] = {"intent": True, "writes": False}
    figures = Report([row]).as_dict()
    kept = models.record(figures, Profile(similar=8), ["outside, odd half"], workers=2)
    assert kept["figures"]["unwanted_writes"] == {"count": 1, "ids": ["x-1:1"]}
    assert "你好" not in json.dumps(kept, ensure_ascii=False)
    models.write_record(models.record_file("Some-Model", tmp_path), kept)
    page = models.page(tmp_path)
    assert "| Some-Model, 8 similar lines | 1 (outside, odd half) | 100.0% | 100.0% |" in page
    with pytest.raises(CsprotoError, match="no name"):
        models.record_file("../elsewhere", tmp_path)


def recorded(tmp_path: Path, name: str, *rows: dict[str, Any], **how: Any) -> str:
    """Return the page with the record of one model on it."""
    kept = models.record(Report(list(rows)).as_dict(), Profile(limits=Limits(0.5)), [], 1, **how)
    models.write_record(models.record_file(name, tmp_path), kept)
    return models.page(tmp_path)


def test_the_page_says_how_a_model_was_played(tmp_path: Path) -> None:
    usual = recorded(tmp_path, "usual", turn("a"))
    assert "| usual | 1 (" in usual
    page = recorded(tmp_path, "other", turn("a"), temperature=0.7, repeat=4, calibrated=True)
    assert "| other, temperature 0.7, each case 4 times, without limits | 1 (" in page


def test_the_row_of_what_is_missing_goes_when_it_is_measured(tmp_path: Path) -> None:
    page = recorded(tmp_path, "other", turn("a"))
    assert "| Qwen2.5-7B-Instruct | not yet" in page
    assert {row.count("|") for row in page.splitlines() if row.startswith("|")} == {13}
    page = recorded(tmp_path, "qwen2.5-7b-instruct", turn("a"))
    assert "not yet" not in page


def test_a_model_that_answered_nothing_has_a_row_all_the_same(tmp_path: Path) -> None:
    row = {"id": "a", "lang": "en", "turn": 1, "text": "hi", "error": "ValueError: no JSON"}
    row |= {"expect": {"intent": "other"}, "right": {"intent": False}, "writes": []}
    page = recorded(tmp_path, "silent", row)
    assert "| silent | 1 () | 0.0% |" in page
