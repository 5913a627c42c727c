"""How well a model finds the orders that a message speaks of.

By articles that no training has seen, by place in the list, by the end of a number, both, all.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from csproto.desk.guess import Guess, guesser, no_guess
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.profile import profile_of
from csproto.desk.prompt import prompt_messages
from csproto.desk.reader import ModelReader
from csproto.desk.transcript import Message, hints, opening
from csproto.desk.triage import from_wire, grammar
from csproto.measure.statistics import wilson
from csproto.minimodel.customers import shop
from csproto.minimodel.lists import Line, Segment, lists
from csproto.minimodel.speaker import Speaker

if TYPE_CHECKING:
    from csproto.engine.endpoint import Endpoint

CATALOGUED = "item, in the catalogue"  # the shop has other names for its articles
KINDS = ("item", CATALOGUED, "order", "tail", "nth", "last", "both", "all", "state")
INTENTS = ("return_exchange", "order_status", "cancel_order", "urge_shipment", "invoice")
NOW = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)


class Asked(NamedTuple):
    """A message that speaks of orders in one way, and the list of orders before it.

    orders: the list, and the hints before the message.
    """

    kind: str
    language: str
    orders: list[Message]
    own: list[str]
    text: str
    meant: frozenset[str]


def asked(
    count: int, seed: int = 0, handbook: Handbook | None = None, guess: Guess = no_guess
) -> Iterator[Asked]:
    """`count` messages of each kind and language, about articles that no training has seen."""
    handbook = handbook or default_handbook()
    for language in ("zh", "en"):
        for kind in KINDS:
            pick, made = random.Random(f"{seed}:{language}:{kind}"), 0
            while made < count:
                if one := _asked(pick, language, kind, handbook, guess):
                    made += 1
                    yield one


def _asked(
    pick: random.Random, language: str, kind: str, handbook: Handbook, guess: Guess
) -> Asked | None:
    named, asked_as = kind == CATALOGUED, kind
    kind = "item" if named else kind
    customer = shop(pick, language, NOW, held_out=True, catalogued=float(named))
    speaker = Speaker(language, pick, customer, handbook)
    intent = pick.choice(INTENTS)
    blank = "{item}" if kind == "item" else "{order}" if kind == "order" else "{ref}"
    lines = [
        line
        for line in lists(language)[intent]
        if line[0].text.count("{") == 1 and blank in line[0].text
    ]
    line: Line = pick.choice(lines)
    if kind not in ("item", "order"):
        phrases = [
            p[0]
            for p in lists(language)["references"]
            if p[0].labels and p[0].labels[0].split("=")[0] == kind
        ]
        filled = speaker.resolved(pick.choice(phrases))
        if filled is None:
            return None
        phrase, meant = filled
        text = line[0].text.replace("{ref}", phrase)
    else:
        said = speaker.wish(intent, (Segment(line[0].text, line[0].labels),))
        text, meant = said.text, said.triage.wishes[0].orders
    if len(customer.customer.orders) < 2 or not meant:
        return None
    own = [order.id for order in customer.customer.orders]
    shown = customer.customer.orders
    before = [opening(shown, handbook.values.zone, "0" * 15), *hints(text, shown, guess(text))]
    return Asked(asked_as, language, before, own, text, frozenset(meant))


def measure(endpoint: "Endpoint", count: int = 60, workers: int = 4) -> pd.DataFrame:
    """Return n, share of messages with exactly the right orders, and its interval.

    The rows are by kind and language, `count` messages each.
    """
    handbook = default_handbook()
    profile = profile_of(str(endpoint.model_info["model_path"]))
    guess = guesser(tuple(handbook.intents)) if profile.guess else no_guess
    prompt = prompt_messages(profile, handbook, guess)

    def right(one: Asked) -> bool:
        ebnf = grammar(handbook, one.text, one.own, waiting=False, begun=False)
        reader = ModelReader(endpoint, handbook.intents, {"temperature": 0.0})
        read = reader.triage([*prompt, *one.orders], one.text, ebnf)
        found = {number for wish in from_wire(read.text).wishes for number in wish.orders}
        return found == one.meant

    cases = list(asked(count, handbook=handbook, guess=guess))
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(right, cases))
    rows = pd.DataFrame(
        {"kind": [c.kind for c in cases], "language": [c.language for c in cases], "right": results}
    )
    table = rows.groupby(["kind", "language"]).right.agg(["size", "sum"])
    intervals = [wilson(int(row["sum"]), int(row["size"])) for _, row in table.iterrows()]
    table["share"] = table["sum"] / table["size"]
    table["low"], table["high"] = [low for low, _ in intervals], [high for _, high in intervals]
    return table
