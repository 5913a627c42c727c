"""Scenarios: whole conversations, kept as data, with the action every turn must lead to and the shop's database as it must stand at the end.

They exist because a right-looking reply proves nothing: what counts is what was decided, and that nothing else was written.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from sqlalchemy import select
from sqlalchemy.engine import Engine

from csproto import settings
from csproto.errors import CsprotoError
from csproto.policy import ACTIONS, RULE_IDS
from csproto.shop import demo
from csproto.shop.orders import Faults, OrderApi, WriteKind
from csproto.shop.store import Base, ConversationRow, open_engine
from csproto.triage import Triage

if TYPE_CHECKING:  # the assistant imports sglang, which takes seconds
    from csproto.assistant import Assistant
    from csproto.assistant import Turn as Answer
    from csproto.engine.endpoint import Endpoint

FOLDER = settings.REPOSITORY / "tests" / "scenarios"
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)  # noon in Shanghai

AssistantFactory = Callable[[OrderApi], "Assistant"]
Progress = Callable[[int, int], None]
Rows = dict[str, dict[str, dict[str, Any]]]  # table, key, column


class ScenarioError(CsprotoError):
    """A scenario file that cannot be used, with the file, the scenario and what to change."""


def _known(names: frozenset[str], what: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}")
        return name

    return AfterValidator(check)


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Action = Annotated[str, _known(ACTIONS, "action")]
OneOf = Annotated[list[Action], BeforeValidator(_listed), Field(min_length=1)]
AnyText = Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
Switches = dict[Literal["latency", "error_rate", "timeout_rate", "half_done_rate", "seed"], Any]  # of orders.Faults


class _Form(BaseModel):
    """Keys that are not known are refused, so that a misspelt expectation cannot pass unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HonestTriage(Triage):
    """What a reader makes of the message, by docs/labelling.md: the label, not the model's output."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Form):
    """One message of the customer and what must come of it."""

    say: str
    action: OneOf  # the decision on the first wish: one of these
    rule: Annotated[str, _known(RULE_IDS, "rule")] | None = None
    also: list[OneOf] = []  # the decisions on the message's further wishes, in order; no others may follow
    may_also: list[Action] = []  # further decisions that do no harm here
    reply_has: list[AnyText] = []  # each must stand in the reply, whatever its case; of a list, one
    reply_has_not: list[str] = []
    faults: Switches | None = None  # from this message on
    triage: HonestTriage | None = None


class OrderChange(_Form):
    """What differs in one order. A cancellation sets its time, a refund its own."""

    status: Literal["cancelled"] | None = None
    refund: Literal["requested", "approved"] | None = None
    address: str | None = None
    invoice: Literal["issued"] | None = None

    def columns(self) -> dict[str, Any]:
        """The columns with their new values."""
        changed = self.model_dump(exclude_none=True, exclude={"status"})
        if self.refund:
            changed["refund_at"] = NOW
        return changed | ({"cancelled_at": NOW} if self.status else {})

    def writes(self) -> int:
        """Writes that leave an audit row and no ticket."""
        return sum(value is not None for value in (self.status, self.address, self.invoice))


class TicketOpened(_Form):
    kind: WriteKind
    order_id: str = ""
    escalated: bool = False

    def __str__(self) -> str:
        return " ".join(filter(None, [self.kind, self.order_id, "(escalated)" if self.escalated else ""]))


class Final(_Form):
    """The differences to the fresh demo database at the end; nothing else may have changed."""

    orders: dict[str, OrderChange] = {}
    tickets: list[TicketOpened] = []
    may_open: list[WriteKind] = []  # kinds of tickets that do no harm here, there or not
    audit: int | None = None  # rows of the audit table, where it is not one per ticket and per change


class ScenarioForm(_Form):
    """One entry of a file."""

    name: str
    customer: str
    faults: Switches = {}  # from the first message on
    turns: Annotated[list[Step], Field(min_length=1)]
    final: Final = Final()


class Scenario(ScenarioForm):
    """A scenario with the family it belongs to: the name of its file."""

    family: str


def load(folder: Path = FOLDER, family: str | None = None) -> list[Scenario]:
    """The scenarios of every file in `folder`, or those of one family. Raises ScenarioError."""
    loaded = [scenario for path in sorted(folder.glob("*.yaml")) for scenario in _read(path)]
    twice = [name for name, times in Counter(s.name for s in loaded).items() if times > 1]
    if twice:
        raise ScenarioError(f"{folder}: two scenarios are called {twice[0]!r}; every name must be used once.")
    families = sorted({s.family for s in loaded})
    if not loaded or family not in (None, *families):
        raise ScenarioError(
            f"There are no scenarios {f'of the family {family!r} ' if family else ''}in {folder}. Families there: {', '.join(families) or 'none'}."
        )
    return [s for s in loaded if family in (None, s.family)]


def _read(path: Path) -> Iterator[Scenario]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise ScenarioError(f"{path} must hold a list of scenarios, each beginning with `- name:`.")
    for number, entry in enumerate(entries, start=1):
        try:
            form = ScenarioForm.model_validate(entry)
        except ValidationError as error:
            name = entry.get("name", "without a name") if isinstance(entry, dict) else "without keys"
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ScenarioError(f"{path}, scenario {number} ({name}), {where}: {first['msg']}.") from error
        yield Scenario(family=path.stem, **dict(form))


@dataclass(frozen=True)
class Result:
    """How one scenario went; `differences` says in words what was not as expected."""

    family: str
    name: str
    differences: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.differences

    def __str__(self) -> str:
        return "\n  ".join([f"{self.family}: {self.name}", *(self.differences or ["passed"])])


def factory(endpoint: "Endpoint", temperature: float = 0.0) -> AssistantFactory:
    """Makes assistants on a server, with the scenarios' clock."""
    from csproto.assistant import Assistant

    return lambda orders: Assistant(endpoint, orders, clock=lambda: NOW, temperature=temperature)


