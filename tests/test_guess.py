"""The first guess: what the classifier makes of messages, and what the model is told of it."""

import json

import pytest
from scripted import says, scripted, watching

from csproto.desk.guess import ALWAYS, LISTED, STEP, FirstGuess, guesser, shortlist
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.prompt import example_messages
from csproto.desk.transcript import Message, hints
from csproto.measure.baselines import Keywords, baseline_rows
from csproto.measure.cases import load_cases
from csproto.measure.evaluate import SETS
from csproto.measure.report import Report
from csproto.minimodel.lists import FOLDS, entries, fold_of, lists
from csproto.shop.orders import OrderApi

INTENTS = tuple(default_handbook().intents)


@pytest.fixture(scope="module")
def guess() -> FirstGuess:
    return guesser(INTENTS)


@pytest.mark.parametrize("name", ["handwritten", "outside"])
def test_it_knows_far_more_than_keywords(guess: FirstGuess, name: str) -> None:
    cases = load_cases(SETS[name])
    ours, theirs = (
        Report(baseline_rows(one, cases)).share("intent")["share"] for one in (guess, Keywords())
    )
    assert ours > 0.8
    assert 1 - ours < 0.6 * (1 - theirs)


def test_a_guess_lists_the_likeliest_intents_with_percentages(guess: FirstGuess) -> None:
    cases = load_cases(SETS["handwritten"])[:80]
    for text in [turn.text for case in cases for turn in case.turns] + ["", "?", "\u200b", "退"]:
        found = guess(text)
        assert 1 <= len(found) <= LISTED
        assert set(found) <= set(INTENTS)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert all(0 <= percent <= 100 and percent % STEP == 0 for percent in found.values())
        assert all(percent > 0 for percent in list(found.values())[1:])
        assert next(iter(found)) == guess.intents([text])[0]


def test_percentages_say_how_often_it_is_right(guess: FirstGuess) -> None:
    """On messages by other hands, guesses of 90 percent and more are right that often."""
    turns = [turn for case in load_cases(SETS["outside"]) for turn in case.turns]
    asked = [turn for turn in turns if turn.expect.intent is not None]
    first = [next(iter(guess(turn.text).items())) for turn in asked]
    right = [
        intent in turn.expect.intents for turn, (intent, percent) in zip(asked, first, strict=True)
    ]
    sure = [ok for ok, (_, percent) in zip(right, first, strict=True) if percent >= 90]
    unsure = [ok for ok, (_, percent) in zip(right, first, strict=True) if percent < 60]
    assert len(sure) > 100
    assert sum(sure) / len(sure) > 0.9
    assert len(unsure) > 50
    assert sum(unsure) / len(unsure) < 0.75


def test_a_shop_with_fewer_wishes_gets_guesses_about_these_alone() -> None:
    few = FirstGuess.load(["invoice", "other", "wish_of_another_shop"])
    assert few("我要退货")
    assert set(few("我要退货")) <= {"invoice", "other"}


def test_a_shop_whose_wishes_the_classifier_does_not_know_gets_no_guesses() -> None:
    assert guesser(("wish_of_another_shop",))("我要退货") == {}


def test_the_model_reads_the_guess_before_the_message_and_the_transcript_keeps_it(engine) -> None:
    seen, script = watching()
    desk = scripted(OrderApi(engine), says("other"), script=script, guess=lambda _: {"other": 90})
    conversation = desk.open("C001")
    desk.turn(conversation, "hello")
    desk.turn(conversation, "hello again")
    told = Message("system", '{"guess":{"other":90}}')
    assert [messages[-1] for messages in seen] == [told, told]
    assert conversation.transcript.count(told) == 2


def test_hints_are_left_out_when_there_is_nothing_to_say(engine) -> None:
    orders = OrderApi(engine).facts("C001").orders
    assert hints("hello", orders, {}) == []
    (both,) = hints(f"cancel {orders[0].id}", orders, {"cancel_order": 100})
    assert list(json.loads(both.content)) == ["guess", "matches"]


def test_examples_of_the_prompt_have_the_form_of_a_transcript(guess: FirstGuess) -> None:
    messages = example_messages(default_handbook(), guess)
    for place, message in enumerate(messages):
        if message.role == "user":
            assert next(iter(json.loads(messages[place - 1].content))) == "guess"


def test_the_folds_are_equal_parts_of_the_corpus() -> None:
    """The classifier that guesses about one part in training was fitted on the others."""
    for language in ("zh", "en"):
        for name in ("return_exchange", "other", "several"):
            every = lists(language)[name]
            folds = [entries(language, name, fold) for fold in range(FOLDS)]
            assert sorted(line for fold in folds for line in fold) == sorted(every)
            assert all(fold_of(line) == n for n, fold in enumerate(folds) for line in fold)
            assert all(0.8 < len(fold) * FOLDS / len(every) < 1.2 for fold in folds)


def test_the_shortlist_is_short_and_seldom_without_what_is_meant() -> None:
    cases = [*load_cases(SETS["handwritten"]), *load_cases(SETS["outside"])]
    turns = [(t.text, t.expect.intents) for c in cases for t in c.turns if t.expect.intents]
    lists = [shortlist(default_handbook(), 0.02, text) for text, _ in turns]
    within = [bool({*names} & {*meant}) for names, (_, meant) in zip(lists, turns, strict=True)]
    assert sum(within) / len(within) > 0.97
    assert sum(map(len, lists)) / len(lists) < 0.4 * len(INTENTS)


def test_the_shortlist_keeps_a_human_something_else_and_wishes_that_nobody_trained(
    guess: FirstGuess,
) -> None:
    bigger = Handbook()
    bigger.wishes["gift_card"] = bigger.wishes["invoice"]
    for text in ("", "?", "我要退货", "yes", "\u200b"):
        found = shortlist(bigger, 0.999, text)
        assert {*ALWAYS, "gift_card", *guess.intents([text])} <= {*found}
