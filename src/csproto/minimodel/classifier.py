"""Fits the linear classifier behind the first guess on the lines of the corpus."""

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

from csproto.desk.guess import FILE, FirstGuess, vectorizer
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.transcript import clean
from csproto.minimodel.lists import BLANK, FOLDS, fold_of, lists, phrases

KEPT_NGRAMS = 65_000  # of 150,000: the others change nothing
STRONGEST = 127  # the weights are kept as whole numbers of 8 bits
NUMBERS = ("order", "order2", "ref", "new_phone", "phone", "tax_id", "amount", "money")
SMALL_TALK = ("other", "aside", "greetings", "hostile", "hesitate")


def labelled_lines(handbook: Handbook, without: int | None = None) -> tuple[list[str], list[str]]:
    """Return lines of the corpus with one wish each, and the intent of each line.

    without: leave out the lines of this fold.
    """
    pick, texts, intents = random.Random(1), list[str](), list[str]()
    for language in ("zh", "en"):
        for intent in handbook.intents:
            names = SMALL_TALK if intent == "other" else (intent,)
            for name in names:
                for line in lists(language).get(name, ()):
                    label = line[0].labels[0] if name == "hostile" else intent
                    text = clean(_filled(line[0].text, language, pick))
                    if fold_of(line) != without:
                        texts.append(text)
                        intents.append(label)
    return texts, intents


@cache
def cross_fitted() -> list[FirstGuess]:
    """Return a classifier for each fold, fitted on the lines of the other folds.

    The mini model learns from their guesses how far a guess about an unknown line can
    be trusted.
    """
    folds = [labelled_lines(default_handbook(), without=fold) for fold in range(FOLDS)]
    return [FirstGuess(**_fit(*lines)) for lines in folds]


def save(handbook: Handbook, path: Path = FILE) -> None:
    """Fit the classifier on all lines, and write the file that the desk loads."""
    import numpy as np

    texts, intents = labelled_lines(handbook)
    everything = _fit(texts, intents)
    worth = np.abs(everything["weights"]).max(axis=1) / everything["idf"]
    kept = np.sort(np.argsort(-worth, kind="stable")[:KEPT_NGRAMS])
    parts = _fit(texts, intents, [everything["ngrams"][place] for place in kept])
    scale = np.abs(parts["weights"]).max(axis=0) / STRONGEST
    np.savez_compressed(
        path,
        intents=np.array("\n".join(parts["intents"])),
        ngrams=np.frombuffer("\n".join(parts["ngrams"]).encode(), np.uint8),
        idf=parts["idf"].astype(np.float16),
        weights=np.round(parts["weights"] / scale).astype(np.int8),
        scale=scale.astype(np.float32),
        bias=parts["bias"].astype(np.float32),
    )


def _fit(texts: list[str], intents: list[str], ngrams: list[str] | None = None) -> dict[str, Any]:
    """Return the parts of a `FirstGuess`, by the name of its parameter.

    ngrams: the n-grams to count; unless given, all that two texts have.
    """
    from sklearn.svm import LinearSVC

    counter = vectorizer(vocabulary=ngrams) if ngrams else vectorizer(min_df=2)
    machine = LinearSVC(C=0.5).fit(counter.fit_transform(texts), intents)
    return {
        "intents": machine.classes_.tolist(),
        "ngrams": counter.get_feature_names_out().tolist(),
        "idf": counter.idf_,
        "weights": machine.coef_.T,
        "bias": machine.intercept_,
    }


def _filled(text: str, language: str, pick: random.Random) -> str:
    """A text with its blanks filled: literals, numbers where orders stand, articles elsewhere."""

    def fill(blank: re.Match[str]) -> str:
        if blank[2]:
            return blank[2]
        if blank[1] in NUMBERS:
            return str(pick.randrange(10**5, 10**6))
        return pick.choice(phrases(language, "items"))

    return BLANK.sub(fill, text)
