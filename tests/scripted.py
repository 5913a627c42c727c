"""A desk without a model: what each message means is given, everything else is the real thing."""

from collections.abc import Callable, Sequence

from support import NOW

from csproto.desk.assistant import Assistant
from csproto.desk.conversation import Conversation
from csproto.desk.reader import Call, Read
from csproto.desk.transcript import Message
from csproto.desk.triage import Triage, Wish
from csproto.shop.orders import OrderApi, OrderSystemDown

YES, NO = Triage("confirm"), Triage("deny")


def says(intent: str, *orders: str, **slots: object) -> Triage:
    """A message with one wish."""
    return Triage(wishes=(Wish(intent, orders, slots),))


class Script:
    """A reader that takes each message for what `means` says, and replies in the plainest words."""

    def __init__(self, means: Callable[[str], Triage]) -> None:
        self.means = means

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        return Read(self.means(text).to_wire(), {})

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        return Call('{"amount":"","times":0}', {})

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        return 0, Call(stems[0], {})


def scripted(
    orders: OrderApi,
    means: Callable[[str], Triage] | Triage,
    *,
    script: type[Script] = Script,
    **options: object,
) -> Assistant:
    """A desk with a script. means: the triage of a text, or the one of every text."""
    reader = script(means if callable(means) else lambda _: means)
    usual = {
        "keep": lambda conversation: conversation.save(orders.engine),
        "clock": lambda: NOW,
        "messages_per_minute": None,
    }
    return Assistant(lambda _stop: reader, orders, prompt=(), **usual | options)


def lose_the_end(desk: Assistant) -> None:
    """Let the database fail after the writes of a turn, when its end is to be saved."""
    keep = desk.keep

    def fails_at_the_end(conversation: Conversation) -> None:
        if conversation.under_way is None:
            raise OrderSystemDown("gone")
        keep(conversation)

    desk.keep = fails_at_the_end


def watching() -> tuple[list[Sequence[Message]], type[Script]]:
    """A script that keeps what it is given to read, one entry for each message."""
    seen: list[Sequence[Message]] = []

    class Watching(Script):
        def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
            seen.append(messages)
            return super().triage(messages, text, ebnf)

    return seen, Watching
