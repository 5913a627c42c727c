"""A model measured on cases: the desk plays them, and the figures are drawn from what it did."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from sqlalchemy.engine import Engine

from csproto.desk.profile import Profile, profile_of
from csproto.desk.state import Limits
from csproto.measure.cases import BadCases, Case
from csproto.measure.play import MakeDesk, Progress, play_all
from csproto.measure.report import Report
from csproto.opening import desk_on
from csproto.settings import DATA
from csproto.shop.orders import OrderApi

if TYPE_CHECKING:
    from csproto.desk.assistant import Assistant
    from csproto.engine.endpoint import Endpoint

SETS = {
    name: DATA / "eval" / f"{name}.jsonl"
    for name in ("handwritten", "dialogues", "outside", "safety")
}


def desk_maker(
    endpoint: "Endpoint", profile: Profile | None = None, temperature: float | None = None
) -> MakeDesk:
    """Return a function that opens a desk on a database as of a moment.

    profile: in place of the model's own, for instance with other limits.
    """
    profile = profile or profile_of(str(endpoint.model_info["model_path"]))

    def make_desk(engine: Engine, now: datetime) -> "Assistant":
        return desk_on(
            endpoint,
            OrderApi(engine),
            profile=profile,
            clock=lambda: now,
            messages_per_minute=None,
            temperature=temperature,
        )

    return make_desk


def evaluate(
    endpoint: "Endpoint",
    cases: Sequence[Case],
    *,
    profile: Profile | None = None,
    temperature: float | None = None,
    repeat: int = 1,
    workers: int = 4,
    progress: Progress | None = None,
) -> Report:
    """Play every case on the desk with a server's model. Raises CsprotoError for a dead server.

    profile, temperature: as in `desk_maker`. repeat: how often each case is played, for
    pass^k. workers: conversations at once.
    """
    make_desk = desk_maker(endpoint, profile, temperature)
    rows = play_all(cases, make_desk, repeat=repeat, workers=workers, progress=progress)
    return Report(rows, repeat)


def half(cases: Sequence[Case], which: Literal["odd", "even"]) -> list[Case]:
    """Return the cases of one half of a set, by the number at the end of their ids.

    Odd cases may be looked at one by one. Even ones are only counted, so that their
    figures say how the model does on messages that nobody worked towards.

    Raises BadCases for an id that does not end in a number.
    """
    digits = "13579" if which == "odd" else "02468"
    if without := [c.id for c in cases if not c.id.isascii() or not c.id[-1:].isdigit()]:
        raise BadCases(f"The id {without[0]} does not end in a number: it is in neither half.")
    return [case for case in cases if case.id[-1] in digits]


def limits_for(report: Report, asked_back: float) -> Limits:
    """Return the limits of sureness that cases played without limits suggest.

    answering: below it lies the share `asked_back` of the turns that state an intent,
    0.99 at most. writing: above the sureness of every turn with an unwanted write, 0.99 at most.
    """
    frame = report.frame
    sure = frame[frame.intent_right.notna() & frame.sure.notna()].sure
    answering = min(0.99, float(sure.quantile(asked_back))) if len(sure) else 0.0
    risky = [row["sure"] for row in report.unwanted_writes() if row["sure"] is not None]
    writing = min(0.99, max([answering, *(value + 0.001 for value in risky)]))
    return Limits(round(answering, 3), round(writing, 3))
