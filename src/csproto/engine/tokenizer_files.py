"""Finds the files that say how a model's messages are written, wherever the model is.

They are small, and they are needed on this machine even if the model runs on another one.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from csproto.settings import DATA

NAMES = ("tokenizer_config.json", "chat_template.jinja")
VOCABULARY = "tokenizer.json"
# Files that somebody put into BY_HAND/NAME come before those of the model NAME: it may be on
# another machine, or need another template.
BY_HAND = DATA / "models"


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer's files of one model; each is None if it does not exist."""

    config_file: Path | None = None
    template_file: Path | None = None
    vocabulary_file: Path | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """What `tokenizer_config.json` says."""
        return json.loads(self.config_file.read_text("utf-8")) if self.config_file else {}

    @property
    def template(self) -> str:
        """The source of the chat template; empty if there is none."""
        if self.template_file:
            return self.template_file.read_text(encoding="utf-8")
        source = self.config.get("chat_template") or ""
        if isinstance(source, list):  # several templates, each with a name
            source = next((t["template"] for t in source if t["name"] == "default"), "")
        return str(source)

    def token(self, name: str) -> str:
        """Return a special token such as `bos_token`; empty if the tokenizer has none."""
        token = self.config.get(name)
        return str(token["content"] if isinstance(token, dict) else token or "")

    def begins_with(self, token: str) -> bool:
        """Return whether the tokenizer itself puts a token in front of every text."""
        if (says := self.config.get("add_bos_token")) is not None:
            return bool(says)
        if self.vocabulary_file is None:
            return True  # as SentencePiece does
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.vocabulary_file)).encode("a").tokens[:1] == [token]


def tokenizer_files(model: str) -> TokenizerFiles | None:
    """Return the tokenizer's files of a model; None if they cannot be had.

    model: a folder, or an id of the Hugging Face hub. Files of the hub come from its cache
        on this machine, or are downloaded, which is some kilobytes.
    """
    folders = [f for f in (BY_HAND / Path(model).name, Path(model)) if f.is_dir()]
    if folders:
        config, template, vocabulary = (_first(folders, n) for n in (*NAMES, VOCABULARY))
        return TokenizerFiles(config, template, vocabulary)
    if model.startswith((".", "/")):
        return None
    config, template = (from_hub(model, name) for name in NAMES)
    if not config and not template:
        return None
    return TokenizerFiles(config, template, from_hub(model, VOCABULARY, download=False))


def _first(folders: list[Path], name: str) -> Path | None:
    """Return a file from the first folder that has it."""
    return next((f / name for f in folders if (f / name).is_file()), None)


def from_hub(model: str, name: str, download: bool = True) -> Path | None:
    """Return a file of a model on the hub; None if it has none, or cannot be reached."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    with suppress(OSError, ValueError):  # what the library raises: HfHubHTTPError and others
        kept = try_to_load_from_cache(model, name)
        if isinstance(kept, str):
            return Path(kept)
        if download and os.environ.get("HF_HUB_OFFLINE") != "1":
            return Path(hf_hub_download(model, name, etag_timeout=5))
    return None
