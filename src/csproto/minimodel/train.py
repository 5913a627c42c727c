"""Training of the mini model from scratch.

Llama architecture, bf16 autocast, Muon and AdamW, an average of the weights at the end;
stops and resumes at any step.
"""

import json
import logging
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from csproto.engine.cpu import make_torchvision_importable

make_torchvision_importable()

from transformers import LlamaConfig, LlamaForCausalLM

from csproto.desk.profile import FILE, Profile
from csproto.minimodel import tokenizer as tokenizers
from csproto.minimodel.dialogues import PROMPT
from csproto.minimodel.rows import batches

logger = logging.getLogger(__name__)

CHUNK = 1_024  # conversations generated, sorted by length and batched together


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out."""

    hidden: int = 384
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 1024
    tokens: int = 24_000_000
    batch_tokens: int = 8_192
    learning_rate: float = 7e-4
    warmup: float = 0.02  # shares of the whole run
    decay: float = 0.6
    weight_decay: float = 0.05
    dropout: float = (
        0.06  # of BPE merges in customers' words, so that a slip of the keyboard is no stranger
    )
    average: float = 0.998
    seed: int = 1


def model_config(recipe: Recipe) -> LlamaConfig:
    """The architecture as transformers and SGLang read it.

    Llama with biases in attention, which is Qwen2 but for one bias.

    Not Qwen2 by name: for it transformers 5 takes Qwen's own tokenizer class, which splits
    numbers into single digits whatever tokenizer.json says
    (models/auto/tokenization_auto.py, `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`).
    """
    return LlamaConfig(
        vocab_size=tokenizers.VOCABULARY,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=4096,
        attention_bias=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
        # On a CPU and at these lengths a quarter faster than the fused kernel.
        attn_implementation="eager",
    )


def loss_of(
    body: Any, head: Any, batch: torch.Tensor, kind: torch.dtype = torch.float32
) -> torch.Tensor:
    """Weighted cross-entropy per token of a batch (4, rows, longest), computed in `kind`.

    Causal and along the branches, so padding on the right needs no mask of its own. Positions of
    no weight skip the output layer.
    """
    ids, weights, branches, positions = batch[0].long(), batch[1], batch[2], batch[3].long()
    places = torch.arange(ids.shape[1], device=ids.device)
    seen = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    seen &= places[:, None] >= places[None, :]
    mask = torch.zeros(seen.shape, device=ids.device).masked_fill_(~seen, float("-inf"))[:, None]
    with torch.autocast(ids.device.type, dtype=kind, enabled=kind is not torch.float32):
        hidden = body(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        target, weight = ids[:, 1:], weights[:, 1:]
        where = weight > 0
        logits = head(hidden[:, :-1][where])
    losses = torch.nn.functional.cross_entropy(logits.float(), target[where], reduction="none")
    return (losses * weight[where]).sum() / weight[where].sum()


def computed_in(device: str) -> torch.dtype:
    """The number type of training.

    Bfloat16, but float32 on a CPU that only emulates it, where a matrix product takes
    four times as long.
    """
    capable = device != "cpu" or any(
        torch.cpu.get_capabilities().get(k) for k in ("avx512_bf16", "amx_bf16")
    )
    return torch.bfloat16 if capable else torch.float32


def orthogonal(
    grad: torch.Tensor, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration (Jordan 2024) in float32; torch has it in bfloat16 only."""
    a, b, c = ns_coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if grad.size(0) > grad.size(1) else x


def learning_rate(recipe: Recipe, done: float) -> float:
    """Warm-up, plateau, then a straight line to a twentieth.

    `done` is the share of the run that is behind.
    """
    if done < recipe.warmup:
        return recipe.learning_rate * done / recipe.warmup
    left = max(0.0, 1.0 - done) / recipe.decay
    return recipe.learning_rate * max(0.05, min(1.0, left))


