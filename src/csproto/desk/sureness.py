"""Computes how sure a model was of its triage.

It is the product of the probabilities of the tokens up to the end of the first intent.
If there is no intent, it is the product over the whole text.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

INTENT = '"intent":"'


class Token(NamedTuple):
    """One token that the model wrote.

    logprob: its log-probability among the tokens that the grammar allows. rivals: the
    likeliest tokens at its place, each with its log-probability.
    """

    text: str
    logprob: float
    rivals: tuple[tuple[str, float], ...] = ()


def sureness(tokens: Sequence[Token], intents: Sequence[str]) -> tuple[float, str | None]:
    """Return how sure the model was (0 to 1, see above), and the runner-up.

    tokens: the whole triage. intents: all intents of the handbook.

    The runner-up is the second likeliest first intent: of all rivals that lead to
    another intent than the one written, the likeliest one's intent. It is None if no
    rival does.
    """
    written, logprob = "", 0.0
    best: tuple[float, str] | None = None
    chosen = _intent("".join(token.text for token in tokens), intents)
    for token in tokens:
        for rival, rival_logprob in token.rivals:
            other = _intent(written + rival, [i for i in intents if i != chosen])
            if other and not (chosen and _intent(written + rival, [chosen])):
                best = max(best or (-math.inf, ""), (logprob + rival_logprob, other))
        written, logprob = written + token.text, logprob + token.logprob
        if chosen and f'{INTENT}{chosen}"' in written:
            break
    return math.exp(logprob), best[1] if best else None


def _intent(text: str, intents: Sequence[str]) -> str | None:
    """Return the first intent in the beginning of a triage, even if cut short.

    It is None if the text has no letter of an intent yet, or no intent begins like
    that.
    """
    _, mark, rest = text.partition(INTENT)
    name, end, _ = rest.partition('"')
    if not mark or not name:
        return None
    return next(
        (intent for intent in intents if (intent == name if end else intent.startswith(name))), None
    )
