"""A training run: it shows its progress, and stops and resumes at any step.

The mini model is trained from scratch in such a run (`train`), another model is tuned
in one (`tune`).
"""

import logging
import random
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from csproto.engine.chat_template import Marks
from csproto.minimodel.rows import CHUNK, batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and how its learning rate goes."""

    tokens: int
    batch_tokens: int
    learning_rate: float
    warmup: float = 0.02  # shares of the whole run
    decay: float = 0.6
    # Of BPE merges in customers' words: the model then also knows words with a typing slip.
    dropout: float = 0.06
    average: float = 0.998  # of the weights, over the steps
    chunk: int = CHUNK  # conversations generated at a time
    seed: int = 1


def learning_rate(schedule: Schedule, done: float) -> float:
    """Warm-up, plateau, then a straight line to a twentieth.

    `done` is the share of the run that is behind.
    """
    if done < schedule.warmup:
        return schedule.learning_rate * done / schedule.warmup
    left = max(0.0, 1.0 - done) / schedule.decay
    return schedule.learning_rate * max(0.05, min(1.0, left))


def computed_in(device: str) -> torch.dtype:
    """The number type of training.

    Bfloat16, but float32 on a CPU that only emulates it, where a matrix product takes
    four times as long.
    """
    capable = device != "cpu" or any(
        torch.cpu.get_capabilities().get(k) for k in ("avx512_bf16", "amx_bf16")
    )
    return torch.bfloat16 if capable else torch.float32


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


class Run(ABC):
    """A run in a folder: trained weights, optimizer, average and place are kept there.

    So that it can go on where it stopped.
    """

    def __init__(self, folder: Path, schedule: Schedule, device: str = "cpu") -> None:
        self.folder, self.schedule, self.device = folder, schedule, device
        self.kind = computed_in(device)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(schedule.seed)
        random.seed(schedule.seed)
        self.tokenizer, self.marks = self.make_tokenizer()
        self.model, self.body, self.head = self.make_model()
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.average = {name: value.detach().clone() for name, value in self.trained.items()}
        self.optimizers = self.make_optimizers()
        self.step, self.tokens, self.chunk, self.seconds = 0, 0, 0, 0.0
        if (folder / "checkpoint.pt").exists():
            self._load()

    @abstractmethod
    def make_tokenizer(self) -> tuple[Tokenizer, Marks]:
        """Return the tokenizer, and what stands around a message of each role."""

    @abstractmethod
    def make_model(self) -> tuple[Any, Any, Any]:
        """Return the model, the part up to its last hidden state, and its output layer."""

    @abstractmethod
    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers of the trained weights."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the averaged weights, tokenizer, profile and record as SGLang loads them."""

    def run(self) -> None:
        """Train until the schedule's tokens are used up; interrupt it at any time."""
        schedule, began, running = self.schedule, time.time() - self.seconds, 0.0
        for chunk, batch in batches(
            self.tokenizer,
            seed=schedule.seed,
            dropout=schedule.dropout,
            batch_tokens=schedule.batch_tokens,
            first_chunk=self.chunk,
            marks=self.marks,
            chunk=schedule.chunk,
        ):
            if self.tokens >= schedule.tokens:
                break
            if chunk != self.chunk and chunk % 2 == 0:
                self.save(chunk)
            self.chunk, self.seconds = chunk, time.time() - began
            loss = self._train_on(batch.to(self.device))
            self.step, self.tokens = self.step + 1, self.tokens + int((batch[0] > 0).sum())
            running = loss if not running else 0.98 * running + 0.02 * loss
            if self.step % 20 == 0:
                logger.info(
                    "step %d  tokens %.2f M of %.1f M  loss %.4f  %.0f tokens/s",
                    self.step,
                    self.tokens / 1e6,
                    schedule.tokens / 1e6,
                    running,
                    self.tokens / max(1.0, time.time() - began),
                )
        self.save(self.chunk)

    def _train_on(self, batch: torch.Tensor) -> float:
        """Make one step of the optimizers, and return the loss before it."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.schedule, self.tokens / self.schedule.tokens)
        loss = loss_of(self.body, self.head, batch, self.kind)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        keep = min(self.schedule.average, 1 - 1 / (self.step + 1) ** 0.75)
        with torch.no_grad():
            for name, value in self.trained.items():
                self.average[name].lerp_(value, 1 - keep)
        return loss.item()

    def save(self, chunk: int) -> None:
        """Write the checkpoint; a kill in the middle leaves the old one whole."""
        state: dict[str, Any] = {
            "weights": {name: value.detach() for name, value in self.trained.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
            "schedule": asdict(self.schedule),
        }
        state |= {"step": self.step, "tokens": self.tokens, "chunk": chunk, "seconds": self.seconds}
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").replace(self.folder / "checkpoint.pt")

    def _load(self) -> None:
        state = torch.load(
            self.folder / "checkpoint.pt", map_location=self.device, weights_only=True
        )
        self._set(state["weights"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.average = state["average"]
        self.step, self.tokens = state["step"], state["tokens"]
        self.chunk, self.seconds = state["chunk"], state["seconds"]

    def _set(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(weights[name])

    def take_average(self) -> None:
        """Put the average of the weights in their place, for the export."""
        self._set(self.average)

    def record(self) -> dict[str, Any]:
        """Return what was done, for the file beside the weights."""
        return {
            "recipe": asdict(self.schedule),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "steps": self.step,
            "tokens": self.tokens,
            "hours": round(self.seconds / 3600, 2),
            "torch": torch.__version__,
        }
