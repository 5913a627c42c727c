"""The assistant without a model: a reader's labels in place of the triage, the plainest templates in place of the model's words, the real thing between."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime

from support import NOW

from csproto.assistant import Assistant, Event, Part, Token, _Run
from csproto.bounds import Bounds
from csproto.conversation import Conversation
from csproto.engine.endpoint import StopSignal
from csproto.policy import default_rules
from csproto.shop.orders import OrderApi
from csproto.transcript import Message
from csproto.triage import Triage

Label = Callable[[Conversation, str], Triage]


class HonestRun(_Run):
    """One turn that asks no model."""

    def _triage(self) -> Triage:
        self.conversation.transcript.append(Message("user", self.text))
        return self.assistant.label(self.conversation, self.text)

    def _reply(self, part: Part) -> Iterator[Token]:
        yield from self._fall_back(part)
        self._append("assistant", part.reply)


class Rehearsal(Assistant):
    """label: what a reader makes of a message."""

    run: type[_Run] = HonestRun

    def __init__(
        self,
        orders: OrderApi,
        label: Label,
        *,
        clock: Callable[[], datetime] = lambda: NOW,
        messages_per_minute: int | None = None,
    ) -> None:
        self.orders, self.label, self.clock, self.rules = orders, label, clock, default_rules()
        self.bounds = Bounds(messages_per_minute)

    def open(self, customer_id: str) -> Conversation:
        self.orders.known(customer_id)
        return Conversation(customer_id, NOW)

    def stream(self, conversation: Conversation, text: str, stop: StopSignal | None = None) -> Iterator[Event]:
        with self.bounds.admitted(conversation, text) as message:
            self.orders.known(conversation.customer_id)
            yield from self.run(self, conversation, message, stop or StopSignal(), time.perf_counter()).events()
