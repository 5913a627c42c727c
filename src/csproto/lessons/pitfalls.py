"""The blog's pitfalls put to the test.

A cache that mixes customers up, a grammar that hangs, a clock that is wrong.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from csproto.desk.assistant import Assistant
from csproto.desk.case import Case
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.policy import decide
from csproto.desk.transcript import Message, hints, opening
from csproto.desk.triage import Wish, grammar
from csproto.engine.endpoint import Endpoint
from csproto.lessons.prefix import QUESTION, ask, new_salt, prompt_of
from csproto.lessons.probes import environment
from csproto.shop.facts import CustomerFacts, OrderView

TOKENS = 48  # of an answer
WHERE_IS_MY_LAMP = "我的台灯到哪了?"

# The regular expression that hangs, as the blog says.
BLOG_REGEX = r'\{"a": "[^"]+"\}'


# -- one: a cache that mixes customers up


def numbers(count: int) -> list[str]:
    """Return different order numbers."""
    return [str(100_000 + 7_919 * place) for place in range(count)]


def alone_and_together(
    endpoint: Endpoint, desk: Assistant, names: Sequence[str], now: datetime
) -> pd.DataFrame:
    """Let customers ask who differ only in their order number.

    Each asks alone, with an empty cache, and then all ask at once with one cache that they
    share. No grammar is used, so the model could write any number. Returns for each
    order number both answers, and how many tokens came from the cache the second time.
    """
    prompts = [_question(endpoint, desk, name, now) for name in names]
    alone = [ask(endpoint, prompt, salt=new_salt(), tokens=TOKENS) for prompt in prompts]
    shared = new_salt()
    ask(endpoint, prompts[0], salt=shared)
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(
            pool.map(lambda prompt: ask(endpoint, prompt, salt=shared, tokens=TOKENS), prompts)
        )
    texts = {"alone": [a.text for a in alone], "together": [a.text for a in together]}
    frame = pd.DataFrame(texts, index=list(names))
    frame["shared tokens"] = [answer.cached_tokens for answer in together]
    frame["names a stranger"] = [
        any(other in answer.text for other in names if other != name)
        for name, answer in zip(names, together, strict=True)
    ]
    return frame


def _question(endpoint: Endpoint, desk: Assistant, number: str, now: datetime) -> str:
    """Return the prompt of a customer who has ordered a lamp and asks where it is."""
    order = OrderView(number, "台灯", "home", "paid", 12_900, now)
    listed = opening([order], desk.handbook.values.zone, "0" * 15)
    shared = hints(WHERE_IS_MY_LAMP, [order], desk.guess(WHERE_IS_MY_LAMP))
    said = [*desk.prompt, listed, *shared, Message("user", WHERE_IS_MY_LAMP)]
    return prompt_of(endpoint, said)


# -- two: a grammar that hangs


def endings(
    endpoint: Endpoint, desk: Assistant, count: int, *, max_tokens: int = 96
) -> pd.DataFrame:
    """Answer one question `count` times under the blog's expression and under our grammar.

    Every answer is drawn at random (temperature 1). Returns for each constraint how many
    answers ended by themselves and how many were cut off, and the tokens of the longest.
    """
    text = prompt_of(endpoint, [*desk.prompt, Message("user", QUESTION)])
    ours = grammar(desk.handbook, QUESTION, [], waiting=False, begun=False)
    rows = {}
    for name, constraint in {"blog": {"regex": BLOG_REGEX}, "grammar": {"ebnf": ours}}.items():
        metas = [_written(endpoint, text, constraint, max_tokens) for _ in range(count)]
        ended = sum(meta["finish_reason"]["type"] == "stop" for meta in metas)
        longest = max(meta["completion_tokens"] for meta in metas)
        rows[name] = {"ended": ended, "cut off": count - ended, "longest": longest}
    return pd.DataFrame(rows).T


def _written(
    endpoint: Endpoint, text: str, constraint: Mapping[str, str], max_tokens: int
) -> dict[str, Any]:
    """Return the server's figures about one answer."""
    parameters = {"temperature": 1.0, "max_new_tokens": max_tokens, **constraint}
    answer = endpoint.post("/generate", {"text": text, "sampling_params": parameters})
    meta: dict[str, Any] = json.loads(answer)["meta_info"]
    return meta


# -- three: a clock that is wrong

NOON = datetime(2026, 3, 10, 4, tzinfo=UTC)  # in Shanghai


def clocks(facts: CustomerFacts, order_id: str, handbook: Handbook | None = None) -> pd.DataFrame:
    """Decide on a return that is asked for at NOON, by four clocks.

    One is right, two run fast, and one is right but in another time zone.
    """
    handbook = handbook or default_handbook()

    def decided(now: datetime) -> tuple[str, str, str]:
        wish = Wish("return_exchange", (order_id,))
        case = Case(wish, facts.order(order_id), facts, now, handbook)
        rule = decide(case).rule
        return case.today.isoformat(), handbook.rules[rule].action, rule

    rows = [
        ("right", *decided(NOON)),
        ("2 hours fast", *decided(NOON + timedelta(hours=2))),
        ("13 hours fast", *decided(NOON + timedelta(hours=13))),
    ]
    with _zone("America/New_York"):
        rows.append(("right, in a New York container", *decided(NOON.astimezone())))
    return pd.DataFrame(rows, columns=["clock", "day in the shop", "action", "rule"]).set_index(
        "clock"
    )


@contextmanager
def _zone(name: str) -> Iterator[None]:
    """Put this process into another time zone, as a mounted `/etc/localtime` does."""
    try:
        with environment("TZ", name):
            time.tzset()
            yield
    finally:
        time.tzset()
