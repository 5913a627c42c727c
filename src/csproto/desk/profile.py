"""The settings with which the desk uses one model: prompt, limits and sampling.

They are in `csproto.json` beside the model's weights, or, for a model that is not in a
folder of this machine, in `data/models/NAME.yaml`, where NAME is the last part of its id
or path. What they leave out comes from `data/models/default.yaml`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csproto.desk.state import SURE, Limits
from csproto.errors import CsprotoError
from csproto.settings import DATA

FILE = "csproto.json"
FOLDER = DATA / "models"
DEFAULT = "default.yaml"  # in FOLDER

# What SGLang's frontend can ask for with every call. The stop tokens and the lengths are
# the desk's own business.
Sampling = Literal[
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty"
]


class ProfileError(CsprotoError):
    """The file of a profile is missing, or its content is not of the required form."""


class Profile(BaseModel):
    """The settings for one model.

    prompt: the whole system prompt; if empty, the prompt is built from the wish files.
    examples: the texts of the spare examples of the wish files that this prompt has too.
    limits: how sure the model must be, lest the desk asks what is meant.
    sampling: the sampling parameters of every model call.
    guess: whether the model is told a first guess at each message (see `FirstGuess`).
    similar: how many similar lines of the corpus the model sees before each message.
    shortlist: the share (0 to 1) that the first guess must give an intent, lest the grammar
        of the triage leaves it out (see `csproto.desk.guess.shortlist`); 0 for no shortlist.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = ""
    examples: tuple[str, ...] = ()
    limits: Limits = SURE
    sampling: dict[Sampling, int | float] = {"temperature": 0.0}  # top_k must stay an int
    guess: bool = False
    similar: int = Field(default=0, ge=0, le=50)
    shortlist: float = Field(default=0.0, ge=0.0, lt=1.0)


def profile_of(model: str | Path) -> Profile:
    """Return a model's profile, with the default one for what it leaves out.

    Raises ProfileError.
    """
    path = profile_file(model)
    usual, own = _read(FOLDER / DEFAULT), _read(path) if path.is_file() else {}
    values = usual | own
    if isinstance(own.get("limits"), dict):
        values["limits"] = usual["limits"] | own["limits"]
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise _no_profile(path, error) from error


def profile_file(model: str | Path) -> Path:
    """Return the file of a model's profile, whether it exists or not."""
    folder = Path(model)
    return folder / FILE if folder.is_dir() else FOLDER / f"{folder.name}.yaml"


def writable_profile(model: str | Path) -> Path:
    """Return the file into which `change_profile` will write.

    Raises ProfileError if it cannot be written, which is better known before hours of
    measuring than after them.
    """
    path = profile_file(model)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ProfileError(
            f"The profile of {model} cannot be written to {path}: it is not writable. Leave "
            "--write-profile out, and write the values there by hand."
        )
    return path


def change_profile(model: str | Path, changes: Mapping[str, Any]) -> Path:
    """Change values of a model's profile, and return the profile's file."""
    path = writable_profile(model)
    profile = Profile.model_validate({**profile_of(model).model_dump(), **changes})
    # JSON is YAML too, so this fits both kinds of profile.
    path.write_text(profile.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))  # reads JSON too
    except (OSError, yaml.YAMLError) as error:
        raise _no_profile(path, error) from error
    if not isinstance(raw, dict):
        raise _no_profile(path, "it is no list of names with values")
    return raw


def _no_profile(path: Path, why: object) -> ProfileError:
    return ProfileError(
        f"{path} is no profile of a model: {why}. Compare it with {FOLDER / DEFAULT}."
    )
