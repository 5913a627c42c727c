"""Whatever the grammar lets a model write, over whole dialogues.

Nothing is done without a yes, nothing foreign is touched or told.
"""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import composite
from support import NOW

from csproto.desk.dialogue import respond
from csproto.desk.handbook import default_handbook
from csproto.desk.lexicon import begins_with_yes
from csproto.desk.reply import alternatives, stems
from csproto.desk.state import Limits, Reading, State
from csproto.desk.triage import Triage, Wish, from_wire
from csproto.minimodel.customers import MemoryShop
from csproto.shop import demo
from csproto.shop.orders import OrderApi
from csproto.shop.store import open_engine

NEEDS_YES = {"return", "withdraw", "cancel", "address", "invoice"}
TEXTS = (
    "是",
    "好的，取消吧",
    "yes please",
    "ok 345678",
    "是不是",
    "no",
    "不要",
    "算了",
    "取消123456和789012",
    "cancel 160001",
    "where is it",
    "退货 坏了",
    "电话改成13800001111",
    "尾号0008那个",
    "订单号是12345",
    "hello",
    "发票抬头某某公司 税号91310000X",
)
CUSTOMERS = (
    "C001",
    "C002",
    "C003",
    "C004",
    "C007",
    "C008",
    "C010",
    "C012",
    "C014",
    "C016",
    "C019",
    "C011",
)
HANDBOOK = default_handbook()


@pytest.fixture(scope="module")
def everybody(tmp_path_factory) -> dict:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}")
    demo.fill(engine, NOW)
    api = OrderApi(engine)
    return {customer: api.facts(customer) for customer in CUSTOMERS}


def slot_value(slot, text: str):
    if slot.choices:
        return st.sampled_from(slot.choices)
    if slot.answers:
        return st.sampled_from(sorted(HANDBOOK.answers))
    if slot.flag:
        return st.just(True)
    return st.just("某某 5") if slot.copied else st.integers(1, 9)


@composite
def wishes(draw, numbers: list[str], text: str) -> Wish:
    intent = draw(st.sampled_from(HANDBOOK.intents))
    slots = {}
    for name, slot in HANDBOOK.wishes[intent].slots.items():
        if draw(st.booleans()):
            slots[name] = draw(slot_value(slot, text))
    orders = draw(st.lists(st.sampled_from(numbers), max_size=3, unique=True)) if numbers else []
    return Wish(intent, tuple(orders), slots)


@composite
def messages(draw, own: list[str], foreign: list[str]):
    text = draw(st.sampled_from(TEXTS))
    act = draw(st.sampled_from(("ask", "ask", "ask", "confirm", "deny", "correct")))
    few = draw(st.lists(wishes(own * 3 + foreign, text), min_size=act == "ask", max_size=3))
    return Reading(
        text,
        Triage(act, tuple(few)),
        draw(st.floats(0, 1)),
        draw(st.sampled_from(HANDBOOK.intents)),
    )


@given(data=st.data())
def test_whatever_is_read(everybody: dict, data) -> None:
    customer = data.draw(st.sampled_from(CUSTOMERS))
    others = [o for c, facts in everybody.items() if c != customer for o in facts.orders]
    shop, state = MemoryShop(everybody[customer], {}), State()
    own = [order.id for order in shop.customer.orders]
    foreign = [data.draw(st.sampled_from(others)).id, "12345"]
    for _ in range(data.draw(st.integers(1, 5))):
        reading = data.draw(messages(own, foreign))
        allowed = (
            reading.triage.act in ("ask", "correct") or state.question is not None
        )  # as the grammar has it
        if not allowed:
            reading = replace(
                reading, triage=Triage("ask", reading.triage.wishes or (Wish("other"),))
            )
        outcome = respond(reading, shop.customer, state, NOW, HANDBOOK, Limits(0.3, 0.5))
        check_writes(outcome, state, reading, own)
        check_reply(outcome, shop, own, others)
        for place, decision in enumerate(outcome.decisions):
            if decision.write:
                shop.write(str(place), customer, decision.write, NOW, decision.rule)
        state = outcome.state
        assert state.misses < 3


def check_writes(outcome, before: State, reading: Reading, own: list[str]) -> None:
    for decision in outcome.decisions:
        if not decision.write:
            continue
        assert decision.write.order_id in ("", *own)
        if decision.write.kind in NEEDS_YES:
            assert before.question is not None
            assert before.question.kind == "yes"
            assert decision.write.order_id in before.question.wish.orders
            assert reading.triage.act == "confirm"
            assert begins_with_yes(reading.text, HANDBOOK.lexicon)


def check_reply(outcome, shop: MemoryShop, own: list[str], others) -> None:
    assert outcome.decisions
    outcome = replace(outcome, decisions=tuple(with_ticket(d) for d in outcome.decisions))
    for language in ("zh", "en"):
        texts = alternatives(outcome, HANDBOOK, language)
        assert len(set(stems(texts))) == len(texts)
        for text in texts:
            assert text.strip()
            assert "{" not in text
            assert text.endswith(("?", "？")) == (
                outcome.state.question is not None and asks(outcome)
            ), text
        said = " ".join(texts)
        spoken = {d.order for d in outcome.decisions if d.order}
        for (
            order
        ) in others:  # somebody else's number may be repeated as not found, and nothing else of it
            assert order.id in spoken or not re.search(rf"(?<!\w){re.escape(order.id)}(?!\w)", said)
            assert not order.tracking_number or order.tracking_number not in said


def with_ticket(decision):
    """A decision as it is after its write."""
    return (
        replace(decision, facts={**decision.facts, "ticket": "T00001"})
        if decision.write
        else decision
    )


def asks(outcome) -> bool:
    return outcome.again or any(d.asks for d in outcome.decisions)


@given(st.sampled_from(("ask", "confirm", "deny", "correct")), st.data())
def test_a_triage_survives_the_wire(act: str, data) -> None:
    triage = Triage(
        act,
        tuple(data.draw(st.lists(wishes(["123456", "7301"], "abc"), max_size=3, unique_by=str))),
    )
    assert from_wire(triage.to_wire()) == triage
