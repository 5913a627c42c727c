"""Scenarios: whole conversations, with what each message must lead to and how the shop must end up.

A right-looking reply proves nothing. What counts is what was decided, and that nothing else was
written. Each turn also says how an honest reader understands it, so that a scenario can be played
without a model as well as with one.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from csproto import settings
from csproto.desk.assistant import Assistant
from csproto.desk.triage import Act, Triage, Wish
from csproto.desk.turn import Turn
from csproto.errors import CsprotoError
from csproto.measure.cases import Expected
from csproto.measure.play import (
    ORDER_FIELDS,
    MakeDesk,
    Progress,
    fill_shop,
    judged,
    orders_after,
    writes,
)
from csproto.shop.orders import Faults, OrderApi
from csproto.shop.store import Audit, Order, Ticket, open_engine

FOLDER = settings.DATA / "scenarios"
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)  # noon in Shanghai, when every scenario begins
FIELDS = (*ORDER_FIELDS, "invoice_title", "tax_id")

Rows = dict[str, dict[str, str]]  # order, field
Waits = Literal["none", "yes", "order", "detail", "reading", "human"]


class ScenarioError(CsprotoError):
    """A scenario file that cannot be used."""


class _Form(BaseModel):
    """Unknown keys are refused, so that a misspelt expectation cannot pass unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Means(_Form):
    """How an honest reader understands a message: the label, not a model's output."""

    act: Act = "ask"
    wishes: list[dict[str, Any]] = []

    @property
    def triage(self) -> Triage:
        """The triage that the desk would be given."""
        wishes = [dict(wish) for wish in self.wishes]
        read = [Wish(w.pop("intent"), tuple(w.pop("orders", ())), w) for w in wishes]
        return Triage(self.act, tuple(read))


class Step(_Form):
    """One message of the customer, how it is meant and what must come of it.

    sure, runner_up: how sure the reader is, for the rehearsal only. action: of the decisions, one
    of these; also: actions of further decisions. writes: kinds newly written, exactly, or a list
    of such lists. waits: what the open question waits for. reply_has: of a list, one part is
    enough. hours: that have passed since the message before. faults: of the order system, from
    here on. shipped: orders that leave the warehouse just before this message.
    """

    say: str
    means: Means
    sure: float = 1.0
    runner_up: str | None = None
    action: str | list[str]
    also: list[str | list[str]] = []
    rule: str | None = None
    orders: list[str] | None = None
    writes: list[str] | list[list[str]] = []
    waits: Waits | None = None
    language: Literal["zh", "en"] | None = None
    reply_has: list[str | list[str]] = []
    reply_lacks: list[str] = []
    hours: float = 0
    faults: dict[str, Any] | None = None
    shipped: list[str] = []


class Scenario(_Form):
    """One conversation with a demo customer.

    after: what has changed about their orders at the end; everything else must be as before.
    tickets: exactly those that are open at the end.
    """

    name: str
    family: str
    customer: str
    turns: list[Step] = Field(min_length=1)
    after: dict[str, dict[str, str]] = {}
    tickets: list[dict[Literal["kind", "order"], str]] = []

    @property
    def rehearsal_only(self) -> bool:
        """Whether it hangs on how sure the reader is, which a real model cannot be told."""
        return any(step.runner_up for step in self.turns)


def listed(value: str | Sequence[str]) -> list[str]:
    """One value or several alternatives, as a list."""
    return [value] if isinstance(value, str) else list(value)


def load_scenarios(folder: Path = FOLDER) -> list[Scenario]:
    """The scenarios of every file; a file's name is their family. Raises ScenarioError."""
    found = list[Scenario]()
    for path in sorted(folder.glob("*.yaml")):
        for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), 1):
            try:
                found.append(Scenario.model_validate({"family": path.stem, **entry}))
            except (ValidationError, TypeError) as error:
                raise ScenarioError(f"{path}, scenario {number}: {error}") from error
    return found


def play_fresh(scenario: Scenario, make_desk: MakeDesk, filled: Path) -> list[str]:
    """Play a scenario on a copy of a database filled as of NOW (`play.fill_shop`)."""
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(filled, folder)
        engine = open_engine(f"sqlite:///{path}")
        try:
            return play(scenario, make_desk(engine, NOW), engine)
        finally:
            engine.dispose()


@dataclass(frozen=True)
class Result:
    """A scenario that was played. differences: to what is expected; none when it passed."""

    scenario: Scenario
    differences: list[str]

    @property
    def passed(self) -> bool:
        """Whether all came as expected."""
        return not self.differences


