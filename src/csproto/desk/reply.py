"""What the customer reads: the shop's own wordings with facts from the database, and nothing else.

The model only chooses among them (`alternatives`), by writing the first words of one (`stems`).
"""

import re
from collections.abc import Mapping, Sequence

from csproto.desk.case import Day, Decision, Fact, Label, Parts
from csproto.desk.handbook import Handbook, Language
from csproto.desk.state import Outcome, Question
from csproto.desk.transcript import ORDERS_SHOWN
from csproto.orders import OrderView

STEM_BEYOND = 8  # characters after the place where a wording differs from all others
MOST_ALTERNATIVES = 24
MONTHS = (
    "January February March April May June July August September October November December".split()
)

# "你好" matches, "hello" does not.
CHINESE = re.compile(r"[\u3400-\u9fff]")
# "こんにちは" and "안녕" match, "你好" does not.
OTHER_SCRIPT = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
# "hello" and "où" match, "JD123" and "x" do not: a word, not a number with letters.
WORD = re.compile(r"(?<![\w])[^\W\d_]{2,}(?![\w])")
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def language_of(text: str, before: Language) -> Language:
    """Chinese for a message in Chinese characters, English for other words, else as before.

    Japanese and Korean are answered in English, as every other language is.
    """
    if OTHER_SCRIPT.search(text):
        return "en"
    if CHINESE.search(text):
        return "zh"
    words = [word for word in WORD.findall(text) if word.lower() not in ("ok", "yes", "no")]
    return "en" if words else before


def shown(facts: Mapping[str, Fact], handbook: Handbook, language: Language) -> dict[str, str]:
    """The facts of a decision as the customer reads them."""
    return {
        name: text
        for name, fact in facts.items()
        if (text := _shown(name, fact, handbook, language))
    }


def _shown(name: str, fact: Fact, handbook: Handbook, language: Language) -> str:
    match fact:
        case Label():
            return _label(fact, handbook, language)
        case Day(day):
            return (
                f"{day.month}月{day.day}日"
                if language == "zh"
                else f"{day.day} {MONTHS[day.month - 1]}"
            )
        case Parts(parts):
            return ("，" if language == "zh" else ", ").join(parts)
        case tuple():
            return _order_list(name, fact, handbook, language)
        case int():
            return f"¥{fact / 100:.2f}"
    return fact


def _label(label: Label, handbook: Handbook, language: Language) -> str:
    if label.group == "answer":
        return handbook.answers[label.value].answer[language]
    if label.group == "wish":
        return handbook.wishes[label.value].label[language]
    return handbook.label(label.group, label.value, language)


def _order_list(
    name: str, orders: Sequence[OrderView], handbook: Handbook, language: Language
) -> str:
    """Orders with their articles; as a `list` with their states, as `options` joined by "or"."""
    entries = []
    for order in orders[:ORDERS_SHOWN]:
        words = [order.item]
        if name == "list":
            words.append(handbook.label("status", order.status, language))
        inside = ("，" if language == "zh" else ", ").join(words)
        entries.append(f"{order.id}（{inside}）" if language == "zh" else f"{order.id} ({inside})")
    if language == "zh":
        return "、".join(entries)
    last = {"orders": " and ", "options": " or "}.get(name, ", ")
    return last.join([", ".join(entries[:-1]), entries[-1]] if len(entries) > 1 else entries)


def alternatives(outcome: Outcome, handbook: Handbook, language: Language) -> list[str]:
    """Every reply that may be sent for an outcome, the plainest first.

    The first decision is put in one of its rule's wordings, after one of the openings that suit it;
    the further ones in their plainest wording. The open question comes last.
    """
    first, *rest = outcome.decisions or (None,)
    heads = _heads(first, handbook, language) if first else [""]
    tail = [_wordings(decision, handbook, language)[0] for decision in rest]
    if question := _question_put(outcome):
        tail.append(ask_text(question, handbook, language))
    return list(dict.fromkeys(_joined([head, *tail], language) for head in heads))[
        :MOST_ALTERNATIVES
    ]


def _heads(decision: Decision, handbook: Handbook, language: Language) -> list[str]:
    rule = handbook.rules[decision.rule]
    wordings = _wordings(decision, handbook, language)
    openings = [text for name in rule.openings for text in handbook.openings[name][language]]
    return [
        _joined([opening, wording], language)
        for opening in openings or [""]
        for wording in wordings
    ]


def _wordings(decision: Decision, handbook: Handbook, language: Language) -> list[str]:
    """The wordings of a decision's rule whose facts are all known.

    Those with the most facts only.
    """
    rule = handbook.rules[decision.rule]
    texts = rule.say.get(language, [])
    if rule.kinds:
        texts = [text for kind in rule.kinds.values() for text in kind[language]]
    facts = shown(decision.facts, handbook, language)
    return _filled(texts, facts) or [""]


def ask_text(question: Question, handbook: Handbook, language: Language) -> str:
    """An open question in words: it names deed, orders and articles."""
    texts = handbook.rules[question.rule].ask[language]
    return _filled(texts, shown(question.facts, handbook, language))[0]


def _filled(texts: Sequence[str], facts: Mapping[str, str]) -> list[str]:
    fitting = [text for text in texts if set(PLACEHOLDER.findall(text)) <= facts.keys()]
    most = max((len(set(PLACEHOLDER.findall(text))) for text in fitting), default=0)
    return [text.format(**facts) for text in fitting if len(set(PLACEHOLDER.findall(text))) == most]


def _question_put(outcome: Outcome) -> Question | None:
    """The question with which the reply ends: one that has just come up, or one put again."""
    asks = any(decision.asks for decision in outcome.decisions)
    return outcome.state.question if asks or outcome.again else None


def _joined(parts: Sequence[str], language: Language) -> str:
    return ("" if language == "zh" else " ").join(part for part in parts if part)


def stems(texts: Sequence[str]) -> list[str]:
    """For each text its shortest beginning that no other text has, and a few characters more.

    The characters beyond let a model write the token it would have written anyway.
    """
    found = []
    for text in texts:
        others = [other for other in texts if other != text]
        shared = max((_shared(text, other) for other in others), default=0)
        found.append(text[: shared + 1 + STEM_BEYOND])
    return found


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at the beginning."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
