"""The evaluation sets: large enough, labelled in full, and unseen: nothing of them stands in the corpus but stock phrases, which are listed."""

import re
from collections import Counter
from functools import cache

import pytest

from csproto.evaluate import SETS, Case, load_cases, normal, stock_phrases
from csproto.minimodel.seeds import all_lines
from csproto.triage import Intent

BLANK = re.compile(r"\{[a-z]+(?::([^{}]*))?\}")
RUN = {"zh": 12, "en": 6}  # characters, words


@cache
def cases() -> list[Case]:
    return [case for path in SETS for case in load_cases(path)]


def texts() -> list[tuple[str, str]]:
    return [(case.lang, turn.text) for case in cases() for turn in case.turns]


@cache
def corpus() -> frozenset[str]:
    return frozenset(normal(BLANK.sub(r"\1", line.split("\t")[-1])) for line in all_lines())


def runs(text: str, language: str) -> set[str]:
    """Every run of twelve Chinese characters, or of six English words."""
    units = re.findall(r"[\u3400-\u9fff]", text) if language == "zh" else re.findall(r"[a-z']+", text)
    size, gap = RUN[language], "" if language == "zh" else " "
    return {gap.join(units[i : i + size]) for i in range(len(units) - size + 1)}


def test_the_sets_are_large_enough() -> None:
    single, dialogues = (load_cases(path) for path in SETS)
    per_intent = Counter(case.turns[0].expect.intent for case in single)
    assert len(single) >= 400
    assert sum(case.lang == "zh" for case in single) >= 250
    assert {intent: n for intent in Intent if (n := per_intent[intent]) < 25} == {}
    assert sum(len(case.turns) >= 3 for case in dialogues) >= 60
    assert all(turn.expect.intent and turn.expect.action for case in dialogues for turn in case.turns)


def test_no_line_is_in_the_corpus_but_stock_phrases() -> None:
    shared = {normal(text) for _, text in texts()} & corpus() - stock_phrases() - {""}
    assert shared == set()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_run_is_shared_with_the_corpus(language: str) -> None:
    known = set().union(*(runs(line, language) for line in corpus()))
    shared = {text: found for lang, text in texts() if lang == language and (found := runs(normal(text), lang) & known)}
    assert shared == {}


def test_stock_phrases_are_short_and_needed() -> None:
    said = {normal(text) for _, text in texts()}
    assert [p for p in stock_phrases() if p not in said or p not in corpus()] == []
    assert [p for p in stock_phrases() if len(re.findall(r"[\u3400-\u9fff]|[a-z']+", p)) > 4] == []
