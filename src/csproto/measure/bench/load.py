"""Playing conversations against an arm, so many at once (closed loop) or so many a second (open loop), and what came of every turn."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import Engine as Database

from csproto.errors import CsprotoError
from csproto.evaluate import Case, CaseTurn
from csproto.measure.bench.arms import Arm, Desk
from csproto.measure.bench.clients import Call, TimedEndpoint
from csproto.shop import demo
from csproto.shop.orders import OrderApi
from csproto.shop.store import open_engine
from csproto.turn import Turn

Tick = Callable[[], None]


@dataclass(frozen=True)
class Load:
    """How an arm is loaded: `at_once` conversations, or `rate` new ones a second; `cold` empties the prefix cache before each."""

    name: str
    conversations: int
    at_once: int = 0
    rate: float = 0.0
    cold: bool = False


@dataclass(frozen=True)
class Played:
    """One message of a conversation and what came of it: a turn, or an error. `began`: when it was submitted, in seconds of `time.perf_counter`."""

    case: str
    language: str  # the conversation's
    place: int
    said: CaseTurn
    turn: Turn | None
    error: str
    calls: list[Call]
    began: float


@dataclass(frozen=True)
class Pass:
    """One load played through once. `seconds` of wall clock; `client_seconds` of CPU time in this process, which is all Python of ours."""

    played: list[Played]
    conversations: int
    seconds: float
    client_seconds: float


@dataclass(frozen=True)
class Job:
    """A conversation to be played, everything it needs at hand."""

    case: Case
    desk: Desk
    endpoint: TimedEndpoint


class Shops:
    """Fresh demo shops, one for each conversation, so that none finds what another one wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, datetime.now(UTC)
        self.first = self._open(folder / "fresh.db")
        demo.fill(self.first, self.now)
        with self.first.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self._given: list[Database] = []

    def fresh(self) -> OrderApi:
        """The order API of a shop that nobody has been to."""
        path = self.folder / f"{len(self._given)}.db"
        shutil.copy(self.folder / "fresh.db", path)
        self._given.append(self._open(path))
        return OrderApi(self._given[-1])

    def close(self) -> None:
        """Forget the shops given out."""
        for engine in self._given:
            engine.dispose()
        self._given.clear()

    @staticmethod
    def _open(path: Path) -> Database:
        return open_engine(f"sqlite:///{path}")


@contextmanager
def shops() -> Iterator[Shops]:
    """The shops of one comparison, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Shops(Path(folder))
        try:
            yield opened
        finally:
            opened.close()
            opened.first.dispose()


def play_load(
    load: Load,
    arm: Arm,
    client: TimedEndpoint,
    cases: Sequence[Case],
    place: Shops,
    seed: str,
    tick: Tick,
) -> Pass:
    """Play the cases against an arm. The shops are made before the clock starts."""
    jobs = []
    client.reconnect()
    for case in cases:
        endpoint = client.apart()
        jobs.append(Job(case, arm.desk(endpoint, place.fresh(), place.now), endpoint))
    began, cpu = time.perf_counter(), time.process_time()
    played = (
        _open_loop(jobs, load.rate, seed, tick)
        if load.rate
        else _closed_loop(jobs, load.at_once, tick)
    )
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    place.close()
    return Pass([one for each in played for one in each], len(jobs), seconds, used)


def _closed_loop(jobs: Sequence[Job], at_once: int, tick: Tick) -> list[list[Played]]:
    """The next conversation begins when one ends."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda job: play(job, tick), jobs))


def _open_loop(jobs: Sequence[Job], rate: float, seed: str, tick: Tick) -> list[list[Played]]:
    """Conversations begin when customers come, at random moments with `rate` a second on average, however many are still going on."""
    pick = random.Random(seed)
    with ThreadPoolExecutor(len(jobs)) as pool:
        due, started = time.perf_counter(), []
        for job in jobs:
            time.sleep(max(0.0, due - time.perf_counter()))
            started.append(pool.submit(play, job, tick))
            due += pick.expovariate(rate)
        return [future.result() for future in started]


def play(job: Job, tick: Tick) -> list[Played]:
    """One conversation, message after message without a pause, after an error too."""
    played: list[Played] = []
    conversation = None
    for place, said in enumerate(job.case.turns, 1):
        turn, error, seen, began = None, "", len(job.endpoint.calls), time.perf_counter()
        try:
            if conversation is None:
                conversation, began = job.desk.open(job.case.customer), time.perf_counter()
            turn = job.desk.turn(conversation, said.text)
        except (CsprotoError, ValueError) as failure:  # ValueError: what pydantic raises
            error = f"{type(failure).__name__}: {failure}"
        calls = job.endpoint.calls[seen:]
        played.append(Played(job.case.id, job.case.lang, place, said, turn, error, calls, began))
    tick()
    return played
