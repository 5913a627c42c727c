"""The conversations that every arm plays, the same ones for the same seed.

They are the hand-written ones of `data/eval/dialogues.jsonl`. No model wrote any of them.
"""

import random
from functools import cache

from csproto.measure.cases import Case, load_cases
from csproto.settings import DATA

DIALOGUES = DATA / "eval" / "dialogues.jsonl"
LENGTHS = (3, 5)  # messages of a conversation


def conversations(seed: str, count: int) -> list[Case]:
    """Return `count` conversations of 3 or 5 messages, in a shuffled order.

    If there are not enough, they come again in another order. The expectations of each
    message are kept.
    """
    pick, found = random.Random(seed), list[Case]()
    while len(found) < count:
        found += pick.sample(_dialogues(), len(_dialogues()))
    return found[:count]


@cache
def _dialogues() -> list[Case]:
    """Return the conversations that are long enough, cut to one of LENGTHS."""
    return [
        case.model_copy(update={"turns": case.turns[:length]})
        for case in load_cases(DIALOGUES)
        if (length := max((n for n in LENGTHS if n <= len(case.turns)), default=0))
    ]
