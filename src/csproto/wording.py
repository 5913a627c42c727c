"""How a decision is put: facts in the customer's language, and the template that is sent when the model's own words fail the check."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from typing import Any

import yaml

from csproto.dialogue import DialogueState
from csproto.policy import Decision, Label
from csproto.settings import DATA
from csproto.shop.orders import OrderView
from csproto.triage import Triage

NEUTRAL = re.compile(r"^\W*(?:ok+|okay|yes|no|y|n)\W*$", re.I)  # said in the midst of a Chinese dialogue too
MONTHS = "January February March April May June July August September October November December".split()


@cache
def wordings() -> dict[str, Any]:
    """`data/replies.yaml`."""
    return yaml.safe_load((DATA / "replies.yaml").read_text(encoding="utf-8"))


def language_of(text: str, before: str = "zh") -> str:
    """`zh` for a message with Chinese characters, `en` for one with Latin words, else (a number, "OK") the language used before."""
    if re.search(r"[\u3400-\u9fff]", text):
        return "zh"
    if NEUTRAL.match(text):
        return before
    return "en" if re.search(r"[A-Za-z]{2,}", re.sub(r"[A-Za-z]*\d[A-Za-z\d]*", "", text)) else before


def facts_shown(say: Mapping[str, Any], language: str) -> dict[str, str]:
    """The facts of a decision as the customer will read them."""
    return {key: shown for key, value in say.items() if (shown := _shown(key, value, language))}


def _shown(key: str, value: Any, language: str) -> str:
    if isinstance(value, Label):
        return str(wordings()["labels"][value.group][value.value][language])
    if isinstance(value, date):
        return f"{value.month}月{value.day}日" if language == "zh" else f"{value.day} {MONTHS[value.month - 1]}"
    if key == "amount":
        return f"¥{value / 100:.2f}"
    if key == "orders":
        return _order_list(value, language)
    return str(value)


def _order_list(orders: list[OrderView], language: str) -> str:
    if language == "zh":
        return "、".join(f"{o.id}({o.item})" for o in orders)
    return ", ".join(f"{o.id} ({o.item})" for o in orders)


def fitting(rule: str, language: str, facts: Mapping[str, str], kind: str = "default") -> list[str]:
    """The wordings of a rule whose every placeholder is among the facts, filled in; the first is the plainest."""
    table = wordings()["small_talk"][kind] if rule == "other.small_talk" else wordings()["rules"][rule]
    return [text.format(**facts) for text in table[language] if _placeholders(text) <= facts.keys()]


def _placeholders(wording: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", wording))


def missing(rule: str, language: str, facts: Mapping[str, str], reply: str) -> list[str]:
    """The facts by which a reply says less than each of the rule's wordings does; empty for one that says enough."""
    if rule == "other.small_talk":
        return []
    needed = [_placeholders(text) for text in wordings()["rules"][rule][language]]
    lacks = [sorted(key for key in keys if facts[key] not in reply) for keys in needed if keys <= facts.keys()]
    return min(lacks, key=len)


def template(decision: Decision, language: str, facts: Mapping[str, str]) -> str:
    """The plainest wording of a decision."""
    return fitting(decision.rule, language, facts)[0]


def note(had_question: str, state: DialogueState, queue: Sequence[Triage], decision: Decision, language: str) -> str:
    """A sentence of ours after the reply: the next wish is noted, or the question before a digression is still open."""
    if queue:
        return str(wordings()["more_noted"][language])
    digressed = (
        had_question == "yes"
        and state.waiting == "yes"
        and not decision.action.startswith("confirm_")
        and decision.action not in ("unavailable", "small_talk")
    )
    return str(wordings()["reminder"][language]) if digressed else ""
