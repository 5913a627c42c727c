"""The blog's pitfalls put to the test: a cache that mixes customers up, and a clock that is wrong. (The third, a grammar that hangs, is `extraction.compare`.)"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pandas as pd

from csproto.dialogue import DialogueState, decide
from csproto.engine.endpoint import Endpoint
from csproto.lessons.prefix import Answer, ask, new_salt, prompt_of
from csproto.lessons.probes import environment
from csproto.policy import default_rules
from csproto.shop.orders import CustomerFacts
from csproto.transcript import Message, system_prompt
from csproto.triage import Intent, Triage

TOKENS = 32  # of an answer


def numbers(count: int) -> list[str]:
    """Order numbers of strangers, no two of them alike."""
    return [str(100_000 + 7_919 * place) for place in range(count)]


def _question(endpoint: Endpoint, number: str) -> str:
    said = [Message("system", system_prompt(endpoint.model_name)), Message("user", f"我的订单是{number},到哪了?")]
    return prompt_of(endpoint, said)


def alone_and_together(endpoint: Endpoint, names: Sequence[str]) -> pd.DataFrame:
    """Customers who differ in their order number only, each asked alone from an empty cache, then all at once from one cache that they share.

    No grammar is used, so the model could write anybody's number. Per customer: both texts, and how many tokens were shared the second time.
    """
    prompts = [_question(endpoint, name) for name in names]
    alone = [ask(endpoint, prompt, salt=new_salt(), tokens=TOKENS) for prompt in prompts]
    salt = new_salt()
    ask(endpoint, prompts[0], salt=salt)
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: ask(endpoint, prompt, salt=salt, tokens=TOKENS), prompts))
    frame = pd.DataFrame({"alone": [a.text for a in alone], "together": [a.text for a in together]}, index=list(names))
    frame["shared tokens"] = [answer.cached_tokens for answer in together]
    frame["names a stranger"] = [
        any(other in answer.text for other in names if other != name)
        for name, answer in zip(names, together, strict=True)
    ]
    return frame


def kept_apart(endpoint: Endpoint) -> pd.DataFrame:
    """One prompt, asked again in four ways after its owner has asked it: tokens that came from the cache."""
    prompt, mine = _question(endpoint, "123456"), new_salt()
    ask(endpoint, prompt, salt=mine)
    ask(endpoint, prompt, rid=new_salt())
    again: Mapping[str, Answer] = {
        "another request_id, no salt": ask(endpoint, prompt, rid=new_salt()),
        "the customer's own salt": ask(endpoint, prompt, salt=mine),
        "another customer's salt": ask(endpoint, prompt, salt=new_salt()),
    }
    rows = [(how, answer.cached_tokens, answer.prompt_tokens) for how, answer in again.items()]
    return pd.DataFrame(rows, columns=["asked with", "from the cache", "of"]).set_index("asked with")


NOON = datetime(2026, 3, 10, 4, tzinfo=UTC)  # in Shanghai


def clocks(facts: CustomerFacts, order_id: str) -> pd.DataFrame:
    """A return asked for at NOON, by clocks that are right, that run fast, and that only show another zone: what is decided under each."""
    rows = [
        ("right", *_decided(facts, order_id, NOON)),
        ("2 hours fast", *_decided(facts, order_id, NOON + timedelta(hours=2))),
        ("13 hours fast", *_decided(facts, order_id, NOON + timedelta(hours=13))),
    ]
    with _zone("America/New_York"):
        rows.append(("right, in a New York container", *_decided(facts, order_id, NOON.astimezone())))
    return pd.DataFrame(rows, columns=["clock", "day in the shop", "action", "rule"]).set_index("clock")


def _decided(facts: CustomerFacts, order_id: str, now: datetime) -> tuple[str, str, str]:
    wish = Triage(intent=Intent.RETURN_EXCHANGE, order_id=order_id)
    decision, _ = decide(wish, facts, DialogueState(), now)
    return default_rules().day(now).isoformat(), decision.action, decision.rule


@contextmanager
def _zone(name: str) -> Iterator[None]:
    """This process in another time zone, as a mounted `/etc/localtime` would have it."""
    try:
        with environment("TZ", name):
            time.tzset()
            yield
    finally:
        time.tzset()
