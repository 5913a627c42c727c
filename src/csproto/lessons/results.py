"""What the notebooks have in common.

Results that are kept for the tests and for the notebooks after, and the blog's claims
beside what was measured.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd
import yaml

from csproto.errors import CsprotoError
from csproto.settings import DATA, results_folder


class UnknownClaim(CsprotoError):
    """A number under which `data/blog.yaml` has no claim."""


def save(notebook: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Keep a notebook's results as JSON and return them as they were read back.

    They go to `build/results`, or to the folder that `CSPROTO_RESULTS` names."""
    path = results_folder() / f"{notebook}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, ensure_ascii=False, indent=1), encoding="utf-8")
    return saved(notebook)


def saved(notebook: str) -> dict[str, Any]:
    """The results of a notebook's last run on this machine; empty when it has not been run."""
    try:
        found: dict[str, Any] = json.loads(
            (results_folder() / f"{notebook}.json").read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        return {}
    return found


@cache
def blog() -> dict[int, dict[str, str]]:
    """The claims of `data/blog.yaml` by their numbers.

    What the blog `says`, and the `notebook` that answers.
    """
    found: dict[int, dict[str, str]] = yaml.safe_load(
        (DATA / "blog.yaml").read_text(encoding="utf-8")
    )["claims"]
    return found


def claims(measured: Mapping[int, str], *, earlier: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the blog's claims beside what was measured.

    earlier: names of notebooks whose kept results count too.

    Raises UnknownClaim.
    """
    if strange := measured.keys() - blog().keys():
        raise UnknownClaim(
            f"data/blog.yaml has no claim {min(strange)}: its numbers go from 1 to {max(blog())}."
        )
    rows = dict(measured)
    for notebook in earlier:
        numbers = [n for n, claim in blog().items() if claim["notebook"] == notebook]
        kept = {int(n): text for n, text in saved(notebook).get("claims", {}).items()}
        rows |= {
            n: kept.get(n, f"not measured here yet: run {notebook}")
            for n in numbers
            if n not in rows
        }
    return pd.DataFrame(
        [
            {"claim": n, "the blog says": blog()[n]["says"], "measured here": rows[n]}
            for n in sorted(rows)
        ]
    ).set_index("claim")
