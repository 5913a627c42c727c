"""Pictures of a benchmark's record."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from csproto.measure.pictures import COLOURS, axes, stack

ARM_COLOURS = {
    "csproto": "#0072B2",
    "vllm-by-hand": "#E69F00",
    "vllm-structured": "#D55E00",
    "no-radix": "#56B4E9",
    "blog-regex": "#CC79A7",
    "free-text": "#999999",
}


def throughput(record: Mapping[str, Any]) -> Figure:
    """Draw the turns a second of each arm of a record by the conversations at once."""
    figure, ax = axes(height=3.2)
    for name, arm in record["arms"].items():
        closed = {
            int(load.split("-")[1]): found
            for load, found in arm["loads"].items()
            if load.startswith("closed-")
        }
        speeds = [closed[n]["turns_per_s"] for n in sorted(closed)]
        ax.plot(sorted(closed), speeds, marker="o", color=ARM_COLOURS[name], label=arm["title"])
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(closed), [str(n) for n in sorted(closed)])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("conversations at once")
    ax.set_ylabel("turns per second")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure


def waiting(record: Mapping[str, Any], load: str) -> Figure:
    """Draw how long a customer waits in each arm under one load.

    Bars reach to the median of reply and end, lines to the 95th percentile of the end.
    """
    found = {
        arm["title"]: arm["loads"][load]
        for arm in record["arms"].values()
        if arm["loads"][load]["latency_ms"]
    }
    figure, ax = axes(height=0.8 + 0.45 * len(found))
    names = list(found)
    middle, late = ([f["latency_ms"][q] for f in found.values()] for q in ("p50", "p95"))
    ax.barh(names, middle, color=COLOURS["other"], label="whole turn, median")
    ax.barh(
        names,
        [f["ttft_ms"]["p50"] for f in found.values()],
        color=COLOURS["written"],
        label="reply, median",
    )
    ax.hlines(names, middle, late, color="black", label="to the 95th percentile")
    ax.invert_yaxis()
    ax.set_xlabel(f"milliseconds since the message was sent ({load})")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure


def token_shares(record: Mapping[str, Any], load: str) -> Figure:
    """Draw the tokens a turn in each arm under one load: from the cache, computed, written."""
    arms = record["arms"].values()
    figure, ax = axes(height=0.8 + 0.45 * len(arms))
    keys = {"reused": "cached", "computed": "computed", "written": "output"}
    parts = {
        label: [arm["loads"][load][f"{key}_tokens_per_turn"] for arm in arms]
        for label, key in keys.items()
    }
    stack(ax, [arm["title"] for arm in arms], parts)
    ax.set_xlabel(f"tokens per turn, all its model calls together ({load})")
    plt.close(figure)
    return figure


def ratio_chart(record: Mapping[str, Any], figure_name: str) -> Figure:
    """Draw one figure of the first arm over each other arm, for each load.

    Lines are 95 % intervals, and the axis is logarithmic.
    """
    found = [r for r in record["ratios"] if r["figure"] == figure_name]
    figure, ax = axes(height=0.8 + 0.32 * len(found))
    for row, one in enumerate(found):
        ax.plot(
            [one["low"], one["high"]],
            [row, row],
            color=ARM_COLOURS.get(one["over"], "black"),
            linewidth=2,
        )
        ax.plot(one["ratio"], row, "o", color=ARM_COLOURS.get(one["over"], "black"))
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yticks(range(len(found)), [f"{one['load']}, over {one['over']}" for one in found])
    ax.invert_yaxis()
    ax.set_xlabel(
        f"{figure_name}: {found[0]['of']} over the other, ratio" if found else figure_name
    )
    plt.close(figure)
    return figure
