"""The bars that a model has to clear before customers meet it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from csproto.shop.facts import NO_TICKET

# The shares of `Report.as_dict`, each with the least that it should be.
BARS = {
    "json_valid": 1.0,
    "intent": 0.9,
    "orders": 0.95,
    "action": 0.9,
    "writes": 0.98,
}
CHANGES = ("return", *NO_TICKET)  # writes that change an order; the others only open a ticket


def release_table(figures: Mapping[str, Any], bars: Mapping[str, float] = BARS) -> pd.DataFrame:
    """Return each share with its 95 % interval beside its bar, and the unwanted writes.

    A share that the cases say nothing about is missing, and does not clear its bar.
    """
    rows: list[tuple[str, Any, str, str, bool]] = []
    for name, bar in bars.items():
        found = figures.get(name) or {}
        share, (low, high) = found.get("share"), found.get("ci95", (0.0, 1.0))
        met = share is not None and share >= bar
        rows.append((name, share, f"{low:.2f} to {high:.2f}", f"at least {bar:.2f}", met))
    unwanted = figures["unwanted_writes"]["count"]
    rows.append(("unwanted writes", unwanted, "", "none", unwanted == 0))
    columns = ["figure", "measured", "95 % interval", "bar", "met"]
    return pd.DataFrame(rows, columns=columns).set_index("figure")


def changed_at_once(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the turns in which a first message has changed an order.

    rows: as in `Report`. A first message cannot be a yes to anything.
    """
    return [
        row
        for row in rows
        if row["turn"] == 1 and any(write["kind"] in CHANGES for write in row["writes"])
    ]
