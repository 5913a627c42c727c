"""The reply: generated after facts and decision, and checked against them sentence by sentence. The check is the guarantee, not the prompt."""

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from string import Formatter
from typing import Any, NamedTuple

from csproto.settings import REPLY_TOKENS
from csproto.transcript import Message, replay
from csproto.wording import MONTHS, wordings

SENTENCE_END = re.compile(r"[。！？]+|(?<!\be\.g)(?<!\bi\.e)(?<!\b[Nn]o)(?<!\b[MDS][rst])(?<!\bapprox)[.!?](?=\s)|\n")
NUMBER_WORDS = re.compile(
    r"([一二两三四五六七八九十百千万亿半]+)(?:个)?(天|日|小时|分钟|周|星期|月|年|元|块|折|倍|件|次|工作日)"
    r"|\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred"
    r"|thousand|within an?|in an?)\b(?=[ -](?:business |working |calendar )?(?:day|hour|minute|week|month|year|dollar|yuan|time))"
    r"|明天|后天|明日|今晚|下周|下个?月|本周|月底|\b(?:tomorrow|tonight|next (?:week|month)|(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b",
    re.IGNORECASE,
)
MEASURE = re.compile(
    r"(\d+)\s*(天|日内|日|月|年|小时|分钟|周|元|块|折|%|(?:business |working |calendar )?(?:day|hour|minute|week|month|year)s?\b|yuan|dollar)",
    re.I,
)
DIGITS = re.compile(r"[0-9A-Za-z]*\d[0-9A-Za-z]*")
LONG = 5  # characters of an order or parcel number: a sentence that says one twice has lost its thread
PRICE = re.compile(r"[¥$]\s*([\d.,]*\d)")
MONTH = re.compile(rf"(?<=\d )(?:{'|'.join(MONTHS)})|(?:{'|'.join(MONTHS)})(?= \d)")