class Training:
    """A run in a folder: weights, optimizer, average and place are kept there.

    So that it can go on where it stopped.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, device: str = "cpu", start: Path | None = None
    ) -> None:
        """`start` is a finished model whose weights and tokenizer a new run begins with.

        The recipe's shape must be its own.
        """
        self.folder, self.recipe, self.device, self.kind = (
            folder,
            recipe,
            device,
            computed_in(device),
        )
        if self.kind is torch.float32:
            torch.optim._muon._zeropower_via_newtonschulz = orthogonal
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        random.seed(recipe.seed)
        if start and not (folder / "tokenizer.json").exists():
            shutil.copy(start / "tokenizer.json", folder)
        self.tokenizer = self._tokenizer()
        self.model = LlamaForCausalLM(model_config(recipe)).to(device=device, dtype=torch.float32)
        if start:
            self.model.load_state_dict(
                LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict()
            )
        self.compiled = torch.compile(self.model.model, dynamic=True)
        self.average = {
            name: value.detach().clone() for name, value in self.model.named_parameters()
        }
        self.optimizers = self._optimizers()
        self.step, self.tokens, self.chunk, self.seconds = 0, 0, 0, 0.0
        if (folder / "checkpoint.pt").exists():
            self._load()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices (Jordan 2024), AdamW for the rest.

        Muon's updates are scaled to AdamW's, so that one learning rate serves both.
        """
        matrices = [
            p for n, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in n
        ]
        embeddings = [p for n, p in self.model.named_parameters() if "embed" in n]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        rate, decay = self.recipe.learning_rate, self.recipe.weight_decay
        return [
            torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [
                    {"params": embeddings, "weight_decay": decay},
                    {"params": vectors, "weight_decay": 0.0},
                ],
                lr=rate,
                betas=(0.9, 0.97),
                fused=True,
            ),
        ]

    def _tokenizer(self) -> Tokenizer:
        """Learnt once and kept with the run.

        Seeds that change between two stages must not change what a token is.
        """
        path = self.folder / "tokenizer.json"
        if not path.exists():
            tokenizers.train().save(str(path))
        return Tokenizer.from_file(str(path))

    def _batches(self) -> Iterator[tuple[int, torch.Tensor]]:
        recipe = self.recipe
        return batches(
            self.tokenizer,
            seed=recipe.seed,
            dropout=recipe.dropout,
            batch_tokens=recipe.batch_tokens,
            first_chunk=self.chunk,
        )

    def run(self) -> None:
        """Train until the recipe's tokens are used up; interrupt it at any time."""
        began, running = time.time() - self.seconds, 0.0
        for chunk, batch in self._batches():
            if self.tokens >= self.recipe.tokens:
                break
            if chunk != self.chunk and chunk % 2 == 0:
                self.save(chunk)
            self.chunk, self.seconds = chunk, time.time() - began
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(self.recipe, self.tokens / self.recipe.tokens)
            loss = loss_of(self.compiled, self.model.lm_head, batch.to(self.device), self.kind)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.model.zero_grad(set_to_none=True)
            self._update_average()
            self.step, self.tokens = self.step + 1, self.tokens + int((batch[0] > 0).sum())
            running = loss.item() if not running else 0.98 * running + 0.02 * loss.item()
            if self.step % 20 == 0:
                logger.info(
                    "step %d  tokens %.2f M of %.0f M  loss %.4f  %.0f tokens/s",
                    self.step,
                    self.tokens / 1e6,
                    self.recipe.tokens / 1e6,
                    running,
                    self.tokens / max(1.0, time.time() - began),
                )
        self.save(self.chunk)

    def _update_average(self) -> None:
        keep = min(self.recipe.average, 1 - 1 / (self.step + 1) ** 0.75)
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                self.average[name].lerp_(value, 1 - keep)

    def save(self, chunk: int) -> None:
        """Write the checkpoint; a kill in the middle leaves the old one whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
            "recipe": asdict(self.recipe),
        }
        state |= {"step": self.step, "tokens": self.tokens, "chunk": chunk, "seconds": self.seconds}
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").replace(self.folder / "checkpoint.pt")

    def _load(self) -> None:
        state = torch.load(
            self.folder / "checkpoint.pt", map_location=self.device, weights_only=True
        )
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.average = state["average"]
        self.step, self.tokens, self.chunk, self.seconds = (
            state["step"],
            state["tokens"],
            state["chunk"],
            state["seconds"],
        )

    def export(self, folder: Path) -> None:
        """Write the averaged weights in bf16 with tokenizer and record, as SGLang loads them."""
        tokenizers.save(self.tokenizer, folder)
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.average[name])
        self.model.to(torch.bfloat16).save_pretrained(folder)
        weights = sum(p.numel() for p in self.model.parameters())
        record = {
            "recipe": asdict(self.recipe),
            "parameters": weights,
            "steps": self.step,
            "tokens": self.tokens,
            "hours": round(self.seconds / 3600, 2),
            "torch": torch.__version__,
        }
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
        profile = Profile(prompt=PROMPT[0].content, guess=True)
        (folder / FILE).write_text(profile.model_dump_json(indent=1) + "\n")
        self.model.to(torch.float32)
