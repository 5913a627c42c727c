"""A first guess at what a message wants, which the model is told before it reads the message.

The guess is a linear classifier's: TF-IDF over character n-grams, fitted on the lines of the
corpus. It takes a millisecond and knows many wordings, but neither orders nor dialogue. The
model sees those, and decides.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from csproto.desk.handbook import Handbook
from csproto.desk.transcript import clean
from csproto.settings import DATA

FILE = DATA / "guess.npz"
NGRAMS = (1, 4)  # characters
# Makes shares of the scores that are right as often as they say, on lines that the
# classifier was not fitted on.
SHARPNESS = 3.5
LISTED = 3  # intents
ALWAYS = ("other", "human_agent")
STEP = 10  # percent

Guess = Callable[[str], Mapping[str, int]]


def no_guess(text: str) -> Mapping[str, int]:
    """Guess nothing: the model reads the message unaided."""
    return {}


def normal(text: str) -> str:
    """Return a message in small letters with every digit as 0, as the classifiers read it."""
    return re.sub(r"\d", "0", clean(text).lower())


def vectorizer(**more: Any) -> Any:
    """Return an untrained TF-IDF vectorizer over the character n-grams of `normal` messages."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    options = {"analyzer": "char_wb", "ngram_range": NGRAMS, "sublinear_tf": True}
    return TfidfVectorizer(preprocessor=normal, **options | more)


class FirstGuess:
    """Guesses the intent of messages. Safe to use from many threads.

    intents: n names.
    ngrams: m character n-grams, with `idf`, the weight of each (m).
    weights, bias: of the linear classifier, (m, n) and (n).
    """

    def __init__(
        self, intents: Sequence[str], ngrams: Sequence[str], idf: Any, weights: Any, bias: Any
    ) -> None:
        self._intents, self._weights, self._bias = list(intents), weights, bias
        self._vectorizer = vectorizer(vocabulary=ngrams)
        self._vectorizer.idf_ = idf

    @property
    def known(self) -> list[str]:
        """The intents that can be guessed."""
        return list(self._intents)

    def __call__(self, text: str) -> dict[str, int]:
        """Return the likeliest intents and how likely each is, in tens of percent.

        The likeliest one comes first and is always there; others from 10 percent on.
        """
        likeliest = sorted(self.shares(text).items(), key=lambda item: -item[1])[:LISTED]
        (first, share), *others = [(intent, _percent(share)) for intent, share in likeliest]
        return {first: share} | {intent: share for intent, share in others if share}

    def shares(self, text: str) -> dict[str, float]:
        """Return how likely each intent is, from 0 to 1."""
        import numpy as np

        scores = SHARPNESS * self.scores([text])[0]
        shares = np.exp(scores - scores.max())
        return dict(zip(self._intents, (shares / shares.sum()).tolist(), strict=True))

    def intents(self, texts: Sequence[str]) -> list[str]:
        """Return the likeliest intent of each message."""
        return [self._intents[place] for place in self.scores(texts).argmax(axis=1)]

    def scores(self, texts: Sequence[str]) -> Any:
        """Return the classifier's score of each intent for each message, (messages, n)."""
        return self._vectorizer.transform(texts) @ self._weights + self._bias

    @classmethod
    def load(cls, known: Sequence[str], path: Path = FILE) -> "FirstGuess":
        """Load the classifier of a file, for those of its intents that are known."""
        import numpy as np

        with np.load(path) as kept:
            names = str(kept["intents"]).split("\n")
            columns = [place for place, name in enumerate(names) if name in known]
            return cls(
                [names[place] for place in columns],
                bytes(kept["ngrams"]).decode().split("\n"),
                kept["idf"].astype(np.float64),
                (kept["weights"] * kept["scale"])[:, columns],
                kept["bias"][columns],
            )


@cache
def guesser(known: tuple[str, ...]) -> Guess:
    """Return the shipped classifier for these intents. Loaded once: it takes a second.

    If it knows none of them, nothing is guessed.
    """
    guess = FirstGuess.load(known)
    return guess if guess.known else no_guess


def shortlist(handbook: Handbook, least: float, text: str) -> list[str]:
    """Return the intents that a message can plausibly have, for the grammar of its triage.

    least: the share (0 to 1) from which an intent counts as plausible.

    Always among them are the likeliest one, those that the classifier does not know, and
    the two that a mistake of the classifier must not close: something else, and a human.
    """
    guess = guesser(tuple(handbook.intents))
    shares = guess.shares(text) if isinstance(guess, FirstGuess) else {}
    least = min(least, max(shares.values(), default=0.0))
    return [
        intent
        for intent in handbook.intents
        if intent in ALWAYS or shares.get(intent, 1.0) >= least
    ]


def _percent(share: float) -> int:
    return round(100 * share / STEP) * STEP
