"""What a message does with the dialogue: which wish it means, about which order, and what it leaves open. Pure, like the rules it asks."""

import re
from dataclasses import dataclass, replace
from datetime import datetime

from csproto.address import corrected
from csproto.policy import APPLIES, Case, Decision, Rules, Waiting, Wish, default_rules
from csproto.shop.orders import CustomerFacts, OrderView
from csproto.triage import Act, Intent, Triage

NEEDS_NO_ORDER = {Intent.COMPLAINT, Intent.HUMAN_AGENT, Intent.OTHER}
DIGRESSIONS = {
    Intent.ORDER_STATUS,
    Intent.TRACKING_NUMBER,
    Intent.REFUND_STATUS,
    Intent.OTHER,
}  # they change nothing, so what is open stays open


@dataclass(frozen=True)
class DialogueState:
    """What carries over from turn to turn: the order under discussion, the last wish, and the question that is open."""

    order_id: str = ""
    wish: Wish | None = None
    waiting: Waiting = ""
    open_wish: Wish | None = None  # the wish the open question belongs to

    def ask(self, wish: Wish, waiting: Waiting) -> "DialogueState":
        return replace(self, waiting=waiting, open_wish=wish)

    def close(self) -> "DialogueState":
        return replace(self, waiting="", open_wish=None)


def decide(
    triage: Triage, facts: CustomerFacts, state: DialogueState, now: datetime, rules: Rules | None = None
) -> tuple[Decision, DialogueState]:
    """The decision for one message, and the dialogue state after it. Total: every triage gets an answer; raises nothing."""
    desk = _Desk(facts, state, now, rules or default_rules())
    if triage.act is Act.DENY:
        if not state.waiting:
            return desk.taken_back(triage)
        return Decision("dropped", "pending.dropped", desk.named(state.open_wish)), state.close()
    if triage.act is Act.CONFIRM:
        return desk.confirmed(triage)
    if triage.act is Act.CORRECT:
        return desk.corrected(triage)
    if triage.intent is Intent.OTHER:
        return desk.other(triage)
    return desk.run(_merged(triage, state))


def _merged(triage: Triage, state: DialogueState) -> Wish:
    """The wish of a message: slots given for the open wish earlier are kept when the same wish goes on."""
    wish = Wish(triage.intent, triage.order_id, triage.reason, triage.address)
    if (old := state.open_wish) and old.intent is wish.intent:
        wish = replace(
            wish,
            order_id=wish.order_id or old.order_id,
            reason=wish.reason or old.reason,
            address=corrected(old.address, wish.address) if wish.address else old.address,
        )
    return wish


def _is_part(part: str, whole: str) -> bool:
    """Whether an address is repeated, in part or as a whole: 2号 is no part of 22号."""
    return bool(re.search(rf"(?<![0-9A-Za-z]){re.escape(part)}(?![0-9A-Za-z])", whole)) if part else True


