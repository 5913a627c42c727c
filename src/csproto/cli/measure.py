"""Commands that measure: eval, scenarios, references, bench."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from csproto import settings
from csproto.cli.common import (
    AsJson,
    BaseUrl,
    Model,
    Workers,
    app,
    connected_endpoint,
    err,
    out,
    progress,
)
from csproto.errors import CsprotoError

if TYPE_CHECKING:
    from rich.table import Table

    from csproto.measure.report import Report

Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token each time.")]


class Half(StrEnum):
    """Which cases of a set: those with an odd number may be looked at one by one."""

    odd = "odd"
    even = "even"


@contextmanager
def _bar(words: str, total: int) -> Iterator[Any]:
    """Show a progress bar on a terminal. Yields a function of (done, total)."""
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda done, _: bar.update(task, completed=done)


@app.command("eval")
def evaluate_command(
    data: Annotated[
        list[Path] | None, typer.Option(help="JSONL of cases. Default: all sets of data/eval.")
    ] = None,
    as_json: AsJson = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write one prediction a turn here.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the confusion matrix here (.png, .svg or .pdf).")
    ] = None,
    base_url: BaseUrl = None,
    model: Model = None,
    temperature: Temperature = 0.0,
    repeat: Annotated[
        int, typer.Option(help="Play each case this often; 2 or more give pass^k.")
    ] = 1,
    workers: Workers = 4,
    half: Annotated[Half | None, typer.Option(help="Only cases with odd or even numbers.")] = None,
    similar: Annotated[
        int | None,
        typer.Option(help="Show the model this many similar lines of the corpus (retrieval)."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Measure keywords and a linear classifier beside it.")
    ] = False,
    record: Annotated[
        str | None, typer.Option(help="Keep the figures in data/measured/models/NAME.json.")
    ] = None,
    calibrate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Find the limits of sureness that ask this share back, such as 0.1."
        ),
    ] = None,
    write_profile: Annotated[
        bool, typer.Option(help="With --calibrate: write the limits into the model's profile.")
    ] = False,
) -> None:
    """Measure a model on hand-written messages and dialogues."""
    from csproto.desk.profile import change_profile, profile_of, writable_profile
    from csproto.desk.state import SURE
    from csproto.measure import evaluate as measure
    from csproto.measure import models
    from csproto.measure.cases import load_cases

    # A bad name is refused before the hours of measuring, not after them.
    record_file = models.record_file(record) if record else None
    if write_profile and calibrate is None:
        raise typer.BadParameter("--write-profile needs --calibrate.")
    for path in filter(None, (out_file, picture)):
        if not path.parent.is_dir():
            raise CsprotoError(f"{path} cannot be written: there is no folder {path.parent}.")
    cases = [case for path in data or measure.SETS.values() for case in load_cases(path)]
    if half:
        cases = measure.half(cases, half.value)
    with (
        connected_endpoint(base_url, model) as endpoint,
        _bar("evaluating", len(cases) * repeat) as done,
    ):
        model_path = str(endpoint.model_info["model_path"])
        profile = profile_of(model_path)
        if write_profile:
            writable_profile(model_path)
        if calibrate is not None:
            profile = profile.model_copy(update={"limits": SURE})
        if similar is not None:
            profile = profile.model_copy(update={"similar": similar})
        report = measure.evaluate(
            endpoint,
            cases,
            profile=profile,
            temperature=temperature,
            repeat=repeat,
            workers=workers,
            progress=done,
        )
    if out_file:
        report.write_predictions(out_file)
    if picture:
        from csproto.measure.pictures import confusion_matrix

        confusion_matrix(report.confusion()).savefig(picture)
    figures = report.as_dict()
    if calibrate is not None:
        limits = measure.limits_for(report, calibrate)
        figures["limits"] = vars(limits)
    if baselines:
        from csproto.measure.baselines import baseline_figures

        figures["baselines"] = baseline_figures(cases)
    if record_file:
        sets = [path.stem for path in data or measure.SETS.values()]
        sets = [f"{name}, {half.value} half" if half else name for name in sets]
        kept = models.record(
            figures,
            profile,
            sets,
            workers,
            temperature=temperature,
            repeat=repeat,
            calibrated=calibrate is not None,
        )
        models.write_record(record_file, kept)
        err.print(f"The figures are kept in {record_file}.")
    if write_profile:
        written = change_profile(model_path, {"limits": limits})
        err.print(f"The limits are written to {written}.")
    if as_json:
        print(json.dumps(figures, ensure_ascii=False))
        return
    _print_figures(figures, report)
    if calibrate is not None:
        out.print(f"for csproto.json:\n {json.dumps({'limits': figures['limits']})[1:-1]}")


def _shares(figures: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the shares of a summary with their names."""
    kinds = ("intent", "orders", "action", "writes")
    named = {kind: figures[kind] for kind in kinds}
    for lang, of in figures["by_lang"].items():
        named |= {f"{kind}, {lang}": of[kind] for kind in kinds}
    for name in ("third_turn", "all_right", "clarifications", "json_valid"):
        named[name.replace("_", " ")] = figures[name]
    for name, of in figures.get("baselines", {}).items():
        named[f"intent, {name} baseline"] = of["intent"]
    yield from ((name, share) for name, share in named.items() if share)


