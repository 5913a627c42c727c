"""What the prefix cache reuses and what breaks it: plain generations, whose cached tokens the server counts."""

import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd

from csproto.engine.endpoint import Endpoint
from csproto.transcript import Message

Change = Callable[[list[Message], int], list[Message]]  # the messages of a prompt, and the number of its turn


@dataclass(frozen=True)
class Answer:
    """One generation: its text, how long it took from outside, and how much of its prompt came from the cache."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    total_ms: float


def prompt_of(endpoint: Endpoint, messages: Sequence[Message]) -> str:
    """The prompt for the next message of the assistant, as the DSL's roles would put it together."""
    said = [message._asdict() for message in messages]
    template = endpoint.chat_template
    return str(template.get_prompt(said)) + str(template.get_prefix_and_suffix("assistant", said)[0])


def ask(endpoint: Endpoint, prompt: str, *, salt: str | None = None, rid: str | None = None, tokens: int = 1) -> Answer:
    """One greedy generation. salt: keeps this prompt's cache apart from other salts'. rid: SGLang's name for the request. Raises EngineError."""
    body = {"text": prompt, "sampling_params": {"max_new_tokens": tokens, "temperature": 0}}
    body |= {key: value for key, value in (("cache_salt", salt), ("rid", rid)) if value}
    began = time.perf_counter()
    answer = json.loads(endpoint.post("/generate", body))
    total_ms = (time.perf_counter() - began) * 1000
    meta = answer["meta_info"]
    return Answer(answer["text"], meta["prompt_tokens"], meta["cached_tokens"], total_ms)


def new_salt() -> str:
    """A salt nobody has used: what is asked under it is asked of an empty cache."""
    return uuid.uuid4().hex


# -- what breaks reuse


def _as_it_is(messages: list[Message], turn: int) -> list[Message]:
    return messages


def _clock(turn: int) -> str:
    """The time on the wall at a turn: forty seconds after the one before."""
    return f"{datetime(2026, 1, 1, 9, tzinfo=UTC) + timedelta(seconds=40 * turn):%H:%M:%S}"


def _time_first(messages: list[Message], turn: int) -> list[Message]:
    """The time of this turn before everything else."""
    return [messages[0]._replace(content=f"{_clock(turn)} {messages[0].content}"), *messages[1:]]


def _time_beside(messages: list[Message], turn: int) -> list[Message]:
    """The time each message was sent, in that message: a past message keeps the time it had."""
    count, stamped = 0, []
    for message in messages:
        count += message.role == "user"
        said = f"{_clock(count)} {message.content}" if message.role == "user" else message.content
        stamped.append(message._replace(content=said))
    return stamped


def _prompt_changed(messages: list[Message], turn: int) -> list[Message]:
    """A new edition of the system prompt is rolled out at the third turn."""
    return [messages[0]._replace(content="v2 " + messages[0].content), *messages[1:]] if turn >= 3 else messages


def _early_message_edited(messages: list[Message], turn: int) -> list[Message]:
    """At the third turn the customer's first message is masked, corrected or shortened after all."""
    return [messages[0], messages[1]._replace(content="(…)"), *messages[2:]] if turn >= 3 else messages


def _oldest_dropped(messages: list[Message], turn: int) -> list[Message]:
    """From the third turn on only the system prompt and the last two turns are kept."""
    starts = [place for place, message in enumerate(messages) if message.role == "user"]
    return messages[:1] + messages[starts[-2] :] if turn >= 3 else messages


WAYS: dict[str, Change] = {
    "append only": _as_it_is,
    "time in each message": _time_beside,
    "early message edited at turn 3": _early_message_edited,
    "prompt changed at turn 3": _prompt_changed,
    "oldest turns dropped from turn 3": _oldest_dropped,
    "time at the head of the prompt": _time_first,
}


def reuse_by_way(endpoint: Endpoint, transcript: Sequence[Message]) -> pd.DataFrame:
    """Play the prompts of a conversation in each of the `WAYS`, each in a cache of its own.

    Per way and turn from the second on: of the tokens computed at the turn before, the share that came from the cache.
    """
    rows = {name: list(_reused(endpoint, transcript, change)) for name, change in WAYS.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.columns = [f"turn {place}" for place in range(2, 2 + frame.shape[1])]
    return frame


def _reused(endpoint: Endpoint, transcript: Sequence[Message], change: Change) -> Iterator[float]:
    starts = [place for place, message in enumerate(transcript) if message.role == "user"]
    salt, computed = new_salt(), 0
    for turn, start in enumerate(starts, 1):
        answer = ask(endpoint, prompt_of(endpoint, change(list(transcript[: start + 1]), turn)), salt=salt)
        if computed:
            yield min(answer.cached_tokens, computed) / computed
        computed = answer.prompt_tokens


# -- what reuse is worth


def prefill_times(endpoint: Endpoint, lengths: Sequence[int], rounds: int = 3) -> pd.DataFrame:
    """Milliseconds to the first token for prompts of about these lengths (tokens), from an empty cache and asked again; medians of `rounds`."""
    unit = ask(endpoint, "订单123456到哪了? " * 20, salt=new_salt()).prompt_tokens / 20
    rows = []
    for length in lengths:
        text = "订单123456到哪了? " * max(1, round(length / unit))
        salts = [new_salt() for _ in range(rounds)]
        computed = [ask(endpoint, text, salt=salt) for salt in salts]
        cached = [ask(endpoint, text, salt=salt) for salt in salts]
        rows.append({"tokens": computed[0].prompt_tokens, "computed": _median(computed), "cached": _median(cached)})
    return pd.DataFrame(rows).set_index("tokens")


def _median(answers: Sequence[Answer]) -> float:
    return statistics.median(answer.total_ms for answer in answers)
