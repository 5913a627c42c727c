"""The examples of the prompt: legal, apart from the evaluation sets, and chosen by measuring."""

import json

import pytest
import xgrammar

from csproto.desk.handbook import Example, HandbookError, default_handbook
from csproto.desk.profile import Profile
from csproto.desk.prompt import prompt_messages, spare_examples
from csproto.desk.triage import grammar
from csproto.measure.cases import load_cases
from csproto.measure.evaluate import SETS
from csproto.measure.examples import Try, choose, score, tuning_cases
from csproto.measure.report import Report

SPARE = [(intent, e) for intent, found in spare_examples(default_handbook()).items() for e in found]


def test_every_wish_has_spare_examples_in_both_languages() -> None:
    for intent, examples in spare_examples(default_handbook()).items():
        assert {example.text.isascii() for example in examples} == {True, False}, intent


@pytest.mark.parametrize(("intent", "example"), SPARE)
def test_a_spare_example_shows_what_the_grammar_lets_a_model_write(
    intent: str, example: Example
) -> None:
    handbook = default_handbook()
    *before, said, wire = prompt_messages(Profile(examples=(example.text,)), handbook)
    assert said.content == example.text
    assert (
        before[: len(before) - 1] == list(prompt_messages(Profile(), handbook))[: len(before) - 1]
    )
    assert json.loads(wire.content)["wishes"][0]["intent"] == intent
    own = [order.id for order in handbook.example_orders]
    ebnf = grammar(handbook, example.text, own, waiting=False, begun=False)
    compiled = xgrammar.Grammar.from_ebnf(ebnf)
    assert xgrammar.testing._is_grammar_accept_string(compiled, wire.content), wire.content


def test_no_example_is_a_message_of_an_evaluation_set() -> None:
    handbook = default_handbook()
    shown = [e.text for wish in handbook.wishes.values() for e in (*wish.examples, *wish.spare)]
    shown += [example.text for example in handbook.examples]
    assert len(set(shown)) == len(shown)
    said = {t.text for path in SETS.values() for case in load_cases(path) for t in case.turns}
    assert said & set(shown) == set()


def test_an_example_that_no_wish_has_is_named() -> None:
    with pytest.raises(HandbookError, match=r"'no such text'.*--tune"):
        prompt_messages(Profile(examples=("no such text",)), default_handbook())


def test_messages_to_tune_on_are_of_the_halves_that_may_be_looked_at() -> None:
    cases = tuning_cases(90)
    assert len(cases) == 90
    assert all(case.id[-1] in "13579" and len(case.turns) == 1 for case in cases)
    assert {case.turns[0].expect.intents[0] for case in cases} == set(default_handbook().intents)


def report(right: dict[str, float]) -> Report:
    """A report of one turn for each intent: how sure the model was, 0 where it was wrong."""
    rows = []
    for intent, sure in right.items():
        wish = {"intent": intent if sure else "other", "orders": []}
        rows.append(
            {
                "id": intent,
                "lang": "en",
                "turn": 1,
                "text": "hi",
                "error": None,
                "triage": {"act": "ask", "wishes": [wish]},
                "sure": sure or 0.9,
                "expect": {"intent": intent},
                "right": {"intent": bool(sure)},
            }
        )
    return Report(rows)


def test_a_wrong_answer_scores_nothing_however_sure_the_model_was() -> None:
    assert score(report({"invoice": 0.8, "complaint": 0.0})) == pytest.approx(0.4)


def test_examples_of_the_worst_wish_are_tried_and_kept_only_if_they_help() -> None:
    """The first example for complaints helps, the second one harms; then it is invoices' turn."""
    spare = {
        intent: [e.text for e in found]
        for intent, found in spare_examples(default_handbook()).items()
    }
    good, bad = spare["complaint"][:2]
    seen: list[Profile] = []

    def measure(profile: Profile) -> Report:
        seen.append(profile)
        complaint = 0.0 + 0.5 * (good in profile.examples) - 0.3 * (bad in profile.examples)
        return report({"complaint": complaint, "invoice": 0.6})

    start = Profile()
    first, *tries = choose(measure, start, 3)
    assert first == Try("", "", pytest.approx(0.3), 0.5, True, start)
    assert [step.example for step in tries] == [good, bad, spare["complaint"][2]]
    assert [step.kept for step in tries] == [True, False, False]
    assert tries[-1].profile == Profile(examples=(good,))
    assert all(profile.limits.answering == 0 for profile in seen), "it must not ask back"
    assert seen[-1].examples == (good, spare["complaint"][2]), "on top of what was kept"


def test_choosing_ends_when_every_example_was_tried() -> None:
    least = report({"complaint": 0.0})
    steps = list(choose(lambda _: least, Profile(), 100))
    assert len(steps) == 1 + len(spare_examples(default_handbook())["complaint"])
