"""Commands that measure: eval, scenarios."""

import json
from pathlib import Path
from typing import Annotated

import typer

from csproto.cli.common import AsJson, BaseUrl, app, err, out, progress
from csproto.errors import CsprotoError


@app.command("eval")
def evaluate_command(
    data: Annotated[list[Path] | None, typer.Option(help="JSONL of cases. Default: both sets of data/eval.")] = None,
    as_json: AsJson = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write one prediction per turn here.")] = None,
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
    from csproto.shop import connected

    cases = [case for path in data or SETS for case in load_cases(path)]
    with progress() as say, connected(base_url, model, say) as (url, key):
        from csproto.endpoint import Endpoint

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
    from csproto.shop import connected

    chosen = scenarios.load(family=family) * repeat
    with progress() as say, connected(base_url, None, say) as (url, key):
        from csproto.endpoint import Endpoint

        factory = scenarios.factory(Endpoint(url, key), temperature)
        results = scenarios.run_all(chosen, factory, progress=lambda done, n: say(f"scenarios: {done} of {n}"))
    report = scenarios.summary(results)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for result in results:
            if not result.passed:
                out.print(str(result), markup=False)
        for name, (passed, total) in report["by_family"].items():
            out.print(f"{name:20} {passed} of {total}")
    if report["failed"]:
        raise CsprotoError(f"{report['total'] - report['passed']} of {report['total']} scenarios failed.")
