"""Conversations to learn from: simulated customers, the real policy, and replies in the real wordings, in exactly the format the assistant writes."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from csproto import wording
from csproto.demo import CARRIERS
from csproto.dialogue import NEEDS_NO_ORDER, DialogueState, decide
from csproto.meaning import further_wishes
from csproto.minimodel.seeds import seeds
from csproto.minimodel.utterances import REASONS, Speaker, Utterance, order_number
from csproto.orders import CustomerFacts, OrderView, Write
from csproto.policy import Decision
from csproto.reply import brief
from csproto.transcript import MINI_PROMPT, Role, clean
from csproto.triage import Act, Intent, Triage

# Shares of the samples: copying ids, reasons and addresses is a skill of its own; understanding takes the most practice per token.
DRILLS = 0.12  # only repeat what was said
OPENING_ONLY = 0.85  # end after the first triage
# Other messages at the same place of a longer transcript, each with its triage: most of what a later triage costs is what stands before it, and that they share.
ALTERNATIVES = 5
CATEGORIES = (
    "clothing",
    "home",
    "electronics",
    "clothing",
    "home",
    "electronics",
    "fresh",
    "custom",
    "digital",
)
GREETING = re.compile(
    r"^(?:你好|您好|在吗|在么|在不|亲|hi|hello|hey|good (?:morning|evening|afternoon)|哈喽|早上好|下午好|晚上好|有人)",
    re.I,
)
THANKS = re.compile(r"谢|多谢|感谢|辛苦|thank|thx|cheers|appreciate", re.I)
DEED = re.compile(
    r"[{取撤退换改寄]|cancel|return|refund|change|switch|send|ship|drop|scrap|bin it|kill", re.I
)
GOODBYE = re.compile(r"再见|拜拜|bye|see you|good night|晚安|先这样", re.I)


class Piece(NamedTuple):
    """Part of a transcript; `learn` marks what the model has to write."""

    role: Role
    content: str
    learn: bool = False
    more: str = ""  # text of ours after what the model wrote, in the same message
    instead: tuple[
        tuple[str, str], ...
    ] = ()  # other messages that could stand here, each with the JSON to write


def conversations(seed: int, count: int) -> Iterator[list[Piece]]:
    """`count` transcripts, the same ones for the same seed."""
    for number in range(count):
        pick = random.Random(f"{seed}:{number}")
        yield drill(pick) if pick.random() < DRILLS else _Dialogue(pick).transcript()


def drill(pick: random.Random) -> list[Piece]:
    """A message to repeat word for word, under a prompt of its own."""
    lists = seeds(pick.choice(("zh", "en")))
    sources = (
        "addresses",
        "reasons_return",
        "reasons_payment",
        "items",
        "names",
        "greetings",
        "dates",
    )
    parts = [
        order_number(pick) if pick.random() < 0.6 else pick.choice(lists[pick.choice(sources)])
        for _ in range(pick.randrange(1, 7))
    ]
    text = clean(pick.choice((" ", ",", "\n")).join(parts))
    return [Piece("system", "copy"), Piece("user", text), Piece("assistant", text, learn=True)]


def small_talk_kind(text: str) -> str:
    """Which small-talk reply a message calls for."""
    if len(text) <= 24:
        for kind, pattern in (("goodbye", GOODBYE), ("thanks", THANKS), ("greeting", GREETING)):
            if pattern.search(text):
                return kind
    return "default"


@cache
def unasked(language: str, name: str) -> list[str]:
    """The lines of `confirm` or `deny` that say nothing by themselves: those that are a wish elsewhere stay what they are there, and so does what names a deed."""
    lists = seeds(language)
    wishes = {line for intent in Intent for line in lists[intent]}
    return [line for line in lists[name] if line not in wishes and not DEED.search(line)]


class _Dialogue:
    def __init__(self, pick: random.Random) -> None:
        self.pick = pick
        self.language = "zh" if pick.random() < 0.48 else "en"
        self.now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(
            days=pick.randrange(730), minutes=pick.randrange(1440)
        )
        self.facts = self._customer()
        self.state = DialogueState()
        self.queue: list[Triage] = []
        self.pieces = [Piece("system", MINI_PROMPT)]
        self.speaker = Speaker(self.language, pick, self._number)

    def transcript(self) -> list[Piece]:
        if self.pick.random() < OPENING_ONLY:
            self._said(alternatives=0)
            return self.pieces
        turns = self.pick.choices((1, 2, 3, 4, 5), (20, 35, 25, 13, 7))[0]
        for _ in range(turns):
            self._turn()
        return self.pieces

    # -- what the customer says next

    def _said(self, alternatives: int = ALTERNATIVES) -> Utterance:
        """The next message and its triage, added to the transcript."""
        said, *others = (self._message() for _ in range(1 + alternatives))
        self.pieces += [
            Piece(
                "user", said.text, instead=tuple((other.text, other.to_wire()) for other in others)
            ),
            Piece("assistant", said.to_wire(), learn=True),
        ]
        return said

    def _turn(self) -> None:
        said = self._said()
        text, triage = said.text, said.triage
        language = wording.language_of(text, self.language)
        before, wishes, first = self.state, [triage], True
        while wishes:
            decision = self._decided(wishes.pop(0))
            reply = self._reply(decision, language, text)
            if first:
                self.queue += further_wishes(triage, text, self.facts, before)
                first, first_decision = False, decision
            if not self.state.waiting and self.queue and first_decision.action != "unavailable":
                wishes.append(self.queue.pop(0))
            last = not wishes
            note = self._note(before.waiting, first_decision, language) if last else ""
            self.pieces.append(Piece("assistant", reply, learn=True, more=note))

    def _message(self) -> Utterance:
        if wish := self.state.open_wish:
            return self._answer(wish.intent)
        pick, speaker = self.pick, self.speaker
        last = self.state.wish
        options = [
            ("wish", 62),
            ("other", 24),
            ("two", 4),
            ("hostile", 9),
            ("card", 3),
            ("number", 3),
            ("yes", 1.5),
            ("no", 1.5),
        ]
        if last:
            options += [("follow", 18), ("correct", 7), ("aside", 28)]
            if last.intent is Intent.RETURN_EXCHANGE:
                options += [("take back", 6), ("reason", 0 if last.reason else 20)]
            else:
                options += [("dropped", 5)]
            if last.intent not in NEEDS_NO_ORDER:
                options += [("another", 12)]
        match pick.choices([o[0] for o in options], [o[1] for o in options])[0]:
            case "other":
                return speaker.wish(Intent.OTHER)
            case "aside":
                return speaker.listed("aside", Intent.OTHER)
            case "two":
                return speaker.two_wishes()
            case "hostile":
                return speaker.hostile()
            case "card":
                return speaker.listed("order_card", Intent.OTHER)
            case "number":
                return speaker.listed("give_order", Intent.OTHER)
            case "yes":
                return self._unasked("confirm", Act.CONFIRM)
            case "no":
                return self._unasked("deny", Act.DENY)
            case "take back":
                return speaker.listed("take_back", Intent.RETURN_EXCHANGE, Act.DENY)
            case "reason":
                return speaker.listed("give_reason", Intent.RETURN_EXCHANGE)
            case "dropped":
                return speaker.listed("dropped", Intent.OTHER, Act.DENY)
            case "another":
                assert last is not None
                explained = last.intent in REASONS and pick.random() < 0.4
                return speaker.listed(
                    "another_reason" if explained else "another_order", last.intent
                )
            case "follow":
                return speaker.wish(self._intent(), with_order=False)
            case "correct":
                assert last is not None
                return speaker.listed(
                    pick.choice(("correct_order", "correct_order", "correct_other")),
                    last.intent,
                    Act.CORRECT,
                )
        return speaker.wish(self._intent(), with_order=True if pick.random() < 0.25 else None)

    def _answer(self, intent: Intent) -> Utterance:
        """What customers do with an open question: mostly answer it."""
        pick, speaker, waiting = self.pick, self.speaker, self.state.waiting
        chance = pick.random()
        if chance < 0.55:
            if waiting == "order":
                return speaker.listed(
                    "order_card" if pick.random() < 0.08 else "give_order", intent
                )
            if waiting == "address":
                return speaker.listed("give_address", Intent.CHANGE_ADDRESS)
            return speaker.listed("confirm", intent, Act.CONFIRM)
        if chance < 0.68:
            return speaker.listed("deny", intent, Act.DENY)
        if chance < 0.80:
            if intent is Intent.CHANGE_ADDRESS and waiting == "yes" and pick.random() < 0.6:
                return speaker.listed("correct_address", intent, Act.CORRECT)
            return speaker.listed(
                pick.choice(("correct_order", "correct_order", "correct_other")),
                intent,
                Act.CORRECT,
            )
        if chance < 0.84:
            return speaker.listed("aside", Intent.OTHER)
        if chance < 0.88:
            return speaker.wish(Intent.OTHER, with_order=False)
        return speaker.wish(self._intent(), with_order=None if pick.random() < 0.4 else False)

    def _unasked(self, name: str, act: Act) -> Utterance:
        """A yes or no to nothing."""
        line = self.pick.choice(unasked(self.language, name))
        return Utterance(clean(line), Triage(intent=Intent.OTHER, act=act))

    def _intent(self) -> Intent:
        return self.pick.choice([i for i in Intent if i is not Intent.OTHER])

    def _number(self) -> str:
        """Mostly an order of the customer's, preferably one not under discussion."""
        chance, ids = self.pick.random(), [o.id for o in self.facts.orders]
        if chance < 0.12 or not ids:
            return order_number(self.pick)
        fresh = [i for i in ids if i != self.state.order_id] or ids
        return self.pick.choice(fresh if chance < 0.75 else ids)

    # -- what the assistant does

    def _decided(self, triage: Triage) -> Decision:
        if self.pick.random() < 0.02:
            return Decision("unavailable", "system.unavailable")
        decision, self.state = decide(triage, self.facts, self.state, self.now)
        if decision.write:
            self._apply(decision.write)
            if decision.write.kind not in ("cancel", "address", "invoice"):
                decision = replace(
                    decision,
                    say={**decision.say, "ticket": f"T{self.pick.randrange(1, 99999):05d}"},
                )
        return decision

    def _reply(self, decision: Decision, language: str, text: str) -> str:
        facts = wording.facts_shown(decision.say, language)
        self.pieces.append(Piece("system", brief(decision.action, decision.rule, language, facts)))
        return self.pick.choice(
            wording.fitting(decision.rule, language, facts, small_talk_kind(text))
        )

    def _note(self, had_question: str, decision: Decision, language: str) -> str:
        return wording.note(had_question, self.state, self.queue, decision, language)

    def _apply(self, write: Write) -> None:
        changes = {
            "cancel": {
                "status": "cancelled",
                "cancelled_at": self.now,
                "refund": "approved",
                "refund_at": self.now,
            },
            "return": {"refund": "requested", "refund_at": self.now},
            "invoice": {"invoice": "issued"},
        }.get(write.kind, {})
        orders = tuple(
            replace(o, **changes) if o.id == write.order_id else o  # type: ignore[arg-type]
            for o in self.facts.orders
        )
        urged = (
            {**self.facts.urged_at, write.order_id: self.now}
            if write.kind == "urge"
            else self.facts.urged_at
        )
        self.facts = replace(self.facts, orders=orders, urged_at=urged)

    # -- a customer and their orders

    def _customer(self) -> CustomerFacts:
        pick = self.pick
        count = pick.choices((0, 1, 2, 3, 4), (4, 36, 30, 20, 10))[0]
        joined = self.now - timedelta(days=pick.choice((2, 15, 90, 400, 1500)))
        return CustomerFacts(
            "C",
            tuple(self._order() for _ in range(count)),
            joined,
            pick.choice((0, 0, 0, 2, 5)),
            pick.random() < 0.85,
        )

    def _order(self) -> OrderView:
        pick, now = self.pick, self.now
        status = pick.choice(
            (
                "unpaid",
                "paid",
                "paid",
                "paid",
                "shipped",
                "shipped",
                "delivered",
                "delivered",
                "delivered",
                "cancelled",
            )
        )
        age = pick.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 20, 30))

        def ago(days: float) -> datetime:
            return now - timedelta(days=days)

        shipped = status in ("shipped", "delivered")
        refund = (
            "approved"
            if status == "cancelled"
            else pick.choices(("none", "requested", "approved", "paid"), (80, 7, 7, 6))[0]
            if status == "delivered"
            else "none"
        )
        return OrderView(
            id=order_number(pick),
            item=pick.choice(seeds(self.language)["items"]),
            category=pick.choice(CATEGORIES),
            status=status,
            amount=pick.choice((pick.randrange(5, 500) * 100, pick.randrange(500, 900000))),
            created_at=ago(age + 4),
            opened=pick.random() < 0.5,
            promised_at=ago(pick.choice((-3, -2, -1, 0, 1, 3)))
            if status == "paid" and pick.random() < 0.9
            else None,
            shipped_at=ago(age + 2) if shipped else None,
            delivered_at=ago(age) if status == "delivered" else None,
            cancelled_at=ago(age) if status == "cancelled" else None,
            carrier=pick.choice((*CARRIERS[self.language], *seeds(self.language)["carriers"]))
            if shipped
            else "",
            tracking_number=f"{pick.choice(('SF', 'YT', 'JD', 'ZT', 'JT', 'EMS'))}{pick.randrange(10**10, 10**13)}"
            if shipped
            else "",
            payment=pick.choices(("ok", "failed", "duplicate"), (80, 10, 10))[0],
            refund=refund,
            refund_at=ago(pick.choice((0, 1, 3, 6, 10, 14, 17, 25))) if refund != "none" else None,
            invoice=pick.choices(("none", "issued"), (70, 30))[0] if status != "unpaid" else "none",
        )
