"""The grammars.

Every sentence they allow is valid JSON and valid for its reader, whatever the model's
weights are.
"""

import json
import random
from typing import Annotated, Literal

import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerFast

from csproto.desk.handbook import default_handbook
from csproto.desk.transcript import clean
from csproto.desk.triage import claims_from_wire, claims_grammar, from_wire, grammar
from csproto.engine.grammar import Copied, GrammarError, to_ebnf
from csproto.settings import MINI_MODEL

HANDBOOK = default_handbook()
OWN = ["123456", "JD202611050017"]


def accepts(ebnf: str, text: str) -> bool:
    return xgrammar.testing._is_grammar_accept_string(xgrammar.Grammar.from_ebnf(ebnf), text)


def triage_grammar(text: str, waiting: bool = True, begun: bool = True) -> str:
    return grammar(HANDBOOK, text, OWN, waiting, begun)


# -- a pydantic model


class Inner(BaseModel):
    colour: Literal["red", "blue"]
    sizes: list[str] = []


class Everything(BaseModel):
    kind: Literal["a", "b c"]
    count: Annotated[int, Field(ge=0)] = 0
    ratio: float = 0.0
    sure: bool = False
    code: Annotated[str, Field(pattern=r"^[A-Z]{2,4}$")] = "AB"
    tags: Annotated[list[str], Field(max_length=2)] = []
    inner: Inner | None = None


@pytest.mark.parametrize(
    "text",
    [
        '{"kind":"a"}',
        '{"kind":"b c","count":12,"ratio":-3.25,"sure":true,"code":"XYZ","tags":["x","你好"]}',
        '{"kind":"a","inner":{"colour":"red","sizes":["M"]}}',
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
        '{"kind":"a","inner":{"colour":"green"}}',
        '{"kind":"a"',
        '{"kind":"a"} ',
    ],
)
def test_refuses_the_rest(text: str) -> None:
    assert not accepts(to_ebnf(Everything), text)


class Note(BaseModel):
    kind: Literal["note"]
    about: Annotated[str, Copied(), Field(max_length=40)] = ""


def test_a_copied_field_holds_only_text_of_the_message() -> None:
    ebnf = to_ebnf(Note, "the red shirt")
    assert accepts(ebnf, '{"kind":"note","about":"red shirt"}')
    assert accepts(ebnf, '{"kind":"note"}')
    assert not accepts(ebnf, '{"kind":"note","about":"blue shirt"}')
    assert not accepts(ebnf, '{"kind":"note","about":"ed shir"}')
    assert not accepts(ebnf, '{"kind":"note","about":""}')
    for nothing_to_copy in ("", '"'):
        assert "about" not in to_ebnf(Note, nothing_to_copy)
    assert accepts(to_ebnf(Note), '{"kind":"note","about":"anything"}')


def test_says_what_it_cannot_do() -> None:
    class Optional(BaseModel):
        a: str = ""

    class Mixed(BaseModel):
        a: int | str

    class Pattern(BaseModel):
        a: Annotated[str, Field(pattern=r"^\d+-\d+$")]

    for model, hint in (
        (Optional, "first field required"),
        (Mixed, "X | None"),
        (Pattern, "character class"),
    ):
        with pytest.raises(GrammarError, match=hint):
            to_ebnf(model)


# -- the triage of a message


def one_wish(intent: str, orders: list[str] | None = None, **slots: str) -> str:
    wish = {"intent": intent} | ({"orders": orders} if orders else {}) | slots
    return json.dumps({"wishes": [wish]}, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    ("message", "wire", "allowed"),
    [
        # an order is one of the customer's, or a number of the message that is none of theirs
        (
            "退货 尺码偏小",
            one_wish("return_exchange", ["123456"], cause="size", reason="尺码偏小"),
            True,
        ),
        ("退货 订单999999", one_wish("return_exchange", ["999999"]), True),
        ("退货", one_wish("return_exchange", ["999999"]), False),
        ("退货 订单12345", one_wish("return_exchange", ["12345"]), True),
        ("退货 订单123456", one_wish("return_exchange", ["12345"]), False),
        ("退货", one_wish("return_exchange", ["123456", "JD202611050017"]), True),
        ("退货", '{"wishes":[{"intent":"return_exchange","orders":[]}]}', False),
        # a text is copied, and cut only between words and numbers
        ("退货 订单123456", one_wish("return_exchange", reason="质量问题"), False),
        (
            'a "quoted\\\n line',
            one_wish("complaint", reason="quoted"),
            False,
        ),  # not a slot of this wish
        ('a "quoted\\\n line', one_wish("return_exchange", reason="quoted"), True),
        ('a "quoted\\\n line', one_wish("return_exchange", reason='quoted"'), False),
        ("寄到珞喻路100号", one_wish("change_address", address="珞喻路100号"), True),
        ("寄到珞喻路100号", one_wish("change_address", address="珞喻路100"), False),
        ("寄到珞喻路100号", one_wish("change_address", address="珞喻路10"), False),
        ("send to 14 Elm St", one_wish("change_address", address="14 Elm St"), True),
        ("send to 14 Elm St", one_wish("change_address", address="4 Elm St"), False),
        ("send to 14 Elm St", one_wish("change_address", address="14 Elm S"), False),
        ("send to 14 Elm St", one_wish("change_address", address="Elm St"), False),
        ("寄到汉口路22号", one_wish("change_address", address="汉口路"), False),
        ("太大 退123456", one_wish("return_exchange", reason="太大 退"), True),  # no house number
        # a number is copied whole
        ("电话改成13800001111", one_wish("change_address", phone="13800001111"), True),
        ("电话改成13800001111", one_wish("change_address", phone="1380000"), False),
        ("改电话", one_wish("change_address", phone="13800001111"), False),
        # one to three wishes
        ("", '{"wishes":[{"intent":"other"}]}', True),
        ("", "{}", False),
        ("", '{"wishes":[]}', False),
        ("", '{"wishes":[' + ",".join(['{"intent":"other"}'] * 3) + "]}", True),
        ("", '{"wishes":[' + ",".join(['{"intent":"other"}'] * 4) + "]}", False),
    ],
)
def test_a_triage_holds_only_what_was_said(message: str, wire: str, allowed: bool) -> None:
    assert accepts(triage_grammar(message), wire) is allowed


