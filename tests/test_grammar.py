"""The grammar: every sentence it allows is valid JSON and valid for the model, whatever the model's weights are."""

import json
from typing import Annotated, Literal

import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from csproto.grammar import GrammarError, to_ebnf
from csproto.triage import Act, Intent, Triage, canonical_order_id


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
