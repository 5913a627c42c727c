"""The same triage under four kinds of constraint, for the same hand-written messages."""

import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
from pydantic import BaseModel

from csproto.desk.assistant import Assistant
from csproto.desk.handbook import Handbook, Slot
from csproto.desk.references import foreign_numbers
from csproto.desk.transcript import Message, clean, hints, to_json
from csproto.desk.triage import MOST_WISHES, Act, Triage, Wish, grammar
from csproto.engine.endpoint import Endpoint, EngineError
from csproto.engine.grammar import to_ebnf
from csproto.errors import CsprotoError
from csproto.lessons.prefix import prompt_of
from csproto.measure.bench.readers import strict
from csproto.measure.cases import Case, Expected, load_cases
from csproto.measure.evaluate import SETS
from csproto.measure.play import judged as judged_by_expectation
from csproto.measure.statistics import bootstrap, wilson

# The blog's regular expression, to the letter.
BLOG_REGEX = r'\{"intent": "[^"]+", "order_id": "[^"]*", "reason": "[^"]*"\}'
# The same in the form of our triage: all fields are always there, and a string is
# anything but a quote.
REGEX = r'\{"wishes":\[\{"intent":"[^"]+","orders":\["[^"]*"\],"reason":"[^"]*"\}\]\}'
OUTCOMES = ("valid", "wrong shape", "not JSON", "cut off")
FEWEST = 10  # messages: with fewer, an interval says nothing
NONCE = "0" * 15  # the same for all, so that the cache is shared and every run reads the same
TOKENS = 300  # of one answer; the grammar ends a triage long before


class TooFewMessages(CsprotoError):
    """A comparison on so few messages that its intervals would say nothing."""


# -- what the model reads


@dataclass(frozen=True)
class Prepared:
    """A customer's message, ready to be read by a model.

    own: the ids of the customer's orders. messages: everything that the model reads; the
    customer's message is the last one.
    """

    text: str
    own: tuple[str, ...]
    messages: tuple[Message, ...]


def prepared(desk: Assistant, customer: str, text: str) -> Prepared:
    """Prepare the first message of a conversation as the desk does."""
    conversation, text = desk.open(customer, NONCE), clean(text)
    shared = hints(text, conversation.seen, desk.guess(text))
    said = (*desk.prompt, *conversation.transcript, *shared, Message("user", text))
    return Prepared(text, tuple(order.id for order in conversation.seen), said)


def sample(n: int, seed: int = 0) -> list[Case]:
    """Return `n` of the hand-written messages, the same ones for the same seed.

    Raises TooFewMessages.
    """
    if n < FEWEST:
        raise TooFewMessages(
            f"{n} messages are too few for an interval that says anything. Take {FEWEST} or more."
        )
    cases = load_cases(SETS["handwritten"])
    random.Random(seed).shuffle(cases)
    return cases[:n]


# -- four ways to constrain an answer

# Makes from a message the sampling parameters that constrain the answer.
Constraint = Callable[[Prepared], Mapping[str, Any]]


def ways(handbook: Handbook) -> dict[str, Constraint]:
    """Return the four ways: free text, a regular expression, a JSON schema, our grammar."""
    as_schema = to_json(schema(handbook))
    return {
        "free": lambda message: {},
        "regex": lambda message: {"regex": REGEX},
        "schema": lambda message: {"json_schema": as_schema},
        "grammar": lambda message: {"ebnf": ebnf(handbook, message)},
    }


def ebnf(handbook: Handbook, message: Prepared) -> str:
    """Return the desk's grammar for the first message of a conversation."""
    return grammar(handbook, message.text, message.own, waiting=False, begun=False)


def schema(handbook: Handbook) -> dict[str, Any]:
    """Return the JSON schema of a triage, which knows neither the message nor the orders."""
    slots = {name: slot for wish in handbook.wishes.values() for name, slot in wish.slots.items()}
    details = {n: _type_of(slot, handbook) for n, slot in slots.items() if not slot.claim}
    orders = {"type": "array", "items": {"type": "string"}}
    wish = _object({"intent": {"enum": handbook.intents}, "orders": orders, **details}, "intent")
    wishes = {"type": "array", "items": wish, "minItems": 1, "maxItems": MOST_WISHES}
    return _object({"act": {"enum": list(get_args(Act))}, "wishes": wishes}, "wishes")