@pytest.mark.parametrize(
    ("waiting", "begun", "acts"),
    [
        (False, False, set()),
        (False, True, {"correct"}),
        (True, False, {"confirm", "deny", "correct"}),
        (True, True, {"confirm", "deny", "correct"}),
    ],
)
def test_a_yes_and_a_no_exist_only_while_a_question_is_open(
    waiting: bool, begun: bool, acts: set[str]
) -> None:
    ebnf = triage_grammar("好, 开票", waiting, begun)
    wish = '"wishes":[{"intent":"invoice"}]'
    for act in ("confirm", "deny", "correct"):
        assert accepts(ebnf, f'{{"act":"{act}"}}') is (act in acts)
        assert accepts(ebnf, f'{{"act":"{act}",{wish}}}') is (act in acts)
    assert not accepts(ebnf, '{"act":"ask"}')
    assert accepts(ebnf, f"{{{wish}}}")


@pytest.mark.parametrize(
    ("message", "alone"),
    [
        ("好的，谢谢", True),
        ("Yes, please do.", True),
        ("yes, and an invoice", False),
        ("no", False),
    ],
)
def test_nothing_comes_with_an_act_when_the_message_is_a_bare_yes(
    message: str, alone: bool
) -> None:
    ebnf = triage_grammar(message, True, True)
    wish = '"wishes":[{"intent":"invoice"}]'
    assert accepts(ebnf, '{"act":"confirm"}')
    assert accepts(ebnf, f"{{{wish}}}"), "the model may read it as something else"
    assert accepts(ebnf, f'{{"act":"confirm",{wish}}}') is not alone


def test_a_shortlist_leaves_the_other_intents_out() -> None:
    ebnf = grammar(HANDBOOK, "123456退货", OWN, False, False, ["return_exchange", "other"])
    assert accepts(ebnf, one_wish("return_exchange", ["123456"]))
    assert not accepts(ebnf, one_wish("cancel_order", ["123456"]))


@pytest.mark.parametrize(
    "message", ["", "退货 订单JD-2026 1105 尺码偏小, ship to 12 Oak St, phone 13800001111"]
)
def test_every_token_the_mask_offers_is_taken_and_every_walk_ends_in_valid_json(
    message: str,
) -> None:
    """Random walks over the shipped tokenizer, the way a model of random weights would go."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(MINI_MODEL / "tokenizer.json"))
    size = len(tokenizer)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size, stop_token_ids=[2])
    compiled = xgrammar.GrammarCompiler(info).compile_grammar(triage_grammar(message))
    mask, pick = xgrammar.allocate_token_bitmask(1, size), random.Random(0)
    for _ in range(25):
        matcher, ids = xgrammar.GrammarMatcher(compiled), []
        while not matcher.is_terminated():
            matcher.fill_next_token_bitmask(mask)
            allowed = [
                32 * i + b
                for i, word in enumerate(mask[0].tolist())
                for b in range(32)
                if word >> b & 1
            ]
            token = 2 if 2 in allowed else pick.choice(allowed)
            assert matcher.accept_token(token), tokenizer.decode([*ids, token])
            ids.append(token)
        triage = from_wire(tokenizer.decode(ids[:-1]))
        assert all(wish.intent in HANDBOOK.wishes for wish in triage.wishes)
        assert triage.wishes or triage.act != "ask"


@given(st.text(max_size=60), st.sampled_from(HANDBOOK.intents))
def test_every_message_gives_a_grammar_that_compiles_and_admits_every_intent(
    message: str, intent: str
) -> None:
    text = clean(message)
    assert accepts(triage_grammar(text), one_wish(intent))
    assert accepts(triage_grammar(text), one_wish(intent, ["123456"]))


@pytest.mark.parametrize(
    ("wire", "claims"),
    [
        ('{"amount":"99","times":2}', {"amount": "99", "times": 2}),
        ('{"amount":"","times":0}', {}),
        ('{"amount":"100","times":2}', None),
        ('{"amount":"99"}', None),
        ('{"amount":"99","times":12}', None),
    ],
)
def test_claims_about_a_payment_are_copied_from_the_message(wire: str, claims: dict | None) -> None:
    ebnf = claims_grammar(HANDBOOK.wishes["payment_issue"], "订单123456扣了99元两次")
    assert accepts(ebnf, wire) is (claims is not None)
    if claims is not None:
        assert claims_from_wire(wire) == claims
