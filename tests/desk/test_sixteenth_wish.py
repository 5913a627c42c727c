"""A sixteenth wish is a file and a function: nothing else knows of it, and everything serves it."""

import shutil
from pathlib import Path

import pytest
import yaml
from rehearsed import Rehearsed
from xgrammar.testing import _is_grammar_accept_string

from csproto.desk import policy
from csproto.desk.case import Case, Decision
from csproto.desk.handbook import Handbook
from csproto.desk.prompt import instructions
from csproto.desk.triage import Triage, Wish, grammar
from csproto.settings import DATA
from csproto.shop.orders import OrderApi

FILE = """\
intent: gift_message
label: {zh: 贺卡, en: Gift message}
deed: {zh: 写贺卡, en: adding a gift message}
description: The customer wants a card with a message put into the parcel.
slots:
  words: {copied: text, meaning: what the card says}
fits: {status: [unpaid, paid]}
rules:
  gift.ask:
    action: ask_gift_message
    source: "service guide 20.1"
    waits: detail
    say:
      zh: ["订单{order}（{item}）可以附贺卡。"]
      en: ["Order {order} ({item}) can have a card."]
    ask:
      zh: ["订单{orders}的贺卡写什么？"]
      en: ["What shall the card of {orders} say?"]
  gift.noted:
    action: gift_message_ticket
    source: "service guide 20.2"
    say:
      zh: ["订单{order}（{item}）会附贺卡，工单号{ticket}。"]
      en: ["The card for order {order} ({item}) is noted as {ticket}."]
  gift.late:
    action: gift_message_late
    source: "service guide 20.3"
    say:
      zh: ["订单{order}（{item}）已发出，放不了贺卡。"]
      en: ["Order {order} ({item}) has left without a card."]
"""


def gift_message(case: Case) -> Decision:
    assert case.order is not None
    if case.order.status not in ("unpaid", "paid"):
        return case.says("gift.late")
    if not case.wish.slots.get("words"):
        return case.says("gift.ask", asks=True)
    return case.says("gift.noted", write=case.write("change"))


@pytest.fixture
def bigger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handbook:
    names = ("shop.yaml", "lexicon.yaml", "answers.yaml", "openings.yaml", "dialogue.yaml")
    for name in names:
        shutil.copy(DATA / name, tmp_path)
    shutil.copytree(DATA / "wishes", tmp_path / "wishes")
    (tmp_path / "wishes" / "gift_message.yaml").write_text(FILE, encoding="utf-8")
    monkeypatch.setitem(policy._DECIDE, "gift_message", gift_message)
    return Handbook(tmp_path)


def test_it_is_read_asked_about_decided_and_answered(bigger: Handbook, engine) -> None:
    c001 = Rehearsed(OrderApi(engine), "C001", bigger)
    c001.hears("包裹里放张贺卡", Wish("gift_message"))
    assert (c001.rules, c001.waits_for) == (["gift.ask"], "detail")
    assert "789012" in c001.reply("zh")
    c001.hears("写生日快乐", Wish("gift_message", slots={"words": "生日快乐"}))
    assert (c001.rules, c001.writes) == (["gift.noted"], [("change", "789012")])
    c001.hears("123456也放一张", Wish("gift_message", ("123456",)))
    assert c001.rules == ["gift.late"]


def test_grammar_and_prompt_have_it(bigger: Handbook) -> None:
    wire = Triage("ask", (Wish("gift_message", ("789012",), {"words": "生日快乐"}),)).to_wire()
    ebnf = grammar(bigger, "789012放贺卡 写生日快乐", ["789012"], waiting=False, begun=False)
    assert _is_grammar_accept_string(ebnf, wire)
    assert "gift_message: The customer wants a card" in instructions(bigger)
    assert yaml.safe_load(FILE)["intent"] in bigger.intents
