"""The engines without the desk: prompts of token ids, all of one length, and 64 tokens out."""

import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3

from csproto import settings
from csproto.engine.server import bearer
from csproto.errors import CsprotoError
from csproto.measure.bench.engines import Engine

PROMPT, OUTPUT = 96, 64  # tokens; a turn in the middle of a conversation reads about as many
ORDINARY = range(300, 6_000)  # ids that every tokenizer here uses for ordinary text


def prompts(seed: str, count: int) -> list[list[int]]:
    """Return prompts of random token ids: none shares a prefix with another."""
    pick = random.Random(seed)
    return [[pick.choice(ORDINARY) for _ in range(PROMPT)] for _ in range(count)]


def tokens_per_second(
    engine: Engine, model: str, texts: Sequence[list[int]], at_once: int
) -> float:
    """Return the tokens a second for these prompts, `at_once` at a time.

    Raises CsprotoError if an answer is too short.
    """
    pool = urllib3.PoolManager(
        maxsize=at_once, retries=False, timeout=urllib3.Timeout(connect=5, read=300)
    )
    with ThreadPoolExecutor(at_once) as workers:
        began = time.perf_counter()
        written = list(
            workers.map(
                lambda ids: _generate(pool, engine, bearer(engine.api_key), model, ids), texts
            )
        )
        seconds = time.perf_counter() - began
    if set(written) != {OUTPUT}:
        raise CsprotoError(
            f"{engine.name} wrote {sorted(set(written))} tokens where {OUTPUT} were asked for."
        )
    return sum(written) / seconds


def _generate(
    pool: urllib3.PoolManager, engine: Engine, headers: dict[str, str], model: str, ids: list[int]
) -> int:
    """Read one streamed generation with little work, and return how many tokens it has."""
    path, body = _request(engine, model, ids)
    answer = pool.request(
        "POST", engine.base_url + path, json=body, headers=headers, preload_content=False
    )
    lines = b"".join(answer.stream(2**16)).split(b"\n\n")
    answer.release_conn()
    if answer.status != 200:
        raise CsprotoError(
            f"{engine.name} refused a request ({answer.status}): {lines[0][:300].decode()}"
        )
    last = json.loads([line for line in lines if line.startswith(b"data: {")][-1][6:])
    return int((last.get("meta_info") or last.get("usage") or {}).get("completion_tokens", 0))


def _request(engine: Engine, model: str, ids: list[int]) -> tuple[str, dict[str, Any]]:
    if engine.name == "vllm":
        limits = {"max_tokens": OUTPUT, "temperature": 0, "ignore_eos": True}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return "/v1/completions", {"model": model, "prompt": ids, **limits, **options}
    parameters = {
        "max_new_tokens": OUTPUT,
        "temperature": 0,
        "ignore_eos": True,
        "stream_interval": settings.UNREAD,
    }
    return "/generate", {"input_ids": ids, "sampling_params": parameters, "stream": True}
