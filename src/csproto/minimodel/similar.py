"""Labelled lines of the corpus, and those of them that are similar to a message."""

import random
import re
from collections.abc import Sequence
from typing import Any

from csproto.desk.handbook import Handbook
from csproto.desk.transcript import Message, clean, to_json
from csproto.minimodel.lists import BLANK, lists, phrases

NGRAMS = (1, 4)  # characters
NUMBERS = ("order", "order2", "ref", "new_phone", "phone", "tax_id", "amount", "money")
SMALL_TALK = ("other", "aside", "greetings", "hostile", "hesitate")


def labelled_lines(handbook: Handbook) -> tuple[list[str], list[str]]:
    """Return lines of the corpus with one wish each, and the intent of each line."""
    pick, texts, intents = random.Random(1), list[str](), list[str]()
    for language in ("zh", "en"):
        for intent in handbook.intents:
            names = SMALL_TALK if intent == "other" else (intent,)
            for name in names:
                for line in lists(language).get(name, ()):
                    label = line[0].labels[0] if name == "hostile" else intent
                    texts.append(clean(_filled(line[0].text, language, pick)))
                    intents.append(label)
    return texts, intents


def normal(text: str) -> str:
    """Return a message in small letters with every digit as 0, as the classifiers read it."""
    return re.sub(r"\d", "0", clean(text).lower())


def vectorizer() -> Any:
    """Return an untrained TF-IDF vectorizer over the character n-grams of `normal` messages."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        preprocessor=normal, analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True, min_df=2
    )


class SimilarLines:
    """Finds the lines of the corpus that are most similar to a message.

    Similarity is the cosine of TF-IDF vectors of character n-grams. Takes seconds to make
    and some ten milliseconds a message.

    count: how many lines are found.
    """

    def __init__(self, handbook: Handbook, count: int) -> None:
        self.count = count
        self._texts, self._intents = labelled_lines(handbook)
        self._vectorizer = vectorizer()
        self._vectors = self._vectorizer.fit_transform(self._texts)

    def __call__(self, text: str) -> Sequence[Message]:
        """Return one system message that lists similar lines, the most similar one last."""
        near = self.nearest(text)
        listed = [{"text": line, "intent": intent} for line, intent in reversed(near)]
        return (Message("system", to_json({"similar": listed})),)

    def nearest(self, text: str) -> list[tuple[str, str]]:
        """Return the most similar lines with their intents, the most similar one first."""
        import numpy as np

        likeness = (self._vectors @ self._vectorizer.transform([text]).T).toarray()[:, 0]
        places = np.argsort(-likeness, kind="stable")[: self.count]
        return [(self._texts[place], self._intents[place]) for place in places]


def _filled(text: str, language: str, pick: random.Random) -> str:
    """A text with its blanks filled: literals, numbers where orders stand, articles elsewhere."""

    def fill(blank: re.Match[str]) -> str:
        if blank[2]:
            return blank[2]
        if blank[1] in NUMBERS:
            return str(pick.randrange(10**5, 10**6))
        return pick.choice(phrases(language, "items"))

    return BLANK.sub(fill, text)
