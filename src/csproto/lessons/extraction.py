"""The same extraction under four kinds of constraint, over the same hand-written messages: what notebook 04 counts and draws."""

import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from csproto.engine.endpoint import Endpoint, EngineError
from csproto.engine.grammar import to_ebnf
from csproto.errors import CsprotoError
from csproto.evaluate import SETS, Case, load_cases
from csproto.lessons.prefix import prompt_of
from csproto.measure.statistics import bootstrap, wilson
from csproto.transcript import Message, clean, system_prompt
from csproto.triage import Triage, canonical_order_id, grammar

Constraint = Callable[[str], Mapping[str, object]]  # from a message to sampling parameters that constrain the answer

# What the blog constrains with, its spaces left out in its favour: the mini model was taught compact JSON.
BLOG_REGEX = r'\{"intent":"[^"]+","order_id":"[^"]+","reason":"[^"]+"\}'
OUTCOMES = ("valid", "wrong shape", "not JSON", "cut off")
FEWEST = 10  # messages: below, an interval says nothing


class TooFewMessages(CsprotoError):
    """A comparison on so few messages that its intervals would say nothing."""


def ways() -> dict[str, Constraint]:
    """The four ways: no constraint, the blog's regular expression, pydantic's JSON schema, and the grammar that serves."""
    schema = json.dumps(Triage.model_json_schema())
    return {
        "free": lambda message: {},
        "regex": lambda message: {"regex": BLOG_REGEX},
        "schema": lambda message: {"json_schema": schema},
        "grammar": lambda message: {"ebnf": grammar(message)},
    }


def sample(n: int, seed: int = 0) -> list[Case]:
    """`n` of the hand-written messages, the same ones for the same seed. Raises TooFewMessages."""
    if n < FEWEST:
        raise TooFewMessages(f"{n} messages are too few for an interval that says anything. Take {FEWEST} or more.")
    cases = load_cases(SETS[0])
    random.Random(seed).shuffle(cases)
    return cases[:n]


def prompt(endpoint: Endpoint, message: str) -> str:
    """What the model reads before it writes a triage: the text that the DSL's roles would put together."""
    said = [Message("system", system_prompt(endpoint.model_name)), Message("user", clean(message))]
    return prompt_of(endpoint, said)


def complete(
    endpoint: Endpoint,
    message: str,
    constraint: Mapping[str, object],
    *,
    max_tokens: int = 96,
    temperature: float = 0.0,
) -> tuple[str, str, int]:
    """One raw completion, as the server gives it: the text, its finish reason and its number of tokens. Raises EngineError."""
    parameters = {"max_new_tokens": max_tokens, "temperature": temperature, **constraint}
    body = {"text": prompt(endpoint, message), "sampling_params": parameters}
    answer = json.loads(endpoint.post("/generate", body))
    meta = answer["meta_info"]
    return answer["text"], meta["finish_reason"]["type"], meta["completion_tokens"]


def judged(text: str, finish: str) -> tuple[str, Triage | None]:
    """One of OUTCOMES, and the triage if there is one. What was cut off is never parsed, whatever it looks like."""
    if finish == "length":
        return "cut off", None
    try:
        return "valid", Triage.model_validate(json.loads(text))
    except ValidationError:
        return "wrong shape", None
    except ValueError:
        return "not JSON", None


def compare(
    endpoint: Endpoint,
    cases: Sequence[Case],
    constraints: Mapping[str, Constraint],
    *,
    temperature: float = 0.0,
    max_tokens: int = 96,
    workers: int = 4,
) -> pd.DataFrame:
    """Every message under every constraint, in one shuffled queue, so that a disturbance hits all of them alike. One row per answer."""
    jobs = [(way, case) for way in constraints for case in cases]
    random.Random(1).shuffle(jobs)

    def one(job: tuple[str, Case]) -> dict[str, object]:
        way, case = job
        message, wanted = case.turns[0].text, case.turns[0].expect
        began = time.perf_counter()
        text, finish, tokens = complete(
            endpoint, message, constraints[way](message), max_tokens=max_tokens, temperature=temperature
        )
        seconds = time.perf_counter() - began
        outcome, found = judged(text, finish)
        return {
            "way": way,
            "id": case.id,
            "message": message,
            "answer": text,
            "outcome": outcome,
            "tokens": tokens,
            "ms": 1000 * seconds,
            "intent": found is not None and found.intent == wanted.intent,
            "order id": found is not None and found.order_id == wanted.order_id,
            "invented": found is not None and invented(found.order_id, message),
        }

    with ThreadPoolExecutor(workers) as pool:
        frame = pd.DataFrame(pool.map(one, jobs))
    frame["way"] = pd.Categorical(frame["way"], categories=list(constraints), ordered=True)
    return frame.sort_values(["way", "id"], ignore_index=True)


