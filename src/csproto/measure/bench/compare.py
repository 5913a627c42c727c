"""A comparison from start to record.

All arms play the same conversations, one arm after the other, round after round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from csproto import settings
from csproto.desk.reader import CHOICE_TOKENS, TRIAGE_TOKENS
from csproto.engine.server import Progress
from csproto.errors import CsprotoError
from csproto.measure.bench.alone import prompts, tokens_per_second
from csproto.measure.bench.arms import ARMS, Arm
from csproto.measure.bench.clients import TimedEndpoint
from csproto.measure.bench.engines import BLOCK, KV_TOKENS, Engine, check, context_of, running
from csproto.measure.bench.load import Load, Pass, Shops, play_load, shops
from csproto.measure.bench.machine import hardware, memory_mb, versions
from csproto.measure.bench.record import of_arm, of_engine, ratios
from csproto.measure.bench.work import conversations

AT_ONCE = (1, 4, 16)
WARM_UP = 7  # conversations
Passes = dict[str, dict[str, list[Pass]]]  # by arm and load
Advance = Callable[[float, float], None]  # steps done, steps in all


@dataclass(frozen=True)
class Plan:
    """What is measured.

    alone: requests of a round to each engine without the desk, for each of AT_ONCE.
    """

    arms: tuple[str, ...]
    rounds: int
    loads: tuple[Load, ...]
    alone: tuple[int, ...]
    seed: int = 0


def full_plan(arms: Sequence[str], rounds: int, rates: Sequence[float], seed: int) -> Plan:
    """Return the plan of the comparison that is recorded."""
    loads = [
        Load("cold", 4, 1, cold=True),
        Load("closed-1", 6, 1),
        Load("closed-4", 16, 4),
        Load("closed-16", 48, 16),
    ]
    loads += [Load(f"open-{rate:g}", round(10 * rate), rate=rate) for rate in rates]
    return Plan(tuple(arms), rounds, tuple(loads), (6, 16, 64), seed)


def quick_plan(arms: Sequence[str], rounds: int, rates: Sequence[float], seed: int) -> Plan:
    """Return a plan of under three minutes for two arms, without the start of the servers."""
    loads = [
        Load("cold", 2, 1, cold=True),
        Load("closed-1", 3, 1),
        Load("closed-4", 8, 4),
        Load("closed-16", 24, 16),
    ]
    loads += [Load(f"open-{rate:g}", round(4 * rate), rate=rate) for rate in rates[:1]]
    return Plan(tuple(arms), rounds, tuple(loads), (2, 8, 32), seed)


def compare(
    plan: Plan,
    *,
    urls: Mapping[str, str] | None = None,
    model: str = str(settings.MINI_MODEL),
    say: Progress | None = None,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Measure the arms of a plan and return the record.

    urls: servers that run already, by engine.

    Raises CsprotoError.
    """
    if unknown := [name for name in plan.arms if name not in ARMS]:
        raise CsprotoError(f"There is no arm {unknown[0]!r}. The arms are: {', '.join(ARMS)}.")
    names = list(dict.fromkeys(ARMS[name].engine for name in plan.arms))
    check(names, urls or {})
    machine = hardware()
    with running(names, urls or {}, model, say) as engines, shops() as place:
        comparison = _Comparison(plan, engines, place, advance or (lambda done, steps: None))
        return {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": machine,
            "versions": versions(),
            "model": comparison.model,
            "limits": {
                "kv_tokens": KV_TOKENS,
                "context": context_of(model),
                "vllm_block": BLOCK,
                "reply": CHOICE_TOKENS,
                "triage": TRIAGE_TOKENS,
            },
            "plan": asdict(plan),
            **comparison.run(),
        }


