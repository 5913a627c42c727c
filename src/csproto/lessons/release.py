"""The bars a model has to clear before customers meet it, and how far one is from them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

# What the shipped policy and wording were made for; figure of `csproto eval` to the least it should be.
BARS = {
    "json_valid": 1.0,
    "intent_accuracy": 0.95,
    "order_id_exact": 0.995,
    "action_accuracy": 0.97,
    "third_turn_accuracy": 0.98,
    "grounded": 0.97,
}


def release_table(figures: Mapping[str, Any], bars: Mapping[str, float] = BARS) -> pd.DataFrame:
    """Each figure beside its bar. A figure that the cases say nothing about is missing, which is no pass."""
    rows = [
        (name, figures.get(name), bar, (value := figures.get(name)) is not None and value >= bar)
        for name, bar in bars.items()
    ]
    return pd.DataFrame(rows, columns=["figure", "measured", "bar", "met"]).set_index("figure")
