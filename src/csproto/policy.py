"""The rules: a pure function of wish, order, facts and clock over `data/policy.yaml`. The model has no part in it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import yaml

from csproto.errors import CsprotoError
from csproto.settings import DATA
from csproto.shop.orders import CustomerFacts, OrderView, Write
from csproto.triage import Intent

Waiting = Literal["", "order", "address", "yes"]  # what an open question waits for
Verdict = Literal["pass", "review", "block"]  # on a payment


class PolicyError(CsprotoError):
    """`policy.yaml` is missing something the code asks for."""


@dataclass(frozen=True)
class Wish:
    """What the customer wants done, with the slots gathered so far."""

    intent: Intent
    order_id: str = ""
    reason: str = ""
    address: str = ""
    withdraw: bool = False  # an open return request is to be taken back


@dataclass(frozen=True)
class Decision:
    """What happens now. `say` holds the facts a reply may use: strings, dates, `Label`s and amounts in cents under `amount`."""

    action: str
    rule: str
    say: Mapping[str, Any] = field(default_factory=dict)
    write: Write | None = None


@dataclass(frozen=True)
class Label:
    """A word that wording.py puts into the customer's language, e.g. the status `shipped`."""

    group: str
    value: str


class Rules:
    """`policy.yaml`, checked: every rule this module names exists, with an id and a source."""

    def __init__(self, path: Path = DATA / "policy.yaml") -> None:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.sources: dict[str, str] = {
            n: rule["source"] for n, rule in raw["rules"].items() if (rule or {}).get("source")
        }
        missing = RULE_IDS - self.sources.keys()
        if missing:
            raise PolicyError(f"{path} lacks the rules {', '.join(sorted(missing))}: add them, each with a source.")
        self.zone = ZoneInfo(raw["timezone"])
        self.windows: dict[str, int] = raw["windows"]
        self.not_returnable: list[str] = raw["not_returnable"]
        self._fault, self._no_fault = _quality_patterns(raw["quality_words"])
        self.risk: dict[str, dict[str, int]] = raw["risk"]
        self.review_from: int = raw["rules"]["payment.pass"]["below"]
        self.block_from: int = raw["rules"]["payment.review"]["below"]

    def day(self, moment: datetime) -> date:
        """The calendar day in the shop's time zone."""
        return moment.astimezone(self.zone).date()

    def verdict(self, score: int) -> Verdict:
        """What a risk score leads to."""
        return "block" if score >= self.block_from else "review" if score >= self.review_from else "pass"

    def is_quality_problem(self, reason: str) -> bool:
        """Whether a stated reason names a fault of the goods; one that is denied (没有质量问题, not broken) does not count."""
        return bool(self._fault.search(self._no_fault.sub(" ", reason.lower())))


