"""The readers of the arms that work without the desk's grammar.

Each is written as by someone who knows the job: what can be saved of an answer is
saved, and what cannot is taken for small talk, as in a program that has to go on.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from typing import Any, get_args

import xgrammar

from csproto import settings
from csproto.desk.handbook import Slot, default_handbook
from csproto.desk.reader import Call, ModelReader, Read
from csproto.desk.references import canonical
from csproto.desk.transcript import Message, to_json
from csproto.desk.triage import MOST_WISHES, Act, Triage, Wish
from csproto.engine.endpoint import CallOptions, GenerationTruncated
from csproto.measure.bench.clients import TimedEndpoint

SMALL_TALK = Triage(wishes=(Wish("other"),))
# The blog's regular expression for our JSON: always three fields, and anything but a
# quote between quotes.
BLOG_REGEX = (
    rf'\{{"wishes":\[\{{"intent":"({"|".join(default_handbook().intents)})",'
    r'"orders":\["[^"]+"\],"reason":"[^"]+"\}\]\}'
)
BLOG_EBNF = str(xgrammar.Grammar.from_regex(BLOG_REGEX))


@cache
def _begin() -> Any:
    """Return the SGLang program that begins a reply. Importing sglang takes seconds."""
    import sglang as sgl

    roles = {"system": sgl.system, "user": sgl.user, "assistant": sgl.assistant}

    @sgl.function
    def begin(s, messages: Sequence[Message], limit: int):  # type: ignore[no-untyped-def]
        for message in messages:
            s += roles[message.role](message.content)
        s += sgl.assistant(sgl.gen("answer", max_tokens=limit))

    return begin


class Patient(ModelReader):
    """A reader that takes an answer as it is when the token limit cut it short."""

    endpoint: TimedEndpoint

    def _run(self, program: str, ebnf: str, *arguments: Any, rivals: int = 0) -> Call:
        try:
            return super()._run(program, ebnf, *arguments, rivals=rivals)
        except GenerationTruncated:
            return self._last_call()

    def _last_call(self) -> Call:
        last = self.endpoint.calls[-1]
        return Call(last.text, last.meta)


class ByHand(Patient):
    """Asks for free text and cleans the JSON by hand."""

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        """Let the model read one message. Raises EngineError."""
        call = self._run("triage", "", messages, text)
        return Read((clean_json(call.text) or SMALL_TALK).to_wire(), call.meta)

    def claims(self, messages: Sequence[Message], ebnf: str) -> Call:
        """Let the model read the claims about a payment. Raises EngineError."""
        call = self._run("payment_risk", "", messages)
        claims = {n: s for n, s in _slots("payment_issue").items() if s.claim}
        return Call(to_json(_fitting(claims, _object(call.text) or {})), call.meta)

    def choose(self, messages: Sequence[Message], stems: Sequence[str]) -> tuple[int, Call]:
        """Let the model begin a reply, and take the one that begins most like it.

        It may write as many tokens as the longest of the first words has characters.
        Raises EngineError.
        """
        options = CallOptions(stop=self.stop, stream_interval=settings.UNREAD)
        backend, limit = self.endpoint.with_options(options), max(map(len, stems))
        with suppress(GenerationTruncated):
            _begin().run(messages, limit, **self.sampling, backend=backend, use_thread=False)
        call = self._last_call()
        shared = [_shared_length(call.text, stem) for stem in stems]
        return shared.index(max(shared)), call


class BlogRegex(Patient):
    """Reads messages under the blog's regular expression in place of the grammar."""

    def triage(self, messages: Sequence[Message], text: str, ebnf: str) -> Read:
        """Let the model read one message. Raises EngineError."""
        call = self._run("triage", BLOG_EBNF, messages, text)
        return Read((strict(call.text) or SMALL_TALK).to_wire(), call.meta)


def _shared_length(one: str, other: str) -> int:
    """Count the characters that two texts share at the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def strict(raw: str) -> Triage | None:
    """Return the triage in valid JSON with usable wishes, or None."""
    with suppress(ValueError):
        found = json.loads(raw)
        if isinstance(found, dict) and (triage := _triage(found)):
            return triage if len(triage.wishes) == len(found.get("wishes", ())) else None
    return None


def clean_json(raw: str) -> Triage | None:
    """Return the triage that can be saved of a model's free text, or None.

    It copes with text around the object, wrong quotes and commas, upper case, and
    fields that do not fit.
    """
    found = _object(raw)
    return _triage(found) if found else None


def _object(raw: str) -> dict[str, Any] | None:
    """Return the JSON object in a text, after repairs, or None."""
    start, end = raw.find("{"), raw.rfind("}")
    if start < 0:
        return None
    text = raw[start : end + 1] if end > start else raw[start:] + "}"
    text = text.translate(str.maketrans("“”：，", '"":,'))
    text = re.sub(r",\s*([}\]])", r"\1", text)
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(text)
            return found if isinstance(found, dict) else None
    return None


def _triage(found: Mapping[str, Any]) -> Triage | None:
    """Return the triage of the fields that fit, or None if there is neither wish nor act."""
    act: Act = found["act"] if found.get("act") in get_args(Act) else "ask"
    entries = found.get("wishes", [found])
    read = [_wish(entry) for entry in entries] if isinstance(entries, list) else []
    wishes = tuple(wish for wish in read if wish)[:MOST_WISHES]
    return Triage(act, wishes) if wishes or act != "ask" else None


def _wish(entry: Any) -> Wish | None:
    """Return the wish of the fields that fit, or None without a known intent."""
    if not isinstance(entry, dict):
        return None
    intent = str(entry.get("intent", "")).strip().lower()
    if intent not in default_handbook().wishes:
        return None
    named = entry.get("orders", [])
    numbers = [canonical(str(number)) for number in (named if isinstance(named, list) else [named])]
    orders = dict.fromkeys(n for n in numbers if re.search(r"\d", n))
    slots = {name: slot for name, slot in _slots(intent).items() if not slot.claim}
    return Wish(intent, tuple(orders), _fitting(slots, entry))


def _slots(intent: str) -> Mapping[str, Slot]:
    return default_handbook().wishes[intent].slots


def _fitting(slots: Mapping[str, Slot], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the slots can have."""
    return {n: found[n] for n, slot in slots.items() if n in found and _fits(slot, found[n])}


def _fits(slot: Slot, value: Any) -> bool:
    if slot.flag:
        return value is True
    if slot.number:
        return type(value) is int and 0 <= value <= 9
    words = slot.choices or (list(default_handbook().answers) if slot.answers else None)
    return isinstance(value, str) and (value in words if words else bool(value))
