"""SGLang's frontend language at work: regular expressions, forks, `select`, batches.

Everything here is plain SGLang and runs on its own `RuntimeEndpoint` too, except that the
comparisons use our `Endpoint`, which has time-outs.
"""

import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd

from csproto.desk.assistant import Assistant
from csproto.desk.handbook import Handbook, Language
from csproto.desk.prompt import instructions
from csproto.desk.references import foreign_numbers
from csproto.desk.reply import alternatives
from csproto.desk.state import Outcome
from csproto.desk.triage import Triage, Wish, from_wire
from csproto.engine.endpoint import Endpoint
from csproto.lessons.extraction import Prepared, complete, ebnf, prepared
from csproto.measure.cases import Case
from csproto.measure.statistics import bootstrap, wilson
from csproto.shop.contract import OrderSystem

import sglang as sgl  # isort: skip  # after csproto.engine.endpoint, which makes it importable on a CPU
from sglang.lang.global_config import global_config  # isort: skip

BEGINNING = '{"wishes":[{"intent":"'  # of the triage of a first message
ROLES = {"system": sgl.system, "user": sgl.user, "assistant": sgl.assistant}


# -- regular expressions, because `sgl.gen` takes no EBNF


def shape(intents: Sequence[str], own: Sequence[str], text: str) -> str:
    """Return a triage with one wish as a regular expression: an intent and perhaps an order.

    own: the ids of the customer's orders. The order is one of them, or a number in the text.
    """
    orders = [*own, *foreign_numbers(text, own)]
    named = rf'(,"orders":\["({"|".join(orders)})"\])?' if orders else ""
    return rf'\{{"wishes":\[\{{"intent":"({"|".join(intents)})"{named}\}}\]\}}'


def one_of(texts: Iterable[str]) -> str:
    """Return a regular expression that matches these texts and nothing else."""
    return "|".join(re.sub(r"([\\^$.|?*+()\[\]{}])", r"\\\1", text) for text in texts)


def wordings(outcome: Outcome, handbook: Handbook, language: Language) -> dict[str, str]:
    """Return the replies that may be sent for an outcome, each with the same one in English."""
    texts = [alternatives(outcome, handbook, spoken) for spoken in (language, "en")]
    return dict(zip(*texts, strict=False))


def written(orders: OrderSystem, customer: str, outcome: Outcome, now: datetime) -> Outcome:
    """Make the writes of an outcome, and add the ticket numbers to its facts.

    Every call writes. The desk's own step (`steps.py`) writes once, even if a message is
    sent twice.
    """
    decisions = []
    for decision in outcome.decisions:
        if decision.write:
            key = uuid.uuid4().hex
            number = orders.write(key, customer, decision.write, now, decision.rule)
            decisions.append(decision.with_ticket(number))
        else:
            decisions.append(decision)
    return replace(outcome, decisions=tuple(decisions))


# -- programs


@sgl.function
def asking(s, system, text, options):  # type: ignore[no-untyped-def]
    """One question, one answer; `options` go to `sgl.gen`."""
    s += sgl.system(system)
    s += sgl.user(text)
    s += sgl.assistant(sgl.gen("answer", **options))


@sgl.function
def voting(s, messages, n, regex):  # type: ignore[no-untyped-def]
    """Fork after the question: `n` answers side by side after one computed prefix."""
    for message in messages:
        s += ROLES[message.role](message.content)
    forks = s.fork(n)
    for place in range(n):
        forks[place] += sgl.assistant(
            sgl.gen("triage", max_tokens=200, temperature=0.8, regex=regex)
        )
    return [(fork["triage"], fork.get_meta_info("triage")["cached_tokens"]) for fork in forks]


@sgl.function
def choosing(s, messages, beginning, choices):  # type: ignore[no-untyped-def]
    """One of several texts by `select`, which scores each and takes the likeliest.

    beginning: what the answer begins with, before the choice.
    """
    for message in messages:
        s += ROLES[message.role](message.content)
    s += sgl.assistant(beginning + sgl.select("choice", choices=choices))


def vote(
    endpoint: Endpoint, intents: Sequence[str], message: Prepared, n: int
) -> tuple[str, pd.DataFrame]:
    """Let `n` forks read one message at a temperature.

    Returns the intent that most of them name, and the intent and cached tokens of each.
    """
    regex = shape(intents, message.own, message.text)
    state = voting.run(message.messages, n, regex, backend=endpoint, use_thread=False)
    rows = [
        {"intent": from_wire(raw).wishes[0].intent, "cached tokens": cached}
        for raw, cached in state.ret_value
    ]
    winner = Counter(str(row["intent"]) for row in rows).most_common(1)[0][0]
    return winner, pd.DataFrame(rows)


