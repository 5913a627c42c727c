"""SGLang's frontend language at work: a triage as a regular expression, forks, `select`, and pre-cached batches. What notebook 03 shows."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd

from csproto.engine.endpoint import CallOptions, Endpoint
from csproto.evaluate import Case
from csproto.lessons.extraction import complete
from csproto.measure.statistics import bootstrap, wilson
from csproto.transcript import GENERAL_PROMPT, clean, system_prompt
from csproto.triage import Intent, Triage, grammar, order_id_candidates

import sglang as sgl  # isort: skip  # after csproto.engine.endpoint, which makes it importable on a CPU
from sglang.lang.global_config import global_config  # isort: skip


def shape(message: str) -> str:
    """Intent and order id of a message as a regular expression, because `sgl.gen` takes no EBNF; the id can only be one that stands in the message."""
    ids = "|".join(order_id_candidates(clean(message)))
    return rf'\{{"intent":"({"|".join(Intent)})"' + (rf'(,"order_id":"({ids})")?' if ids else "") + r"\}"


@sgl.function
def asking(s, system, text, options):  # type: ignore[no-untyped-def]
    """One question, one answer; `options` go to `sgl.gen`."""
    s += sgl.system(system)
    s += sgl.user(text)
    s += sgl.assistant(sgl.gen("answer", **options))


@sgl.function
def voting(s, system, text, n):  # type: ignore[no-untyped-def]
    """Fork after the question: `n` answers side by side over one computed prefix."""
    s += sgl.system(system)
    s += sgl.user(text)
    forks = s.fork(n)
    for branch in range(n):
        forks[branch] += sgl.assistant(sgl.gen("triage", max_tokens=200, temperature=0.8))
    return [(fork["triage"], fork.get_meta_info("triage")["cached_tokens"]) for fork in forks]


@sgl.function
def choosing(s, system, text):  # type: ignore[no-untyped-def]
    """The intent by `select`, which scores every choice and takes the likeliest."""
    s += sgl.system(system)
    s += sgl.user(text)
    s += sgl.assistant('{"intent":"' + sgl.select("intent", choices=list(Intent)))


def vote(endpoint: Endpoint, text: str, n: int) -> tuple[str, pd.DataFrame]:
    """The intent most of `n` forks agree on, and the forks: intent and cached tokens of each."""
    backend = endpoint.with_options(CallOptions(ebnf=grammar(clean(text))))
    state = voting.run(system_prompt(endpoint.model_name), clean(text), n, backend=backend, use_thread=False)
    rows = [
        {"intent": str(Triage.model_validate_json(raw).intent), "cached tokens": cached}
        for raw, cached in state.ret_value
    ]
    winner = Counter(str(row["intent"]) for row in rows).most_common(1)[0][0]
    return winner, pd.DataFrame(rows)


def choice_against_enum(endpoint: Endpoint, cases: Sequence[Case]) -> pd.DataFrame:
    """How often `select` and an enum in the grammar name the intent that is expected, with Wilson intervals."""
    right = {"select": 0, "enum in the grammar": 0}
    for case in cases:
        text, wanted = clean(case.turns[0].text), case.turns[0].expect.intent
        state = choosing.run(system_prompt(endpoint.model_name), text, backend=endpoint, use_thread=False)
        right["select"] += state["intent"] == wanted
        raw, _, _ = complete(endpoint, text, {"ebnf": grammar(text)}, max_tokens=200)
        right["enum in the grammar"] += Triage.model_validate_json(raw).intent == wanted
    rows = {}
    for way, hits in right.items():
        low, high = wilson(hits, len(cases))
        rows[way] = {"right": hits / len(cases), "right low": low, "right high": high}
    return pd.DataFrame(rows).T


# -- what replaces compile(): the constant prefix of a batch, computed once


def prefix_rounds(endpoint: Endpoint, texts: Sequence[str], rounds: int) -> pd.DataFrame:
    """Batches under a long prompt, by turns with and without `run_batch`'s pre-cache. The prompt's first words are new each time, so nothing is cached before.

    One row per batch: cached tokens of each request (mean), its prompt tokens, milliseconds of the whole batch.
    """
    rows = []
    for number in range(2 * rounds):
        precached = number % 2 == 0
        options = {"max_tokens": 16, "regex": "[a-z]{8}"}  # an answer that ends by itself, whatever the model
        program = asking.bind(system=f"{uuid.uuid4()} {GENERAL_PROMPT}", options=options)
        with _precache(precached):
            began = time.perf_counter()
            states = program.run_batch(
                [{"text": text} for text in texts], backend=endpoint, temperature=0, num_threads=len(texts)
            )
            ms = 1000 * (time.perf_counter() - began)
        metas = [state.get_meta_info("answer") for state in states]
        rows.append(
            {
                "pre-cache": "on" if precached else "off",
                "round": number // 2,
                "cached tokens": float(np.mean([meta["cached_tokens"] for meta in metas])),
                "prompt tokens": float(np.mean([meta["prompt_tokens"] for meta in metas])),
                "ms": ms,
            }
        )
    return pd.DataFrame(rows)


@contextmanager
def _precache(on: bool) -> Iterator[None]:
    before, global_config.enable_precache_with_tracing = global_config.enable_precache_with_tracing, on
    try:
        yield
    finally:
        global_config.enable_precache_with_tracing = before


def round_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """With and without the pre-cache: mean cached tokens of a request and median milliseconds of a batch, with their 95 % intervals."""
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
    """The share of a batch's time that the pre-cache saves: median over the rounds, and its 95 % interval."""
    ms = frame.pivot(index="round", columns="pre-cache", values="ms")
    saved = 1 - ms["on"] / ms["off"]
    return (float(saved.median()), *bootstrap(saved, np.median))
