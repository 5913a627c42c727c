"""Cases played on the real desk, each with a fresh demo shop of its own: one row a turn."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto.desk.assistant import Assistant
from csproto.desk.conversation import Conversation
from csproto.desk.turn import Turn
from csproto.errors import CsprotoError
from csproto.measure.cases import BadCases, Case, CaseTurn, Expected
from csproto.shop import demo
from csproto.shop.store import Audit, Customer, Order, open_engine

MakeDesk = Callable[[Engine, datetime], Assistant]
Progress = Callable[[int, int], None]
ORDER_FIELDS = ("status", "refund", "invoice", "recipient", "phone", "address")


def play_all(
    cases: Sequence[Case],
    make_desk: MakeDesk,
    *,
    repeat: int = 1,
    workers: int = 4,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Play every case `repeat` times, `workers` at once.

    A turn that fails is a row with its error, and ends its case. Raises BadCases for a
    customer that the demo shop does not have.

    make_desk: the desk for a database and a moment that is "now" in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        now, fresh = datetime.now(UTC), Path(folder) / "fresh.db"
        fill_shop(fresh, now)
        _check_customers(cases, fresh)

        def play(job: tuple[int, Case]) -> list[dict[str, Any]]:
            place, case = job
            path = Path(folder) / f"{place}.db"
            shutil.copy(fresh, path)
            engine = open_engine(f"sqlite:///{path}")
            try:
                return play_case(case, make_desk(engine, now), engine)
            finally:
                engine.dispose()
                path.unlink()

        rows: list[dict[str, Any]] = []
        jobs = list(enumerate(case for _ in range(repeat) for case in cases))
        with ThreadPoolExecutor(workers) as pool:
            for done, new in enumerate(pool.map(play, jobs), 1):
                rows += new
                if progress:
                    progress(done, len(jobs))
    return rows


def fill_shop(path: Path, now: datetime) -> None:
    """Fill a database file with the demo shop as of a moment; the file can then be copied."""
    engine = open_engine(f"sqlite:///{path}")
    demo.fill(engine, now)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


def _check_customers(cases: Sequence[Case], filled: Path) -> None:
    engine = open_engine(f"sqlite:///{filled}")
    with Session(engine) as session:
        known = set(session.scalars(select(Customer.id)))
    engine.dispose()
    for case in cases:
        if case.customer not in known:
            raise BadCases(f"Case {case.id}: the demo shop has no customer {case.customer}.")


def play_case(case: Case, desk: Assistant, engine: Engine) -> list[dict[str, Any]]:
    """One case from its first message on."""
    rows: list[dict[str, Any]] = []
    conversation = desk.open(case.customer)
    for number, turn in enumerate(case.turns, 1):
        row = {"id": case.id, "lang": case.lang, "turn": number, "text": turn.text, "error": None}
        before = writes(engine)
        try:
            row |= _outcome(desk, conversation, turn)
        except CsprotoError as error:
            row["error"] = f"{type(error).__name__}: {error}"
        row["writes"] = [dict(write) for write in (writes(engine) - before).elements()]
        row["orders_after"] = orders_after(engine, case.customer)
        row["right"] = judged(turn.expect, row)
        rows.append(row | {"expect": turn.expect.model_dump(exclude_none=True)})
        if row["error"]:
            break
    return rows


def _outcome(desk: Assistant, conversation: Conversation, turn: CaseTurn) -> dict[str, Any]:
    answered: Turn = desk.turn(conversation, turn.text)
    return answered.as_dict(desk.handbook)


def writes(engine: Engine) -> Counter[tuple[tuple[str, str], ...]]:
    """Every write in the audit table that changed something or opened a ticket.

    As kind and order.
    """
    with Session(engine) as session:
        rows = session.execute(
            select(Audit.action, Audit.order_id).where(Audit.action != "unavailable")
        )
        return Counter((("kind", kind), ("order", order)) for kind, order in rows)


def orders_after(
    engine: Engine, customer: str, names: Sequence[str] = ORDER_FIELDS
) -> dict[str, dict[str, str]]:
    """The customer's orders as they stand now."""
    with Session(engine) as session:
        orders = session.scalars(select(Order).where(Order.customer_id == customer))
        return {order.id: {name: getattr(order, name) for name in names} for order in orders}


def judged(expect: Expected, row: dict[str, Any]) -> dict[str, bool]:
    """For each thing that is expected, whether it came."""
    wishes = (row.get("triage") or {}).get("wishes", [])
    decisions = row.get("decisions") or []
    found: dict[str, bool] = {}
    if expect.intent is not None:
        found["intent"] = bool(wishes) and wishes[0]["intent"] in expect.intents
    if expect.orders is not None:
        spoken = {number for wish in wishes for number in wish["orders"]}
        decided = {decision["order"] for decision in decisions if decision["order"]}
        found["orders"] = set(expect.orders) in (spoken, decided)
    if expect.action is not None:
        found["action"] = any(decision["action"] in expect.actions for decision in decisions)
    if expect.writes is not None:
        found["writes"] = sorted(write["kind"] for write in row["writes"]) in expect.write_sets
    return found
