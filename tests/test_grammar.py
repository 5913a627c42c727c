"""The grammar: every sentence it allows is valid JSON and valid for the model, whatever the model's weights are."""

import json
import random
from typing import Annotated, Literal

import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerFast

from csproto.engine.grammar import GrammarError, to_ebnf
from csproto.settings import MINI_MODEL
from csproto.transcript import clean
from csproto.triage import Act, Intent, Triage, acts_possible, canonical_order_id, grammar, order_id_candidates


def accepts(ebnf: str, text: str) -> bool:
    grammar = xgrammar.Grammar.from_ebnf(ebnf)
    return xgrammar.testing._is_grammar_accept_string(grammar, text)


class Everything(BaseModel):
    kind: Literal["a", "b c"]
    count: Annotated[int, Field(ge=0)] = 0
    ratio: float = 0.0
    sure: bool = False
    code: Annotated[str, Field(pattern=r"^[A-Z]{2,4}$")] = "AB"
    tags: Annotated[list[str], Field(max_length=2)] = []
    inner: Triage | None = None


@pytest.mark.parametrize(
    "text",
    [
        '{"kind":"a"}',
        '{"kind":"b c","count":12,"ratio":-3.25,"sure":true,"code":"XYZ","tags":["x","你好"]}',
        '{"kind":"a","inner":{"intent":"invoice","more":["complaint"]}}',
        '{"kind":"a","inner":null}',
    ],
)
def test_accepts_what_the_model_allows(text: str) -> None:
    assert accepts(to_ebnf(Everything), text)
    Everything.model_validate_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"kind": "a"}',
        '{"kind":"c"}',
        '{"kind":"a","count":-1}',
        '{"kind":"a","count":01}',
        '{"kind":"a","code":"A"}',
        '{"kind":"a","tags":["a","b","c"]}',
        '{"kind":"a","sure":1}',
        '{"kind":"a","tags":["a\nb"]}',
        '{"kind":"a","tags":["a\\"]}',
        '{"kind":"a"',
        '{"kind":"a"} ',
    ],
)
def test_refuses_the_rest(text: str) -> None:
    assert not accepts(to_ebnf(Everything), text)


TRIAGES = st.builds(
    Triage,
    intent=st.sampled_from(Intent),
    act=st.sampled_from(Act),
    order_id=st.text("0123456789ABCXYZ", max_size=24),
    reason=st.text(
        st.characters(min_codepoint=0xA1, max_codepoint=0x1FFF, exclude_categories=["Cs", "Cn"]), max_size=60
    ),
    more=st.lists(st.sampled_from(Intent), max_size=3),
)


@given(TRIAGES)
def test_every_triage_can_be_written_and_read_back(triage: Triage) -> None:
    wire = triage.to_wire()
    assert accepts(to_ebnf(Triage), wire)
    assert Triage.model_validate_json(wire) == triage
    assert " " not in json.dumps(json.loads(wire), separators=(",", ":")).replace(triage.reason, "") or triage.reason


@pytest.mark.parametrize(
    ("message", "wire", "allowed"),
    [
        (
            "退货 订单JD-2026 1105 尺码偏小",
            '{"intent":"return_exchange","order_id":"JD-2026 1105","reason":"尺码偏小"}',
            True,
        ),
        ("退货 订单JD-2026 1105 尺码偏小", '{"intent":"return_exchange","order_id":"123456"}', False),
        ("退货 订单123456", '{"intent":"return_exchange","order_id":"12345"}', False),
        ("退货 订单123456", '{"intent":"return_exchange","reason":"质量问题"}', False),
        ("退货", '{"intent":"return_exchange","order_id":""}', False),
        ('a "quoted\\\n line', '{"intent":"other","reason":"quoted"}', True),
        ('a "quoted\\\n line', '{"intent":"other","reason":"quoted\\"}', False),
        ("寄到珞喻路100号", '{"intent":"change_address","address":"珞喻路100号"}', True),
        (
            "寄到珞喻路100号",
            '{"intent":"change_address","address":"珞喻路100"}',
            False,
        ),  # nor is a number cut from what it counts
        ("寄到珞喻路100号", '{"intent":"change_address","address":"珞喻路10"}', False),
        ("send to 14 Elm St", '{"intent":"change_address","address":"4 Elm St"}', False),
        ("send to 14 Elm St", '{"intent":"change_address","address":"14 Elm S"}', False),
        ("send to 14 Elm St", '{"intent":"change_address","address":"14 Elm St"}', True),
        ("send to 14 Elm St", '{"intent":"change_address","address":"Elm St"}', False),
        ("寄到汉口路22号", '{"intent":"change_address","address":"汉口路"}', False),
        ("太大 退123456", '{"intent":"return_exchange","reason":"太大 退"}', True),  # an order id is no house number
        ("退货 订单5093 8827 16", '{"intent":"return_exchange","order_id":"5093"}', False),
        ("退货 订单5093 8827 16", '{"intent":"return_exchange","order_id":"5093 8827 16"}', True),
        ("打12315投诉", '{"intent":"complaint","order_id":"12315"}', False),
        ("18830927746 这单退了", '{"intent":"return_exchange","order_id":"18830927746"}', True),
        ("订单号18830927746退了", '{"intent":"return_exchange","order_id":"18830927746"}', True),
        ("退了 18830927746", '{"intent":"return_exchange","order_id":"18830927746"}', False),
        ("phone me on 0207 946 0018", '{"intent":"human_agent","order_id":"0207 946 0018"}', False),
        ("写错了,是22号", '{"intent":"change_address","act":"confirm"}', False),
        ("没错", '{"intent":"change_address","act":"confirm"}', True),
        ("", '{"intent":"other"}', True),
    ],
)
def test_slots_can_only_be_copied_from_the_message(message: str, wire: str, allowed: bool) -> None:
    assert accepts(grammar(message), wire) is allowed


