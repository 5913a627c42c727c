"""What simple methods make of the same messages: a linear classifier on the model's own corpus."""

import random
import re
from collections.abc import Sequence
from typing import Any

from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.transcript import clean
from csproto.measure.cases import Case
from csproto.measure.play import judged
from csproto.minimodel.lists import BLANK, lists, phrases

NGRAMS = (1, 4)
NUMBERS = ("order", "order2", "ref", "new_phone", "phone", "tax_id", "amount", "money")
SMALL_TALK = ("other", "aside", "greetings", "hostile", "hesitate")


class LinearClassifier:
    """TF-IDF over character n-grams and a linear support vector machine, one for both languages.

    It reads a message alone: no orders, no dialogue, no slots.
    """

    def __init__(self, handbook: Handbook | None = None) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC

        vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True, min_df=2
        )
        self._pipeline = make_pipeline(vectorizer, LinearSVC(C=0.5))
        texts, intents = _examples(handbook or default_handbook())
        self._pipeline.fit(texts, intents)

    def intents(self, texts: Sequence[str]) -> list[str]:
        """The likeliest intent of each message."""
        return list(self._pipeline.predict([_normal(text) for text in texts]))


def baseline_rows(classifier: LinearClassifier, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The classifier's intents for cases, as rows that a `Report` takes."""
    turns = [(case, number, turn) for case in cases for number, turn in enumerate(case.turns, 1)]
    rows = []
    for (case, number, turn), intent in zip(
        turns, classifier.intents([t.text for *_, t in turns]), strict=True
    ):
        wishes = [{"intent": intent, "orders": []}]
        row: dict[str, Any] = {"id": case.id, "lang": case.lang, "turn": number, "text": turn.text}
        row |= {
            "triage": {"act": "ask", "wishes": wishes},
            "decisions": [],
            "writes": [],
            "error": None,
        }
        intents_only = turn.expect.model_copy(
            update={"orders": None, "action": None, "writes": None}
        )
        row["right"] = judged(intents_only, row)
        rows.append(row | {"expect": intents_only.model_dump(exclude_none=True)})
    return rows


def _examples(handbook: Handbook) -> tuple[list[str], list[str]]:
    pick, texts, intents = random.Random(1), [], []
    for language in ("zh", "en"):
        for intent in handbook.intents:
            names = SMALL_TALK if intent == "other" else (intent,)
            for name in names:
                for line in lists(language)[name]:
                    label = line[0].labels[0] if name == "hostile" else intent
                    texts.append(_normal(_filled(line[0].text, language, pick)))
                    intents.append(label)
    return texts, intents


def _filled(text: str, language: str, pick: random.Random) -> str:
    """A text with its blanks filled: literals, numbers where orders stand, articles elsewhere."""

    def fill(blank: re.Match[str]) -> str:
        if blank[2]:
            return blank[2]
        if blank[1] in NUMBERS:
            return str(pick.randrange(10**5, 10**6))
        return pick.choice(phrases(language, "items"))

    return BLANK.sub(fill, text)


def _normal(text: str) -> str:
    return re.sub(r"\d", "0", clean(text).lower())
