"""Every rule with every set of facts it can come with, found by asking the desk for everything.

Each wish with all its details is put for orders and customers of every kind, and each question that
follows is answered. So a new wish needs nothing here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, get_args

from csproto.desk.case import Decision, Label
from csproto.desk.dialogue import respond
from csproto.desk.handbook import Handbook, Language, Slot
from csproto.desk.state import Limits, Outcome, Reading, State
from csproto.desk.triage import Act, Triage, Wish
from csproto.shop.facts import NO_TICKET, CustomerFacts, OrderView, WriteKind

Key = tuple[str, int, tuple[str, ...]]  # rule, number of its decisions, what the facts are

ACTS: tuple[Act, ...] = ("confirm", "deny", "ask")
NOW = datetime(2026, 11, 20, 4, tzinfo=UTC)
IDS, UNKNOWN, TICKET = ("1234", "JD2026110500", "A2026"), "999999", {"ticket": "T00042"}
ITEMS: Mapping[Language, Sequence[str]] = {  # a common one, a long one, one in the other language
    "zh": ("纯棉衬衫", "北欧风实木可伸缩餐桌椅组合（一桌六椅）", "Bluetooth speaker"),
    "en": ("cotton shirt", "extendable oak dining table with six matching chairs", "蓝牙音箱"),
}
DELIVERIES: Sequence[Mapping[str, str]] = (
    {"recipient": "李雷", "phone": "13100002222", "address": "上海市锦绣路6号"},
    {"phone": "13100002222"},
    {"address": "8 Garden Lane, Tianjin"},
)
SAID = {"recipient": "Ann Lee", "phone": "13900001111", "address": "20 Lake Road, Suzhou"}
SAID |= {"title": "Harbour Trading Co., Ltd.", "tax_id": "91310115MA1K4X8P2T"}


def _shapes() -> Iterator[dict[str, Any]]:
    """Orders of every kind that a rule tells apart, as the fields that make them so."""
    ago = {days: NOW - timedelta(days=days) for days in (-2, 2, 4, 9, 10, 20)}
    yield {"status": "unpaid"}
    for promised, payment in product((None, ago[-2], ago[4]), ("ok", "duplicate")):
        yield {"status": "paid", "promised_at": promised, "payment": payment}
    for shipped, parcel in product((None, ago[2], ago[9]), ({}, {"carrier": "DHL"})):
        yield {"status": "shipped", "shipped_at": shipped, **parcel}
    for days, goods in product((2, 10, 20), ("home", "fresh", "custom", "digital")):
        yield {"status": "delivered", "delivered_at": ago[days], "category": goods, "opened": True}
    for refund, since in (("requested", 2), ("approved", 2), ("approved", 20), ("paid", 4)):
        fields = {"delivered_at": ago[10], "refund": refund, "refund_at": ago[since]}
        yield {"status": "delivered", "carrier": "DHL", "tracking_number": "YT88001", **fields}
    yield {"status": "delivered", "delivered_at": ago[2], "invoice": "issued"}
    yield {"status": "cancelled", "cancelled_at": ago[4]}


def _orders(language: Language, turn: int) -> Iterator[OrderView]:
    """Two orders of each kind. turn: the article that the first order has."""
    for place, shape in enumerate(shape for shape in _shapes() for _ in range(2)):
        number, item = f"{IDS[place % 3]}{place:02}", ITEMS[language][(place + turn) % 3]
        fields: dict[str, Any] = {"category": "home", **DELIVERIES[place % 3], **shape}
        yield OrderView(number, item, amount=19900, created_at=NOW - timedelta(days=30), **fields)


def _customers(orders: Sequence[OrderView]) -> Iterator[tuple[CustomerFacts, tuple[str, ...]]]:
    """Customers of every kind, with the orders that their message names."""
    ids = [order.id for order in orders]
    known = CustomerFacts("C001", tuple(orders), NOW - timedelta(days=900))
    opened = frozenset(product(get_args(WriteKind), ["", *ids]))
    waiting = replace(known, open_tickets=opened, urged_at=dict.fromkeys(ids, NOW))
    risky = replace(known, joined_at=NOW, failed_payments=4, address_matches=False)
    yield from ((replace(known, orders=tuple(orders[:few])), ()) for few in (0, 3))
    yield from ((facts, (UNKNOWN,)) for facts in (known, replace(known, orders=())))
    for facts in (known, waiting, risky):
        yield facts, ()
        yield from ((facts, (order,)) for order in ids)
    yield from ((known, pair) for pair in zip(ids[::2], ids[1::2], strict=True))


def _values(name: str, slot: Slot, handbook: Handbook) -> Sequence[Any]:
    """What a slot can hold; None leaves it out. No rule looks at the words of a reason."""
    if slot.claim or name == "reason":
        return (None,)
    told = True if slot.flag else SAID.get(name, "?")
    return (None, *(slot.choices or (handbook.answers if slot.answers else (told,))))


def _wishes(handbook: Handbook) -> Iterator[Wish]:
    """Every wish with every set of details."""
    for intent, file in handbook.wishes.items():
        values = [_values(name, slot, handbook) for name, slot in file.slots.items()]
        for chosen in product(*values):
            told = {n: v for n, v in zip(file.slots, chosen, strict=True) if v is not None}
            yield Wish(intent, (), told)


def situations(handbook: Handbook, language: Language, turn: int = 0) -> dict[Key, Outcome]:
    """The outcome of each rule with each set of facts. turn: moves the articles by one order."""
    found: dict[Key, Outcome] = {}
    wishes = list(_wishes(handbook))
    for (facts, named), wish in product(_customers(tuple(_orders(language, turn))), wishes):
        runner_up = next(intent for intent in handbook.intents if intent != wish.intent)
        ask = Reading("?", Triage("ask", (replace(wish, orders=named),)), 0.5, runner_up)
        outcome = respond(ask, facts, State(), NOW, handbook)
        if not _keep(found, outcome):
            continue
        _keep(found, respond(ask, facts, State(), NOW, handbook, Limits(1, 1)))
        for act, misses in product(ACTS, (0, 1, 2)):
            answer = Reading("yes", Triage(act))
            state = replace(outcome.state, misses=misses)
            _keep(found, respond(answer, facts, state, NOW, handbook))
    for rule in sorted(
        handbook.rules.keys() - {rule for rule, *_ in found}
    ):  # said by the desk itself
        for known in ({}, TICKET) if "{ticket}" in str(handbook.rules[rule].say) else ({},):
            _keep(found, Outcome((Decision(None, None, rule, known),), State()))
    return found


def _keep(found: dict[Key, Outcome], outcome: Outcome) -> bool:
    """Keep each rule of an outcome by itself, with its question. Returns whether one is new."""
    before, question = len(found), outcome.state.question
    asking = {decision.rule for decision in outcome.decisions if decision.asks}
    for rule in dict.fromkeys(decision.rule for decision in outcome.decisions):
        decisions = tuple(_written(d) for d in outcome.decisions if d.rule == rule)
        own = question and (asking == {rule} or question.rule == rule)  # its question comes last
        if rule not in asking or own:
            alone = Outcome(decisions, State(question=question if rule in asking else None))
            found.setdefault((rule, len(decisions), _what(decisions[0])), alone)
    return len(found) > before


def _written(decision: Decision) -> Decision:
    """The decision as it is once its write is made: with the ticket that it opened."""
    if decision.write is None or decision.write.kind in NO_TICKET:
        return decision
    return replace(decision, facts={**decision.facts, **TICKET})


def _what(decision: Decision) -> tuple[str, ...]:
    """The facts by name, with the value of a word that changes what the reply says."""
    known = []
    for name, fact in decision.facts.items():
        if isinstance(fact, Label) and fact.group not in ("deed", "wish"):
            known.append(f"{name}: {fact.value}")
        elif name != "orders" or "item" not in decision.facts:  # a question put again repeats them
            known.append(name)
    return tuple(sorted(known))
