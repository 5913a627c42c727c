"""What one model needs of the desk: its prompt, when to ask back, how to sample.

It stands beside the model's weights as `csproto.json`. `data/models/default.yaml` serves every
other model.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from csproto.errors import CsprotoError
from csproto.settings import DATA

FILE = "csproto.json"
DEFAULT = DATA / "models" / "default.yaml"


class ProfileError(CsprotoError):
    """A profile that cannot be used."""


class Profile(BaseModel):
    """How the desk speaks to one model.

    prompt: the whole system prompt, or empty for the one that is built from the wish files.
    threshold: sureness below which the desk asks back. sampling: passed to every generation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = ""
    threshold: float = 0.0
    sampling: dict[str, float] = {"temperature": 0.0}


def profile_of(model: str | Path) -> Profile:
    """The profile of a model folder, else the default one. Raises ProfileError."""
    own = Path(model) / FILE
    path = own if own.is_file() else DEFAULT
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML, too
        return Profile.model_validate(raw)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ProfileError(
            f"{path} is no profile of a model: {error}. Compare it with {DEFAULT}."
        ) from error