def _quality_patterns(words: Mapping[str, list[str]]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of a fault and of a denied one. A single English word counts from its start only: an accident is no dent."""
    zh = "|".join(map(re.escape, words["zh"]))
    en = "|".join(re.escape(word) if " " in word else rf"\b{re.escape(word)}" for word in words["en"])
    denial = rf"(?:(?<!是)不是|(?<!有)没有|没|并非|(?<!毫)无)(?:任何|什么)?(?:{zh})"
    return (
        re.compile(f"{zh}|{en}"),
        re.compile(rf"{denial}|(?:\b(?:not|no|nothing|never|without)|n't) (?:a |any |really )?(?:{en})"),
    )


@cache
def default_rules() -> Rules:
    """The rules that ship in `data/policy.yaml`."""
    return Rules()


APPLIES: dict[Intent, Callable[[OrderView], bool]] = {
    Intent.RETURN_EXCHANGE: lambda o: o.status == "delivered",
    Intent.REFUND_STATUS: lambda o: o.refund != "none",
    Intent.ORDER_STATUS: lambda o: o.status in ("unpaid", "paid", "shipped"),
    Intent.TRACKING_NUMBER: lambda o: o.status == "shipped",
    Intent.URGE_SHIPMENT: lambda o: o.status == "paid",
    Intent.CHANGE_ADDRESS: lambda o: o.status in ("unpaid", "paid"),
    Intent.CANCEL_ORDER: lambda o: o.status in ("unpaid", "paid"),
    Intent.INVOICE: lambda o: o.status in ("paid", "shipped", "delivered") and o.invoice == "none",
    Intent.PAYMENT_ISSUE: lambda o: o.status in ("unpaid", "paid", "shipped"),
}


class Case:
    """One wish about one order (or none), with the facts and the clock it is decided by."""

    def __init__(self, facts: CustomerFacts, now: datetime, rules: Rules) -> None:
        self.facts, self.now, self.rules = facts, now, rules
        self.today = rules.day(now)

    def decide(self, wish: Wish, order: OrderView, agreed: bool) -> tuple[Decision, Waiting]:
        if wish.withdraw:
            return self._withdraw(order, agreed)
        match wish.intent:
            case Intent.RETURN_EXCHANGE:
                return self._return(wish, order, agreed)
            case Intent.CANCEL_ORDER:
                return self._cancel(order, agreed)
            case Intent.CHANGE_ADDRESS:
                return self._address(wish, order, agreed)
            case Intent.REFUND_STATUS:
                return self._refund(order), ""
            case Intent.TRACKING_NUMBER:
                return self._tracking(order), ""
            case Intent.URGE_SHIPMENT:
                return self._urge(order), ""
            case Intent.INVOICE:
                return self._invoice(order), ""
            case Intent.PAYMENT_ISSUE:
                return self._payment(wish, order), ""
            case _:
                return self._status(order), ""

    def _return(self, wish: Wish, order: OrderView, agreed: bool) -> tuple[Decision, Waiting]:
        words = self._words(order)
        if order.refund != "none" or order.status == "cancelled":
            return Decision(
                "refund_progress", "return.already_open", words | {"state": Label("refund", order.refund)}
            ), ""
        if order.status in ("unpaid", "paid"):
            if agreed:
                return self._cancel(order, agreed=True)
            return Decision("confirm_cancel", "return.not_shipped", words), "yes"
        if order.status == "shipped":
            return Decision("cancel_locked", "return.in_transit", words), ""
        return self._return_delivered(wish, order, words), ""

    def _return_delivered(self, wish: Wish, order: OrderView, words: dict[str, Any]) -> Decision:
        assert order.delivered_at is not None
        delivered, windows = self.rules.day(order.delivered_at), self.rules.windows
        days = (self.today - delivered).days
        quality = self.rules.is_quality_problem(wish.reason)
        bound = order.category in self.rules.not_returnable and (order.category != "digital" or order.opened)
        free_until = delivered + timedelta(days=windows["no_reason_return"])
        quality_until = delivered + timedelta(days=windows["quality_return"])
        write = Write("return", order.id, wish.reason)
        if days > windows["quality_return"]:
            return Decision("refuse_return", "return.too_late", words | {"window": str(windows["quality_return"])})
        if quality:
            say = words | {"window": str(windows["quality_return"]), "deadline": quality_until}
            return Decision("approve_return", "return.quality.15d", say, write)
        if bound:
            say = words | {"kind": Label("category", order.category), "window": str(windows["quality_return"])}
            return Decision("refuse_return", "return.not_returnable", say)
        if days <= windows["no_reason_return"]:
            say = words | {"window": str(windows["no_reason_return"]), "deadline": free_until}
            return Decision("approve_return", "return.no_reason.7d", say, write)
        say = words | {"window": str(windows["no_reason_return"]), "deadline": quality_until}
        return Decision("offer_quality_route", "return.expired.quality_route", say)

    def _withdraw(self, order: OrderView, agreed: bool) -> tuple[Decision, Waiting]:
        """Take back a return request that nobody has dealt with yet; the days for a new one may run out meanwhile, so it waits for a yes."""
        if order.refund != "requested":
            return self._refund(order), ""
        if not agreed:
            return Decision("confirm_withdraw", "withdraw.confirm", self._words(order)), "yes"
        return Decision("return_withdrawn", "withdraw.done", self._words(order), Write("withdraw", order.id)), ""

    def _refund(self, order: OrderView) -> Decision:
        words = self._words(order)
        if order.refund == "none" or order.refund_at is None:
            return Decision("refund_progress", "refund.none", words)
        since = self.rules.day(order.refund_at)
        paid_by = since + timedelta(days=self.rules.windows["refund_legal"])
        money = words | {"amount": order.amount}
        if order.refund == "requested":
            return Decision("refund_progress", "refund.requested", words | {"date": since})
        if order.refund == "paid":
            return Decision("refund_progress", "refund.paid", money | {"date": since})
        if self.today > paid_by:
            return Decision(
                "refund_progress", "refund.overdue", money, Write("refund_overdue", order.id, escalated=True)
            )
        return Decision("refund_progress", "refund.approved", money | {"deadline": paid_by})

    def _status(self, order: OrderView) -> Decision:
        words = self._words(order)
        moments = {
            "paid": order.promised_at,
            "shipped": order.shipped_at,
            "delivered": order.delivered_at,
            "cancelled": order.cancelled_at,
        }
        if moment := moments.get(order.status):
            words["date"] = self.rules.day(moment)
        if order.status == "shipped":
            words["carrier"] = order.carrier
        return Decision("give_status", f"status.{order.status}", words)

    def _tracking(self, order: OrderView) -> Decision:
        if order.status in ("shipped", "delivered") and not (order.carrier and order.tracking_number):
            return self._status(order)  # it has left, but half a parcel number is no help
        if order.status in ("shipped", "delivered"):
            return Decision(
                "give_tracking",
                "tracking.known",
                {"order": order.id, "carrier": order.carrier, "tracking": order.tracking_number},
            )
        return Decision("give_status", "tracking.not_shipped", self.status_words(order))

    def _urge(self, order: OrderView) -> Decision:
        if order.status != "paid":
            return Decision("give_status", "urge.not_applicable", self.status_words(order))
        last = self.facts.urged_at.get(order.id)
        if last and self.now - last < timedelta(hours=self.rules.windows["urge_repeat_hours"]):
            return Decision("urge_already_open", "urge.once_24h", self._words(order))
        overdue = order.promised_at is not None and self.today > self.rules.day(order.promised_at)
        write = Write("urge", order.id, escalated=overdue)
        if overdue:
            return Decision("urge_ticket", "urge.overdue", self._words(order), write)
        promised = {"date": self.rules.day(order.promised_at)} if order.promised_at else {}
        return Decision("urge_ticket", "urge.paid", self._words(order) | promised, write)

    def _address(self, wish: Wish, order: OrderView, agreed: bool) -> tuple[Decision, Waiting]:
        if order.status not in ("unpaid", "paid"):
            return Decision("address_locked", "address.locked", self.status_words(order)), ""
        if not wish.address:
            return Decision("confirm_address", "address.ask", self._words(order)), "address"
        say = {"order": order.id, "address": wish.address}
        if agreed:
            return Decision("address_changed", "address.changed", say, Write("address", order.id, wish.address)), ""
        return Decision("confirm_address", "address.confirm", say), "yes"

    def _cancel(self, order: OrderView, agreed: bool) -> tuple[Decision, Waiting]:
        words = self._words(order)
        if order.status == "cancelled":
            return Decision("cancelled", "cancel.already", words), ""
        if order.status not in ("unpaid", "paid"):
            return Decision("cancel_locked", "cancel.locked", self.status_words(order)), ""
        if not agreed:
            return Decision("confirm_cancel", "cancel.confirm", words), "yes"
        refund = {"amount": order.amount} if order.status == "paid" else {}
        return Decision("cancelled", "cancel.done", words | refund, Write("cancel", order.id)), ""

    def _invoice(self, order: OrderView) -> Decision:
        if order.invoice == "issued":
            return Decision("invoice_progress", "invoice.issued", self._words(order))
        if order.status in ("unpaid", "cancelled"):
            return Decision("invoice_progress", "invoice.not_due", self.status_words(order))
        return Decision(
            "invoice_issued", "invoice.issue", self._words(order) | {"amount": order.amount}, Write("invoice", order.id)
        )

    def _payment(self, wish: Wish, order: OrderView) -> Decision:
        score, signs = risk_score(order, self.facts, self.now, self.rules)
        write = Write(
            "payment", order.id, f"score {score}: {', '.join(signs) or 'no sign'}; customer says: {wish.reason}"
        )
        match self.rules.verdict(score):
            case "block":
                return Decision("payment_block", "payment.block", self._words(order), replace(write, escalated=True))
            case "review":
                return Decision("payment_review", "payment.review", self._words(order), write)
        return Decision("payment_ok", "payment.pass", self.status_words(order))

    def without_order(self, wish: Wish, order: OrderView | None) -> Decision:
        words = {"order": order.id} if order else {}
        order_id = order.id if order else ""
        if wish.intent is Intent.COMPLAINT:
            return Decision("complaint_ticket", "complaint.ticket", words, Write("complaint", order_id, wish.reason))
        if wish.intent is Intent.HUMAN_AGENT:
            return Decision("handoff", "human.handoff", {}, Write("handoff", order_id))
        return Decision("small_talk", "other.small_talk")

    def _words(self, order: OrderView) -> dict[str, Any]:
        return {"order": order.id, "item": order.item}

    def status_words(self, order: OrderView) -> dict[str, Any]:
        return self._words(order) | {"state": Label("status", order.status)}


def risk_score(order: OrderView, facts: CustomerFacts, now: datetime, rules: Rules) -> tuple[int, list[str]]:
    """Points for a payment and the signs that gave them, from the shop's records alone: no text a customer writes enters it."""
    risk, signs = rules.risk, {}
    age = (now - facts.joined_at).days
    if age < risk["new_account"]["below_days"]:
        signs["new_account"] = risk["new_account"]["points"]
    elif age < risk["young_account"]["below_days"]:
        signs["young_account"] = risk["young_account"]["points"]
    for name in ("large_amount", "very_large_amount"):
        if order.amount >= risk[name]["from"] * 100:
            signs[name] = risk[name]["points"]
    if facts.failed_payments:
        signs["failed_payments"] = min(
            risk["failed_payments"]["points"] * facts.failed_payments, risk["failed_payments"]["at_most"]
        )
    if not facts.address_matches:
        signs["address_mismatch"] = risk["address_mismatch"]["points"]
    recent = sum(now - o.created_at < timedelta(days=1) for o in facts.orders)
    if recent >= risk["velocity"]["orders_in_a_day"]:
        signs["velocity"] = risk["velocity"]["points"]
    if order.payment == "duplicate":
        signs["duplicate_charge"] = risk["duplicate_charge"]["points"]
    return sum(signs.values()), list(signs)


ACTIONS = frozenset(
    """approve_return refuse_return offer_quality_route confirm_withdraw return_withdrawn refund_progress give_status give_tracking urge_ticket urge_already_open
    confirm_address address_changed address_locked confirm_cancel cancelled cancel_locked invoice_issued invoice_progress payment_ok payment_review
    payment_block complaint_ticket handoff ask_order_id ask_which_order order_not_found nothing_pending dropped small_talk unavailable""".split()
)

RULE_IDS = frozenset(
    """order.ask order.which order.not_found return.no_reason.7d return.quality.15d return.not_returnable
    return.expired.quality_route return.too_late return.already_open return.not_shipped return.in_transit withdraw.confirm withdraw.done
    refund.none refund.requested
    refund.approved refund.paid refund.overdue status.unpaid status.paid status.shipped status.delivered status.cancelled tracking.known
    tracking.not_shipped urge.once_24h urge.paid urge.overdue urge.not_applicable address.ask address.confirm address.changed address.locked
    cancel.confirm cancel.done cancel.already cancel.locked invoice.issue invoice.issued invoice.not_due payment.pass payment.review payment.block
    complaint.ticket human.handoff other.small_talk other.order_card pending.none pending.dropped system.unavailable""".split()
)
