"""What a customer wants, as one small JSON object that the model writes under a grammar."""

import re
import unicodedata
from enum import StrEnum
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from csproto.engine.grammar import SPAN_CHARACTERS, Copied, Possible, to_ebnf
from csproto.settings import TRIAGE_TOKENS
from csproto.transcript import Message, replay


class Intent(StrEnum):
    """The twelve wishes; the values are the wire format."""

    RETURN_EXCHANGE = "return_exchange"
    REFUND_STATUS = "refund_status"
    ORDER_STATUS = "order_status"
    TRACKING_NUMBER = "tracking_number"
    URGE_SHIPMENT = "urge_shipment"
    CHANGE_ADDRESS = "change_address"
    CANCEL_ORDER = "cancel_order"
    INVOICE = "invoice"
    PAYMENT_ISSUE = "payment_issue"
    COMPLAINT = "complaint"
    HUMAN_AGENT = "human_agent"
    OTHER = "other"


LABELS = dict(
    zip(
        Intent,
        "售后申请 退款进度 订单状态 快递单号 催发货 修改地址 取消订单 发票 支付问题 投诉 转人工 其他".split(),
        strict=True,
    )
)


class Act(StrEnum):
    """What the message does with the dialogue: a wish, a yes, a no, or a slot put right."""

    ASK = "ask"
    CONFIRM = "confirm"
    DENY = "deny"
    CORRECT = "correct"


YES = re.compile(r"\W*(?:是|是的|yes)\W*", re.I)  # the very words our questions ask for are not left to a model
NO = re.compile(r"\W*(?:否|不|不是|不要|no|nope)\W*", re.I)
NEGATION = re.compile(  # anywhere but after a clear yes: "yes, I don't need it any more"
    r"^(?!\W*(?:是|对(?!了)|确认|确定|yes\b)).*?(?:(?<!要)不(?!错|好意思)|(?<![没有会])错|别(?!的)|没(?!有?问题|错|毛病|意见|关系)|算了|等等|等一下|先等|\b(?:no(?! problem| objection)|not(?! a problem)|nope|don'?t|never|cancel that|stop|wait|hold on|other one|wrong|mistake|typo)\b)",
    re.I | re.S,
)

AFFIRMATION = re.compile(  # somewhere in every yes: agreement, or the deed itself; a sigh about the cat has none
    r"[是好行对對嗯恩昂可阔要改换換办辦弄搞退走成中得系啱按就当當然必取确確定同准继繼提交接受意嘛请請吧妥懂操发發欧歐奥队摁√✓✔✅👌👍🙆🆗💯]"
    r"|没[错问毛]|沒[錯問毛]|冇[错錯問]|无误|\b1+\b|\bok|\b(?:can|deal|k|kk|y|ya|yah|ye|ys|yh|yis|yus|eys|si|ja|da|hai|oui)\b|got it|betcha|green light|ye[aps]|yas|yup|yarp|sure|fo sho|confirm|correct|right|\bdo(?:ne)?\b|\bgo\b"
    r"|please|\bpl[sz]|fine|great|proceed|agree|absolut|definit|of course|that'?s|accept|approv|cancel|change|update|affirm|perfect|good|cool|exact|aye|indeed"
    r"|certain|alright|works|with it|no (?:problem|objection)|uh.?huh|mhm|sound|happy|let'?s|positive|submit|roger|\back\b|grant|authori|consent|i'?m in|total"
    r"|\bbet\b|natural|obvi|lovely|suits|true|tick|scrap|drop|end it|kill|make it|refund|send it|ship it",
    re.I,
)


def acts_possible(text: str) -> list[str]:
    """What a message can do with the dialogue: a plain yes or no is one, nothing that denies anything is a yes, and a yes must say so somehow."""
    if YES.fullmatch(text):
        return [Act.CONFIRM]
    if NO.fullmatch(text):
        return [Act.DENY]
    can_agree = bool(AFFIRMATION.search(text)) and not NEGATION.match(text)
    return [act for act in Act if act is not Act.CONFIRM or can_agree]


def canonical_order_id(text: str) -> str:
    """Full-width to ASCII (NFKC), upper case, only letters and digits: `＃jd 123` and `JD-123` name one order."""
    return re.sub(r"[^0-9A-Z]", "", unicodedata.normalize("NFKC", text).upper())


