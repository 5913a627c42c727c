"""Whether a message begins with a clear yes or no, by the words of `data/lexicon.yaml`.

A yes that changes something needs two witnesses: these words and the model.
"""

from collections.abc import Iterable, Mapping

from csproto.desk.handbook import Language, Lexicon


def begins_with_yes(text: str, lexicon: Lexicon) -> bool:
    """Whether the message begins with a yes, after politeness or a filler."""
    return _begins(text, _all(lexicon.yes), lexicon)


def begins_with_no(text: str, lexicon: Lexicon) -> bool:
    """Whether the message begins with a no, after politeness or a filler."""
    return _begins(text, _all(lexicon.no), lexicon)


def _begins(text: str, words: list[str], lexicon: Lexicon) -> bool:
    rest, fillers, exceptions = _plain(text), _all(lexicon.fillers), _all(lexicon.not_yes)
    while rest:
        if _head(rest, exceptions):
            return False
        if _head(rest, words):
            return True
        filler = _head(rest, fillers)
        if not filler:
            return False
        rest = _plain(rest[len(filler) :])
    return False


def _all(words: Mapping[Language, list[str]]) -> list[str]:
    return [word for language in words.values() for word in language]


def _plain(text: str) -> str:
    return text.lower().lstrip(" ,.!?;:~-，。！？；：、…\"'“”‘’()（）")


def _head(text: str, words: Iterable[str]) -> str:
    """The longest of the words with which a text begins, as a whole word where it is Latin."""
    fitting = (w for w in words if text.startswith(w.lower()) and _ends(text, len(w)))
    return max(fitting, key=len, default="")


def _ends(text: str, place: int) -> bool:
    """Whether a word ends at a place of a text: `yes` does in "yes, please", not in "yesterday"."""
    if place >= len(text):
        return True
    return not (
        text[place - 1].isascii()
        and text[place - 1].isalnum()
        and text[place].isascii()
        and text[place].isalnum()
    )
