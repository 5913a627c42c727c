"""Tables and pictures of the notebooks.

They have one look, colours for the colour-blind, and units on every axis.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import HTML
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from csproto.desk.turn import Turn

# Okabe and Ito's palette; the same colour means the same thing in every notebook.
COLOURS = {
    "reused": "#009E73",
    "computed": "#E69F00",
    "written": "#0072B2",
    "wrong": "#D55E00",
    "other": "#999999",
}
COLOURS |= {"good": "#56B4E9", "not yet": "#F0E442", "half": "#CC79A7"}
CHINESE = ["Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei"]  # fonts with Chinese glyphs
LOOK: dict[Any, Any] = {
    "font.sans-serif": [*(set(CHINESE) & set(font_manager.get_font_names())), "DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "figure.dpi": 90,
    "legend.frameon": False,
}
# For good: fonts are looked up when a picture is drawn, not when it is made.
plt.rcParams.update(LOOK)
# Colours of a picture in a notebook: flat areas and grey letters need no more, and the file
# has a third of the size.
PALETTE = 64


def png(figure: Figure) -> bytes:
    """Return a figure as a small PNG."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    picture = Image.open(drawn).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


if shell := get_ipython():
    # The backend brings its own way of drawing, which ours replaces.
    plt.switch_backend(plt.get_backend())
    shell.display_formatter.formatters["image/png"].for_type(Figure, png)


def axes(width: float = 7.0, height: float = 2.6) -> tuple[Figure, Axes]:
    """Return a figure with the project's look; sizes in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")


def trace_table(turn: "Turn") -> pd.DataFrame:
    """Return one turn as the steps it took, one row each."""
    from csproto.desk.handbook import default_handbook
    from csproto.desk.transcript import to_json

    told, usage = turn.as_dict(default_handbook()), turn.usage
    decisions = [f"{d['action']} by {d['rule']}" for d in told["decisions"]]
    writes = [d["write"] for d in told["decisions"] if d["write"]]
    sure = "" if turn.sure is None else f"{turn.sure:.1%}"
    rows = {
        "message": turn.text,
        "triage": turn.triage.to_wire() if turn.triage else "",
        "sure": f"{sure}, then {turn.runner_up}" if turn.runner_up else sure,
        "decision": "; ".join(decisions),
        "facts": "; ".join(to_json(d["facts"]) for d in told["decisions"]),
        "written": ", ".join(writes) or "nothing",
        "waits for": told["waiting"]["action"] if told["waiting"] else "nothing",
        "reply": turn.reply,
        "tokens": f"{usage.prompt_tokens} read, {usage.cached_tokens} of them from the cache, "
        f"{usage.completion_tokens} written",
        "time": f"reply after {turn.ttft_ms:.0f} ms, saved after {turn.total_ms:.0f} ms",
    }
    return pd.DataFrame(rows.items(), columns=["step", "what happened"]).set_index("step")


def confusion_matrix(table: pd.DataFrame) -> Figure:
    """Draw how often each intent (column) was recognised for each expected one (row).

    table: the counts. The colour is the share of the row.
    """
    share = table.div(table.sum(axis=1).clip(lower=1), axis=0)
    figure, ax = axes(7.5, 6.2)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(
        range(len(table.columns)), table.columns, rotation=40, ha="right", rotation_mode="anchor"
    )
    ax.set_yticks(range(len(table.index)), table.index)
    ax.set_xlabel("recognised intent")
    ax.set_ylabel("expected intent")
    for row, column in zip(*table.to_numpy().nonzero(), strict=True):
        dark = share.to_numpy()[row, column] > 0.5
        ax.text(
            column,
            row,
            str(table.iat[row, column]),
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    return figure


def token_bars(turns: Sequence["Turn"]) -> Figure:
    """Draw for each turn the tokens from the prefix cache, those computed, and those written."""
    figure, ax = axes(height=0.6 + 0.45 * len(turns))
    names = [f"turn {place}" for place in range(1, len(turns) + 1)]
    parts = {
        "reused": [t.usage.cached_tokens for t in turns],
        "computed": [t.usage.prompt_tokens - t.usage.cached_tokens for t in turns],
        "written": [t.usage.completion_tokens for t in turns],
    }
    stack(ax, names, parts)
    ax.set_xlabel("tokens, all model calls of a turn together")
    plt.close(figure)
    return figure


def stack(ax: Axes, names: Sequence[str], parts: Mapping[str, Sequence[float]]) -> None:
    """Draw one bar for each name, made of the parts. The first name is on top."""
    left = [0.0] * len(names)
    for label, values in parts.items():
        ax.barh(names, values, left=left, color=COLOURS[label], label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))


def arrivals(moments: Sequence[tuple[str, float]]) -> Figure:
    """Draw when each event of one answer came.

    moments: names of events, each with the milliseconds since the message was sent.
    """
    colours = {
        "Understood": "computed",
        "Decided": "other",
        "Said": "written",
        "Done": "reused",
    }
    labels = {
        "Understood": "understood",
        "Decided": "decided and written",
        "Said": "reply",
        "Done": "complete",
    }
    names = [name for name in labels if any(name == seen for seen, _ in moments)]
    figure, ax = axes(height=0.7 + 0.35 * len(names))
    for row, name in enumerate(names):
        times = [moment for seen, moment in moments if seen == name]
        ax.scatter(times, [row] * len(times), color=COLOURS[colours[name]], s=60, zorder=2)
    ax.set_yticks(range(len(names)), [labels[name] for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.grid(axis="x", alpha=0.3)
    ax.set_xlabel("milliseconds since the message was sent")
    plt.close(figure)
    return figure


def table(frame: pd.DataFrame) -> HTML:
    """Return a table with whole cells and text to the left, without an index of mere numbers."""
    if frame.index.name:
        frame = frame.reset_index()
    with pd.option_context("display.max_colwidth", None, "display.precision", 3):
        html = frame.to_html(border=0, index=not isinstance(frame.index, pd.RangeIndex))
    return HTML(
        html.replace("<td>", '<td style="text-align:left">').replace(
            "<th>", '<th style="text-align:left">'
        )
    )


def estimates(frame: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Draw dots with intervals: one row for each way, one panel for each measure.

    frame: a measure `X` has its interval in the columns `X low` and `X high`.
    measures: columns, each with the label of its axis and the unit.
    """
    size = (max(5.0, 2.6 * len(measures) + 1), 0.8 + 0.4 * len(frame))
    figure, panels = plt.subplots(
        1, len(measures), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (measure, label) in zip(panels[0], measures.items(), strict=True):
        middle = frame[measure].astype(float)
        reach = [
            middle - frame[f"{measure} low"].astype(float),
            frame[f"{measure} high"].astype(float) - middle,
        ]
        ax.errorbar(
            middle,
            range(len(frame)),
            xerr=reach,
            fmt="o",
            color=COLOURS["written"],
            capsize=4,
            clip_on=False,
        )
        ax.set_xlim(left=0)
        ax.set_xlabel(label)
        ax.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(frame)), frame.index)
    panels[0][0].set_ylim(len(frame) - 0.5, -0.5)
    plt.close(figure)
    return figure


