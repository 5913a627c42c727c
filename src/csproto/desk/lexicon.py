"""Recognises a message that begins with a clear yes.

The words are in `data/lexicon.yaml`. A yes that changes something must be found twice:
by these words and by the model.
"""

from collections.abc import Iterable, Mapping

from csproto.desk.handbook import Language, Lexicon


def begins_with_yes(text: str, lexicon: Lexicon) -> bool:
    """Return whether a message begins with a clear yes. Fillers may stand before it."""
    words, fillers = _all_languages(lexicon.yes), _all_languages(lexicon.fillers)
    exceptions = _all_languages(lexicon.not_yes)
    rest = _plain(text)
    while rest:
        if _longest_beginning(rest, exceptions):
            return False
        if _longest_beginning(rest, words):
            return True
        filler = _longest_beginning(rest, fillers)
        if not filler:
            return False
        rest = _plain(rest[len(filler) :])
    return False


def _all_languages(words: Mapping[Language, list[str]]) -> list[str]:
    """Return the words of all languages."""
    return [word for language in words.values() for word in language]


def _plain(text: str) -> str:
    """Return a text in small letters, without punctuation before its first word."""
    return text.lower().lstrip(" ,.!?;:~-，。！？；：、…\"'“”‘’()（）")


def _longest_beginning(text: str, words: Iterable[str]) -> str:
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
    return not (
        text[place - 1].isascii()
        and text[place - 1].isalnum()
        and text[place].isascii()
        and text[place].isalnum()
    )
