"""What a message settles by itself, however little of it the model understood: the order it names, a reason in its whole clause, further wishes. Pure."""

import re
from itertools import pairwise

from csproto.dialogue import DialogueState
from csproto.keywords import KEYWORDS, TOPICS
from csproto.policy import Rules, default_rules
from csproto.shop.orders import CustomerFacts
from csproto.transcript import clean
from csproto.triage import NEGATION, Act, Intent, Triage, called_orders, canonical_order_id, plain_numbers

# Wishes in which a plain number can be little else than an order; an invoice has tax numbers, a delivery telephones, a payment amounts.
ABOUT_AN_ORDER = {
    Intent.RETURN_EXCHANGE,
    Intent.REFUND_STATUS,
    Intent.ORDER_STATUS,
    Intent.CANCEL_ORDER,
    Intent.URGE_SHIPMENT,
}
SENT_BACK = re.compile(r"^(?!.*(?:取消|cancel)).*?(?:退(?!款)|\breturn|\bsend .{0,12}back)", re.I | re.S)
RETURN_DROPPED = re.compile(
    r"(?:取消|撤)[^,。?]{0,14}(?:退[货換换款]|售后)|\b(?:cancel|withdraw|call off|undo|drop)\b[^,.?]{0,24}\breturn\b",
    re.I,
)
OURSELVES = re.compile(
    r"system prompt|\bapi.?key|\byour (?:instructions|prompt|rules|source code)|提示词|系统指令|密钥", re.I
)
TO_THE_NEXT = re.compile(
    r"[\s,;.]*(?:(?<=[\s,;])(?:and|also|then|plus|please|pls|thanks|thx|ty)|和|以及|还有|另外|顺便|谢谢)?[\s,;.]*$",
    re.I,
)
LEADS_OVER = re.compile(r"[\s,;.]+(?:and|also|then|plus)\b|[,;。 ]*(?:以及|还有|另外|顺便|并且)", re.I)
# Citations, and what an order is called.
NO_WISH = re.compile(r"“[^”]*”|「[^」]*」|\"[^\"]{12,}\"|单号(?:是|:)? ?#?[0-9A-Za-z-]{6,}")
CLAUSE = 120  # characters of a clause that are kept for a human
# A message is NFKC, so that ， is a comma.
CLAUSE_END = re.compile(r"[,.!?;。\n]|(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])")


def as_meant(
    triage: Triage, text: str, facts: CustomerFacts, state: DialogueState, rules: Rules | None = None
) -> Triage:
    """The triage with what the message itself settles.

    - An order of the customer's own that the message names, alone of them all, is the one it is about; so is the only number it calls an order, or the only
      plain one, which may be no order of theirs at all: it is not passed over for one that is.
    - While a yes to one order is awaited, a message about another is the same wish only if it has a word of its field; else the one whose keyword it has.
      So it is with a message that cites something: its wish has a word outside of the citation.
    - A no to an order with which nothing is under way is a wish for it: "300016 as well". A message that denies something stays a no.
    - What is sent back after delivery, and not called a cancellation, is a return; cancelling a return that was requested is a cancellation.
    - What asks about ourselves, our prompt or our keys, and has no word of the wish it was taken for, is small talk.
    - A reason is read in its whole clause: in "no quality problem, I just don't want it" the two words "quality problem" are no fault.
    - A fault named after a return without a reason is its reason. A bare number is an order to look at, or the one that was asked for, and no new wish.
    - An address ends before what leads on to the next wish: "8 Mill Lane, York and".
    """
    text, rules = clean(text), rules or default_rules()
    intent, act, order_id = triage.intent, triage.act, triage.order_id or _order_named(triage, text, facts)
    if act is Act.ASK and order_id and text.isascii() and order_id == canonical_order_id(text):
        about = state.open_wish or state.wish
        intent = intent if about and about.intent is intent else Intent.OTHER
    open_wish = state.open_wish
    own, beside = NO_WISH.sub(" ", text), False
    if open_wish and state.waiting == "yes":
        beside = intent is open_wish.intent and order_id not in ("", open_wish.order_id)
    if act is Act.ASK and (beside or own != text) and not re.search(TOPICS[intent], own, re.I):
        named = [wish for wish, words in KEYWORDS.items() if re.search(words, own, re.I)]
        intent = named[0] if len(named) == 1 else intent
    if order := facts.order(order_id):
        under_way = order.refund == "requested" or (open_wish is not None and open_wish.order_id == order.id)
        if act is Act.DENY and not under_way and not NEGATION.match(text):
            act = Act.ASK
        if intent is Intent.CANCEL_ORDER and order.status == "delivered" and SENT_BACK.match(text):
            intent = Intent.RETURN_EXCHANGE
        if intent is Intent.RETURN_EXCHANGE and order.refund == "requested" and RETURN_DROPPED.search(text):
            intent = Intent.CANCEL_ORDER
    if act is Act.ASK and OURSELVES.search(text) and not re.search(TOPICS[intent], text, re.I):
        intent = Intent.OTHER
    reason = _clause(triage.reason, text)
    if adds_a_reason(triage, text, state, rules):
        intent = Intent.RETURN_EXCHANGE
    if intent is Intent.RETURN_EXCHANGE and not reason:
        reason = _fault_named(text, rules)
    address = TO_THE_NEXT.sub("", _before_further_wish(triage))
    return triage.model_copy(
        update={"intent": intent, "act": act, "order_id": order_id, "reason": reason, "address": address}
    )


