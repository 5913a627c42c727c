"""Chooses the examples of a model's prompt, by measuring what each one brings.

Greedy forward selection: each try adds one spare example of the wish that the model
understands worst, and keeps it if the model then understands the cases better.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice, zip_longest
from typing import NamedTuple

from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.profile import Profile
from csproto.desk.prompt import spare_examples
from csproto.desk.state import SURE
from csproto.measure.cases import Case, load_cases
from csproto.measure.evaluate import SETS, half
from csproto.measure.report import Report

Measure = Callable[[Profile], Report]


class Try(NamedTuple):
    """One measurement of a prompt.

    example, intent: the example that was added, and its wish; empty for the first try,
    which measures the profile as it is.
    score: see `score`. right: the share of cases with the right intent.
    profile: the best one so far, this try included. kept: whether it is this try's.
    """

    example: str
    intent: str
    score: float
    right: float
    kept: bool
    profile: Profile


def tuning_cases(count: int) -> list[Case]:
    """Return single messages that may be looked at: as many of each intent as possible.

    They are from the odd halves of the hand-written sets, so that the even halves still
    say how well the model does on messages that nothing was chosen by.
    """
    by_intent: dict[tuple[str, str], list[Case]] = {}
    for name in ("outside", "handwritten"):
        for case in half(load_cases(SETS[name]), "odd"):
            if len(case.turns) == 1 and (intents := case.turns[0].expect.intents):
                by_intent.setdefault((intents[0], case.lang), []).append(case)
    rounds = zip_longest(*by_intent.values())
    return list(islice((case for case in chain.from_iterable(rounds) if case), count))


def choose(
    measure: Measure, profile: Profile, tries: int, handbook: Handbook | None = None
) -> Iterator[Try]:
    """Yield each measurement as it is made: the first without a change, then one a try.

    measure: plays the cases with a profile. The profile that it is given never lets the
    desk ask back, because what the model understood is to be counted.
    """
    measured = profile.model_copy(update={"limits": SURE})
    spare = {
        intent: [e.text for e in examples if e.text not in profile.examples]
        for intent, examples in spare_examples(handbook or default_handbook()).items()
    }
    best = measure(measured)
    yield Try("", "", score(best), _right(best), True, profile)
    for _ in range(tries):
        if not (intent := _worst(best, spare)):
            return
        example = spare[intent].pop(0)
        changed = {"examples": (*measured.examples, example)}
        report = measure(measured.model_copy(update=changed))
        kept = score(report) > score(best)
        if kept:
            best, measured = report, measured.model_copy(update=changed)
            profile = profile.model_copy(update=changed)
        yield Try(example, intent, score(report), _right(report), kept, profile)


def score(report: Report) -> float:
    """Return the mean of how sure the model was where it was right, counting 0 where not.

    One case more or less that is right by a hair moves it little, so that it tells good
    prompts from better ones with fewer cases than the share of right ones would need.
    """
    frame = report.frame
    return float((frame.sure.fillna(0.0) * frame.intent_right.fillna(False).astype(float)).mean())


def _right(report: Report) -> float:
    return float(report.frame.intent_right.fillna(False).astype(float).mean())


def _worst(report: Report, spare: dict[str, list[str]]) -> str | None:
    """Return the intent that costs most score, among those with an example left to try."""
    frame = report.frame
    lost = 1 - frame.sure.fillna(0.0) * frame.intent_right.fillna(False).astype(float)
    by_intent = lost.groupby(frame.want_intent).sum().sort_values(ascending=False, kind="stable")
    return next((str(intent) for intent in by_intent.index if spare.get(str(intent))), None)
