"""What the prefix cache reuses, what breaks it, what it is worth, and whom it keeps apart.

Everything here is measured with plain HTTP requests, whose cached tokens the server counts.
"""

import json
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd

from csproto.desk.transcript import Message, opening
from csproto.engine.endpoint import Endpoint
from csproto.shop.facts import OrderView

# Makes the messages of one turn from the prompt, the transcript so far and the number of the turn.
Change = Callable[[list[Message], list[Message], int], list[Message]]
CHANGED_AT = 3  # the turn at which some of the `WAYS` change the transcript
KEPT_TURNS = 2
QUESTION = "我的订单到哪了?"  # where is my order?
MEASURING_TEXT = "订单123456到哪了? "  # where is order 123456?


@dataclass(frozen=True)
class Answer:
    """One generation.

    total_ms: how long the client waited. cached_tokens: how many tokens of the prompt came
    from the cache.
    """

    text: str
    prompt_tokens: int
    cached_tokens: int
    total_ms: float


def prompt_of(endpoint: Endpoint, messages: Sequence[Message]) -> str:
    """Return the text that the model reads before it writes the next message."""
    return joined(endpoint, messages) + assistant_mark(endpoint)


def joined(endpoint: Endpoint, messages: Sequence[Message]) -> str:
    """Return messages in the form of the model's chat template."""
    return str(endpoint.chat_template.get_prompt([message._asdict() for message in messages]))


def assistant_mark(endpoint: Endpoint) -> str:
    """Return the mark that begins a message of the model."""
    return str(endpoint.chat_template.get_prefix_and_suffix("assistant", [])[0])


def ask(
    endpoint: Endpoint,
    prompt: str,
    *,
    salt: str | None = None,
    rid: str | None = None,
    tokens: int = 1,
) -> Answer:
    """Generate some tokens, always the likeliest ones.

    salt: SGLang's `cache_salt`; prompts with different salts share no cache. rid: SGLang's
    name for the request.

    Raises EngineError.
    """
    body = {"text": prompt, "sampling_params": {"max_new_tokens": tokens, "temperature": 0}}
    body |= {key: value for key, value in (("cache_salt", salt), ("rid", rid)) if value}
    began = time.perf_counter()
    answer = json.loads(endpoint.post("/generate", body))
    total_ms = (time.perf_counter() - began) * 1000
    meta = answer["meta_info"]
    return Answer(answer["text"], meta["prompt_tokens"], meta["cached_tokens"], total_ms)


def new_salt() -> str:
    """Return a salt that nobody has used: its cache is empty."""
    return secrets.token_hex(16)


# -- what breaks reuse


def _as_it_is(prompt: list[Message], transcript: list[Message], turn: int) -> list[Message]:
    return prompt + transcript


def _clock(turn: int) -> str:
    """Return the time of day at a turn, 40 seconds after the turn before."""
    return f"{datetime(2026, 1, 1, 9, tzinfo=UTC) + timedelta(seconds=40 * turn):%H:%M:%S}"


def _with_head(messages: list[Message], head: str) -> list[Message]:
    """Return messages with a text before the first one's content."""
    return [messages[0]._replace(content=f"{head} {messages[0].content}"), *messages[1:]]


def _time_first(prompt: list[Message], transcript: list[Message], turn: int) -> list[Message]:
    """The time of this turn stands before everything else."""
    return _with_head(prompt, _clock(turn)) + transcript


def _time_beside(prompt: list[Message], transcript: list[Message], turn: int) -> list[Message]:
    """Each message of the customer has the time at which it was sent."""
    count, stamped = 0, []
    for message in transcript:
        count += message.role == "user"
        content = f"{_clock(count)} {message.content}"
        stamped.append(message._replace(content=content) if message.role == "user" else message)
    return prompt + stamped


def _prompt_changed(prompt: list[Message], transcript: list[Message], turn: int) -> list[Message]:
    """The prompt gets another text at turn CHANGED_AT."""
    return (_with_head(prompt, "v2") if turn >= CHANGED_AT else prompt) + transcript


def _early_message_edited(
    prompt: list[Message], transcript: list[Message], turn: int
) -> list[Message]:
    """The customer's first message is masked or shortened at turn CHANGED_AT."""
    first = next(place for place, message in enumerate(transcript) if message.role == "user")
    if turn >= CHANGED_AT:
        transcript[first] = transcript[first]._replace(content="(…)")
    return prompt + transcript


def _oldest_dropped(prompt: list[Message], transcript: list[Message], turn: int) -> list[Message]:
    """From turn CHANGED_AT on, only the orders and the last KEPT_TURNS turns are kept."""
    starts = [place for place, message in enumerate(transcript) if message.role == "user"]
    kept = transcript[:1] + transcript[starts[-KEPT_TURNS:][0] :]
    return prompt + (kept if turn >= CHANGED_AT else transcript)


