"""Rates that the web processes of one PostgreSQL database share."""

import threading
import time

from sqlalchemy import delete, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from csproto.desk.admission import MINUTE, Admission, MessageRefused
from csproto.shop.store import RateRow

AGAIN = 5.0  # seconds after a failure in which the database is not asked
SWEEP = 300.0  # seconds between two clean-ups
OLD = 3_600.0  # seconds after which a row has no meaning any more

# The "generic cell rate algorithm": a token bucket that is one number. `due` is when the
# next request would come at exactly the allowed rate. One statement asks and counts, so
# two processes cannot both take the last token. It returns no row if it is too early.
SPEND = text(
    """
    INSERT INTO rate AS r (name, due)
    VALUES (:name, extract(epoch FROM clock_timestamp()) + :interval)
    ON CONFLICT (name) DO UPDATE
    SET due = greatest(r.due, extract(epoch FROM clock_timestamp())) + :interval
    WHERE r.due - extract(epoch FROM clock_timestamp()) <= :ahead
    RETURNING due
    """
)
WAIT = text(
    "SELECT due - extract(epoch FROM clock_timestamp()) - :ahead FROM rate WHERE name = :name"
)


class SharedRates:
    """Token buckets by name, in the database. Safe to use from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._not_before = float("-inf")
        self._swept_at = time.monotonic()
        self._lock = threading.Lock()

    def spend(self, name: str, burst: float, per_second: float) -> float | None:
        """Take one token, and return 0; else the seconds until there is one.

        burst: how many may be taken at once. per_second: how many come back.

        Returns None if the database does not answer: the caller then has to count by
        itself.
        """
        if time.monotonic() < self._not_before:
            return None
        interval = 1 / per_second
        words = {"name": name[:80], "interval": interval, "ahead": (burst - 1) * interval}
        try:
            with self._engine.begin() as connection:
                if connection.execute(SPEND, words).first():
                    wait = 0.0
                else:
                    wait = max(connection.scalar(WAIT, words) or 0.0, 0.001)
            self._sweep()
            return wait
        except SQLAlchemyError:
            self._not_before = time.monotonic() + AGAIN
            return None

    def _sweep(self) -> None:
        """Delete old rows now and then."""
        with self._lock:
            if time.monotonic() < self._swept_at + SWEEP:
                return
            self._swept_at = time.monotonic()
        with self._engine.begin() as connection:
            connection.execute(delete(RateRow).where(RateRow.due < time.time() - OLD))


class SharedAdmission(Admission):
    """Limits the messages of a customer over all processes.

    One conversation is answered by one process at a time; the visitors' locks see to
    that.
    """

    def __init__(self, per_minute: int | None, rates: SharedRates) -> None:
        super().__init__(per_minute)
        self._rates, self._most = rates, per_minute

    def _count_message(self, customer_id: str) -> None:
        if self._most is None:
            return
        wait = self._rates.spend(f"customer {customer_id}", self._most, self._most / MINUTE)
        if wait is None:
            super()._count_message(customer_id)
        elif wait:
            raise MessageRefused(
                f"More than {self._most} messages in a minute are too many. "
                f"Send it again in {int(wait) + 1} s.",
                wait,
            )
