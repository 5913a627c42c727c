"""What is compared: each arm is a way of working on one of the servers, all with the same weights, prompts and output limits."""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from pydantic import ValidationError

from csproto.assistant import Assistant
from csproto.conversation import Conversation
from csproto.engine.endpoint import GenerationTruncated
from csproto.measure.bench.by_hand import ByHand, clean_json
from csproto.measure.bench.clients import TimedEndpoint, VllmEndpoint
from csproto.shop.orders import OrderApi
from csproto.triage import Intent, Triage
from csproto.turn import Turn

from sglang.lang.interpreter import StreamExecutor  # isort: skip  # after csproto.engine.endpoint, which makes sglang importable
from sglang.lang.ir import SglSamplingParams  # isort: skip

# The blog's regular expression with our intents: three fields, always, and whatever is no quote between quotes.
BLOG_REGEX = rf'\{{"intent":"({"|".join(Intent)})","order_id":"[^"]+","reason":"[^"]+"\}}'


class Desk(Protocol):
    """Whoever answers the customers of an arm."""

    def open(self, customer_id: str) -> Conversation:
        """A new conversation."""

    def turn(self, conversation: Conversation, text: str) -> Turn:
        """Answer one message."""


@dataclass(frozen=True)
class Arm:
    """One way of working. `read` makes a triage of the model's first output in a turn, or None: JSON validity is the share it can read."""

    letter: str
    title: str
    engine: str
    client: type[TimedEndpoint]
    desk: Callable[[TimedEndpoint, OrderApi, datetime], Desk]
    read: Callable[[str], Triage | None]


def strict(raw: str) -> Triage | None:
    """The triage of an output that is valid JSON and valid for the model, as it stands."""
    with suppress(ValidationError):
        return Triage.model_validate_json(raw)
    return None


def _assistant(endpoint: TimedEndpoint, orders: OrderApi, now: datetime) -> Desk:
    return Assistant(endpoint, orders, clock=lambda: now)


class RegexEndpoint(TimedEndpoint):
    """Triage under the blog's regular expression in place of the grammar; what cannot be parsed is taken for `other`, as a program would that must go on."""

    def generate(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> tuple[str, dict[str, Any]]:
        """One generation; the one nobody reads along is the triage."""
        if self.options.on_text is not None:
            return super().generate(s, sampling_params)
        view = copy.copy(self)
        view.options = replace(self.options, ebnf=None)
        sampling_params.regex = BLOG_REGEX
        with suppress(GenerationTruncated):
            TimedEndpoint.generate(view, s, sampling_params)
        call = self.calls[-1]
        text = call.text if strict(call.text) else Triage(intent=Intent.OTHER).to_wire()
        return text, call.meta


ARMS = {
    "csproto": Arm("a", "csproto on SGLang", "sglang", TimedEndpoint, _assistant, strict),
    "vllm-by-hand": Arm(
        "b", "vLLM, JSON cleaned by hand", "vllm", VllmEndpoint, ByHand, clean_json
    ),
    "vllm-structured": Arm(
        "c", "vLLM, structured output", "vllm", VllmEndpoint, _assistant, strict
    ),
    "no-radix": Arm(
        "d", "SGLang, radix cache off", "sglang-no-radix", TimedEndpoint, _assistant, strict
    ),
    "blog-regex": Arm("e", "SGLang, the blog's regex", "sglang", RegexEndpoint, _assistant, strict),
    "free-text": Arm(
        "f", "SGLang, JSON cleaned by hand", "sglang", TimedEndpoint, ByHand, clean_json
    ),
}
DEFAULT = ("csproto", "vllm-by-hand", "vllm-structured", "no-radix", "blog-regex")
QUICK = ("csproto", "vllm-structured")
