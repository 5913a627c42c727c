"""Checks a shop's own handbook against the shipped one, before any customer meets it.

The rules of `policy.py` name rules, facts, windows and labels. The shipped files have all
of them. What a shop's own files lack would otherwise show only in the midst of a message.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from csproto.desk.handbook import Handbook, HandbookError, Rule, default_handbook

PLACEHOLDER = re.compile(r"\{(\w+)\}")
ALWAYS = frozenset({"order", "item"})  # facts of every decision about an order


def check_against_shipped(shop: Handbook) -> None:
    """Raise HandbookError for what a shop's handbook lacks beside the shipped one.

    A shop may leave out whole wishes and add wishes and rules of its own.
    """
    shipped = default_handbook()
    if shop is shipped:
        return
    for name in ("windows", "risk", "labels"):
        _check_keys(name, getattr(shipped.values, name), getattr(shop.values, name))
    left_out = {
        rule
        for intent in shipped.wishes.keys() - shop.wishes.keys()
        for rule in shipped.wishes[intent].rules
    }
    for name, rule in shipped.rules.items():
        if name in left_out:
            continue
        if name not in shop.rules:
            raise HandbookError(f"The rule {name} is missing: copy it from the files in data/.")
        for language, ours, theirs in _wordings(rule, shop.rules[name]):
            _check_wordings(f"the rule {name} ({language})", ours, theirs)


def _check_keys(where: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise HandbookError for a key of the shipped `shop.yaml` that a shop's file lacks."""
    for name, value in ours.items():
        if name not in theirs:
            raise HandbookError(f"shop.yaml: {where}.{name} is missing: copy it from data/.")
        if isinstance(value, Mapping):
            _check_keys(f"{where}.{name}", value, theirs[name])


def _wordings(shipped: Rule, own: Rule) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the language, the shipped wordings and the shop's, of replies and questions."""
    for ours, theirs in ((shipped.say, own.say), (shipped.ask, own.ask)):
        for language, texts in ours.items():
            yield language, texts, theirs.get(language, [])


def _check_wordings(where: str, ours: list[str], theirs: list[str]) -> None:
    """Raise HandbookError if a wording names an unknown fact, or none fits the fewest facts.

    A rule may know a fact only sometimes. Then the shipped wordings have one without it,
    and the shop needs one, too.
    """
    known = ALWAYS.union(*map(_names, ours))
    for text in theirs:
        if unknown := _names(text) - known:
            raise HandbookError(
                f"{where}: {{{min(unknown)}}} is none of its facts "
                f"({', '.join(sorted(known))}): {text!r}"
            )
    for text in ours:
        if not any(_names(own) <= _names(text) | ALWAYS for own in theirs):
            facts = ", ".join(sorted(_names(text))) or "no fact"
            raise HandbookError(f"{where}: a wording is missing that names no more than: {facts}.")


def _names(text: str) -> set[str]:
    return set(PLACEHOLDER.findall(text))
