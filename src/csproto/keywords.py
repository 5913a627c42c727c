"""The baseline a model has to beat: intents by keywords, order ids by a regular expression, as many shops still do it."""

import re

from csproto.transcript import clean
from csproto.triage import Act, Intent, Triage, canonical_order_id

# The first pattern that matches names the intent, so the more specific ones come first.
KEYWORDS: dict[Intent, str] = {
    Intent.HUMAN_AGENT: r"人工|真人|转接|客服电话|human|agent|representative|real person|operator",
    Intent.COMPLAINT: r"投诉|举报|差评|12315|态度|complain|terrible|awful|report you",
    Intent.INVOICE: r"发票|开票|抬头|税号|专票|invoice|receipt|\bvat\b",
    Intent.REFUND_STATUS: r"退款.*(?:到账|进度|多久|什么时候|没到)|(?:到账|没退|还没收到).*(?:钱|退)|refund.*(?:when|where|status|yet)|(?:when|where).*(?:refund|money)",
    Intent.TRACKING_NUMBER: r"单号|运单|哪家快递|什么快递|tracking (?:number|no|id)|which (?:carrier|courier)",
    Intent.CHANGE_ADDRESS: r"(?:改|换|错).*(?:地址|收货|电话|收件)|地址.*(?:改|换|错)|(?:change|wrong|update|different).*address",
    Intent.CANCEL_ORDER: r"取消|拒收|cancel|don'?t want it",
    Intent.RETURN_EXCHANGE: r"退货|换货|退换|退掉|想退|退款|售后|坏了|破|质量|不合适|return|exchange|refund|broken|damaged|faulty|doesn'?t (?:fit|work)",
    Intent.PAYMENT_ISSUE: r"付款|支付|扣款|扣了|付不|货到付款|分期|pay|charged|card",
    Intent.URGE_SHIPMENT: r"催|快点|赶紧|尽快|怎么还不发|hurry|urgent|asap|speed up|still not shipped",
    Intent.ORDER_STATUS: r"到哪|物流|发货|什么时候到|能到|没收到|送到|快递|where is|status|arriv|deliver|shipped",
}
ORDER_ID = re.compile(r"[A-Za-z]{0,2}\d[\d -]{4,22}\d[A-Za-z]?")


def keyword_triage(text: str) -> Triage:
    """The triage of one message by keywords alone; it knows no dialogue."""
    text = clean(text)
    intent = next((i for i, pattern in KEYWORDS.items() if re.search(pattern, text, re.IGNORECASE)), Intent.OTHER)
    numbers = [
        canonical_order_id(n) for n in ORDER_ID.findall(text) if not re.fullmatch(r"1[3-9]\d{9}", canonical_order_id(n))
    ]
    act = Act.DENY if re.search(r"^(?:算了|不用了|no\b|never ?mind)", text, re.IGNORECASE) else Act.ASK
    return Triage(intent=intent, act=act, order_id=numbers[0][:24] if numbers else "")
