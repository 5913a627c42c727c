"""Makes the replies: the shop's wordings, filled with facts from the database.

`alternatives` lists the replies that fit. The model chooses one of them by writing its
first words (`stems`), and writes nothing else that a customer reads.
"""

import re
from collections.abc import Mapping, Sequence

from csproto.desk.case import Day, Decision, Fact, Label, Parts
from csproto.desk.handbook import Handbook, Language
from csproto.desk.state import Outcome, Question
from csproto.desk.transcript import ORDERS_SHOWN
from csproto.shop.facts import OrderView

STEM_EXTRA_CHARS = 8  # in a stem, after the first character that no other reply shares
MOST_ALTERNATIVES = 24  # among which the model chooses
MONTHS = (
    "January February March April May June July August September October November December".split()
)

# "你好" matches, "hello" does not.
CHINESE = re.compile(r"[\u3400-\u9fff]")
# "こんにちは" and "안녕" match, "你好" does not.
OTHER_SCRIPT = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
# A word, but not a number with letters: "hello" and "où" match, "JD123" and "x" do not.
WORD = re.compile(r"(?<![\w])[^\W\d_]{2,}(?![\w])")
# The name of a fact in a wording: "{order}" matches, "order" does not.
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def language_of(text: str, before: Language) -> Language:
    """Return the language in which to answer a message.

    It is Chinese if the message has Chinese characters and English if it has other
    words, whatever their language. Japanese and Korean are answered in English. A
    message without words is answered in the language `before`; "ok", "yes" and "no"
    count as no words.
    """
    if OTHER_SCRIPT.search(text):
        return "en"
    if CHINESE.search(text):
        return "zh"
    words = [word for word in WORD.findall(text) if word.lower() not in ("ok", "yes", "no")]
    return "en" if words else before


def shown(facts: Mapping[str, Fact], handbook: Handbook, language: Language) -> dict[str, str]:
    """Return facts as the customer reads them, without those that are empty."""
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
    if label.group == "deed":
        return handbook.wishes[label.value].deed[language]
    if label.group == "wish":
        return handbook.wishes[label.value].label[language]
    return handbook.label(label.group, label.value, language)


def _order_list(
    name: str, orders: Sequence[OrderView], handbook: Handbook, language: Language
) -> str:
    """Return orders with their articles as text.

    name: the name of the fact. A `list` also has each order's status. In English,
    `orders` are joined by "and" and `options` by "or".
    """
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
    """Return the replies that may be sent for an outcome, the plainest first.

    A reply has one of the openings of the first decision's rule, one wording of this
    decision, the plainest wording of every further decision, and the question if one is
    asked. Replies after the first MOST_ALTERNATIVES are left out.
    """
    first, *rest = outcome.decisions or (None,)
    heads = _heads(first, handbook, language) if first else [""]
    tail = [_wordings(decision, handbook, language)[0] for decision in rest]
    if question := _closing_question(outcome):
        tail.append(ask_text(question, handbook, language))
    return list(dict.fromkeys(_joined([head, *tail], language) for head in heads))[
        :MOST_ALTERNATIVES
    ]


def _heads(decision: Decision, handbook: Handbook, language: Language) -> list[str]:
    """Return each opening of a decision's rule followed by each wording."""
    rule = handbook.rules[decision.rule]
    wordings = _wordings(decision, handbook, language)
    openings = [text for name in rule.openings for text in handbook.openings[name][language]]
    return [
        _joined([opening, wording], language)
        for opening in openings or [""]
        for wording in wordings
    ]


def _wordings(decision: Decision, handbook: Handbook, language: Language) -> list[str]:
    """Return the filled wordings of a decision's rule, or one empty text."""
    rule = handbook.rules[decision.rule]
    texts = rule.say.get(language, [])
    if rule.kinds:
        texts = [text for kind in rule.kinds.values() for text in kind[language]]
    facts = shown(decision.facts, handbook, language)
    return _filled(texts, facts) or [""]


def ask_text(question: Question, handbook: Handbook, language: Language) -> str:
    """Return the text of an open question."""
    texts = handbook.rules[question.rule].ask[language]
    return _filled(texts, shown(question.facts, handbook, language))[0]


def _filled(texts: Sequence[str], facts: Mapping[str, str]) -> list[str]:
    """Return the texts whose facts are all known, filled with the facts.

    Only the texts that name the most facts are returned.
    """
    fitting = [text for text in texts if set(PLACEHOLDER.findall(text)) <= facts.keys()]
    most = max((len(set(PLACEHOLDER.findall(text))) for text in fitting), default=0)
    return [text.format(**facts) for text in fitting if len(set(PLACEHOLDER.findall(text))) == most]


def _closing_question(outcome: Outcome) -> Question | None:
    """Return the question at the end of the reply, or None if the reply asks nothing.

    A question that stays open is asked again only if `outcome.again` says so.
    """
    asks = any(decision.asks for decision in outcome.decisions)
    return outcome.state.question if asks or outcome.again else None


def _joined(parts: Sequence[str], language: Language) -> str:
    return ("" if language == "zh" else " ").join(part for part in parts if part)


def stems(texts: Sequence[str]) -> list[str]:
    """Return for each text the first words by which a model chooses it.

    A stem is the shortest beginning that no other text has, and a few characters more.
    With them the model can choose by whole tokens: without them, the stem could end
    inside the token in which the texts differ.
    """
    found = []
    for text in texts:
        others = [other for other in texts if other != text]
        shared = max((_shared_length(text, other) for other in others), default=0)
        found.append(text[: shared + 1 + STEM_EXTRA_CHARS])
    return found


def _shared_length(one: str, other: str) -> int:
    """Count the characters that two texts share at the beginning."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
