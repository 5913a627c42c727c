"""The corpus: the oracle writes what the grammar admits, about the desk's own decisions."""

import json
import random

import pytest
from xgrammar.testing import _is_grammar_accept_string

from csproto.desk.handbook import default_handbook
from csproto.desk.triage import from_wire, grammar
from csproto.minimodel.dialogues import ALTERNATIVES, OPENING_MESSAGES, Piece, conversations
from csproto.minimodel.lists import BLANK, articles, lists
from csproto.minimodel.speaker import BLANKS

SAMPLES = 250


@pytest.fixture(scope="module")
def transcripts() -> list[list[Piece]]:
    return list(conversations(11, SAMPLES))


def triages(pieces: list[Piece]) -> list[tuple[str, str, list[str], bool]]:
    """Every message of a transcript with its JSON, the orders in sight.

    Whether a question may be open.
    """
    found, own, dialogue = [], [], False
    for number, piece in enumerate(pieces):
        if piece.role == "system" and '"orders":' in piece.content:
            own = list(
                dict.fromkeys(
                    [*own, *(order["id"] for order in json.loads(piece.content)["orders"])]
                )
            )
        if piece.role == "user":
            after = pieces[number + 1].content
            found.append((piece.content, after, own, dialogue))
            dialogue = True
        for *_, user, wire in piece.instead:
            found.append((user.content, wire.content, own, dialogue))
    return found


def test_every_label_is_admitted_by_the_grammar(transcripts) -> None:
    handbook, refused, seen = default_handbook(), [], 0
    for pieces in transcripts:
        if pieces[0].content != "csproto":
            continue
        for text, wire, own, dialogue in random.Random(1).sample(
            triages(pieces), min(4, len(triages(pieces)))
        ):
            seen += 1
            ebnf = grammar(handbook, text, own, dialogue, dialogue)
            if not _is_grammar_accept_string(ebnf, wire):
                refused.append((text, wire))
    assert seen > 500
    assert len(refused) < 0.01 * seen, (
        refused
    )  # a slip of the keyboard may part a slot from its text


def test_a_list_of_orders_has_many_messages_behind_it(transcripts) -> None:
    counts = [len(piece.instead) for pieces in transcripts for piece in pieces if piece.instead]
    assert OPENING_MESSAGES - 1 in counts
    assert ALTERNATIVES in counts


def test_every_intent_act_and_slot_is_practised(transcripts) -> None:
    handbook = default_handbook()
    read = [
        from_wire(wire)
        for pieces in transcripts
        if pieces[0].content != "copy"
        for _, wire, *_ in triages(pieces)
    ]
    wishes = [wish for triage in read for wish in triage.wishes]
    assert {wish.intent for wish in wishes} == set(handbook.intents)
    assert {triage.act for triage in read} == {"ask", "confirm", "deny", "correct"}
    slots = {name for wish in wishes for name in wish.slots}
    wanted = {
        name
        for wish in handbook.wishes.values()
        for name, slot in wish.slots.items()
        if not slot.claim
    }
    assert slots == wanted
    naming = [wish for wish in wishes if wish.orders]
    assert sum(len(wish.orders) > 1 for wish in naming) > 0.08 * len(naming)


def test_the_same_seed_gives_the_same_transcripts() -> None:
    assert list(conversations(3, 20)) == list(conversations(3, 20))
    assert list(conversations(3, 5)) != list(conversations(4, 5))


@pytest.mark.parametrize("language", ["zh", "en"])
def test_lists_are_sorted_unique_and_use_known_blanks_and_labels(language: str) -> None:
    handbook = default_handbook()
    labels = {"list", "undo", *handbook.intents}
    slots = {name: slot for wish in handbook.wishes.values() for name, slot in wish.slots.items()}
    for name, lines in lists(language).items():
        assert len(lines) == len(set(lines)), name
        for line in lines:
            for segment in line:
                unknown = {match[1] for match in BLANK.finditer(segment.text)} - BLANKS
                assert not unknown or name == "hostile", (name, segment)
                for label in segment.labels:
                    key, equals, value = label.partition("=")
                    if not equals or name == "references":
                        continue
                    choices = slots[key].choices or list(handbook.answers)
                    assert key == "times" or value in choices, (name, segment)
                    assert label not in labels


def test_held_out_articles_are_no_training_articles() -> None:
    known = {name for article in articles() for name in article.name.values()}
    held = {name for article in articles(held_out=True) for name in article.name.values()}
    assert len(articles()) >= 500
    assert len(articles(held_out=True)) >= 150
    assert not known & held
