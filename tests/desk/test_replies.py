"""Every reply a customer can read: complete, clean, in one language, and on the page."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from csproto.desk.case import Parts
from csproto.desk.handbook import Handbook, Language, default_handbook
from csproto.desk.reply import PLACEHOLDER, alternatives, ask_text, stems
from csproto.desk.state import Outcome
from csproto.measure import wishes
from csproto.measure.replies import PAGE, page
from csproto.measure.situations import Key, situations

DESK = Path(__file__).resolve().parents[2] / "src" / "csproto" / "desk"
HANDBOOK = default_handbook()
LANGUAGES: tuple[Language, ...] = ("zh", "en")
# DESIGN.md, "Actions".
ACTIONS = """
confirm_return return_registered refuse_return offer_quality_route quality_review confirm_withdraw
return_withdrawn refund_progress give_status list_orders give_tracking urge_ticket urge_already_open
trace_ticket ask_address confirm_address address_changed address_locked change_ticket change_locked
confirm_cancel cancelled cancel_locked cannot_undo confirm_invoice invoice_issued invoice_progress
payment_ok payment_review payment_block complaint_ticket handoff offer_human answer_question
no_answer ask_order_id ask_which_order order_not_found clarify nothing_pending dropped small_talk
unavailable
""".split()
# No code says these yet. Take a rule out of here as soon as one does.
# The desk says it when the order system is down, which no decision is about.
OUTSIDE_THE_RULES = {"system.unavailable"}
SAYING = ("says", "Decision", "Question", "_say", "_return_asked", "_ask_order")

# The demo's order system knows the day of every delivery; another one may not.
FOR_OTHER_SHOPS = {"status.delivered"}

# "，。", "? ." and two spaces match, "“转人工”。" and "9:00-21:00" do not.
DOUBLED = re.compile(r"[，。；：！？、,.;:!?]\s*[，。；：！？、,.;:!?]|  ")
# "Ltd.." and "Ltd.。" match, "Ltd., 20" does not: a name may end with a full stop.
STOPPED_TWICE = re.compile(r"\.[.。]")
# "订单,好" and "订单." match, "9:00-21:00" and "，" do not.
HALF_WIDTH = re.compile(r"[\u3400-\u9fff”）][,.;:!?]")
CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]")


@pytest.fixture(scope="module", params=[(lang, turn) for lang in LANGUAGES for turn in range(3)])
def found(request) -> tuple[Language, dict[Key, Outcome]]:
    """Every rule with every set of facts, once with each kind of article."""
    language, turn = request.param
    return language, situations(HANDBOOK, language, turn)


def replies(found) -> Iterator[tuple[Key, Outcome, str]]:
    language, outcomes = found
    for key, outcome in outcomes.items():
        for text in alternatives(outcome, HANDBOOK, language):
            yield key, outcome, text


def without_facts(outcome: Outcome, text: str) -> str:
    """A reply without the words that come from an order or a customer."""
    told = [decision.facts for decision in outcome.decisions]
    told += [outcome.state.question.facts] if outcome.state.question else []
    names = ("orders", "options", "list")
    views = [view for facts in told for name in names for view in facts.get(name, ())]
    foreign = {view.item for view in views}
    said = [fact for d in outcome.decisions for fact in d.facts.values()]
    foreign |= {fact for fact in said if isinstance(fact, str)}
    foreign |= {part for fact in said if isinstance(fact, Parts) for part in fact.parts}
    for words in sorted(foreign, key=len, reverse=True):
        text = text.replace(words, "X")
    return text


def test_the_page_is_what_the_desk_says_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(HANDBOOK), (
        "docs/replies.md is out of date. Run `python -m csproto.measure.replies` and read it."
    )


def test_every_rule_has_a_wording_for_whatever_is_known(found) -> None:
    language, outcomes = found
    assert outcomes.keys() == situations(HANDBOOK, "en").keys()
    for key, outcome in outcomes.items():
        texts = alternatives(outcome, HANDBOOK, language)
        assert all(texts), key
        assert not any("{" in text or "}" in text for text in texts), key


def test_a_reply_ends_with_a_question_where_the_rule_asks(found) -> None:
    for key, outcome, text in replies(found):
        assert (text[-1] in "?？") == bool(outcome.state.question), (key, text)
    asking = {key[0] for key, outcome in found[1].items() if outcome.state.question}
    # A number that is not found leads to the question which order is meant.
    assert asking == {name for name, rule in HANDBOOK.rules.items() if rule.ask} | {
        "order.not_found"
    }


def test_order_and_article_are_named(found) -> None:
    for key, outcome, text in replies(found):
        for decision in outcome.decisions:
            if "item" in decision.facts:
                assert decision.facts["order"] in text, (key, text)
                assert decision.facts["item"] in text, (key, text)
        question = outcome.state.question
        if question and (orders := question.facts.get("orders") or question.facts.get("options")):
            asked = ask_text(question, HANDBOOK, found[0])
            assert all(view.id in asked and view.item in asked for view in orders), (key, asked)


def test_no_english_article_stands_before_a_name(found) -> None:
    for key, outcome, text in replies(found):
        for decision in outcome.decisions:
            if item := decision.facts.get("item"):
                assert not re.search(rf"\b(an?|the) {re.escape(str(item))}", text, re.I), (
                    key,
                    text,
                )


def test_punctuation_and_spaces_are_clean(found) -> None:
    for key, outcome, text in replies(found):
        own = without_facts(outcome, text)
        assert not DOUBLED.search(own), (key, text)
        assert not STOPPED_TWICE.search(text), (key, text)
        assert text == text.strip(), key
        if found[0] == "zh":
            assert not HALF_WIDTH.search(own), (key, text)


def test_english_has_no_chinese_of_its_own(found) -> None:
    if found[0] == "en":
        for key, outcome, text in replies(found):
            assert not CHINESE.search(without_facts(outcome, text)), (key, text)


def test_an_alternative_is_known_by_its_stem(found) -> None:
    language, outcomes = found
    for key, outcome in outcomes.items():
        texts = alternatives(outcome, HANDBOOK, language)
        beginnings = stems(texts)
        assert len(set(beginnings)) == len(texts), key
        for text, stem in zip(texts, beginnings, strict=True):
            assert text.startswith(stem), key
            assert sum(other.startswith(stem) for other in texts) == 1, (key, stem)


def test_the_first_wordings_of_a_rule_say_the_same() -> None:
    for name, rule in HANDBOOK.rules.items():
        for texts in rule.say.values():
            assert len({frozenset(PLACEHOLDER.findall(text)) for text in texts[:3]}) == 1, name


def test_every_wording_can_come_up(found) -> None:
    """A wording that no set of facts fits is read by nobody."""
    said: dict[str, str] = {}
    for key, _, text in replies(found):
        said[key[0]] = said.get(key[0], "") + text + "\n"
    for name, rule in HANDBOOK.rules.items():
        for text in rule.say.get(found[0], []):
            pattern = ".+".join(map(re.escape, re.split(r"\{\w+\}", text)))
            assert re.search(pattern, said[name]) or name in FOR_OTHER_SHOPS, (name, text)


def rules_in_code(handbook: Handbook) -> set[str]:
    """The rule ids that the desk's code gives to a decision or a question."""
    found = set()
    for path in DESK.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) in SAYING:
                for argument in node.args:
                    found |= _texts(argument, handbook)
            elif isinstance(node, ast.Assign) and _name(node.targets[0]) == "rule":
                found |= _texts(node.value, handbook)
    return {text for text in found if re.fullmatch(r"[a-z]+\.[a-z0-9_.]+", text)}


def _name(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _texts(node: ast.expr, handbook: Handbook) -> set[str]:
    """What an expression can be: a text, one of two texts, or a text with a status behind it."""
    match node:
        case ast.Constant(str(text)):
            return {text}
        case ast.IfExp(_, first, second):
            return _texts(first, handbook) | _texts(second, handbook)
        case ast.JoinedStr([ast.Constant(str(start)), ast.FormattedValue()]):
            return {start + status for status in handbook.values.labels["status"]}
    return set()


def test_code_and_files_have_the_same_rules(found) -> None:
    assert rules_in_code(HANDBOOK) == HANDBOOK.rules.keys()
    reached = {decision.rule for outcome in found[1].values() for decision in outcome.decisions}
    assert reached == HANDBOOK.rules.keys()


def test_every_action_can_be_reached_and_no_other() -> None:
    said = {HANDBOOK.rules[rule].action for rule in rules_in_code(HANDBOOK)}
    assert said == set(ACTIONS) == HANDBOOK.actions


def test_the_page_of_wishes_says_what_the_files_say() -> None:
    assert wishes.PAGE.read_text(encoding="utf-8") == wishes.page(HANDBOOK), (
        "docs/wishes.md is out of date. Run `python -m csproto.measure.wishes`."
    )