def play_each(
    scenarios: Sequence[Scenario],
    make_desk: MakeDesk,
    *,
    workers: int = 4,
    progress: Progress | None = None,
) -> list[Result]:
    """Play scenarios, each on a shop of its own, `workers` at once."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        filled = Path(folder) / "filled.db"
        fill_shop(filled, NOW)
        results: list[Result] = []
        played = pool.map(lambda scenario: play_fresh(scenario, make_desk, filled), scenarios)
        for scenario, differences in zip(scenarios, played, strict=True):
            results.append(Result(scenario, differences))
            if progress:
                progress(len(results), len(scenarios))
    return results


def by_family(results: Sequence[Result]) -> dict[str, dict[str, int]]:
    """Return how many scenarios of each family passed, and of how many."""
    found: dict[str, dict[str, int]] = {}
    for result in results:
        counts = found.setdefault(result.scenario.family, {"passed": 0, "total": 0})
        counts["passed"] += result.passed
        counts["total"] += 1
    return found


def play(scenario: Scenario, desk: Assistant, engine: Engine) -> list[str]:
    """Every difference to what is expected, in plain words; none when all is well.

    engine: of the desk's shop, filled as of NOW. The desk's clock and its shop's faults are set.
    """
    now, differences = [NOW], list[str]()
    desk.clock = lambda: now[0]
    before = orders_after(engine, scenario.customer, FIELDS)
    conversation = desk.open(scenario.customer)
    for number, step in enumerate(scenario.turns, 1):
        now[0] += timedelta(hours=step.hours)
        _meanwhile(step, desk, engine, now[0])
        written = writes(engine)
        try:
            turn = desk.turn(conversation, step.say)
            row = turn.as_dict(desk.handbook)
            row["writes"] = [dict(write) for write in (writes(engine) - written).elements()]
            found = [*_decided_otherwise(step, row), *_said_otherwise(step, turn, desk)]
            understood = f" (understood as {turn.triage.to_wire() if turn.triage else None})"
        except CsprotoError as error:  # no answer is a wrong answer; the conversation can go on
            found, understood = [f"no answer: {error}"], ""
        differences += [f"turn {number} “{step.say}”: {what}{understood}" for what in found]
    return differences + list(_left_otherwise(scenario, engine, before))


def _meanwhile(step: Step, desk: Assistant, engine: Engine, now: datetime) -> None:
    """What happens in the shop just before a message."""
    if step.faults is not None:
        assert isinstance(desk.orders, OrderApi), "faults need the demo shop's order system"
        desk.orders.faults = Faults(**step.faults)
    if step.shipped:
        with Session(engine) as session, session.begin():
            shipped = update(Order).where(Order.id.in_(step.shipped))
            session.execute(shipped.values(shipped_at=now, carrier="DHL"))


def _decided_otherwise(step: Step, row: dict[str, Any]) -> Iterator[str]:
    decisions = row["decisions"]
    actions, rules = [d["action"] for d in decisions], [d["rule"] for d in decisions]
    came = ", ".join(map("{} by {}".format, actions, rules))
    expected = Expected(action=step.action, orders=step.orders, writes=step.writes)
    right = judged(expected, row)
    wanted = [listed(step.action), *map(listed, step.also)]
    if missing := [one for one in wanted if not set(one) & set(actions)]:
        yield f"decided {came}, expected {' and '.join(map(' or '.join, missing))}"
    if more := set(actions) - {"small_talk"}.union(*wanted):
        yield f"decided {came}, not expected: {', '.join(sorted(more))}"
    if step.rule is not None and step.rule not in rules:
        yield f"decided {came}, expected the rule {step.rule}"
    if not right.get("orders", True):
        yield f"about the orders {[d['order'] for d in decisions]}, expected {step.orders}"
    if not right["writes"]:
        kinds = [f"{write['kind']} {write['order']}".strip() for write in row["writes"]]
        yield f"written: {', '.join(kinds) or 'nothing'}, expected {step.writes or 'nothing'}"


def _said_otherwise(step: Step, turn: Turn, desk: Assistant) -> Iterator[str]:
    question, reply = turn.question, turn.reply
    waits = question.kind if question else "none"
    if step.waits not in (None, waits):
        yield f"waits for {waits}, expected {step.waits}"
    if reply.endswith(("?", "？")) != (question is not None):
        yield f"waits for {waits}, and the reply ends otherwise: {reply}"
    if question and question.kind == "yes":  # a yes counts only for what was named
        named = question.facts.get("orders", ())
        for order in named if isinstance(named, tuple) else ():
            if order.id not in reply or order.item not in reply:
                yield f"the question does not name {order.id} and its article: {reply}"
    if step.language not in (None, turn.language):
        yield f"answered in {turn.language}, expected {step.language}"
    for parts in map(listed, step.reply_has):
        if not any(part.casefold() in reply.casefold() for part in parts):
            yield f"the reply lacks {' or '.join(parts)}: {reply}"
    for part in step.reply_lacks:
        if part.casefold() in reply.casefold():
            yield f"the reply must not say {part}: {reply}"


def _left_otherwise(scenario: Scenario, engine: Engine, before: Rows) -> Iterator[str]:
    """How the shop's database differs at the end."""
    after = orders_after(engine, scenario.customer, FIELDS)
    for order in scenario.after.keys() - before.keys():
        yield f"`after` names {order}, which is no order of {scenario.customer}"
    for order, row in before.items():
        expected = row | scenario.after.get(order, {})
        for name, value in after[order].items():
            if value != expected[name]:
                yield f"at the end, {name} of {order} is {value!r}, expected {expected[name]!r}"
    with Session(engine) as session:
        tickets = Counter(
            session.execute(select(Ticket.kind, Ticket.order_id).where(~Ticket.closed)).tuples()
        )
        strangers = session.scalars(
            select(Audit.customer_id).where(Audit.customer_id != scenario.customer)
        ).all()
        foreign = (
            set(session.scalars(select(Audit.order_id).where(Audit.order_id != ""))) - before.keys()
        )
    wanted = Counter((ticket["kind"], ticket.get("order", "")) for ticket in scenario.tickets)
    yield from (
        f"the ticket {' '.join(one).strip()} is missing" for one in (wanted - tickets).elements()
    )
    yield from (
        f"an unexpected ticket: {' '.join(one).strip()}" for one in (tickets - wanted).elements()
    )
    if strangers or foreign:
        yield f"something was written in another name or order: {', '.join([*strangers, *foreign])}"
