"""Any model: examples that are similar to a message, and the figures kept of a model."""

import copy
import json

import pytest
from scripted import says, scripted, watching

from csproto.desk.handbook import HandbookError, default_handbook
from csproto.desk.profile import Profile, profile_of
from csproto.desk.prompt import prompt_messages
from csproto.desk.reader import read_ahead
from csproto.desk.transcript import Message
from csproto.measure import models, wishes
from csproto.minimodel.classifier import labelled_lines
from csproto.minimodel.similar import SimilarLines
from csproto.shop.orders import OrderApi


@pytest.fixture(scope="module")
def similar() -> SimilarLines:
    return SimilarLines(default_handbook(), 5)


def test_a_line_of_the_corpus_is_most_similar_to_itself(similar: SimilarLines) -> None:
    texts, intents = labelled_lines(default_handbook())
    assert set(intents) == set(default_handbook().intents)
    for place in range(0, len(texts), len(texts) // 20):
        text, _ = similar.nearest(texts[place])[0]
        assert text == texts[place]


def test_lines_that_are_similar_mostly_share_the_intent(similar: SimilarLines) -> None:
    near = similar.nearest("where on earth is my refund, you took the rug back weeks ago")
    assert sum(intent == "refund_status" for _, intent in near) >= 3
    (message,) = similar("退款怎么还没到账")
    listed = json.loads(message.content)["similar"]
    assert (message.role, len(listed)) == ("system", 5)
    assert listed[-1]["intent"] == "refund_status"  # the most similar one stands last


def test_examples_stand_before_the_message_only_and_are_not_kept(engine) -> None:
    seen, script = watching()
    example = Message("system", '{"similar":[]}')
    desk = scripted(OrderApi(engine), says("other"), script=script, similar=lambda text: [example])
    conversation = desk.open("C001")
    desk.turn(conversation, "hello")
    desk.turn(conversation, "hello again")
    assert [m[-1] for m in seen] == [example, example]
    assert example not in seen[1][:-1]
    assert example not in conversation.transcript


def test_the_shared_prompt_is_read_once_for_all(endpoint) -> None:
    """With a prompt from the wish files, the first customer finds it in the cache."""
    profile = Profile(prompt="", limits=profile_of("").limits)
    prompt = prompt_messages(profile, default_handbook())[:1]  # all would be too long for it
    read_ahead(endpoint, prompt)
    rendered = endpoint.chat_template.get_prompt(
        [{"role": m.role, "content": m.content} for m in prompt]
    )
    asked = {"text": rendered + "x", "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
    meta = json.loads(endpoint.post("/generate", asked))["meta_info"]
    assert meta["cached_tokens"] >= 0.98 * meta["prompt_tokens"]


def test_the_page_of_models_is_up_to_date() -> None:
    assert models.PAGE.read_text(encoding="utf-8") == models.page(), (
        "docs/models.md is out of date. Run `python -m csproto.measure.models`."
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"order": "999999"}, "none of the example orders"),
        ({"after": "no.such.rule"}, "no.such.rule"),
        ({"after": "urge.paid"}, "urge.paid"),  # asks nothing
    ],
)
def test_an_example_that_cannot_be_put_into_the_prompt_is_named(change: dict, why: str) -> None:
    handbook = copy.copy(default_handbook())
    example = next(e for e in handbook.examples if e.after)
    handbook.examples = [example.model_copy(update=change)]
    with pytest.raises(HandbookError, match=why) as told:
        prompt_messages(Profile(), handbook)
    assert repr(example.text) in str(told.value)


def test_a_question_with_facts_that_an_example_has_not_is_named() -> None:
    handbook = copy.copy(default_handbook())
    example = next(e for e in handbook.examples if e.after)
    rule = handbook.rules[example.after]
    asks = {language: ["Register {deadline}?"] for language in rule.ask}
    handbook.rules = {**handbook.rules, example.after: rule.model_copy(update={"ask": asks})}
    handbook.examples = [example]
    with pytest.raises(HandbookError, match="deadline"):
        prompt_messages(Profile(), handbook)


def test_the_page_of_wishes_says_that_all_conditions_must_hold() -> None:
    """`State.candidates` takes an order only if every field fits."""
    handbook = default_handbook()
    two = [wish for wish in handbook.wishes.values() if len(wish.fits) > 1]
    assert two
    for wish in two:
        fits = " and ".join(f"{name} {', '.join(v)}" for name, v in wish.fits.items())
        assert f"it can be about an order with: {fits}\n" in wishes.page(handbook)
