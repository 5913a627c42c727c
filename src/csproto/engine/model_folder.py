"""What can be said about a model before a server is started with it."""

import json
from pathlib import Path

# Files from which SGLang can make a tokenizer, and files that can hold the weights.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model", "tekken.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


def name_of(model: str) -> str:
    """Return the name under which a model is served.

    It is `csproto-mini` for a model that `csproto model build` made, which has a record
    of its training beside its weights, and the model's folder or id for any other.
    """
    return "csproto-mini" if (Path(model) / "training.json").is_file() else model


def fault_of(folder: Path) -> str | None:
    """Return why a folder holds no model that SGLang can serve, and what to do; None if it does."""
    tokenizers = [name for name in TOKENIZERS if (folder / name).is_file()]
    for name in ("config.json", *(n for n in tokenizers[:1] if n.endswith(".json"))):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return _told(folder, f"{name} is missing or damaged ({type(error).__name__})")
    if not tokenizers:
        return _told(folder, f"there is no tokenizer ({', '.join(TOKENIZERS)})")
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        return _told(folder, f"there are no weights ({', '.join(WEIGHTS)})")
    return None


def _told(folder: Path, fault: str) -> str:
    # A model of ours can be built again; anybody else's has to be fetched again.
    ours = (folder / "training.json").is_file()
    repair = "Rebuild it with `csproto model build`" if ours else "Fetch the model again"
    return f"{folder} holds no usable model: {fault}. {repair}, or name another model."