class _Desk:
    """One decision under way: the facts, the state and the clock it is taken with."""

    def __init__(self, facts: CustomerFacts, state: DialogueState, now: datetime, rules: Rules) -> None:
        self.facts, self.state = facts, state
        self.case = Case(facts, now, rules)

    # -- what a message does with the dialogue

    def confirmed(self, triage: Triage) -> tuple[Decision, DialogueState]:
        """A yes counts only for the question that is open and for the order and the address it was asked about."""
        open_wish = self.state.open_wish
        if not open_wish:
            return Decision("nothing_pending", "pending.none"), self.state
        other_wish = triage.intent not in (open_wish.intent, Intent.OTHER) and not self._same_pending(
            triage.intent, open_wish.intent
        )
        other_order = bool(triage.order_id) and triage.order_id != open_wish.order_id
        other_address = open_wish.intent is Intent.CHANGE_ADDRESS and not _is_part(triage.address, open_wish.address)
        if other_wish:
            return self.run(_merged(triage, self.state))
        if other_order or other_address or self.state.waiting != "yes":
            address = corrected(open_wish.address, triage.address) if triage.address else open_wish.address
            return self.run(replace(open_wish, order_id=triage.order_id or open_wish.order_id, address=address))
        return self.run(open_wish, agreed=True)

    @staticmethod
    def _same_pending(said: Intent, asked: Intent) -> bool:
        """A return of goods that were not shipped is asked about as a cancellation: a yes may carry either name."""
        return {said, asked} == {Intent.RETURN_EXCHANGE, Intent.CANCEL_ORDER}

    def taken_back(self, triage: Triage) -> tuple[Decision, DialogueState]:
        """A no with nothing open: after a return was requested it can only mean that return, and is asked about; else it does nothing."""
        last = self.state.wish
        about_return = last is not None and last.intent is Intent.RETURN_EXCHANGE and not last.withdraw
        order = self.facts.order(triage.order_id or (last.order_id if last and about_return else ""))
        means_it = triage.intent in (Intent.RETURN_EXCHANGE, Intent.CANCEL_ORDER, Intent.OTHER)
        if order and order.refund == "requested" and means_it and (about_return or triage.intent is not Intent.OTHER):
            return self.run(Wish(Intent.RETURN_EXCHANGE, order.id, withdraw=True))
        # "I thought it over, 789012 after all": asked about before anything is done.
        if triage.order_id and triage.intent is Intent.CANCEL_ORDER:
            return self.run(_merged(triage, self.state))
        return Decision("nothing_pending", "pending.none"), self.state

    def corrected(self, triage: Triage) -> tuple[Decision, DialogueState]:
        """Run the open or last wish again with the slot that was put right; without a slot, with the other order. What names another wish is no correction."""
        base = self.state.open_wish or self.state.wish
        if (
            base
            and triage.intent not in (base.intent, Intent.OTHER)
            and not self._same_pending(triage.intent, base.intent)
        ):
            return self.run(_merged(triage, self.state))
        if not base or base.intent is Intent.OTHER:  # nothing, or a bare order number that is put right
            if triage.intent in NEEDS_NO_ORDER and not triage.order_id:
                return Decision("nothing_pending", "pending.none"), self.state
            return self.run(_merged(triage, self.state)) if triage.intent is not Intent.OTHER else self.other(triage)
        if triage.order_id or triage.address or triage.reason:
            return self.run(
                replace(
                    base,
                    order_id=triage.order_id or base.order_id,
                    address=corrected(base.address, triage.address) if triage.address else base.address,
                    reason=triage.reason or base.reason,
                )
            )
        others = [o for o in self._candidates(base.intent) if o.id != (base.order_id or self.state.order_id)]
        if len(others) == 1:
            return self.run(replace(base, order_id=others[0].id))
        return self._which(replace(base, order_id=""), others)

    def other(self, triage: Triage) -> tuple[Decision, DialogueState]:
        """Small talk leaves everything as it is; a bare order number answers the open question or shows that order."""
        if not triage.order_id:
            return Decision("small_talk", "other.small_talk"), self.state
        if self.state.open_wish:
            return self.run(replace(self.state.open_wish, order_id=triage.order_id))
        order = self.facts.order(triage.order_id)
        if not order:
            return self._unknown(Wish(Intent.OTHER, triage.order_id))
        return Decision("give_status", "other.order_card", self.case.status_words(order)), replace(
            self.state, order_id=order.id
        )

    # -- which order

    def run(self, wish: Wish, agreed: bool = False) -> tuple[Decision, DialogueState]:
        """Find the order a wish is about, then apply its rules."""
        if wish.intent in NEEDS_NO_ORDER:
            order_id = wish.order_id or self.state.order_id
            order = self.facts.order(order_id)
            state = replace(self.state, wish=wish)
            return self.case.without_order(wish, order), state if wish.intent in DIGRESSIONS else state.close()
        named = wish.order_id or self.state.order_id
        order = self.facts.order(named) if named else None
        if wish.order_id and not order:
            return self._unknown(wish)
        if not order:
            candidates = self._candidates(wish.intent)
            if len(candidates) != 1:
                return self._which(wish, candidates)
            order = candidates[0]
        wish = replace(wish, order_id=order.id)
        # What can still be cancelled of it is the return.
        if wish.intent is Intent.CANCEL_ORDER and order.refund == "requested":
            wish, agreed = Wish(Intent.RETURN_EXCHANGE, order.id, withdraw=True), False
        decision, waiting = self.case.decide(wish, order, agreed)
        state = replace(self.state, order_id=order.id, wish=wish)
        if waiting:
            return decision, state.ask(wish, waiting)
        digression = (
            wish.intent in DIGRESSIONS and state.open_wish is not None and state.open_wish.intent is not wish.intent
        )
        return decision, state if digression else state.close()

    def _candidates(self, intent: Intent) -> list[OrderView]:
        fitting = [o for o in self.facts.orders if APPLIES.get(intent, lambda o: True)(o)]
        return fitting or list(self.facts.orders)

    def _which(self, wish: Wish, candidates: list[OrderView]) -> tuple[Decision, DialogueState]:
        state = replace(self.state, wish=wish).ask(wish, "order")
        if not candidates:
            return Decision("ask_order_id", "order.ask"), state
        return Decision("ask_which_order", "order.which", {"orders": candidates[:4]}), state

    def _unknown(self, wish: Wish) -> tuple[Decision, DialogueState]:
        """The same words for an order of somebody else and for one that does not exist."""
        state = replace(self.state, wish=replace(wish, order_id=""))
        if wish.intent is not Intent.OTHER:
            state = state.ask(replace(wish, order_id=""), "order")
        return Decision("order_not_found", "order.not_found", {"order": wish.order_id}), state

    def named(self, wish: Wish | None) -> dict[str, str]:
        """The order a wish was about, if it is known."""
        order = self.facts.order(wish.order_id) if wish else None
        return {"order": order.id} if order else {}
