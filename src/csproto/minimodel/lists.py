"""The hand-written sentences the corpus grows from.

`data/corpus/<language>/<list>.txt`, one entry a line.

An entry is a sentence with blanks, or several segments of one message; each may have labels.
"""

import re
import zlib
from functools import cache
from typing import NamedTuple

from csproto.settings import DATA

FOLDER = DATA / "corpus"
FOLDS = 3  # parts of the corpus, see `classifier.cross_fitted`
HELD_OUT = DATA / "eval" / "articles_heldout.txt"

# "{order}", "{size:too small}" match, `{"a": 1}` does not: a blank, perhaps with a literal text.
BLANK = re.compile(r"\{([a-z_0-9]+)(?::([^{}]*))?\}")


class Segment(NamedTuple):
    """A piece of a message: text with blanks, and its labels as they stand in the list."""

    text: str
    labels: tuple[str, ...] = ()


Line = tuple[Segment, ...]


class Article(NamedTuple):
    """Something a shop sells, with what customers call it; by language."""

    name: dict[str, str]
    aliases: dict[str, tuple[str, ...]]
    category: str


@cache
def lists(language: str) -> dict[str, list[Line]]:
    """The entries by list name."""
    return {
        path.stem: _lines(path.read_text("utf-8"))
        for path in sorted((FOLDER / language).glob("*.txt"))
    }


def fold_of(line: Line) -> int:
    """Return the part of the corpus that an entry belongs to: always the same one."""
    return zlib.crc32(line[0].text.encode()) % FOLDS


@cache
def entries(language: str, name: str, fold: int | None = None, blank: str = "") -> list[Line]:
    """Return the entries of a list: those of one fold, and those that have a blank, if given."""
    mark = f"{{{blank}}}" if blank else ""
    found = [line for line in lists(language)[name] if mark in line[0].text]
    return [line for line in found if fold is None or fold_of(line) == fold] or found


@cache
def phrases(language: str, name: str) -> list[str]:
    """A list of plain texts, such as names or greetings."""
    return [line[0].text for line in lists(language)[name]]


def _lines(text: str) -> list[Line]:
    return [_line(line) for line in text.splitlines() if line.strip()]


def _line(line: str) -> Line:
    # A line end inside a message is a space, as `transcript.clean` makes it one.
    line = line.replace("⏎", " ").replace("\\n", " ")
    return tuple(_segment(part) for part in line.split("||"))


def _segment(part: str) -> Segment:
    text, _, labels = part.partition("\t")
    return Segment(text, tuple(labels.split()))


@cache
def articles(held_out: bool = False) -> list[Article]:
    """The articles of the training corpus, or the ones that are held out for a test."""
    path = HELD_OUT if held_out else FOLDER / "articles.txt"
    return [_article(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def _article(line: str) -> Article:
    zh, en, zh_aliases, en_aliases, category = line.split("\t")
    aliases = {"zh": tuple(zh_aliases.split("|")), "en": tuple(en_aliases.split("|"))}
    return Article({"zh": zh, "en": en}, aliases, category)


def all_texts() -> list[str]:
    """Every text of both languages, for the tokenizer."""
    found = []
    for language in ("zh", "en"):
        for name in lists(language):
            found += [segment.text for line in lists(language)[name] for segment in line]
        for article in articles():
            found += [article.name[language], *article.aliases[language]]
    return found
