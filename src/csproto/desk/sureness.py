"""How sure a model was of its triage: the probability of what it wrote up to the first intent."""

import math
from collections.abc import Sequence
from typing import NamedTuple

INTENT = '"intent":"'


class Token(NamedTuple):
    """One written token.

    logprob: its log-probability among the allowed tokens. rivals: the likeliest others with theirs.
    """

    text: str
    logprob: float
    rivals: tuple[tuple[str, float], ...] = ()


def sureness(tokens: Sequence[Token], intents: Sequence[str]) -> tuple[float, str | None]:
    """Probability of the triage up to its first intent, and the runner-up.

    Without an intent it is the probability of the whole act.

    The runner-up is the intent that the likeliest other token leads to, anywhere on the way to the
    end of the first intent; None when no other intent is among the rivals.
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
    """The first intent that a beginning of a triage names, or could still name.

    None before that.
    """
    _, mark, rest = text.partition(INTENT)
    name, end, _ = rest.partition('"')
    if not mark or not name:
        return None
    return next(
        (intent for intent in intents if (intent == name if end else intent.startswith(name))), None
    )