def _print_figures(figures: dict[str, Any], report: "Report") -> None:
    """Print the summary of an evaluation as tables that fit 80 columns."""
    from csproto.cli.printing import print_fitting, rows

    print_fitting(_share_table(figures), *_right_tables(figures, report), _speed_table(figures))
    cached = _percent(figures["reused"])
    rest = {"errors": str(figures["errors"]), "reused from the prefix cache": cached}
    if pass_k := figures.get("pass_k"):
        rest[f"pass^{pass_k['k']}"] = _percent(pass_k["share"])
    unwanted = figures["unwanted_writes"]
    rest["unwanted writes"] = str(unwanted["count"])
    print_fitting("", rows(rest.items()))
    found = []
    for row in unwanted["list"]:
        kinds = ", ".join(write["kind"] for write in row["writes"])
        found.append((f"{row['id']}, turn {row['turn']}", f"{kinds}: {row['text']}"))
    print_fitting(rows(found))


def _table(*headers: str) -> "Table":
    """Return a table without lines; its first column is text, the others are numbers."""
    from rich.table import Table

    table = Table(headers[0], box=None, pad_edge=False)
    for header in headers[1:]:
        table.add_column(header, justify="right")
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _share_table(figures: dict[str, Any]) -> "Table":
    table = _table("", "turns", "share", "95 % interval")
    for name, share in _shares(figures):
        low, high = share["ci95"]
        table.add_row(name, str(share["n"]), _percent(share["share"]), f"{low:.1%} to {high:.1%}")
    return table


def _right_tables(figures: dict[str, Any], report: "Report") -> Iterator["Table"]:
    """Yield the share right by intent, and by how sure the model was."""
    by_intent = _table("\nintent", "\nturns", "\nright")
    for intent, row in report.by_intent().iterrows():
        by_intent.add_row(str(intent), str(int(row.n)), _percent(row.accuracy))
    yield by_intent
    sureness = _table("\nasked back below", "\nanswered", "\nright of those")
    for at in figures["by_threshold"]:
        shares = (_percent(at["coverage"]), _percent(at["accuracy"]))
        sureness.add_row(str(at["threshold"]), *shares)
    yield sureness


def _speed_table(figures: dict[str, Any]) -> "Table":
    """Return how long the answers took."""
    table = _table("\nmilliseconds", "\np50", "\np95")
    for name, words in (("ttft_ms", "until the reply"), ("latency_ms", "until it is saved")):
        if times := figures[name]:
            table.add_row(words, f"{times['p50']:.0f}", f"{times['p95']:.0f}")
    return table