def outcome_bars(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw what became of the answers of each way, as shares.

    frames: one panel for each result of `csproto.lessons.extraction.compare`.
    """
    colours = {"valid": "good", "wrong shape": "not yet", "not JSON": "wrong", "cut off": "half"}
    size = (4.0 * len(frames) + 1, 2.2)
    figure, panels = plt.subplots(
        1, len(frames), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (title, frame) in zip(panels[0], frames.items(), strict=True):
        shares = 100 * pd.crosstab(frame["way"], frame["outcome"], normalize="index")
        shares = shares.reindex(columns=list(colours), fill_value=0.0)
        left = shares.cumsum(axis=1) - shares
        for outcome, colour in colours.items():
            ax.barh(
                shares.index.astype(str),
                shares[outcome],
                left=left[outcome],
                color=COLOURS[colour],
                label=outcome,
            )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("% of the answers")
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure


def readiness(timeline: pd.DataFrame) -> Figure:
    """Draw what each probe answered while a server started.

    timeline: columns `seconds`, `probe` and `status` (0 while nobody listened).
    """
    probes = list(dict.fromkeys(timeline["probe"]))
    figure, ax = axes(height=0.8 + 0.4 * len(probes))
    for label, colour, statuses in (
        ("nobody listens", "other", [0]),
        ("503, not yet", "not yet", [503]),
        ("200", "good", [200]),
    ):
        seen = timeline[timeline["status"].isin(statuses)]
        if len(seen):
            rows = [probes.index(probe) for probe in seen["probe"]]
            ax.scatter(seen["seconds"], rows, color=COLOURS[colour], s=40, label=label)
    ax.set_yticks(range(len(probes)), probes)
    ax.set_ylim(len(probes) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds since the launch")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.close(figure)
    return figure


def reuse_map(shares: pd.DataFrame) -> Figure:
    """Draw the share of earlier tokens from the cache: a row for each way, a column a turn."""
    figure, ax = axes(6.6, 0.9 + 0.42 * len(shares))
    ax.imshow(shares, cmap="cividis_r", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(shares.columns)), shares.columns)
    ax.set_yticks(range(len(shares.index)), shares.index)
    ax.tick_params(length=0)
    for row, values in enumerate(shares.to_numpy()):
        for column, value in enumerate(values):
            ax.text(
                column,
                row,
                f"{value:.0%}",
                ha="center",
                va="center",
                color="white" if value > 0.5 else "black",
            )
    ax.set_title("tokens of the turn before that came from the cache", fontsize=10)
    plt.close(figure)
    return figure


def prefill_lines(times: pd.DataFrame) -> Figure:
    """Draw the time to the first token by the length of the prompt in tokens (the index)."""
    figure, ax = axes(height=3.0)
    for column, colour, mark in (("computed", "computed", "o"), ("cached", "reused", "s")):
        ax.plot(times.index, times[column], marker=mark, color=COLOURS[colour], label=column)
    ax.set_xlabel("tokens of the prompt")
    ax.set_ylabel("ms to the first token")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.legend()
    plt.close(figure)
    return figure


def turn_lines(turns: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw one conversation under several settings, turn by turn.

    One panel has the computed prompt tokens, the other the milliseconds to the whole
    answer; both are medians over the rounds.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.0), layout="constrained")
    for name, colour, mark in zip(
        names, ("reused", "computed", "written", "half"), "osv^", strict=False
    ):
        middle = turns[turns["setting"] == name].groupby("turn")[["computed", "ms"]].median()
        for ax, column in ((left, "computed"), (right, "ms")):
            ax.plot(middle.index, middle[column], marker=mark, color=COLOURS[colour], label=name)
    left.set_ylabel("prompt tokens computed in the turn")
    right.set_ylabel("ms to the whole answer")
    for ax in (left, right):
        ax.set_xlabel("turn of the conversation")
        ax.set_xticks(sorted(turns["turn"].unique()))
        ax.set_ylim(bottom=0)
    left.legend()
    plt.close(figure)
    return figure


def concurrency_lines(loads: pd.DataFrame) -> Figure:
    """Draw throughput and time to the reply by the number of customers at once.

    The areas are the range over the rounds.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.2, 2.8), layout="constrained")
    for ax, column, unit in zip(
        panels, ("turns/s", "TTFT ms"), ("turns a second", "ms to the reply"), strict=True
    ):
        ax.fill_between(
            loads["at once"],
            loads[f"{column} low"],
            loads[f"{column} high"],
            color=COLOURS["good"],
            alpha=0.4,
        )
        ax.plot(loads["at once"], loads[column], marker="o", color=COLOURS["written"])
        ax.set_xscale("log", base=2)
        ax.set_xticks(loads["at once"], loads["at once"].astype(str))
        ax.set_xlabel("conversations at once")
        ax.set_ylabel(unit)
        ax.set_ylim(bottom=0)
    plt.close(figure)
    return figure


def engine_lines(speeds: pd.DataFrame) -> Figure:
    """Draw the output tokens a second of each engine alone by the requests at once.

    speeds: columns `engine`, `at once`, `median`, `min` and `max`.
    """
    figure, ax = axes(height=3.0)
    marks = zip(
        speeds["engine"].unique(), ("reused", "computed", "written", "half"), "osv^", strict=False
    )
    for engine, colour, mark in marks:
        rows = speeds[speeds["engine"] == engine]
        ax.fill_between(
            rows["at once"], rows["min"], rows["max"], color=COLOURS[colour], alpha=0.25
        )
        ax.plot(rows["at once"], rows["median"], marker=mark, color=COLOURS[colour], label=engine)
    ax.set_xscale("log", base=2)
    ax.set_xticks(
        sorted(speeds["at once"].unique()), [str(n) for n in sorted(speeds["at once"].unique())]
    )
    ax.set_xlabel("requests at once")
    ax.set_ylabel("output tokens a second")
    ax.set_ylim(bottom=0)
    ax.legend()
    plt.close(figure)
    return figure