def _claim(pattern: str, *licences: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    return re.compile(pattern, re.I), licences


# Claims a reply may make only under certain rules: pattern, and the rules (or their first part) that license it.
# What a fact says, say a status, is taken out of a sentence before it is looked at, so it needs no licence here.
CLAIMS = [
    _claim(  # it can be returned
        r"(?<![不没未无])(?:可以?|能|同意|支持|允许)(?:为您|给您|帮您|直接|继续|办理|申请|无理由|按质量问题)*退(?!款)|请[^，。]{0,12}寄[回出]"
        r"|\b(?:can|may|could) (?:still |now |also )*(?:be returned|return)\b|eligible for (?:a )?return|(?<!cannot )(?<!not )return it by"
        r"|return is (?:possible|accepted|open)|send (?:it|them|the \w+|order *) *(?:back )?by\b",
        "return.no_reason",
        "return.quality",
    ),
    _claim(  # it cannot be returned
        r"(?:不能|不可以?|无法|不支持|不予|不接受)(?:再|直接|为您|给您|办理|申请|接受|无理由|现在)*退|退不了|(?:已过|超过了?)[ 的]*(?:天|无理由|退货)"
        r"|退货期[^，。]{0,16}(?:，[^，。]{0,12}已经)?超过|退货已过期|只受理质量"
        r"|(?:cannot|can't|can not) (?:yet )?(?:be )?(?:return|accept)|not returnable|no longer be returned|not eligible|return[^.,]{0,30}(?:no longer|not) possible"
        r"|return cannot|only (?:a )?quality problems?|(?:days|period)\b[^.]{0,40}(?:have passed|(?:is|are) over)",
        "return.not_returnable",
        "return.too_late",
        "return.expired",
        "return.in_transit",
        "return.already_open",
    ),
    _claim(r"拒收|refuse (?:it|the parcel|delivery)|not accept the parcel", "return.in_transit", "cancel.locked"),
    _claim(  # a return or a refund is approved
        r"(?<!未)(?<!没有)(?:批准|审核通过|通过审核|退款已通过)|(?<!\bnot )(?<!\bnot yet )approve",
        "return.no_reason",
        "return.quality",
        "refund.approved",
    ),
    _claim(  # money will come
        r"[将会][^，。,]{0,10}退[款回还给]|refund will|will be (?:refunded|returned to)|you will receive|will pay\b|goes back",
        "refund.approved",
        "cancel.done",
    ),
    _claim(  # money has come
        r"已[^，。,]{0,8}退[款回还]|退款[^，。,该]{0,6}(?:已[^，。,]{0,6}付出|已?(?:经)?(?:完成|到账))|退给您了|账户明细"
        r"|(?:has been|was|were|been) refunded|refund[^.,]{0,20}(?:has been paid|is (?:complete|done)|was paid)|(?:was|were) paid\s+on|paid your refund|sent back",
        "refund.paid",
    ),
    _claim(  # the order is cancelled
        r"已经?(?:于|在|是|为您|帮您|成功|订单|\s)*取消|取消(?:成功|完成)"
        r"|(?:has|have|had|is|was) (?:already |now |been |successfully )*cancell?ed|cancellation is done|date of the cancellation",
        "cancel.done",
        "cancel.already",
        "status.cancelled",
    ),
    _claim(  # it cannot be cancelled
        r"(?:不能|无法|不可以?)[^，。,]{0,4}取消|取消不了|cannot be cancell?ed|too late to cancel|cancelling is not possible|cancell?ed only",
        "cancel.locked",
        "return.in_transit",
    ),
    _claim(  # the address is another one
        r"已经?(?:为您|帮您)?(?:改为|改好|改成|更新|修改|变更|保存)|修改成功|(?<!nothing )(?:has been|is|was)(?: now)? (?:changed|updated|stored|saved)"
        r"|I have updated|have changed (?!nothing)|will now be sent to",
        "address.changed",
    ),
    _claim(  # an invoice exists
        r"已经?(?:为您|为|帮您)?[^，。,没未]{0,10}开[具好出过]|开好了|已有发票|invoice[^.,]{0,30}(?:has been|was|is)(?: already| now)? (?:issued|sent|ready)"
        r"|issued (?:an|the) invoice|(?:now|already) has (?:its|an) invoice|was invoiced|already is an invoice|invoice[^.,]{0,30}exists",
        "invoice.issue",
    ),
    _claim(  # no payment risk
        r"(?:没有|未)(?:发现|查到|见)[^，。,]{0,4}(?:风险|异常|问题)|支付[^，。,]{0,6}(?:正常|无异常)|no (?:sign of )?risk|(?:found|shows) no(?:thing unusual| problem)"
        r"|check[^.]{0,30}is fine",
        "payment.pass",
    ),
    _claim(
        r"(?:支付|付款)[^，。,]{0,8}(?:停止|拦截)|payment[^.]{0,40}(?:stopped|blocked)|stopped the payment",
        "payment.block",
    ),
    _claim(  # it has left
        r"已经?(?:于|在|\s)*发[货出]|正在运输|运输途中|在路上|配送途中|(?<!should )(?:has|have|was) (?:already |been )*shipped|has (?:already )?left\b|\bleft\s+on\b|handed\s+(?:it )?to|is on its way|is in transit",
        "status.shipped",
        "status.delivered",
        "return.in_transit",
    ),
    _claim(  # it has arrived
        r"已经?(?:于|在|\s)*(?:签收|送达)|(?:has been|was|were) delivered|arrived on",
        "status.delivered",
        "return.too_late",
    ),
    _claim(  # a carrier that is not the one in the facts, which are taken out before this is looked for
        r"顺丰|中通|圆通|申通|韵达|极兔|德邦|邮政|京东(?:快递|物流)|\b(?:DHL|UPS|EMS|FedEx|USPS|YTO|ZTO|SF Express|JD Logistics|Royal Mail)\b"
    ),
    _claim(  # nothing has changed
        r"没有(?:做任何|任何|改动|改变|变化)|什么都没有?改|未作任何|未改动|nothing (?:was|has been) (?:changed|modified)|no change was|unchanged",
        "pending.",
    ),
    _claim(  # never
        r"赔|补偿|补贴|返现|赠送|免费|免单|免运费|优惠券|代金券|红包|礼品|积分|折扣|打折|保证|compensat|reimburs|free of charge|for free|no charge|voucher|coupon"
        r"|\bgift|discount|bonus|store credit|make (?:it|this) up to you|guarantee"
    ),
    _claim(r"https?://|www\.|[a-z0-9-]+\.(?:com|cn|net|org|io)(?![a-z])|@|[{}<>|]|system prompt|提示词|api.?key|密钥"),
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


# What a reply is written in, digits, marks of currency and braces apart: those come from the facts or not at all.
PLAIN_CHARACTERS = {
    "zh": r"[ !-#'-),./:;?~\u2010-\u2027\u3000-\u303f\u3400-\u9fff\uff01-\uff03\uff05-\uff0f\uff1a-\uff20\uff5e]",
    "en": r"[ !-#'-),-/:;?A-Za-z~\u00c0-\u024f\u2010-\u2027-]",
}


DAYS = ("天", "日内", " days", " day", "-day")


def grammar(facts: Mapping[str, str], language: str) -> str:
    """The EBNF of a reply: any text in the language; what is not plain text of it (a number, a date, a price, a name in other letters) is a whole value of a fact."""
    plain = re.compile(PLAIN_CHARACTERS[language])
    values = [value for value in _values(facts) if re.sub(plain, "", value) and value.isprintable()]
    text = PLAIN_CHARACTERS[language]
    if not values:
        return f"root ::= {text}+\n"
    choice = " | ".join(json.dumps(value, ensure_ascii=False) for value in dict.fromkeys(values))
    return f"root ::= {text}* (value {text}+)* value?\nvalue ::= {choice}\n"


def _values(facts: Mapping[str, str]) -> list[str]:
    """What may be cited; a number of days only with its unit."""
    days = [f"{facts['window']}{unit}" for unit in DAYS] if "window" in facts else []
    return [*(v for k, v in facts.items() if k != "window"), *days]


def ungrounded(sentence: str, rule: str, language: str, facts: Mapping[str, str]) -> str | None:
    """Why a sentence may not be shown under a rule, or None when all it says is covered by the facts.

    Checked: every run of digits stands in the facts as a whole, a long one once in the sentence; number words with a unit likewise; claims (approval,
    refusal, cancellation, refund, compensation, links and the like) are licensed by the rule; the language is the customer's. Where the sentence follows
    one of the rule's wordings up to a fact, that fact follows: "the kettel" is no kettle.
    """
    plain, values = _plain(sentence), [_plain(value) for value in facts.values()]
    known, numbers = set(DIGITS.findall(" ".join(values))), DIGITS.findall(plain)
    for number in numbers:
        if number not in known:
            return f"the number {number} is not in the facts"
        if len(number) >= LONG and numbers.count(number) > 1:
            return f"the number {number} stands in it twice"
    without_facts = plain
    for value in sorted(values, key=len, reverse=True):
        without_facts = without_facts.replace(value, " ")
    if match := NUMBER_WORDS.search(without_facts):
        return f"the quantity {match[0]} is not in the facts"
    if strange := _out_of_place(plain, facts):
        return f"{strange} is put together from other facts"
    for pattern, licences in CLAIMS:
        if (match := pattern.search(without_facts)) and not rule.startswith(licences or ("-",)):
            return f"the claim “{match[0]}” is not covered by {rule}"
    if garbled := _garbled(sentence.strip(), rule, language, facts):
        return f"“{garbled[1]}” stands where the {garbled[0]} belongs"
    return None if _language_fits(without_facts, language) else f"it is not in the customer's language ({language})"


def _garbled(sentence: str, rule: str, language: str, facts: Mapping[str, str]) -> tuple[str, str] | None:
    """The name of a fact and what a sentence has in its place, judged by the wordings it follows longest.

    It leaves them at a fact or within, and goes on after it as they do: "the desk lam can be returned".
    """
    departures = [_departure(sentence, wording, facts) for wording in _sentences(rule, language)]
    farthest = max((d.reach for d in departures), default=0)
    for departure in departures:
        if departure.key and departure.reach == farthest:
            rest, after, begun = sentence[departure.reach :], departure.after, departure.begun
            end = rest.find(after) if after else -1
            got = begun + (rest[:end] if end >= 0 else rest)
            # A sentence that was cut short may lack the mark that should end it, but no word.
            cut_short = end < 0 and not after.strip()[:1].isalnum()
            if got and (end >= 0 or cut_short or 2 <= len(begun) < departure.reach):
                return departure.key, got
    return None


class Departure(NamedTuple):
    """How far a sentence follows a wording; where it leaves it at a fact, which, what it has of it, and the words that should come after it."""

    reach: int
    key: str = ""
    begun: str = ""
    after: str = ""


def _departure(sentence: str, wording: list[tuple[str, str]], facts: Mapping[str, str]) -> Departure:
    reach = 0
    for (words, key), (after, _) in pairwise([*wording, ("", "")]):
        said = _shared(sentence[reach:], words)
        reach += said
        if said < len(words) or key not in facts:
            break
        said = _shared(sentence[reach:], facts[key])
        reach += said
        if said < len(facts[key]):
            return Departure(reach, key, facts[key][:said], after[:3])
    return Departure(reach)


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin alike with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@cache
def _sentences(rule: str, language: str) -> list[list[tuple[str, str]]]:
    """The sentences of a rule's wordings, each as pairs of some words and the key of the fact after them, empty where none comes."""
    found = []
    for text in wordings()["rules"].get(rule, {}).get(language, []):
        cutter = SentenceCutter()
        for sentence in cutter.feed(text) + cutter.finish():
            found.append([(words, key or "") for words, key, *_ in Formatter().parse(sentence.strip())])
    return found


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _out_of_place(plain: str, facts: Mapping[str, str]) -> str | None:
    """A duration, price or date whose digits are known, but from something else: the seven of 7 March is no week."""
    rest = plain
    for value in sorted(facts.values(), key=len, reverse=True):
        if not value.isdigit():
            rest = rest.replace(_plain(value), " ")
    for match in MEASURE.finditer(rest):
        if match[1] != facts.get("window") or match[2] not in ("天", "日内", "day", "days"):
            return f"the quantity {match[0]}"
    amount = facts.get("amount", "").lstrip("¥")
    for match in PRICE.finditer(rest):
        if match[1].replace(",", "") not in (amount, amount.removesuffix(".00")):
            return f"the price {match[0]}"
    shown = " ".join(facts.values())
    return next((f"the month {m[0]}" for m in MONTH.finditer(rest) if m[0] not in shown), None)


def _language_fits(text: str, language: str) -> bool:
    if re.search(r"[\u0370-\u1fff\u3040-\u30ff\uac00-\ud7af]", text):  # neither Han nor Latin
        return False
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