@app.command("scenarios")
def scenarios_command(
    as_json: AsJson = False,
    temperature: Temperature = 0.0,
    repeat: Annotated[int, typer.Option(help="Play each one this often.")] = 1,
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    at_least: Annotated[
        float, typer.Option(min=0, max=1, help="Exit with 1 if a smaller share passes.")
    ] = 0.0,
    base_url: BaseUrl = None,
    model: Model = None,
    workers: Workers = 4,
) -> None:
    """Play the scripted conversations and compare every action and the whole database."""
    from csproto.measure import scenarios
    from csproto.measure.evaluate import desk_maker

    chosen = [
        scenario
        for scenario in scenarios.load_scenarios() * repeat
        if family in (None, scenario.family) and not scenario.rehearsal_only
    ]
    if not chosen:
        raise CsprotoError(f"There is no family {family}: data/scenarios has one file for each.")
    with connected_endpoint(base_url, model) as endpoint, _bar("scenarios", len(chosen)) as done:
        make_desk = desk_maker(endpoint, temperature=temperature)
        results = scenarios.play_each(chosen, make_desk, workers=workers, progress=done)
    families, passed = scenarios.by_family(results), sum(result.passed for result in results)
    if as_json:
        failed = {r.scenario.name: r.differences for r in results if not r.passed}
        figures = {"passed": passed, "total": len(results), "by_family": families, "failed": failed}
        print(json.dumps(figures, ensure_ascii=False))
    else:
        for result in results:
            if not result.passed:
                name = f"{result.scenario.family}: {result.scenario.name}"
                out.print(f"{name}\n  " + "\n  ".join(result.differences), markup=False)
        for name, counts in families.items():
            out.print(f"{name:24} {counts['passed']} of {counts['total']}")
    if passed < at_least * len(results):
        raise CsprotoError(
            f"{len(results) - passed} of {len(results)} scenarios failed; {at_least:.0%} must pass."
        )


@app.command("references")
def references_command(
    count: Annotated[int, typer.Option(help="Messages of each kind and language.")] = 60,
    as_json: AsJson = False,
    base_url: BaseUrl = None,
    model: Model = None,
) -> None:
    """Measure how well a model finds orders by articles it never saw, places, parts of numbers."""
    from csproto.measure.references import measure

    with connected_endpoint(base_url, model) as endpoint:
        table = measure(endpoint, count)
    if as_json:
        print(table.reset_index().to_json(orient="records", force_ascii=False))
    else:
        out.print(table.round(3).to_string())


@app.command("bench")
def bench_command(
    as_json: AsJson = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the record (JSON) here.")
    ] = None,
    arms: Annotated[
        str,
        typer.Option(
            help="Comma-separated; the first is compared with the others. Default: all, or a pair."
        ),
    ] = "",
    quick: Annotated[
        bool,
        typer.Option(help="Under three minutes for a pair of arms, servers' start not counted."),
    ] = False,
    rounds: Annotated[
        int, typer.Option(help="Rounds; the intervals are over them. Default: 6, quick 3.")
    ] = 0,
    rates: Annotated[
        str, typer.Option(help="New conversations a second, for the open loop.")
    ] = "1,2,4",
    seed: Annotated[int, typer.Option(help="Another seed, other conversations.")] = 0,
    model: Annotated[str, typer.Option(help="A model folder or a hub id.")] = str(
        settings.MINI_MODEL
    ),
    base_url: Annotated[
        str | None, typer.Option(help="A running SGLang server, in place of one of our own.")
    ] = None,
    no_radix_url: Annotated[
        str | None, typer.Option(help="A running one with --disable-radix-cache.")
    ] = None,
    vllm_url: Annotated[str | None, typer.Option(help="A running vLLM server.")] = None,
) -> None:
    """Measure speed on the same conversations: ours, vLLM, and what each feature is worth."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from csproto.measure.bench.arms import DEFAULT, QUICK
    from csproto.measure.bench.compare import compare, full_plan, quick_plan
    from csproto.measure.bench.record import lines

    chosen = arms.split(",") if arms else QUICK if quick else DEFAULT
    make = quick_plan if quick else full_plan
    plan = make(
        chosen, rounds or (3 if quick else 6), [float(rate) for rate in rates.split(",")], seed
    )
    urls = {"sglang": base_url, "sglang-no-radix": no_radix_url, "vllm": vllm_url}
    with (
        progress() as say,
        Progress(
            TextColumn("measuring"), BarColumn(), TimeRemainingColumn(), console=err, transient=True
        ) as bar,
    ):
        task = bar.add_task("")

        def advance(done: float, steps: float) -> None:
            bar.update(task, completed=done, total=steps)
            if not err.is_terminal:
                say(f"measured {10 * int(10 * done / steps)} %: {done:.0f} of {steps:.0f} steps")

        reachable = {name: url for name, url in urls.items() if url}
        record = compare(plan, urls=reachable, model=model, say=say, advance=advance)
    if out_file:
        out_file.parent.mkdir(parents=True, exist_ok=True)
        out_file.write_text(
            json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    if as_json:
        print(json.dumps(record, ensure_ascii=False))
        return
    for text in lines(record):
        out.print(text, markup=False)