def run_all(
    scenarios: Sequence[Scenario],
    assistant_factory: AssistantFactory,
    *,
    workers: int = 4,
    progress: Progress | None = None,
) -> list[Result]:
    """Play scenarios, `workers` at a time, each on a database of its own. Raises EngineError when the server cannot be reached.

    progress: called with the number of scenarios done and of all.
    """
    results = []
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(lambda scenario: run(scenario, assistant_factory), scenarios):
            results.append(result)
            if progress:
                progress(len(results), len(scenarios))
    return results


def run(scenario: Scenario, assistant_factory: AssistantFactory) -> Result:
    """Play one scenario on a freshly filled demo shop and compare turns and database. Raises what opening a conversation raises."""
    with _fresh_shop() as engine:
        before = _rows(engine)
        orders = OrderApi(engine, Faults(**scenario.faults))
        differences = _play(scenario, assistant_factory(orders), orders)
        differences += _database_differences(scenario, before, _rows(engine))
    return Result(scenario.family, scenario.name, tuple(differences))


def _play(scenario: Scenario, assistant: "Assistant", orders: OrderApi) -> list[str]:
    differences = []
    conversation = assistant.open(scenario.customer)
    for number, step in enumerate(scenario.turns, start=1):
        if step.faults is not None:
            orders.faults = Faults(**step.faults)
        try:
            answer = assistant.turn(conversation, step.say)
            found, understood = list(_turn_differences(step, answer)), f" (understood as {answer.triage.to_wire()})"
        except (CsprotoError, ValidationError) as error:  # no answer is a wrong answer; the conversation can go on
            found, understood = [f"no answer: {error}"], ""
        differences += [f"turn {number} “{step.say}”: {what}{understood}" for what in found]
    return differences


def _turn_differences(step: Step, answer: "Answer") -> Iterator[str]:
    first, *others = [part.decision for part in answer.parts]
    if first.action not in step.action:
        yield f"{first.action} by {first.rule}, expected {' or '.join(step.action)}"
    elif step.rule and first.rule != step.rule:
        yield f"{first.action} by {first.rule}, expected {step.rule}"
    if not _further_wishes_fit(step, [decision.action for decision in others]):
        expected = ", ".join(" or ".join(one) for one in step.also)
        yield f"then {', '.join(d.action for d in others) or 'nothing'}, expected {expected or 'nothing'}"
    reply = answer.reply.casefold()
    if not reply.strip():
        yield "the reply is empty"
    for choice in step.reply_has:
        if not any(text.casefold() in reply for text in choice):
            yield f"the reply lacks {' or '.join(choice)}: {answer.reply}"
    for text in step.reply_has_not:
        if text.casefold() in reply:
            yield f"the reply must not say {text}: {answer.reply}"


