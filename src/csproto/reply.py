"""The reply: generated after facts and decision, and checked against them sentence by sentence. The check is the guarantee, not the prompt."""

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

from csproto.settings import REPLY_TOKENS
from csproto.transcript import Message, replay

SENTENCE_END = re.compile(r"[。！？]+|[.!?](?=\s)|\n")
NUMBER_WORDS = re.compile(
    r"([一二两三四五六七八九十百千]+)(?:个)?(天|日|小时|分钟|周|星期|月|年|元|块|折|倍|件|次)|\b(one|two|three|four|five|six|seven|eight|nine|ten|fifteen|twenty|thirty|hundred)\b(?=[ -](?:business |working |calendar )?(?:day|hour|minute|week|month|year|dollar|yuan|time))",
    re.IGNORECASE,
)

# Claims a reply may make only under certain rules: pattern, and the rules (or their first part) that license it.
CLAIMS: list[tuple[re.Pattern[str], tuple[str, ...]]] = [
    (
        re.compile(
            r"(?<![不没未])(?:可以|同意|支持|能)(?:为您)?(?:办理)?退(?!款)|can be returned|eligible for (?:a )?return|(?<!cannot )(?<!not )return it by",
            re.I,
        ),
        ("return.no_reason", "return.quality"),
    ),
    (re.compile(r"批准|approve", re.I), ("return.no_reason", "return.quality", "return.already_open", "refund.")),
    (
        re.compile(
            r"(?:不能|无法|不可|不支持)(?:再)?(?:为您)?(?:办理|申请|接受)?退|cannot (?:be )?(?:return|accept)|can't be returned|not returnable|no longer be returned",
            re.I,
        ),
        ("return.not_returnable", "return.too_late", "return.expired", "return.in_transit"),
    ),
    (
        re.compile(
            r"(?:已|已经)(?:为您)?(?:成功)?取消|has been cancelled|is (?:now )?cancelled|was (?:already )?cancelled",
            re.I,
        ),
        (
            "cancel.",
            "status.cancelled",
            "return.already_open",
            "urge.not_applicable",
            "tracking.not_shipped",
            "address.locked",
            "invoice.not_due",
            "other.order_card",
            "payment.pass",
            "refund.",
        ),
    ),
    (re.compile(r"地址(?:已|已经)|address (?:has been|is now|was) ", re.I), ("address.",)),
    (
        re.compile(
            r"赔偿|补偿|赔付|免费|优惠券|红包|返现|赠送|保证|compensat|free of charge|voucher|coupon|gift|guarantee",
            re.I,
        ),
        (),
    ),
    (
        re.compile(
            r"(?:将|会|已)(?:原路)?(?:全额)?退(?:款|回|还)|refund (?:will|has)|will be refunded|has been refunded", re.I
        ),
        ("refund.", "cancel.done", "return.already_open"),
    ),
    (re.compile(r"发票(?:已|已经)|invoice (?:has been|was|is) (?:issued|sent|ready)", re.I), ("invoice.issue",)),
    (re.compile(r"https?://|www\.|@|[{}<>|]|system prompt|提示词|api.?key|密钥", re.I), ()),
]


@cache
def program() -> Any:
    """The DSL program. Built on first use, because importing sglang takes seconds."""
    import sglang as sgl

    @sgl.function
    def reply(s, messages: list[Message]):  # type: ignore[no-untyped-def]
        replay(s, messages)
        s += sgl.assistant(sgl.gen("reply", max_tokens=REPLY_TOKENS))

    return reply


def brief(action: str, rule: str, language: str, facts: Mapping[str, str]) -> str:
    """The system message before a reply: decision and facts as compact JSON."""
    return json.dumps(
        {"action": action, "rule": rule, "lang": language, **facts}, ensure_ascii=False, separators=(",", ":")
    )


def ungrounded(sentence: str, rule: str, language: str, facts: Mapping[str, str]) -> str | None:
    """Why a sentence may not be shown under a rule, or None when all it says is covered by the facts.

    Checked: every run of digits stands in the facts as a whole; number words with a unit likewise; claims (approval, refusal, cancellation, refund,
    compensation, links and the like) are licensed by the rule; the language is the customer's.
    """
    plain = unicodedata.normalize("NFKC", sentence)
    known = set(re.findall(r"[0-9A-Za-z]*\d[0-9A-Za-z]*", unicodedata.normalize("NFKC", " ".join(facts.values()))))
    for number in re.findall(r"[0-9A-Za-z]*\d[0-9A-Za-z]*", plain):
        if number not in known:
            return f"the number {number} is not in the facts"
    without_facts = plain
    for value in sorted(facts.values(), key=len, reverse=True):
        without_facts = without_facts.replace(unicodedata.normalize("NFKC", value), " ")
    if match := NUMBER_WORDS.search(without_facts):
        return f"the quantity {match[0]} is not in the facts"
    for pattern, licences in CLAIMS:
        if (match := pattern.search(without_facts)) and not rule.startswith(licences or ("-",)):
            return f"the claim “{match[0]}” is not covered by {rule}"
    return None if _language_fits(without_facts, language) else f"it is not in the customer's language ({language})"


def _language_fits(text: str, language: str) -> bool:
    chinese, latin = len(re.findall(r"[\u3400-\u9fff]", text)), len(re.findall(r"[A-Za-z]{2,}", text))
    return chinese >= latin if language == "zh" else chinese == 0


class SentenceCutter:
    """Cuts a stream of text into whole sentences, so that each can be checked before it is shown."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """Add a piece of text; returns the sentences it completes, with the marks that end them."""
        self._rest += text
        done: list[str] = []
        while match := SENTENCE_END.search(self._rest):
            done.append(self._rest[: match.end()])
            self._rest = self._rest[match.end() :]
        return done

    def finish(self) -> list[str]:
        """What is left when the stream has ended."""
        rest, self._rest = self._rest, ""
        return [rest] if rest.strip() else []
