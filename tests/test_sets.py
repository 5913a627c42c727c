"""The evaluation sets: large enough, in both languages, and apart from the training corpus."""

import re
import unicodedata
from functools import cache

import pytest

from csproto.measure.cases import Case, load_cases
from csproto.measure.evaluate import SETS, half
from csproto.minimodel.lists import BLANK, articles, lists

RUN = {"zh": 12, "en": 6}  # characters, words
LEAST = {"handwritten": 600, "dialogues": 85, "outside": 400, "safety": 150}


@cache
def cases(name: str) -> list[Case]:
    return load_cases(SETS[name])


def normal(text: str) -> str:
    """Return a text in small letters, without punctuation and digits."""
    text = unicodedata.normalize("NFKC", text).lower()
    return " ".join(re.sub(r"[^\w']|[\d_]", " ", text).split())


@cache
def corpus(language: str) -> frozenset[str]:
    """Every line of the corpus, with the words that stand in its blanks."""
    found = {
        BLANK.sub(lambda blank: blank[2] or "", segment.text)
        for entries in lists(language).values()
        for line in entries
        for segment in line
    }
    return frozenset(map(normal, found))


def units(text: str, language: str) -> list[str]:
    pattern = r"[\u3400-\u9fff]" if language == "zh" else r"[a-z']+"
    return re.findall(pattern, text)


def runs(text: str, language: str) -> set[str]:
    """Every run of twelve Chinese characters, or of six English words."""
    parts, size = units(text, language), RUN[language]
    return {" ".join(parts[i : i + size]) for i in range(len(parts) - size + 1)}


@pytest.mark.parametrize("name", SETS)
def test_the_sets_are_large_enough_and_in_both_languages(name: str) -> None:
    found = cases(name)
    assert len(found) >= LEAST[name]
    chinese = sum(case.lang == "zh" for case in found) / len(found)
    assert 0.45 <= chinese <= 0.68
    odd, even = half(found, "odd"), half(found, "even")
    assert len(odd) + len(even) == len(found)


@pytest.mark.parametrize("name", SETS)
def test_what_is_in_the_corpus_word_for_word_is_short(name: str) -> None:
    """Nobody can ask where a parcel is in words that no other customer uses."""
    said = [(turn.text, case.lang) for case in cases(name) for turn in case.turns]
    same = [(text, lang) for text, lang in said if normal(text) in corpus(lang)]
    longest = {"zh": 10, "en": 6}
    assert [t for t, lang in same if len(units(normal(t), lang)) > longest[lang]] == []
    if name == "outside":
        assert len(same) < 0.2 * len(said)


@pytest.mark.parametrize("name", SETS)
def test_hardly_a_run_of_words_is_in_the_corpus(name: str) -> None:
    known = {lang: set().union(*(runs(line, lang) for line in corpus(lang))) for lang in RUN}
    said = [(turn.text, case.lang) for case in cases(name) for turn in case.turns]
    shared = [text for text, lang in said if runs(normal(text), lang) & known[lang]]
    assert len(shared) < 0.05 * len(said), shared


def test_held_out_articles_are_no_articles_of_the_corpus() -> None:
    known, held = articles(), articles(held_out=True)
    assert len(known) >= 500
    assert len(held) >= 150
    assert not {a.name["zh"] for a in known} & {a.name["zh"] for a in held}
    assert not {a.name["en"] for a in known} & {a.name["en"] for a in held}
