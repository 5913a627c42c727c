"""Commands about the model: its prompt, the mini model's training, the tuning of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from csproto import settings
from csproto.cli.common import BaseUrl, Model, Workers, app, connected_endpoint, err, out
from csproto.errors import CsprotoError

if TYPE_CHECKING:
    from csproto.desk.profile import Profile
    from csproto.measure.examples import Try
    from csproto.measure.report import Report

model_app = typer.Typer(no_args_is_help=True, help="The model: its prompt, training and tuning.")
app.add_typer(model_app, name="model")


@model_app.command("prompt")
def model_prompt(
    model: Model = None,
    tune: Annotated[
        bool, typer.Option(help="Choose more examples for it, by measuring what each brings.")
    ] = False,
    tries: Annotated[int, typer.Option(min=1, help="With --tune: examples to try.")] = 20,
    cases: Annotated[
        int, typer.Option(min=15, help="With --tune: messages to measure each try on.")
    ] = 90,
    write_profile: Annotated[
        bool, typer.Option(help="With --tune: keep the chosen ones in the model's profile.")
    ] = False,
    base_url: BaseUrl = None,
    workers: Workers = 4,
) -> None:
    """Show the prompt that a model reads before each conversation, or choose its examples."""
    if tune:
        _tune_prompt(model, tries, cases, write_profile, base_url, workers)
    elif write_profile:
        raise typer.BadParameter("--write-profile needs --tune.")
    else:
        _show_prompt(model or str(settings.MINI_MODEL))


def _show_prompt(model: str) -> None:
    from csproto.desk.guess import guesser, no_guess
    from csproto.desk.handbook import default_handbook
    from csproto.desk.profile import profile_of
    from csproto.desk.prompt import prompt_messages

    handbook, profile = default_handbook(), profile_of(model)
    guess = guesser(tuple(handbook.intents)) if profile.guess else no_guess
    for message in prompt_messages(profile, handbook, guess):
        out.print(f"[bold]{message.role}[/]", end="  ")
        out.print(message.content, markup=False)


def _tune_prompt(
    model: str | None, tries: int, count: int, write: bool, base_url: str | None, workers: int
) -> None:
    from csproto.desk.profile import change_profile, profile_of, writable_profile
    from csproto.measure.evaluate import evaluate
    from csproto.measure.examples import choose, tuning_cases

    with connected_endpoint(base_url, model) as endpoint:
        path = str(endpoint.model_info["model_path"])
        profile = profile_of(path)
        if profile.prompt:
            raise CsprotoError(
                f"The profile of {path} has a prompt of its own, so that no example is in it. "
                "Only a prompt that is built from the wish files can be tuned."
            )
        if write:
            writable_profile(path)
        chosen = tuning_cases(count)

        def measure(profile: Profile) -> Report:
            return evaluate(endpoint, chosen, profile=profile, workers=workers)

        for number, step in enumerate(choose(measure, profile, tries)):
            out.print(_told(number, step), markup=False)
            if write and step.kept and number:
                # At once: who interrupts the command keeps what was found so far.
                written = change_profile(path, {"examples": step.profile.examples})
        profile = step.profile
    for example in profile.examples:
        out.print(f"  {example}", markup=False)
    if write and profile.examples:
        err.print(f"The examples are written to {written}.")


def _told(number: int, step: "Try") -> str:
    """Return the line about one measurement."""
    figures = f"score {step.score:.3f}, right {step.right:.1%}"
    if not number:
        return f"{figures}: the prompt as it is"
    kept = "kept" if step.kept else "left out"
    return f"{figures}: {number}. with {step.example!r} ({step.intent}): {kept}"


@model_app.command("build")
def model_build(
    folder: Annotated[
        Path, typer.Option(help="Where checkpoints are kept; run again to go on.")
    ] = Path("build/mini-model"),
    to: Annotated[
        Path, typer.Option(help="Where the finished model is written.")
    ] = settings.MINI_MODEL,
    tokens: Annotated[
        int, typer.Option(help="Millions of tokens to train on; 0 takes the recipe's.")
    ] = 0,
    start: Annotated[
        Path | None, typer.Option("--from", help="Begin with this finished model's weights.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the mini model: hours on two cores. Interrupt it and run it again to go on."""
    from csproto.minimodel.train import Recipe, Training

    _show_progress()
    if not start:
        model_guess()
    recipe = Recipe(tokens=tokens * 1_000_000) if tokens else Recipe()
    training = Training(folder, recipe, device, start)
    training.run()
    training.export(to)
    out.print(f"wrote {to}")


@model_app.command("tune")
def model_tune(
    base: Annotated[Path, typer.Option(help="The folder of the model to tune.")],
    to: Annotated[Path, typer.Option(help="Where the tuned model is written.")],
    folder: Annotated[
        Path, typer.Option(help="Where checkpoints are kept; run again to go on.")
    ] = Path("build/tuning"),
    tokens: Annotated[
        float, typer.Option(help="Millions of tokens to train on; 50 make a message.")
    ] = 1.0,
    top_layers: Annotated[
        int, typer.Option(help="Tune only this many of the last layers; 0 tunes all.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Tune another model on the corpus. Interrupt it and run it again to go on."""
    from csproto.minimodel.tune import TuneRecipe, Tuning

    _show_progress()
    recipe = TuneRecipe(tokens=round(tokens * 1_000_000), top_layers=top_layers)
    tuning = Tuning(folder, base, recipe, device)
    tuning.run()
    tuning.export(to)
    out.print(f"wrote {to}")


def _show_progress() -> None:
    """Print the log lines of a training run."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # The corpus is made by a desk that talks: do not log its turns.
    logging.getLogger("csproto.desk").setLevel(logging.WARNING)


@model_app.command("guess")
def model_guess() -> None:
    """Fit the classifier behind the first guess on the corpus: a minute."""
    from csproto.desk.guess import FILE
    from csproto.desk.handbook import default_handbook
    from csproto.minimodel.classifier import save

    save(default_handbook())
    out.print(f"wrote {FILE}")


@model_app.command("info")
def model_info() -> None:
    """Show what the shipped model is."""
    out.print((settings.MINI_MODEL / "training.json").read_text())
