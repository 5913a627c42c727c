"""Plays conversations against an arm and records what came of every message.

In a closed loop there are always so many conversations at a time; in an open loop so
many begin each second.
"""

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

from csproto.desk.assistant import Assistant
from csproto.desk.turn import Turn
from csproto.errors import CsprotoError
from csproto.measure.bench.arms import Arm
from csproto.measure.bench.clients import Call, TimedEndpoint
from csproto.measure.cases import Case, CaseTurn
from csproto.measure.play import fill_shop
from csproto.shop.orders import OrderApi
from csproto.shop.store import open_engine

Tick = Callable[[], None]


@dataclass(frozen=True)
class Load:
    """How an arm is loaded.

    at_once: conversations at a time. rate: in place of it, new ones a second.
    cold: the prefix cache is emptied before.
    """

    name: str
    conversations: int
    at_once: int = 0
    rate: float = 0.0
    cold: bool = False


@dataclass(frozen=True)
class Played:
    """One message of a conversation and what came of it.

    place: counted from 1. turn: None after an error. began: when the message was sent,
    in seconds of `time.perf_counter`.
    """

    case: str
    place: int
    said: CaseTurn
    turn: Turn | None
    error: str
    calls: list[Call]
    began: float


@dataclass(frozen=True)
class Pass:
    """One load played once.

    seconds: of wall clock. client_seconds: CPU time of this process, which is all the
    Python of the desk.
    """

    played: list[Played]
    conversations: int
    seconds: float
    client_seconds: float


@dataclass(frozen=True)
class Job:
    """A conversation to play, with everything that it needs."""

    case: Case
    desk: Assistant
    endpoint: TimedEndpoint


class Shops:
    """Fresh demo shops, one for each conversation: none finds what another one wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, datetime.now(UTC)
        fill_shop(folder / "fresh.db", self.now)
        self._given: list[Database] = []

    def fresh(self) -> OrderApi:
        """Return the order system of a shop to which nobody has written."""
        path = self.folder / f"{len(self._given)}.db"
        shutil.copy(self.folder / "fresh.db", path)
        self._given.append(open_engine(f"sqlite:///{path}"))
        return OrderApi(self._given[-1])

    def close(self) -> None:
        """Close the shops that were given out."""
        for engine in self._given:
            engine.dispose()
        self._given.clear()


@contextmanager
def shops() -> Iterator[Shops]:
    """Yield the shops of one comparison, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Shops(Path(folder))
        try:
            yield opened
        finally:
            opened.close()


def play_load(
    load: Load,
    arm: Arm,
    client: TimedEndpoint,
    cases: Sequence[Case],
    place: Shops,
    seed: str,
    tick: Tick,
) -> Pass:
    """Play the cases against an arm. The shops are made before the clock starts.

    tick: called after each conversation.
    """
    jobs = []
    client.reconnect()
    for case in cases:
        endpoint = client.apart()
        jobs.append(Job(case, arm.desk(endpoint, place.fresh(), place.now), endpoint))
    began, cpu = time.perf_counter(), time.process_time()
    if load.rate:
        played = _open_loop(jobs, load.rate, seed, tick)
    else:
        played = _closed_loop(jobs, load.at_once, tick)
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    place.close()
    return Pass([one for each in played for one in each], len(jobs), seconds, used)


def _closed_loop(jobs: Sequence[Job], at_once: int, tick: Tick) -> list[list[Played]]:
    """Begin the next conversation when one ends."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda job: play(job, tick), jobs))


def _open_loop(jobs: Sequence[Job], rate: float, seed: str, tick: Tick) -> list[list[Played]]:
    """Begin conversations at random moments, `rate` a second on average.

    It does not matter how many are still going on.
    """
    pick = random.Random(seed)
    with ThreadPoolExecutor(len(jobs)) as pool:
        due, started = time.perf_counter(), []
        for job in jobs:
            time.sleep(max(0.0, due - time.perf_counter()))
            started.append(pool.submit(play, job, tick))
            due += pick.expovariate(rate)
        return [future.result() for future in started]


def play(job: Job, tick: Tick) -> list[Played]:
    """Play one conversation without pauses. After an error the next message follows."""
    played: list[Played] = []
    conversation = None
    for place, said in enumerate(job.case.turns, 1):
        turn, error, seen, began = None, "", len(job.endpoint.calls), time.perf_counter()
        try:
            if conversation is None:
                conversation, began = job.desk.open(job.case.customer), time.perf_counter()
            turn = job.desk.turn(conversation, said.text)
        except CsprotoError as failure:
            error = f"{type(failure).__name__}: {failure}"
        calls = job.endpoint.calls[seen:]
        played.append(Played(job.case.id, place, said, turn, error, calls, began))
    tick()
    return played
