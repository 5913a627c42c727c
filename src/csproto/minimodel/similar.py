"""The labelled lines of the corpus that are similar to a message."""

from collections.abc import Sequence

from csproto.desk.guess import vectorizer
from csproto.desk.handbook import Handbook
from csproto.desk.transcript import Message, to_json
from csproto.minimodel.classifier import labelled_lines


class SimilarLines:
    """Finds the lines of the corpus that are most similar to a message.

    Similarity is the cosine of TF-IDF vectors of character n-grams. Takes seconds to make
    and some ten milliseconds a message.

    count: how many lines are found.
    """

    def __init__(self, handbook: Handbook, count: int) -> None:
        self.count = count
        self._texts, self._intents = labelled_lines(handbook)
        self._vectorizer = vectorizer(min_df=2)
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
