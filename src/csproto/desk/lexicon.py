"""Recognises a message that begins with a clear yes.

The words are in `data/lexicon.yaml`. A yes that changes something must be found twice:
by these words and by the model.
"""

import re
from collections.abc import Mapping, Sequence

from csproto.desk.handbook import Language, Lexicon

# A clause of a message and the mark that ends it: "yes?" and " and 160001" in
# "yes? and 160001". A point within a number ends no clause.
CLAUSE = re.compile(r"((?:[^,.;:!?~\n，。；：！？…、]|\.(?=\d))*)([,.;:!?~\n，。；：！？…、]*)")
TRAILING_OFF = ("...", "…", "。。")
QUOTES = " -\"'“”‘’()（）"


def begins_with_yes(text: str, lexicon: Lexicon) -> bool:
    """Return whether a message begins with a clear yes that it does not take back.

    - Its first clause is a yes or begins with a firm one; fillers may stand before it.
    - That clause is no question ("yes?", "ok what"), and does not trail off ("mhm...").
    - Nothing after the yes begins with a word that takes it back ("yes, but").
    """
    found = False
    for clause, end in CLAUSE.findall(text.lower()):
        rest = clause.strip(QUOTES)
        if not found:
            rest, found = _after_yes(rest, lexicon)
            if rest and not found:
                return False
            asked = "?" in end or "？" in end or _begins(rest, _all(lexicon.asks))
            trails_off = any(mark in end for mark in TRAILING_OFF)
            ends_as_question = clause.strip(QUOTES).endswith(tuple(lexicon.question_ends))
            if found and (asked or trails_off or ends_as_question):
                return False
        if found and _begins(_without(rest, _all(lexicon.fillers)), _all(lexicon.no)):
            return False
    return found


def is_bare_yes(text: str, lexicon: Lexicon) -> bool:
    """Return whether a message is a clear yes and nothing else: "yes please", 好的."""
    words = [*_all(lexicon.yes), *_all(lexicon.fillers)]
    clauses = [clause for clause, _ in CLAUSE.findall(text.lower())]
    return begins_with_yes(text, lexicon) and not any(_without(c, words) for c in clauses)


def asks(text: str, lexicon: Lexicon) -> bool:
    """Return whether any clause of a message is a question."""
    for clause, end in CLAUSE.findall(text.lower()):
        rest = clause.strip(QUOTES)
        if "?" in end or "？" in end or _begins(rest, _all(lexicon.asks)):
            return True
    return False


def says_more(text: str, lexicon: Lexicon) -> bool:
    """Return whether a message says that something comes on top: "also", 还有."""
    return _has(text, _all(lexicon.more))


def may_narrow(text: str, lexicon: Lexicon) -> bool:
    """Return whether a message may mean only a part of what was asked: "except", 除了."""
    return _has(text, _all(lexicon.narrows))


def _has(text: str, words: Sequence[str]) -> bool:
    """Return whether one of the words stands anywhere in a text."""
    lowered = text.lower()
    starts = (n for n in range(len(lowered)) if n == 0 or _word_ends(lowered, n))
    return any(_begins(lowered[n:], words) for n in starts)


def _after_yes(clause: str, lexicon: Lexicon) -> tuple[str, bool]:
    """Return what follows the yes of a clause, and whether the clause begins with one.

    Fillers may stand before the yes; a clause of fillers only is returned empty. Only
    after a `firm` yes can the clause go on ("yes cancel it"): many other words for yes
    also begin something else ("right shoe", 好看).
    """
    rest, fillers = clause, _all(lexicon.fillers)
    while rest and not _begins(rest, _all(lexicon.not_yes)):
        if yes := _begins(rest, _all(lexicon.yes)):
            after = _without(rest[len(yes) :], [*_all(lexicon.yes), *fillers])
            return after, not after or yes in _all(lexicon.firm)
        if not (filler := _begins(rest, fillers)):
            break
        rest = rest[len(filler) :].strip(QUOTES)
    return rest, False


def _without(clause: str, words: Sequence[str]) -> str:
    """Return a clause without the words that it begins with, one after the other."""
    rest = clause.strip(QUOTES)
    while word := _begins(rest, words):
        rest = rest[len(word) :].strip(QUOTES)
    return rest


def _all(words: Mapping[Language, list[str]]) -> list[str]:
    """Return the words of all languages."""
    return [word for language in words.values() for word in language]


def _begins(text: str, words: Sequence[str]) -> str:
    """Return the longest of the words that the text begins with, or an empty string.

    A word of Latin letters counts only if it ends where a word of the text ends.
    """
    fitting = (w for w in words if text.startswith(w.lower()) and _word_ends(text, len(w)))
    return max(fitting, key=len, default="")


def _word_ends(text: str, place: int) -> bool:
    """Return whether a word ends at a place of a text.

    place: counted from 0. At place 3 a word ends in "yes, please", but not in
    "yesterday".
    """
    if place >= len(text):
        return True
    before, after = text[place - 1], text[place]
    return not (before.isascii() and before.isalnum() and after.isascii() and after.isalnum())