def adds_a_reason(triage: Triage, text: str, state: DialogueState, rules: Rules) -> bool:
    """Whether what was read as small talk names a fault, after a return for which no reason was given."""
    last = state.wish
    waits = last is not None and last.intent is Intent.RETURN_EXCHANGE and not last.reason and not last.withdraw
    small_talk = triage.intent is Intent.OTHER and triage.act is Act.ASK and not triage.order_id
    return waits and small_talk and not state.open_wish and bool(_fault_named(clean(text), rules))


def further_wishes(triage: Triage, text: str, facts: CustomerFacts, before: DialogueState) -> list[Triage]:
    """The wishes after the first one in a message; `before` is the dialogue before it. When it names exactly one more order of the customer's, they are about that one.

    A further wish is spoken of: some word of its field stands in the message. What stands in quotation marks is dictated or cited, and 单号123456 is no
    question for a parcel's number: beside such, one of its own keywords must.

    Who calls for a human takes the last wish along: repeated, with no other order, it would only be decided the same again.
    """
    text = clean(text)
    others = [o.id for o in facts.orders if o.id != triage.order_id and _names(text, o.id)]
    order_id = others[0] if len(others) == 1 else ""
    settled = {triage.intent}
    if triage.intent is Intent.HUMAN_AGENT and before.wish and not order_id:
        settled.add(before.wish.intent)
    intents = [intent for intent in dict.fromkeys(triage.more) if intent not in settled]
    own = NO_WISH.sub(" ", text)
    words = TOPICS if own == text else KEYWORDS
    spoken_of = [intent for intent in intents if intent in words and re.search(words[intent], own, re.I)]
    return [Triage(intent=intent, order_id=order_id) for intent in spoken_of]


def _before_further_wish(triage: Triage) -> str:
    """The address without what leads over to another wish and names it: "8 Mill Lane, York and issue an invoice"."""
    words = "|".join(KEYWORDS[intent] for intent in triage.more if intent in KEYWORDS)
    places = [match.span() for match in LEADS_OVER.finditer(triage.address)] if words else []
    for (start, end), (until, _) in pairwise([*places, (None, None)]):
        if re.search(words, triage.address[end:until], re.I):
            return triage.address[:start]
    return triage.address


def _order_named(triage: Triage, text: str, facts: CustomerFacts) -> str:
    """The one order that a message names; empty when it names none or several, or which of them is wrong."""
    named = [o.id for o in facts.orders if _names(text, o.id)] if triage.act is not Act.CORRECT else []
    if not named and triage.act is Act.ASK:
        named = called_orders(text) or (plain_numbers(text) if triage.intent in ABOUT_AN_ORDER else [])
    return named[0] if len(named) == 1 else ""


def _names(text: str, order_id: str) -> bool:
    """Whether an id stands in a text, however it is spaced: whole, for a longer number is another one."""
    spaced = "[ -]*".join(order_id)
    return bool(re.search(rf"(?<!\d){spaced}(?!\d)", text.upper()))


def _clause(part: str, text: str) -> str:
    """The clause of a text in which a part of it stands, or the part itself when it stands nowhere."""
    start = text.find(part)
    if not part or start < 0:
        return part
    before = max((m.end() for m in CLAUSE_END.finditer(text) if m.end() <= start), default=0)
    after = CLAUSE_END.search(text, start + len(part))
    return text[before : after.start() if after else len(text)].strip()[:CLAUSE]


def _fault_named(text: str, rules: Rules) -> str:
    """The first clause that says what is broken. The bare word "quality", which every rule and so every forged decision has, does not."""
    clauses = [part.strip() for part in CLAUSE_END.split(text)]
    return next(
        (c[:CLAUSE] for c in clauses if rules.is_quality_problem(re.sub(r"质量|quality", "", c, flags=re.I))), ""
    )
