"""Commands that measure: eval, scenarios, bench."""

import json
from pathlib import Path
from typing import Annotated

import typer

from csproto import settings
from csproto.cli.common import AsJson, BaseUrl, app, err, out, progress
from csproto.errors import CsprotoError


@app.command("eval")
def evaluate_command(
    data: Annotated[list[Path] | None, typer.Option(help="JSONL of cases. Default: both sets of data/eval.")] = None,
    as_json: AsJson = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write one prediction per turn here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the confusion matrix here (.png, .svg or .pdf).")] = None,
    base_url: BaseUrl = None,
    model: Annotated[str | None, typer.Option(help="The model to start when no server runs.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    repeat: Annotated[int, typer.Option(help="Play each case this often; 2 or more give pass^k.")] = 1,
    workers: Annotated[int, typer.Option(help="Conversations at once.")] = 4,
    baseline: Annotated[bool, typer.Option(help="Measure the keyword baseline beside it.")] = False,
) -> None:
    """Measure a model on hand-written messages and dialogues."""
    from rich.progress import Progress

    from csproto.evaluate import SETS, evaluate, keyword_report, load_cases
    from csproto.opening import connected

    cases = [case for path in data or SETS for case in load_cases(path)]
    with progress() as say, connected(base_url, model, say) as (url, key):
        from csproto.engine.endpoint import Endpoint

        with Progress(console=err, transient=True) as bar:
            task = bar.add_task("evaluating", total=len(cases) * repeat)
            report = evaluate(
                Endpoint(url, key),
                cases,
                temperature=temperature,
                repeat=repeat,
                workers=workers,
                progress=lambda done, total: bar.update(task, completed=done),
            )
    if out_file:
        report.write_predictions(out_file)
    if picture:
        from csproto.measure.pictures import confusion_matrix

        confusion_matrix(report.confusion()).savefig(picture)
    figures = report.as_dict()
    if baseline:
        figures["keyword_baseline"] = keyword_report(cases)
    if as_json:
        print(json.dumps(figures, ensure_ascii=False))
        return
    out.print(report.by_intent().round(3).to_string())
    for name, value in figures.items():
        if name != "by_intent":
            out.print(f"{name:20} {json.dumps(value)}", markup=False)


@app.command("scenarios")
def scenarios_command(
    as_json: AsJson = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    repeat: Annotated[int, typer.Option(help="Play each one this often.")] = 1,
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    base_url: BaseUrl = None,
) -> None:
    """Play the scripted conversations and compare every action and the whole database."""
    from csproto import scenarios
    from csproto.opening import connected

    chosen = scenarios.load(family=family) * repeat
    with progress() as say, connected(base_url, None, say) as (url, key):
        from csproto.engine.endpoint import Endpoint

        factory = scenarios.factory(Endpoint(url, key), temperature)
        results = scenarios.run_all(chosen, factory, progress=lambda done, n: say(f"scenarios: {done} of {n}"))
    report = scenarios.summary(results)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for result in results:
            if not result.passed:
                out.print(str(result), markup=False)
        for name, counts in report["by_family"].items():
            out.print(f"{name:20} {counts['passed']} of {counts['total']}")
    if report["failed"]:
        raise CsprotoError(f"{report['total'] - report['passed']} of {report['total']} scenarios failed.")


@app.command("bench")
def bench_command(
    as_json: AsJson = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the record (JSON) here.")] = None,
    arms: Annotated[
        str,
        typer.Option(help="Comma-separated, the first one is compared with the others. Default: all five, or a pair."),
    ] = "",
    quick: Annotated[
        bool, typer.Option(help="Under three minutes for a pair of arms, servers' start not counted.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="Rounds; the intervals are over them. Default: 6, quick 3.")] = 0,
    rates: Annotated[str, typer.Option(help="New conversations a second, for the open loop.")] = "1,2,4",
    seed: Annotated[int, typer.Option(help="Another seed, other conversations.")] = 0,
    model: Annotated[str, typer.Option(help="A model folder or a hub id.")] = str(settings.MINI_MODEL),
    base_url: Annotated[str | None, typer.Option(help="A running SGLang server, in place of one of our own.")] = None,
    no_radix_url: Annotated[str | None, typer.Option(help="A running one with --disable-radix-cache.")] = None,
    vllm_url: Annotated[str | None, typer.Option(help="A running vLLM server.")] = None,
) -> None:
    """Measure speed on the same conversations: csproto on SGLang, vLLM, and what each feature is worth."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from csproto.measure.bench.arms import DEFAULT, QUICK
    from csproto.measure.bench.compare import compare, full_plan, quick_plan
    from csproto.measure.bench.record import lines

    chosen = arms.split(",") if arms else QUICK if quick else DEFAULT
    make = quick_plan if quick else full_plan
    plan = make(chosen, rounds or (3 if quick else 6), [float(rate) for rate in rates.split(",")], seed)
    urls = {"sglang": base_url, "sglang-no-radix": no_radix_url, "vllm": vllm_url}
    with (
        progress() as say,
        Progress(TextColumn("measuring"), BarColumn(), TimeRemainingColumn(), console=err, transient=True) as bar,
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
        out_file.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(record, ensure_ascii=False))
        return
    for text in lines(record):
        out.print(text, markup=False)
