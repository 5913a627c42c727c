"""The conversations every arm plays: hand-written dialogues and generated ones, the same for the same seed. No model has a part in them."""

import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.evaluate import Case, CaseTurn, Expected, load_cases
from csproto.minimodel.utterances import Speaker, Utterance
from csproto.settings import DATA
from csproto.shop.store import Customer, Order
from csproto.triage import Act, Intent, canonical_order_id

DIALOGUES = DATA / "eval" / "dialogues.jsonl"
LENGTHS = (3, 5)  # turns
ASKED_BACK = (Intent.CANCEL_ORDER, Intent.CHANGE_ADDRESS)  # wishes that wait for a yes


def conversations(shop: Engine, seed: str, count: int) -> list[Case]:
    """`count` conversations of 3 or 5 turns: every other one from the dialogue set, cut to length, the rest generated from the shop's orders."""
    pick = random.Random(seed)
    written = _written(pick)
    buyers = _buyers(shop)
    return [
        next(written)
        if place % 2
        else _generated(pick, pick.choice(buyers), f"{seed}-{place}", LENGTHS[place // 2 % 2])
        for place in range(count)
    ]


@cache
def _dialogues() -> list[Case]:
    return [case for case in load_cases(DIALOGUES) if len(case.turns) >= LENGTHS[0]]


def _written(pick: random.Random) -> Iterator[Case]:
    """The dialogue set in a shuffled order, again and again; what it expects of each turn comes along."""
    while True:
        for case in pick.sample(_dialogues(), len(_dialogues())):
            length = max(n for n in LENGTHS if n <= len(case.turns))
            yield case.model_copy(update={"turns": case.turns[:length]})


class Buyer(NamedTuple):
    """A generated customer of the demo shop."""

    id: str
    language: str
    orders: list[str]


def _buyers(shop: Engine) -> list[Buyer]:
    found: dict[str, Buyer] = {}
    query = select(Customer.id, Customer.language, Order.id).join(
        Order, Order.customer_id == Customer.id
    )
    with Session(shop) as session:
        for owner, language, order_id in session.execute(query.order_by(Customer.id, Order.id)):
            if owner.startswith("G"):
                found.setdefault(owner, Buyer(owner, language, [])).orders.append(order_id)
    return list(found.values())


def _generated(pick: random.Random, buyer: Buyer, name: str, length: int) -> Case:
    """A customer who names an order, then asks on about it, says yes where one would, and now and then names another one."""
    speaker = Speaker(buyer.language, pick, lambda: pick.choice(buyer.orders))
    wishes: list[Intent] = [intent for intent in Intent if intent is not Intent.OTHER]
    intent: Intent = pick.choice(wishes)
    turns = [_turn(speaker.wish(intent, with_order=True))]
    while len(turns) < length:
        if intent in ASKED_BACK and pick.random() < 0.6:
            turns.append(CaseTurn(text=speaker.listed("confirm", intent, Act.CONFIRM).text))
            intent = Intent.OTHER
        else:
            intent = pick.choice([*wishes, Intent.OTHER])
            turns.append(_turn(speaker.wish(intent, with_order=pick.random() < 0.25)))
    return Case(id=name, lang=buyer.language, customer=buyer.id, turns=turns)


def _turn(said: Utterance) -> CaseTurn:
    named = canonical_order_id(said.typed_id)
    return CaseTurn(text=said.text, expect=Expected(intent=said.triage.intent, order_id=named))