def _further_wishes_fit(step: Step, actions: list[str]) -> bool:
    expected, extra = actions[: len(step.also)], actions[len(step.also) :]
    listed = len(expected) == len(step.also) and all(a in one for a, one in zip(expected, step.also, strict=True))
    return listed and all(action in step.may_also for action in extra)


@contextmanager
def _fresh_shop() -> Iterator[Engine]:
    """A database file of its own with the demo shop as of NOW."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.db"
        path.write_bytes(_filled())
        engine = open_engine(f"sqlite:///{path}")
        try:
            yield engine
        finally:
            engine.dispose()


@cache
def _filled() -> bytes:
    """The file of a filled shop: the clock stands still, so filling one serves all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.db"
        engine = open_engine(f"sqlite:///{path}")
        demo.fill(engine, NOW)
        engine.dispose()  # the last connection to close puts the write-ahead log into the file
        return path.read_bytes()


def _rows(engine: Engine) -> Rows:
    """Every row of every table but the conversations."""
    with engine.connect() as connection:
        return {
            table.name: {
                str(row[next(iter(table.primary_key)).name]): dict(row)
                for row in connection.execute(select(table)).mappings()
            }
            for table in Base.metadata.sorted_tables
            if table.name != ConversationRow.__tablename__
        }


def _database_differences(scenario: Scenario, before: Rows, after: Rows) -> Iterator[str]:
    final, tickets, audit = scenario.final, after["ticket"].values(), after["audit"].values()
    if unknown := final.orders.keys() - before["orders"].keys():
        raise ScenarioError(
            f"{scenario.name}: final names the order {min(unknown)}, which the demo shop does not have."
        )
    expected_orders = {
        key: row | (final.orders[key].columns() if key in final.orders else {}) for key, row in before["orders"].items()
    }
    yield from _row_differences("order", expected_orders, after["orders"])
    yield from _row_differences("customer", before["customer"], after["customer"])
    yield from _ticket_differences(final, tickets)
    expected = len(tickets) + sum(change.writes() for change in final.orders.values())
    expected = expected if final.audit is None else final.audit
    if len(audit) != expected:
        kinds = ", ".join(f"{row['action']} {row['order_id']}".strip() for row in audit)
        yield f"{len(audit)} rows in the audit table ({kinds or 'none'}), expected {expected}"
    for row in (*tickets, *audit):
        if row["customer_id"] != scenario.customer:
            yield f"something was written in the name of {row['customer_id']}"


def _row_differences(what: str, expected: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> Iterator[str]:
    for key in expected.keys() ^ found.keys():
        yield f"{what} {key} is {'gone' if key in expected else 'new'}"
    for key in expected.keys() & found.keys():
        for column, value in expected[key].items():
            if found[key][column] != value:
                yield f"{what} {key}: {column} is {_word(found[key][column])}, expected {_word(value)}"


def _ticket_differences(final: Final, rows: Any) -> Iterator[str]:
    expected = Counter(map(str, final.tickets))
    found = Counter(
        str(TicketOpened(kind=row["kind"], order_id=row["order_id"], escalated=row["escalated"])) for row in rows
    )
    for ticket in (expected - found).elements():
        yield f"the ticket {ticket} is missing"
    for ticket in (found - expected).elements():
        if ticket.split()[0] not in final.may_open:
            yield f"an unexpected ticket: {ticket}"


def _word(value: Any) -> str:
    return "empty" if value in (None, "") else str(value)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Counts for `--json`, over all and by family. A scenario that was played more than once has passed when it passed every time."""
    plays: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        plays.setdefault((result.family, result.name), []).append(result)
    verdicts = {key: all(result.passed for result in played) for key, played in plays.items()}
    families: dict[str, dict[str, int]] = {}
    for (family, _), passed in verdicts.items():
        counts = families.setdefault(family, {"passed": 0, "total": 0})
        counts["passed"] += passed
        counts["total"] += 1
    return {
        "passed": sum(verdicts.values()),
        "total": len(verdicts),
        "plays": len(results),
        "by_family": families,
        "failed": [
            {"family": r.family, "name": r.name, "differences": list(r.differences)} for r in results if not r.passed
        ],
    }