WAYS: dict[str, Change] = {
    "append only": _as_it_is,
    "time in each message": _time_beside,
    "early message edited at turn 3": _early_message_edited,
    "prompt changed at turn 3": _prompt_changed,
    "oldest turns dropped from turn 3": _oldest_dropped,
    "time at the head of the prompt": _time_first,
}


def reuse_by_way(
    endpoint: Endpoint, prompt: Sequence[Message], transcript: Sequence[Message]
) -> pd.DataFrame:
    """Send the prompts of a conversation in each of the `WAYS`, each with an empty cache.

    Returns a row for each way and a column for each turn from the second on: the share of
    the tokens of the turn before that came from the cache.
    """
    rows = {
        name: list(_reused(endpoint, prompt, transcript, change)) for name, change in WAYS.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.columns = [f"turn {place}" for place in range(2, 2 + frame.shape[1])]
    return frame


def _reused(
    endpoint: Endpoint, prompt: Sequence[Message], transcript: Sequence[Message], change: Change
) -> Iterator[float]:
    starts = [place for place, message in enumerate(transcript) if message.role == "user"]
    salt, computed = new_salt(), 0
    for turn, start in enumerate(starts, 1):
        messages = change(list(prompt), list(transcript[: start + 1]), turn)
        answer = ask(endpoint, prompt_of(endpoint, messages), salt=salt)
        if computed:
            yield min(answer.cached_tokens, computed) / computed
        computed = answer.prompt_tokens


# -- what reuse is worth


def prefill_times(endpoint: Endpoint, lengths: Sequence[int], rounds: int = 3) -> pd.DataFrame:
    """Measure the time to the first token for prompts of about these lengths, in tokens.

    Returns milliseconds, medians of `rounds`: with an empty cache, and for the same prompt
    again.
    """
    unit = ask(endpoint, MEASURING_TEXT * 20, salt=new_salt()).prompt_tokens / 20
    rows = []
    for length in lengths:
        text = MEASURING_TEXT * max(1, round(length / unit))
        salts = [new_salt() for _ in range(rounds)]
        computed = [ask(endpoint, text, salt=salt) for salt in salts]
        cached = [ask(endpoint, text, salt=salt) for salt in salts]
        tokens = computed[0].prompt_tokens
        rows.append({"tokens": tokens, "computed": _median(computed), "cached": _median(cached)})
    return pd.DataFrame(rows).set_index("tokens")


def _median(answers: Sequence[Answer]) -> float:
    return statistics.median(answer.total_ms for answer in answers)


# -- whom the cache keeps apart

APART = ("nothing", "a request id each", "a salt each", "a nonce each")


def kept_apart(
    endpoint: Endpoint, prompt: str, customers: Sequence[Sequence[OrderView]], zone: ZoneInfo
) -> pd.DataFrame:
    """Measure four ways to keep customers apart: what they cost, and what a stranger finds.

    prompt: the system prompt of all customers. customers: the orders of each.

    Every customer asks one question. Then a stranger, who knows the first customer's orders
    and question and wants to know whether the customer has asked it, sends the same text.
    Returns for each way the tokens computed for all customers together, and how many tokens
    of the customer's orders and question the stranger's request finds in the cache.
    """
    rows = []
    for way in APART:
        # A prompt that nobody has sent before, so that each way begins with an empty cache.
        fresh = Message("system", f"{new_salt()} {prompt}")

        def one(orders: Sequence[OrderView], way: str = way, fresh: Message = fresh) -> Answer:
            nonce = None if way == "a nonce each" else "0" * 15
            said = [fresh, opening(orders, zone, nonce), Message("user", QUESTION)]
            salt = new_salt() if way == "a salt each" else None
            rid = new_salt() if way == "a request id each" else None
            return ask(endpoint, prompt_of(endpoint, said), salt=salt, rid=rid)

        answers = [one(orders) for orders in customers]
        stranger = one(customers[0])
        shared = _before_the_nonce(endpoint, fresh)
        computed = sum(answer.prompt_tokens - answer.cached_tokens for answer in answers)
        found = max(0, stranger.cached_tokens - shared)
        rows.append((way, computed, found, stranger.prompt_tokens - shared))
    columns = ["kept apart by", "tokens computed", "a stranger finds", "of"]
    return pd.DataFrame(rows, columns=columns).set_index("kept apart by")


def _before_the_nonce(endpoint: Endpoint, prompt: Message) -> int:
    """Count the tokens of a prompt and of what stands before the nonce of the orders."""
    mark = "NONCE"
    text = joined(endpoint, [prompt, Message("system", '{"nonce":"' + mark)])
    return ask(endpoint, text.partition(mark)[0], salt=new_salt()).prompt_tokens
