"""Whether a model fits into memory: its weights, and the KV cache of each token."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csproto.engine.model_folder import WEIGHTS
from csproto.engine.tokenizer_files import from_hub

NUMBER_BYTES = 2  # of a number in bfloat16 or float16
# SGLang takes about this share of a GPU for weights and KV cache together and leaves the
# rest to the computation (--mem-fraction-static changes it).
GPU_SHARE = 0.85
CPU_SHARE = 0.8
# Fewer tokens of KV cache would hold the shared prompt (4,667 tokens of Qwen's) and no more
# than a few conversations.
LEAST_TOKENS = 16_384


@dataclass(frozen=True)
class Need:
    """The memory that a model needs.

    weights: bytes. token: bytes of KV cache for each token.
    """

    weights: int
    token: int

    def tokens_in(self, room: float) -> int:
        """Return how many tokens of KV cache fit beside the weights into so many bytes."""
        return max(0, int((room - self.weights) / self.token))

    def arithmetic(self, room: float) -> str:
        """Return the sum in words."""
        return (
            f"{_size(self.weights)} of weights + {_size(self.token)} a token of KV cache; "
            f"{_size(room)} hold {self.tokens_in(room):,} tokens ({LEAST_TOKENS:,} are wanted)"
        )


def _size(number: float) -> str:
    """Return a number of bytes in words."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.0f} KB"


def need_of(model: str) -> Need | None:
    """Return what a model needs; None if its config cannot be had, or is of an unknown form.

    model: a folder, or an id of the Hugging Face hub.
    """
    folder = Path(model)
    path = folder / "config.json" if folder.is_dir() else from_hub(model, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path else {}
        config = config.get("text_config", config)  # of a model that sees pictures too
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or config["hidden_size"] // heads
        pairs = config.get("num_key_value_heads", heads) * head
        token = 2 * config["num_hidden_layers"] * pairs * NUMBER_BYTES
        return Need(_weights(model, config, heads * head, pairs), token)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _weights(model: str, config: dict[str, Any], width: int, pairs: int) -> int:
    """Return the bytes of the weights: from the files, or else by the shape of the model.

    width, pairs: numbers of a token's query, and of its keys.
    """
    folder = Path(model)
    if folder.is_dir():
        return sum(file.stat().st_size for p in WEIGHTS for file in folder.glob(p))
    if index := from_hub(model, "model.safetensors.index.json"):
        return int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"])
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    layer = hidden * (2 * width + 2 * pairs + 3 * config["intermediate_size"])
    tables = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return NUMBER_BYTES * (config["num_hidden_layers"] * layer + tables)