@pytest.mark.parametrize("message", [None, "退货 订单JD-2026 1105 尺码偏小, ship to 12 Oak St"])
def test_every_token_the_mask_offers_is_taken_and_every_walk_ends_in_valid_json(message: str | None) -> None:
    """Random walks over the shipped tokenizer, the way a model of random weights would go."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(MINI_MODEL / "tokenizer.json"))
    size = len(tokenizer)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size, stop_token_ids=[2])
    compiled = xgrammar.GrammarCompiler(info).compile_grammar(grammar(message))
    mask, pick = xgrammar.allocate_token_bitmask(1, size), random.Random(0)
    for _ in range(25):
        matcher, ids = xgrammar.GrammarMatcher(compiled), []
        while not matcher.is_terminated():
            matcher.fill_next_token_bitmask(mask)
            allowed = [32 * i + b for i, word in enumerate(mask[0].tolist()) for b in range(32) if word >> b & 1]
            token = 2 if 2 in allowed else pick.choice(allowed)
            assert matcher.accept_token(token), tokenizer.decode([*ids, token])
            ids.append(token)
        Triage.model_validate_json(tokenizer.decode(ids[:-1]))


@given(st.text(max_size=60) | st.sampled_from(["no", "否", "是的", "yes, but don't"]), st.sampled_from(Intent))
def test_every_message_gives_a_grammar_that_compiles_and_admits_every_intent(message: str, intent: Intent) -> None:
    text = clean(message)
    for act in acts_possible(text):
        assert accepts(grammar(text), Triage(intent=intent, act=act).to_wire())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("订单号123456,金额987650", ["123456", "987650"]),
        ("order 1234 5678 9012 pls", ["1234 5678 9012"]),
        ("JD-6610-2938", ["JD-6610-2938"]),
        ("PO 86042940", ["PO 86042940", "86042940"]),
        ("it costs 99 on 3 May", []),
    ],
)
def test_whatever_could_be_an_order_id_is_a_candidate(text: str, wanted: list[str]) -> None:
    found = order_id_candidates(text)
    assert set(wanted) <= set(found)
    assert bool(found) is bool(wanted)


@pytest.mark.parametrize(
    "waybill",
    ["运单号SF1460092837715", "UPS 1Z999AA10123456784", "waybill no. 77200918", "YT8820193746510", "面单号是: 4310092"],
)
def test_a_waybill_is_no_candidate(waybill: str) -> None:
    assert order_id_candidates(f"123456 {waybill}") == ["123456"]


@pytest.mark.parametrize(
    "phone", ["13800138000", "138 0013 8000", "+8613800138000", "86 13800138000", "+44 7700 900123"]
)
def test_a_telephone_number_is_no_candidate(phone: str) -> None:
    assert order_id_candidates(f"订单号123456,电话{phone}") == ["123456"]
    assert order_id_candidates(f"call {phone} about 13800138000123") == ["13800138000123"]


@pytest.mark.parametrize(
    ("text", "acts"),
    [
        ("no", {"deny"}),
        ("不", {"deny"}),
        ("是", {"confirm"}),
        ("Yes!", {"confirm"}),
        ("no, leave it", {"ask", "deny", "correct"}),
        ("不是这个 是另外一个", {"ask", "deny", "correct"}),
        ("please don't do it", {"ask", "deny", "correct"}),
        ("没问题", {"ask", "confirm", "deny", "correct"}),
        ("yes, I don't need it", {"ask", "confirm", "deny", "correct"}),
        ("是的 取消", {"ask", "confirm", "deny", "correct"}),
        ("唉 我家猫又吐了", {"ask", "deny", "correct"}),  # nor is what agrees to nothing
        ("is it raining there", {"ask", "deny", "correct"}),
    ],
)
def test_nothing_that_denies_can_be_a_yes(text: str, acts: set[str]) -> None:
    written = {Act.ASK: '{"intent":"cancel_order"}'}
    wires = {act: written.get(act, f'{{"intent":"cancel_order","act":"{act}"}}') for act in Act}
    assert {str(act) for act, wire in wires.items() if accepts(grammar(text), wire)} == acts


def test_says_what_it_cannot_do() -> None:
    class Optional(BaseModel):
        a: str = ""

    class Mixed(BaseModel):
        a: int | str

    class Pattern(BaseModel):
        a: Annotated[str, Field(pattern=r"^\d+-\d+$")]

    for model, hint in ((Optional, "first field required"), (Mixed, "X | None"), (Pattern, "character class")):
        with pytest.raises(GrammarError, match=hint):
            to_ebnf(model)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("＃123456", "123456"),
        ("jd 2026-1105", "JD20261105"),
        ("１２３４５６", "123456"),
        (" sn88231047 ", "SN88231047"),
        ("", ""),
    ],
)
def test_order_ids_are_canonical(text: str, canonical: str) -> None:
    assert canonical_order_id(text) == canonical
