"""Scenarios played without a model: each message is read as its file says an honest reader would.

`play_fresh(scenario, make_desk, filled_shop)` plays the same on a real desk.
"""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
import xgrammar
from sqlalchemy.engine import Engine

from csproto.desk.assistant import Assistant
from csproto.desk.handbook import default_handbook
from csproto.desk.reader import Call, Read
from csproto.desk.state import Limits
from csproto.desk.transcript import Message, clean
from csproto.desk.triage import Triage, Wish
from csproto.measure.cases import WRITE_KINDS, Expected
from csproto.measure.play import fill_shop
from csproto.measure.scenarios import (
    FIELDS,
    NOW,
    Scenario,
    ScenarioError,
    Step,
    listed,
    load_scenarios,
    play_fresh,
)
from csproto.shop.orders import Faults, OrderApi

HANDBOOK = default_handbook()
ALL = load_scenarios()
FAMILIES = (
    "happy_path confirmation correction digression cancellation references several_wishes "
    "policy_boundary no_write injection other_people languages faults closings unsure undo "
    "invoice_address complaints_and_people"
).split()
LEAST = 260
CUSTOMERS = {f"C{number:03}" for number in range(1, 20)}
THRESHOLD = 0.6  # below this sureness, the rehearsed desk asks back


class HonestReader:
    """Stands in for the model: reads as the file says and takes any of the shop's wordings.

    One for each scenario; the desk asks for it once a turn. What it reads has to be possible
    under the grammar that a model would write under.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.coming, self.step = iter(scenario.turns), scenario.turns[0]
        self.impossible: list[str] = []

    def __call__(self, _stop: object) -> "HonestReader":
        self.step = next(self.coming)
        return self

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        raw = self.step.means.triage
        wishes = tuple(Wish(w.intent, w.orders, slots(w, claim=False)) for w in raw.wishes)
        wire = Triage(raw.act, wishes).to_wire()
        self._check(ebnf, wire)
        return Read(wire, {}, self.step.sure, self.step.runner_up)

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        claimed = slots(
            next(w for w in self.step.means.triage.wishes if w.intent == "payment_issue"),
            claim=True,
        )
        wire = json.dumps({"amount": "", "times": 0} | claimed, separators=(",", ":"))
        self._check(ebnf, wire)
        return Call(wire, {})

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        place = sum(map(ord, self.step.say)) % len(stems)  # another one for another message
        return place, Call(stems[place], {})

    def _check(self, ebnf: str, wire: str) -> None:
        grammar = xgrammar.Grammar.from_ebnf(ebnf)
        if not xgrammar.testing._is_grammar_accept_string(grammar, wire):
            self.impossible.append(f"“{self.step.say}”: the grammar does not allow {wire}")


def slots(wish: Wish, claim: bool) -> dict[str, object]:
    known = HANDBOOK.wishes[wish.intent].slots
    return {name: value for name, value in wish.slots.items() if known[name].claim == claim}


@pytest.fixture(scope="session")
def filled_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the demo shop as the scenarios find it, to be copied for each."""
    path = tmp_path_factory.mktemp("scenarios") / "filled.db"
    fill_shop(path, NOW)
    return path


def rehearse(scenario: Scenario, filled: Path) -> list[str]:
    reader = HonestReader(scenario)

    def make_desk(engine: Engine, now: datetime) -> Assistant:
        with engine.connect() as connection:  # a throwaway file: do not wait for the disk
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
        return Assistant(
            reader,
            OrderApi(engine),
            keep=lambda conversation: conversation.save(engine),
            prompt=(),
            handbook=HANDBOOK,
            limits=Limits(THRESHOLD),
            messages_per_minute=None,
        )

    return play_fresh(scenario, make_desk, filled) + reader.impossible


@pytest.mark.parametrize("scenario", ALL, ids=lambda s: f"{s.family}: {s.name}")
def test_the_desk_does_what_is_promised(scenario: Scenario, filled_shop: Path) -> None:
    differences = rehearse(scenario, filled_shop)
    assert not differences, "\n".join(differences)


# The files.


def test_every_family_is_there_and_has_enough() -> None:
    counts = Counter(s.family for s in ALL)
    assert sorted(counts) == sorted(FAMILIES)
    assert min(counts.values()) >= 6, counts
    assert len(ALL) >= LEAST


def test_names_are_used_once() -> None:
    assert not [name for name, times in Counter(s.name for s in ALL).items() if times > 1]


def test_both_languages_are_there() -> None:
    english = sum(scenario.turns[0].say.isascii() for scenario in ALL)
    assert 0.3 <= english / len(ALL) <= 0.6


@pytest.mark.parametrize("scenario", ALL, ids=lambda s: s.name)
def test_names_and_labels(scenario: Scenario) -> None:
    for step in scenario.turns:
        assert actions_of(step) <= HANDBOOK.actions
        assert step.rule is None or step.rule in HANDBOOK.rules
        assert {
            kind for kinds in Expected(writes=step.writes).write_sets for kind in kinds
        } <= WRITE_KINDS
        assert step.runner_up is None or step.runner_up in HANDBOOK.intents
        assert (step.runner_up is None) == (step.sure == 1.0), "unsure means a second reading"
        Faults(**(step.faults or {}))
        for wish in step.means.triage.wishes:
            known = HANDBOOK.wishes[wish.intent].slots
            for name, value in wish.slots.items():
                assert not known[name].copied or value in clean(step.say), f"{name} is copied"
    assert {name for changes in scenario.after.values() for name in changes} <= set(FIELDS)
    assert {ticket["kind"] for ticket in scenario.tickets} <= WRITE_KINDS | {"unavailable"}
    assert scenario.customer in CUSTOMERS


def test_every_action_and_every_rule_is_expected_somewhere() -> None:
    steps = [step for scenario in ALL for step in scenario.turns]
    assert HANDBOOK.actions == {action for step in steps for action in actions_of(step)}
    assert HANDBOOK.rules.keys() <= {step.rule for step in steps}


def actions_of(step: Step) -> set[str]:
    """Every action that a turn may lead to."""
    return {action for one in (step.action, *step.also) for action in listed(one)}


def test_a_wrong_outcome_is_told_in_plain_words(filled_shop: Path) -> None:
    scenario = next(s for s in ALL if s.name == "demo: the shirt that is too small")
    first, second = scenario.turns
    wrong = second.model_copy(
        update={
            "action": "cancelled",
            "rule": "cancel.done",
            "writes": [],
            "reply_has": ["gold"],
            "waits": "yes",
        }
    )
    spoilt = scenario.model_copy(update={"turns": [first, wrong], "after": {}, "tickets": []})
    told = "\n".join(rehearse(spoilt, filled_shop))
    for part in (
        "decided return_registered by return.registered, expected cancelled",
        "expected the rule cancel.done",
        "written: return 123456, expected nothing",
        "waits for none, expected yes",
        "the reply lacks gold",
        "refund of 123456 is 'requested', expected 'none'",
        "an unexpected ticket: return 123456",
    ):
        assert part in told


@pytest.mark.parametrize(
    "text",
    [
        "- {name: a, customer: C1, turns: []}",
        "- {name: a, customer: C1, turns: [{say: x, means: {}, action: small_talk, write: []}]}",
        "- {name: a, customer: C1, turns: [{say: x, means: {act: perhaps}, action: small_talk}]}",
        "- {name: a, customer: C1, turns: [{say: x, means: {}, action: small_talk, waits: soon}]}",
        "- just words",
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "family.yaml").write_text(text)
    with pytest.raises(ScenarioError, match=r"family.yaml, scenario 1"):
        load_scenarios(tmp_path)