def invented(order_id: str, message: str) -> bool:
    """Whether an order id stands nowhere in the message it was read from."""
    return bool(order_id) and order_id not in canonical_order_id(message)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Per way the shares (Wilson intervals), the mean tokens and the median milliseconds (bootstrap), each with its 95 % interval."""
    rows = {}
    for way, group in frame.groupby("way", observed=True):
        valid = group["outcome"] == "valid"
        row = _share("valid", valid)
        for name in ("intent", "order id", "invented"):
            row |= _share(name, group[name])
        row |= _estimate("tokens", group["tokens"], np.mean)
        rows[way] = row | _estimate("ms", group["ms"], np.median)
    return pd.DataFrame(rows).T


def _share(name: str, hits: "pd.Series[bool]") -> dict[str, float]:
    low, high = wilson(int(hits.sum()), len(hits))
    return {name: float(hits.mean()), f"{name} low": low, f"{name} high": high}


def _estimate(name: str, values: "pd.Series[float]", statistic: Callable[..., float]) -> dict[str, float]:
    low, high = bootstrap(values, statistic)
    return {name: float(statistic(values)), f"{name} low": low, f"{name} high": high}


# -- what a class of characters lets through, asked of the grammar library itself


def verdicts(reasons: Mapping[str, str]) -> pd.DataFrame:
    """For texts of a `reason`, as they would stand between the quotes: who accepts the whole JSON object."""
    import xgrammar

    blog, ours = xgrammar.Grammar.from_regex(BLOG_REGEX), xgrammar.Grammar.from_ebnf(to_ebnf(Triage))
    rows = {}
    for name, reason in reasons.items():
        text = f'{{"intent":"other","order_id":"1","reason":"{reason}"}}'
        rows[name] = {
            "the blog's regex": xgrammar.testing._is_grammar_accept_string(blog, text),
            "json.loads": _loads(text),
            "our grammar": xgrammar.testing._is_grammar_accept_string(ours, text),
        }
    return pd.DataFrame(rows).T


def _loads(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def refusals(endpoint: Endpoint, constraints: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """What the server answers to each constraint: its refusal, or the text it wrote."""
    rows = []
    for name, constraint in constraints.items():
        try:
            text, finish, tokens = complete(endpoint, "退货 123456", constraint, max_tokens=24)
            answer = f"{text!r}, {tokens} tokens, finish reason {finish}"
            rows.append({"constraint": name, "refused": False, "the server's answer": answer})
        except EngineError as error:
            rows.append({"constraint": name, "refused": True, "the server's answer": plain(str(error))})
    return pd.DataFrame(rows).set_index("constraint")


def plain(message: str) -> str:
    """A server's complaint in one line, without the clock and the source line of the library that complains."""
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", " ".join(message.split()))


# -- what spaces and empty fields cost


def forms(found: BaseModel) -> dict[str, str]:
    """One object in the forms that programs commonly ask for."""
    everything = found.model_dump(mode="json")
    return {
        "all fields, indented": json.dumps(everything, ensure_ascii=False, indent=2),
        "all fields, spaced": json.dumps(everything, ensure_ascii=False),
        "compact, defaults left out": found.model_dump_json(exclude_defaults=True),
    }


def form_tokens(endpoint: Endpoint, cases: Sequence[Case]) -> pd.DataFrame:
    """Per form the mean number of tokens of the expected triages, with its 95 % interval, counted by the server's own tokenizer."""
    counts: dict[str, list[float]] = {}
    for case in cases:
        wanted = case.turns[0].expect.model_dump(exclude_none=True, exclude={"action"})
        for form, text in forms(Triage.model_validate(wanted)).items():
            answer = json.loads(endpoint.post("/tokenize", {"model": endpoint.model_name, "prompt": text}))
            counts.setdefault(form, []).append(answer["count"])
    return pd.DataFrame({form: _estimate("tokens", pd.Series(values), np.mean) for form, values in counts.items()}).T