def _object(properties: Mapping[str, Any], required: str) -> dict[str, Any]:
    closed = {"type": "object", "additionalProperties": False}
    return closed | {"properties": dict(properties), "required": [required]}


def _type_of(slot: Slot, handbook: Handbook) -> dict[str, Any]:
    """Return the JSON schema of a slot's value."""
    words = slot.choices or (list(handbook.answers) if slot.answers else [])
    return {"enum": words} if words else {"type": "boolean" if slot.flag else "string"}


# -- answers


def complete(
    endpoint: Endpoint,
    message: Prepared,
    constraint: Mapping[str, Any],
    *,
    max_tokens: int = TOKENS,
    temperature: float = 0.0,
) -> tuple[str, str, int]:
    """Let the model read a message under a constraint.

    Returns the text, its finish reason and its number of tokens. Raises EngineError.
    """
    parameters = {"max_new_tokens": max_tokens, "temperature": temperature, **constraint}
    body = {"text": prompt_of(endpoint, message.messages), "sampling_params": parameters}
    answer = json.loads(endpoint.post("/generate", body))
    meta = answer["meta_info"]
    return answer["text"], meta["finish_reason"]["type"], meta["completion_tokens"]


def judged(text: str, finish: str) -> tuple[str, Triage | None]:
    """Return one of OUTCOMES, and the triage if the answer is valid.

    What was cut off is never parsed, whatever it looks like.
    """
    if finish == "length":
        return "cut off", None
    try:
        json.loads(text)
    except ValueError:
        return "not JSON", None
    found = strict(text)
    return ("valid", found) if found and found.wishes else ("wrong shape", None)


def invented(found: Triage, message: Prepared) -> bool:
    """Return whether a triage names an order that is neither the customer's nor typed."""
    known = {*message.own, *foreign_numbers(message.text, message.own)}
    return any(order not in known for wish in found.wishes for order in wish.orders)


def compare(
    endpoint: Endpoint,
    desk: Assistant,
    cases: Sequence[Case],
    constraints: Mapping[str, Constraint],
    *,
    temperature: float = 0.0,
    max_tokens: int = TOKENS,
    workers: int = 4,
) -> pd.DataFrame:
    """Let the model read the first message of every case under every constraint.

    All answers come from one shuffled queue, so a busy moment of the machine hits all
    constraints alike. Returns a row for each answer. `intent` and `orders` say whether the
    expectation is met; `orders` is None if the case expects nothing about them.
    """
    jobs = [(way, case) for way in constraints for case in cases]
    random.Random(1).shuffle(jobs)

    def one(job: tuple[str, Case]) -> dict[str, Any]:
        way, case = job
        message = prepared(desk, case.customer, case.turns[0].text)
        constraint, began = constraints[way](message), time.perf_counter()
        text, finish, tokens = complete(
            endpoint, message, constraint, max_tokens=max_tokens, temperature=temperature
        )
        ms = 1000 * (time.perf_counter() - began)
        outcome, found = judged(text, finish)
        figures = {"answer": text, "outcome": outcome, "tokens": tokens, "ms": ms}
        right = _right(case.turns[0].expect, found)
        made_up = found is not None and invented(found, message)
        return {"way": way, "id": case.id} | figures | right | {"invented": made_up}

    with ThreadPoolExecutor(workers) as pool:
        frame = pd.DataFrame(pool.map(one, jobs))
    frame["way"] = pd.Categorical(frame["way"], categories=list(constraints), ordered=True)
    return frame.sort_values(["way", "id"], ignore_index=True)


