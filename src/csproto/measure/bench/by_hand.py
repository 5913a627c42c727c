"""The baseline: free text, JSON cleaned by hand, keywords where nothing can be saved, and the reply shown as it comes.

Written as one would write it who knows the job but has no grammar and no check: the same prompt, facts, rules, writes and kept conversations as the
assistant has, append-only as well, so that all an arm wins is won by what it does differently.
"""

import ast
import json
import re
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from csproto import reply as reply_program
from csproto import settings, wording
from csproto import triage as triage_program
from csproto.conversation import Conversation
from csproto.dialogue import decide
from csproto.engine.endpoint import CallOptions, GenerationTruncated, Usage
from csproto.keywords import keyword_triage
from csproto.meaning import as_meant, further_wishes
from csproto.measure.bench.clients import TimedEndpoint
from csproto.shop.orders import CustomerFacts, OrderApi
from csproto.transcript import Message, clean, system_prompt
from csproto.triage import Triage
from csproto.turn import Part, Turn


def clean_json(raw: str) -> Triage | None:
    """What can be saved of a model's free text: fences and talk around the object, quotes, commas, case, fields it does not know; None when nothing can."""
    start, end = raw.find("{"), raw.rfind("}")
    if start < 0:
        return None
    text = raw[start : end + 1] if end > start else raw[start:] + "}"
    text = text.translate(str.maketrans("“”：，", '"":,'))
    text = re.sub(r",\s*([}\]])", r"\1", text)
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(text)
            return _triage(found) if isinstance(found, dict) else None
    return None


def _triage(found: dict[str, Any]) -> Triage | None:
    """A triage of the fields that fit; without a usable intent there is none."""
    kept = {"intent": str(found.get("intent", "")).strip().lower()}
    for name in Triage.model_fields.keys() - {"intent"} & found.keys():
        with suppress(ValidationError):
            Triage.model_validate(kept | {name: found[name]})
            kept[name] = found[name]
    with suppress(ValidationError):
        return Triage.model_validate(kept)
    return None


class ByHand:
    """An assistant without grammar and check. Opened and asked like `csproto.assistant.Assistant`."""

    def __init__(self, endpoint: TimedEndpoint, orders: OrderApi, now: datetime) -> None:
        self.endpoint = endpoint.with_options(CallOptions(stream_interval=settings.READ_ALONG))
        self.orders, self.now = orders, now
        self.prompt = system_prompt(endpoint.model_name)

    def open(self, customer_id: str) -> Conversation:
        """A new conversation of a signed-in customer."""
        self.orders.known(customer_id)
        return Conversation(customer_id, self.now, transcript=[Message("system", self.prompt)])

    def turn(self, conversation: Conversation, text: str) -> Turn:
        """Answer one message. Raises EngineError."""
        began, text = time.perf_counter(), clean(text)
        conversation.language = wording.language_of(text, conversation.language)
        conversation.trim()
        nothing = keyword_triage(text)
        turn = Turn(text, nothing, nothing, [], Usage())
        raw = self._generate(triage_program.program(), conversation, turn, text)
        found = clean_json(raw)
        turn.triage = found or nothing
        wire = raw if found else nothing.to_wire()
        conversation.transcript += [Message("user", text), Message("assistant", wire)]
        facts = self.orders.facts(conversation.customer_id)
        turn.meant = as_meant(turn.triage, text, facts, conversation.state)
        conversation.queue += further_wishes(turn.meant, text, facts, conversation.state)
        wishes, shown_at = [turn.meant], 0.0
        while wishes:
            key = f"{conversation.id}:{conversation.turns}:{len(turn.parts)}"
            part = self._decide(conversation, wishes.pop(0), facts, key)
            turn.parts.append(part)
            part.reply = self._generate(reply_program.program(), conversation, turn).strip()
            shown_at = shown_at or self.endpoint.calls[-1].first
            if not part.reply:
                part.reply, part.fallback = (
                    wording.template(part.decision, conversation.language, part.facts),
                    True,
                )
            conversation.transcript.append(Message("assistant", part.reply))
            if conversation.queue and not conversation.state.waiting:
                wishes.append(conversation.queue.pop(0))
                facts = self.orders.facts(
                    conversation.customer_id
                )  # the first wish may have changed them
        conversation.turns += 1
        conversation.save(self.orders.engine)
        turn.total_ms, turn.ttft_ms = (
            (time.perf_counter() - began) * 1000,
            (shown_at - began) * 1000,
        )
        return turn

    def _generate(self, program: Any, conversation: Conversation, turn: Turn, *words: str) -> str:
        """Free text to the model's own end, or to the output limit; and what of the conversation was reused for it."""
        with suppress(GenerationTruncated):  # what there is may be of use
            program.run(
                conversation.transcript,
                *words,
                temperature=0.0,
                backend=self.endpoint,
                use_thread=False,
            )
        call = self.endpoint.calls[-1]
        turn.usage.add(call.meta)
        turn.reusable_tokens += conversation.computed_tokens
        turn.reused_tokens += min(call.meta["cached_tokens"], conversation.computed_tokens)
        conversation.computed_tokens = (
            call.meta["prompt_tokens"] + call.meta["completion_tokens"] - 1
        )
        return call.text

    def _decide(
        self, conversation: Conversation, understood: Triage, facts: CustomerFacts, key: str
    ) -> Part:
        """The decision and its write, and the brief for the reply."""
        decision, conversation.state = decide(understood, facts, conversation.state, self.now)
        say = dict(decision.say)
        if write := decision.write:
            number = self.orders.write(
                f"{key}:{write.kind}", conversation.customer_id, write, self.now, decision.rule
            )
            say |= {"ticket": f"T{number:05d}"} if number else {}
        shown = wording.facts_shown(say, conversation.language)
        brief = reply_program.brief(decision.action, decision.rule, conversation.language, shown)
        conversation.transcript.append(Message("system", brief))
        return Part(decision, shown)