def choice_against_enum(endpoint: Endpoint, desk: Assistant, cases: Sequence[Case]) -> pd.DataFrame:
    """Return how often `select` and an enum in the grammar name the expected intent.

    `select` chooses once among whole triages, and once among intents after the beginning
    of a triage: the choice then begins inside what the model writes as one token. With
    Wilson intervals.
    """
    intents = desk.handbook.intents
    whole = [Triage(wishes=(Wish(intent),)).to_wire() for intent in intents]
    right: Counter[str] = Counter()
    for case in cases:
        wanted = case.turns[0].expect.intents
        message = prepared(desk, case.customer, case.turns[0].text)
        inside = _selected(endpoint, message, BEGINNING, intents)
        chosen = from_wire(_selected(endpoint, message, "", whole)).wishes[0].intent
        raw, _, _ = complete(endpoint, message, {"ebnf": ebnf(desk.handbook, message)})
        right["select of the intent"] += inside in wanted
        right["select of the whole answer"] += chosen in wanted
        right["enum in the grammar"] += from_wire(raw).wishes[0].intent in wanted
    rows = {}
    for way, hits in right.items():
        low, high = wilson(hits, len(cases))
        rows[way] = {"right": hits / len(cases), "right low": low, "right high": high}
    return pd.DataFrame(rows).T


def _selected(endpoint: Endpoint, message: Prepared, beginning: str, choices: Sequence[str]) -> str:
    state = choosing.run(message.messages, beginning, choices, backend=endpoint, use_thread=False)
    return str(state["choice"])


# -- what replaces compile(): the constant prefix of a batch, computed once


def prefix_rounds(
    endpoint: Endpoint, desk: Assistant, texts: Sequence[str], rounds: int
) -> pd.DataFrame:
    """Run batches with a long prompt, by turns with and without `run_batch`'s pre-cache.

    The first words of the prompt are new each time, so nothing is cached before.

    Returns a row for each batch: the cached tokens and the prompt tokens of a request
    (means), and the milliseconds of the whole batch.
    """
    rows = []
    for number in range(2 * rounds):
        precached = number % 2 == 0
        # An answer that ends by itself, whatever the model.
        options = {"max_tokens": 16, "regex": "[a-z]{8}"}
        system = f"{uuid.uuid4()} {instructions(desk.handbook)}"
        program = asking.bind(system=system, options=options)
        batch = [{"text": text} for text in texts]
        with _precache(precached):
            began = time.perf_counter()
            states = program.run_batch(
                batch, backend=endpoint, temperature=0, num_threads=len(batch)
            )
            ms = 1000 * (time.perf_counter() - began)
        metas = [state.get_meta_info("answer") for state in states]
        figures = {
            f"{kind} tokens": float(np.mean([meta[f"{kind}_tokens"] for meta in metas]))
            for kind in ("cached", "prompt")
        }
        pre_cache = "on" if precached else "off"
        rows.append({"pre-cache": pre_cache, "round": number // 2, **figures, "ms": ms})
    return pd.DataFrame(rows)


@contextmanager
def _precache(on: bool) -> Iterator[None]:
    before = global_config.enable_precache_with_tracing
    global_config.enable_precache_with_tracing = on
    try:
        yield
    finally:
        global_config.enable_precache_with_tracing = before


def round_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the figures with and without the pre-cache, with 95 % intervals.

    They are the mean cached tokens of a request and the median milliseconds of a batch.
    """
    rows = {}
    for name, group in frame.groupby("pre-cache"):
        cached, ms = bootstrap(group["cached tokens"], np.mean), bootstrap(group["ms"], np.median)
        rows[f"pre-cache {name}"] = {
            "cached tokens": group["cached tokens"].mean(),
            "cached tokens low": cached[0],
            "cached tokens high": cached[1],
            "ms": group["ms"].median(),
            "ms low": ms[0],
            "ms high": ms[1],
        }
    return pd.DataFrame(rows).T


def time_saved(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Return the share of a batch's time that the pre-cache saves, and its 95 % interval.

    It is the median over the rounds.
    """
    ms = frame.pivot(index="round", columns="pre-cache", values="ms")
    saved = 1 - ms["on"] / ms["off"]
    return (float(saved.median()), *bootstrap(saved, np.median))