TELEPHONE = re.compile(  # but for a number that is called an order
    r"(?<![0-9A-Za-z])(?<!单)(?<!单号)(?<!单号[: ])(?:\+\d[\d -]{7,15}\d|(?:86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4})(?![0-9A-Za-z])(?! ?[这那]个?订?单)"
    r"|(?:电话|\btel\b|\b(?:phone|call|ring|text) me (?:on|at))[^\d\n]{0,4}\d[\d -]{5,}\d",
    re.I,
)
WAYBILL = re.compile(  # called one, or in the form of a large carrier
    r"(?:运单|運單|面单|面單|waybill)(?:号码?|號碼?| number| no\.?)?(?:是|为| is)?[:# ]*[0-9A-Za-z-]*\d[0-9A-Za-z-]*"
    r"|(?<![0-9A-Za-z])(?:SF|YT|JT|ZTO|STO)\d{12,15}(?![0-9A-Za-z])|(?:(?<![0-9A-Za-z])UPS ?)?(?<![0-9A-Za-z])1Z[0-9A-Z]{16}(?![0-9A-Za-z])",
    re.I,
)
ID_RUN = re.compile(
    r"(?:(?<![A-Za-z])(?:[A-Za-z]{1,4}-?|[A-Z]{1,4} ))?(?<![0-9])\d[0-9A-Za-z]*(?:[ -][0-9A-Za-z]*\d[0-9A-Za-z]*)*"
)
CALLED_ORDER = re.compile(
    r"(?:订单|訂單|\border)(?:编号|号码?|编號|號碼?| ?number| ?no\.?| ?id)?(?:是|为| is)?[:#. ]*$", re.I
)


def order_id_candidates(text: str) -> list[str]:
    """What in a message could be an order id, as it stands there: at least six digits and letters, four of them digits, with spaces and hyphens in all the
    ways customers put them. Telephone numbers and waybills are none. Which one it is, if any, the model decides."""
    found: list[str] = []
    for run in ID_RUN.finditer(WAYBILL.sub("\n", TELEPHONE.sub("\n", text))):
        found += [run[0], re.sub(r"^[A-Za-z]+[ -]?", "", run[0]), *re.split(r"[ -]", run[0])]
    return [
        c
        for c in dict.fromkeys(found)
        if len(re.findall(r"\d", c)) >= 4 and len(canonical_order_id(c)) >= 6 and len(c) <= 32
    ]


def plain_numbers(text: str) -> list[str]:
    """The candidates that are digits and nothing else, with no further digits beside them."""
    whole = r"(?<![0-9A-Za-z-])(?<!\d )%s(?![0-9A-Za-z-])(?! \d)"
    return [c for c in order_id_candidates(text) if c.isdigit() and re.search(whole % c, text)]


def called_orders(text: str) -> list[str]:
    """The canonical ids that a message itself calls orders: `订单 6610-293`, `order no. 6610293`. The longest reading of each counts."""
    found: dict[int, str] = {}
    for candidate in order_id_candidates(text):
        for place in re.finditer(re.escape(candidate), text):
            if CALLED_ORDER.search(text[: place.start()]):
                found[place.start()] = max(found.get(place.start(), ""), candidate, key=len)
    return list(dict.fromkeys(map(canonical_order_id, found.values())))


class Triage(BaseModel):
    """A customer's wish. Every field but the intent is left out of the JSON when it has its default."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)  # the input is the customer's own words

    intent: Intent
    act: Annotated[Act, Possible(acts_possible)] = Act.ASK
    # The model copies the id as it was typed; what code sees is its canonical form.
    order_id: Annotated[
        str, BeforeValidator(canonical_order_id), Copied(order_id_candidates), Field(pattern=r"^[0-9A-Za-z -]{0,32}$")
    ] = ""
    reason: Annotated[str, Copied(), Field(max_length=SPAN_CHARACTERS)] = ""
    address: Annotated[str, Copied(), Field(max_length=SPAN_CHARACTERS)] = ""
    more: Annotated[list[Intent], Field(max_length=3)] = []

    def to_wire(self) -> str:
        """The compact JSON that the model writes for this triage."""
        return self.model_dump_json(exclude_defaults=True)


def grammar(text: str | None = None) -> str:
    """The EBNF under which the triage of a message is generated: ids, reasons and addresses can only be copied from it."""
    return to_ebnf(Triage, text)


@cache
def program() -> Any:
    """The DSL program. Built on first use, because importing sglang takes seconds."""
    import sglang as sgl

    @sgl.function
    def triage(s, messages: list[Message], text: str):  # type: ignore[no-untyped-def]
        replay(s, messages)
        s += sgl.user(text)
        s += sgl.assistant(sgl.gen("triage", max_tokens=TRIAGE_TOKENS))

    return triage
