"""What is compared: each arm is one way of working on one of the servers.

All arms have the same weights, prompt, rules and orders, and the same steps of a turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from csproto.desk.assistant import Assistant
from csproto.desk.reader import ModelReader
from csproto.desk.triage import Triage
from csproto.measure.bench.clients import TimedEndpoint, VllmEndpoint
from csproto.measure.bench.readers import BlogRegex, ByHand, clean_json, strict
from csproto.opening import desk_on
from csproto.shop.orders import OrderApi


@dataclass(frozen=True)
class Arm:
    """One way of working.

    engine: the name of its server, one of `engines.ENGINES`.
    client: the endpoint that speaks to this server.
    reader: reads the messages and chooses the replies.
    read: makes a triage of what the model wrote first in a turn, or returns None. JSON
        validity is the share that it can read.
    """

    letter: str
    title: str
    engine: str
    client: type[TimedEndpoint] = TimedEndpoint
    reader: type[ModelReader] = ModelReader
    read: Callable[[str], Triage | None] = strict

    def desk(self, endpoint: TimedEndpoint, orders: OrderApi, now: datetime) -> Assistant:
        """Return the usual desk with the reader of this arm. It stands at the moment `now`."""
        desk = desk_on(endpoint, orders, clock=lambda: now, messages_per_minute=None)
        desk.reader = partial(self.reader, endpoint, desk.handbook.intents, {"temperature": 0.0})
        return desk


ARMS = {
    "csproto": Arm("a", "csproto on SGLang", "sglang"),
    "vllm-by-hand": Arm(
        "b", "vLLM, JSON cleaned by hand", "vllm", VllmEndpoint, ByHand, clean_json
    ),
    "vllm-structured": Arm("c", "vLLM, structured output", "vllm", VllmEndpoint),
    "no-radix": Arm("d", "SGLang, radix cache off", "sglang-no-radix"),
    "blog-regex": Arm("e", "SGLang, the blog's regex", "sglang", reader=BlogRegex),
    "free-text": Arm("f", "SGLang, JSON cleaned by hand", "sglang", reader=ByHand, read=clean_json),
}
DEFAULT = ("csproto", "vllm-by-hand", "vllm-structured", "no-radix", "blog-regex")
QUICK = ("csproto", "vllm-structured")