class _Comparison:
    """Measures. An engine is awake only while it is its turn."""

    def __init__(
        self, plan: Plan, engines: dict[str, Engine], place: Shops, advance: Advance
    ) -> None:
        self.plan, self.engines, self.place, self.advance = plan, engines, place, advance
        self.arms: dict[str, Arm] = {name: ARMS[name] for name in plan.arms}
        self.clients = {name: self._client(name, arm) for name, arm in self.arms.items()}
        self.model = next(iter(self.clients.values())).model_name
        self.memory: dict[str, list[float]] = {name: [] for name in engines}
        self.steps = 0.0
        of_loads = len(self.arms) * sum(load.conversations for load in plan.loads)
        self.all_steps = plan.rounds * (of_loads + len(engines) * len(plan.alone)) + (
            1 + WARM_UP
        ) * len(self.arms)

    def run(self) -> dict[str, Any]:
        """Warm up, then measure round by round: the engines alone, and each load with each arm."""
        first = {name: self._first(name) for name in self.arms}
        idle = {name: self._idle(engine) for name, engine in self.engines.items()}
        alone: dict[str, dict[str, list[float]]] = {
            name: {str(n): [] for n in AT_ONCE} for name in self.engines
        }
        passes: Passes = {name: {load.name: [] for load in self.plan.loads} for name in self.arms}
        for number in range(self.plan.rounds):
            for count, at_once in zip(self.plan.alone, AT_ONCE, strict=True):
                for name in _turned(list(self.engines), number):
                    alone[name][str(at_once)].append(self._alone(name, at_once, count, number))
            for load in self.plan.loads:
                for name in _turned(list(self.arms), number):
                    passes[name][load.name].append(self._play(name, load, f"{number}-{load.name}"))
        arms = {name: of_arm(arm, first[name], passes[name]) for name, arm in self.arms.items()}
        engines = {
            name: of_engine(engine, idle[name], alone[name], self.memory[name])
            for name, engine in self.engines.items()
        }
        return {"engines": engines, "arms": arms, "ratios": ratios(arms, engines)}

    def _client(self, name: str, arm: Arm) -> TimedEndpoint:
        engine = self.engines[arm.engine]
        engine.wake()
        client = arm.client(engine.base_url, engine.api_key, name)
        engine.still()
        return client

    def _first(self, name: str) -> dict[str, Any]:
        """Play an arm's first conversation, which is measured, and more to warm up."""
        first = self._play(name, Load("first", 1, 1), "first")
        self._play(name, Load("warm-up", WARM_UP, 4), "warm-up")
        turns = [round(one.turn.total_ms, 1) for one in first.played if one.turn]
        return {"first_turn_ms": turns[0] if turns else None, "later_turns_ms": turns[1:]}

    def _idle(self, engine: Engine) -> float | None:
        if not engine.server:
            return None
        engine.wake()
        idle = engine.idle_share()
        engine.still()
        return round(idle, 4)

    def _alone(self, name: str, at_once: int, count: int, number: int) -> float:
        engine = self.engines[name]
        engine.wake()
        texts = prompts(f"{self.plan.seed}-{number}-{at_once}", count)
        speed = tokens_per_second(engine, self.model, texts, at_once)
        engine.still()
        self._advance(1)
        return round(speed, 2)

    def _play(self, name: str, load: Load, seed: str) -> Pass:
        arm = self.arms[name]
        engine = self.engines[arm.engine]
        cases = conversations(f"{self.plan.seed}-{seed}", load.conversations)
        engine.wake()
        if load.cold:
            engine.flush()
        done = play_load(
            load, arm, self.clients[name], cases, self.place, seed, lambda: self._advance(1)
        )
        if (memory := memory_mb(engine.processes())) is not None:
            self.memory[arm.engine].append(memory)
        engine.still()
        return done

    def _advance(self, steps: float) -> None:
        self.steps += steps
        self.advance(self.steps, self.all_steps)


def _turned(names: list[str], number: int) -> list[str]:
    """Return the names, beginning with another one in each round."""
    place = number % len(names)
    return names[place:] + names[:place]
