"""A model measured on cases: the desk plays them, and the figures are drawn from what it did."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import Engine

from csproto.desk.profile import Profile, profile_of
from csproto.measure.cases import Case
from csproto.measure.play import Progress, play_all
from csproto.measure.report import Report
from csproto.opening import desk_on
from csproto.settings import DATA
from csproto.shop.orders import OrderApi

if TYPE_CHECKING:
    from csproto.desk.assistant import Assistant
    from csproto.engine.endpoint import Endpoint

SETS = {name: DATA / "eval" / f"{name}.jsonl" for name in ("outside", "safety")}
# Cases with an odd number may be looked at one by one; the others are only counted.
CALIBRATION, KEPT = 1, 0


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

    profile: in place of the model's own, for instance with another threshold. repeat: how often
    each case is played, for pass^k. workers: conversations at once.
    """
    used = profile or profile_of(str(endpoint.model_info["model_path"]))

    def make_desk(engine: Engine, now: datetime) -> "Assistant":
        return desk_on(
            endpoint,
            OrderApi(engine),
            profile=used,
            clock=lambda: now,
            messages_per_minute=None,
            temperature=temperature,
        )

    rows = play_all(cases, make_desk, repeat=repeat, workers=workers, progress=progress)
    return Report(rows, repeat)


def half(cases: Sequence[Case], which: int) -> list[Case]:
    """The cases of one half of a set, by the number at the end of their ids."""
    return [case for case in cases if int(case.id.rsplit("-", 1)[-1]) % 2 == which]


def threshold_for(report: Report, asked_back: float = 0.1) -> float:
    """The threshold of sureness below which the given share of turns is asked back.

    asked_back: share of the turns that state an intent. To be found on one half of a set and
    reported on the other.
    """
    frame = report.frame
    sure = frame[frame.intent_right.notna() & frame.sure.notna()].sure
    return round(float(sure.quantile(asked_back)), 3) if len(sure) else 0.0


def data_set(name: str) -> Path:
    """The file of one of the project's own sets, or the path that was named."""
    return SETS.get(name, Path(name))
