"""What the desk does, as figures for Prometheus. No label names a customer or an order."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from csproto.chat.messages import Step
from csproto.shop.store import Ticket

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0)
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
ASKS_BACK = ("clarify", "ask_which_order", "ask_order_id", "ask_address")


class Metrics:
    """The figures of one process, from its start on. Safe to use from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"csproto_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"csproto_{name}", meaning, buckets=tuple(buckets), registry=registry)

        self._messages = counter("messages", "Messages, by how they ended", "end")
        self._decisions = counter("decisions", "Decisions", "intent", "action")
        self._asked_back = counter("asked_back", "Messages answered by a question", "action")
        self._confirmations = counter("confirmations", "Answers to a question", "answer")
        self._writes = counter("writes", "Changes and tickets", "kind")
        self._errors = counter("errors", "Messages without an answer, by type of error", "type")
        self._refused = counter("refused", "Requests refused before the desk", "status", "code")
        self._tokens = counter("tokens", "Tokens: computed, reused from the cache, written", "kind")
        self._seconds = histogram("turn_seconds", "Time until a turn is complete", SECONDS)
        self._ttft = histogram("ttft_seconds", "Time until the reply is there", SECONDS)
        self._sure = histogram("sure", "How sure the model was of the first wish", SHARES)

    def show(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a figure that is asked for whenever the figures are read."""
        Gauge(f"csproto_{name}", meaning, registry=self.registry).set_function(value)

    def show_tickets(self, engine: Engine) -> None:
        """Add the open tickets of a database."""
        self.registry.register(OpenTickets(engine))

    def text(self) -> bytes:
        """Return all figures in Prometheus's format. Reads the database."""
        return generate_latest(self.registry)

    def count_refusal(self, status: int, code: str) -> None:
        """Count a request that was refused before the desk saw it."""
        self._refused.labels(str(status), code).inc()

    def count_step(self, step: Step) -> None:
        """Count a step of an answer. Only the last step of each counts."""
        match step["step"]:
            case "done" if step.get("again"):
                self._messages.labels("again").inc()  # its answer had been lost on the way
            case "done":
                self._messages.labels("done").inc()
                self._count_turn(step["turn"])
            case "stopped":
                self._messages.labels("stopped").inc()
            case "failed":
                self._messages.labels("failed").inc()
                self._errors.labels(step["code"]).inc()

    def _count_turn(self, turn: dict[str, Any]) -> None:
        """Count a turn as `Turn.as_dict` gives it."""
        actions = {decision["action"] for decision in turn["decisions"]}
        writes = [decision["write"] for decision in turn["decisions"] if decision["write"]]
        for decision in turn["decisions"]:
            self._decisions.labels(decision["intent"] or "none", decision["action"]).inc()
        for kind in writes:
            self._writes.labels(kind).inc()
        for action in actions.intersection(ASKS_BACK):
            self._asked_back.labels(action).inc()
        match (turn["triage"] or {}).get("act"):
            case "deny":
                self._confirmations.labels("no").inc()
            case "confirm":
                self._confirmations.labels("yes" if writes else "yes_without_write").inc()

        usage = turn["usage"]
        self._tokens.labels("computed").inc(usage["prompt_tokens"] - usage["cached_tokens"])
        self._tokens.labels("reused").inc(usage["cached_tokens"])
        self._tokens.labels("written").inc(usage["completion_tokens"])
        self._seconds.observe(usage["total_ms"] / 1000)
        self._ttft.observe(usage["ttft_ms"] / 1000)
        if turn["sure"] is not None:
            self._sure.observe(turn["sure"])


class OpenTickets(Collector):
    """The open tickets by kind, and how long the oldest has waited, read when asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the database is not read when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; only that the database is down if it is."""
        up = GaugeMetricFamily("csproto_database_up", "Whether the database could be read")
        count = GaugeMetricFamily("csproto_open_tickets", "Open tickets", labels=["kind"])
        age = GaugeMetricFamily(
            "csproto_oldest_ticket_seconds", "Age of the oldest open ticket", labels=["kind"]
        )
        waiting = (
            select(Ticket.kind, func.count(), func.min(Ticket.created_at))
            .where(~Ticket.closed)
            .group_by(Ticket.kind)
        )
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(waiting).all()
        except SQLAlchemyError:
            rows = None
        up.add_metric([], float(rows is not None))
        for kind, number, oldest in rows or ():
            count.add_metric([kind], number)
            age.add_metric([kind], (datetime.now(UTC) - oldest).total_seconds())
        yield from (up, count, age)
