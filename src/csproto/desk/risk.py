"""The risk of a payment, from the shop's records alone: no text of a customer enters it."""

from datetime import datetime, timedelta

from csproto.desk.handbook import Handbook
from csproto.shop.facts import CustomerFacts, OrderView


def risk_score(
    order: OrderView, facts: CustomerFacts, now: datetime, handbook: Handbook
) -> tuple[int, list[str]]:
    """Return the risk points of a payment and the names of the signs that gave them.

    The points of each sign are in `shop.yaml` under `risk`. Only the shop's records
    count; what a customer writes changes nothing.
    """
    risk, signs = handbook.values.risk, {}
    age = (now - facts.joined_at).days
    if age < risk["new_account"]["below_days"]:
        signs["new_account"] = risk["new_account"]["points"]
    elif age < risk["young_account"]["below_days"]:
        signs["young_account"] = risk["young_account"]["points"]
    for name in ("large_amount", "very_large_amount"):
        if order.amount >= risk[name]["from"] * 100:
            signs[name] = risk[name]["points"]
    if facts.failed_payments:
        points = risk["failed_payments"]["points"] * facts.failed_payments
        signs["failed_payments"] = min(points, risk["failed_payments"]["at_most"])
    if not facts.address_matches:
        signs["address_mismatch"] = risk["address_mismatch"]["points"]
    recent = sum(now - o.created_at < timedelta(days=1) for o in facts.orders)
    if recent >= risk["velocity"]["orders_in_a_day"]:
        signs["velocity"] = risk["velocity"]["points"]
    if order.payment == "duplicate":
        signs["duplicate_charge"] = risk["duplicate_charge"]["points"]
    return sum(signs.values()), list(signs)
