"""Tables and pictures of the notebooks: one look, colours that survive colour blindness, units on every axis."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from csproto.assistant import Turn

# Okabe and Ito's palette; the same colour means the same thing in every notebook.
COLOURS = {"reused": "#009E73", "computed": "#E69F00", "written": "#0072B2", "wrong": "#D55E00", "other": "#999999"}
LOOK: dict[Any, Any] = {
    "font.sans-serif": ["Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "figure.dpi": 90,
    "legend.frameon": False,
}


def axes(width: float = 7.0, height: float = 2.6) -> tuple[Figure, Axes]:
    """A figure with the project's look; sizes in inches."""
    with plt.rc_context(LOOK):
        return plt.subplots(figsize=(width, height), layout="constrained")


def trace_table(turn: "Turn") -> pd.DataFrame:
    """One turn as the steps it took, one row each."""
    part = turn.parts[0]
    rows = {
        "message": turn.text,
        "triage": turn.triage.to_wire(),
        "facts": json.dumps(part.facts, ensure_ascii=False),
        "decision": f"{part.decision.action} by {part.decision.rule}",
        "reply": turn.reply,
        "check": "; ".join(part.rejected) or "every sentence is covered by the facts",
        "tokens": f"{turn.usage.prompt_tokens} read, {turn.usage.cached_tokens} of them from the cache, {turn.usage.completion_tokens} written",
        "time": f"first words after {turn.ttft_ms:.0f} ms, all after {turn.total_ms:.0f} ms",
    }
    return pd.DataFrame(rows.items(), columns=["step", "what happened"]).set_index("step")


def token_bars(turns: Sequence["Turn"]) -> Figure:
    """Per turn the tokens that came from the prefix cache, were computed, and were written."""
    figure, ax = axes(height=0.6 + 0.45 * len(turns))
    names = [f"turn {place}" for place in range(1, len(turns) + 1)]
    left = [0] * len(turns)
    for label, values in {
        "reused": [t.usage.cached_tokens for t in turns],
        "computed": [t.usage.prompt_tokens - t.usage.cached_tokens for t in turns],
        "written": [t.usage.completion_tokens for t in turns],
    }.items():
        ax.barh(names, values, left=left, color=COLOURS[label], label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    ax.invert_yaxis()
    ax.set_xlabel("tokens, both model calls of a turn together")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure
