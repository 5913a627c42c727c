"""The settings with which the desk uses one model: prompt, limits and sampling.

They are in `csproto.json` beside the model's weights. A model without this file gets
`data/models/default.yaml`.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csproto.desk.state import SURE, Limits
from csproto.errors import CsprotoError
from csproto.settings import DATA

FILE = "csproto.json"
DEFAULT = DATA / "models" / "default.yaml"


class ProfileError(CsprotoError):
    """The file of a profile is missing, or its content is not of the required form."""


class Profile(BaseModel):
    """The settings for one model.

    prompt: the whole system prompt; if empty, the prompt is built from the wish files.
    limits: how sure the model must be, lest the desk asks what is meant.
    sampling: the sampling parameters of every model call.
    guess: whether the model is told a first guess at each message (see `FirstGuess`).
    similar: how many similar lines of the corpus the model sees before each message.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = ""
    limits: Limits = SURE
    sampling: dict[str, float] = {"temperature": 0.0}
    guess: bool = False
    similar: int = Field(default=0, ge=0, le=50)


def profile_of(model: str | Path) -> Profile:
    """Return a model's profile: the one in its folder, or else the default one.

    Raises ProfileError.
    """
    own = Path(model) / FILE
    path = own if own.is_file() else DEFAULT
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))  # reads JSON too
        return Profile.model_validate(raw)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ProfileError(
            f"{path} is no profile of a model: {error}. Compare it with {DEFAULT}."
        ) from error