def _right(expect: Expected, found: Triage | None) -> dict[str, bool | None]:
    """Return whether intent and orders are as expected; without a triage they are not."""
    row = {"triage": found.as_dict() if found else None}
    stated = Expected(intent=expect.intent, orders=expect.orders)
    right = judged_by_expectation(stated, row)
    return {
        name: right[name] and found is not None if name in right else None
        for name in ("intent", "orders")
    }


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the figures of each way, with 95 % intervals.

    Shares have Wilson intervals; mean tokens and median milliseconds have bootstrap ones.
    """
    rows = {}
    for way, group in frame.groupby("way", observed=True):
        row = _share("valid", group["outcome"] == "valid")
        for name in ("intent", "orders", "invented"):
            row |= _share(name, group[name].dropna())
        row |= _estimate("tokens", group["tokens"], np.mean)
        rows[way] = row | _estimate("ms", group["ms"], np.median)
    return pd.DataFrame(rows).T


def _share(name: str, hits: "pd.Series[bool]") -> dict[str, float]:
    low, high = wilson(int(hits.sum()), len(hits))
    share = float(hits.mean()) if len(hits) else float("nan")
    return {name: share, f"{name} low": low, f"{name} high": high}


def _estimate(
    name: str, values: "pd.Series[float]", statistic: Callable[..., float]
) -> dict[str, float]:
    low, high = bootstrap(values, statistic)
    return {name: float(statistic(values)), f"{name} low": low, f"{name} high": high}


# -- what a class of characters lets through


class Fields(BaseModel):
    """The three fields of the blog's expression."""

    intent: str
    order_id: str
    reason: str


def verdicts(reasons: Mapping[str, str]) -> pd.DataFrame:
    """Return for each text of a `reason` who accepts the JSON object that has it.

    Asked are the blog's expression and our grammar, through the grammar library of the
    server, and `json.loads`.
    """
    import xgrammar

    accepts = xgrammar.testing._is_grammar_accept_string
    blog, ours = (
        xgrammar.Grammar.from_regex(BLOG_REGEX),
        xgrammar.Grammar.from_ebnf(to_ebnf(Fields)),
    )
    rows = {}
    for name, reason in reasons.items():
        text = f'{{"intent": "other", "order_id": "1", "reason": "{reason}"}}'
        compact = f'{{"intent":"other","order_id":"1","reason":"{reason}"}}'
        rows[name] = {
            "the blog's regex": accepts(blog, text),
            "json.loads": _loads(text),
            "our grammar": accepts(ours, compact),
        }
    return pd.DataFrame(rows).T


def _loads(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def refusals(endpoint: Endpoint, constraints: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return what the server answers to each constraint: its refusal, or what it wrote."""
    rows = []
    for name, constraint in constraints.items():
        parameters = {"max_new_tokens": 24, "temperature": 0, **constraint}
        body = {"text": "Order 123456, please:", "sampling_params": parameters}
        try:
            answer = json.loads(endpoint.post("/generate", body))
            finish = answer["meta_info"]["finish_reason"]["type"]
            refused, said = False, f"{answer['text']!r}, finish reason {finish}"
        except EngineError as error:
            refused, said = True, plain(str(error))
        rows.append({"constraint": name, "refused": refused, "the server's answer": said})
    return pd.DataFrame(rows).set_index("constraint")


def plain(message: str) -> str:
    """Return a server's complaint in one line.

    The time of day and the source line that the grammar library puts into it are left out.
    """
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", " ".join(message.split()))


# -- what spaces and default values cost


def forms(found: Triage) -> dict[str, str]:
    """Return one triage in the forms that programs commonly ask for."""
    everything = found.as_dict()
    return {
        "with defaults, indented": json.dumps(everything, ensure_ascii=False, indent=2),
        "with defaults, spaced": json.dumps(everything, ensure_ascii=False),
        "compact, without defaults": found.to_wire(),
    }


def form_tokens(endpoint: Endpoint, cases: Sequence[Case]) -> pd.DataFrame:
    """Return for each form the mean number of tokens of the expected triages.

    The server's own tokenizer counts. With 95 % intervals.
    """
    counts: dict[str, list[float]] = {}
    for case in cases:
        expect = case.turns[0].expect
        found = Triage(wishes=(Wish(expect.intents[0], tuple(expect.orders or ())),))
        for form, text in forms(found).items():
            body = {"model": endpoint.model_name, "prompt": text}
            counted = json.loads(endpoint.post("/tokenize", body))["count"]
            counts.setdefault(form, []).append(counted)
    rows = {form: _estimate("tokens", pd.Series(n), np.mean) for form, n in counts.items()}
    return pd.DataFrame(rows).T
