"""Training of the mini model from scratch: Llama architecture, Muon and AdamW."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from csproto.engine.cpu import make_torchvision_importable

make_torchvision_importable()

from transformers import LlamaConfig, LlamaForCausalLM

from csproto.desk.profile import FILE, Profile
from csproto.engine.chat_template import CHATML, Marks
from csproto.minimodel import tokenizer as tokenizers
from csproto.minimodel.dialogues import PROMPT
from csproto.minimodel.run import Run, Schedule


@dataclass(frozen=True)
class Recipe(Schedule):
    """Everything that decides what comes out."""

    tokens: int = 24_000_000
    batch_tokens: int = 8_192
    learning_rate: float = 7e-4
    hidden: int = 384
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 1024
    weight_decay: float = 0.05


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


class Training(Run):
    """The mini model's training.

    start: a finished model whose weights and tokenizer the run begins with. The recipe's
    shape must be its own.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, device: str = "cpu", start: Path | None = None
    ) -> None:
        self.recipe, self.start = recipe, start
        super().__init__(folder, recipe, device)
        if self.kind is torch.float32:
            torch.optim._muon._zeropower_via_newtonschulz = orthogonal

    def make_tokenizer(self) -> tuple[Tokenizer, Marks]:
        """Return the tokenizer, learnt once and kept with the run.

        Lines that change between two stages must not change what a token is.
        """
        path = self.folder / "tokenizer.json"
        if self.start and not path.exists():
            shutil.copy(self.start / "tokenizer.json", path)
        if not path.exists():
            tokenizers.train().save(str(path))
        return Tokenizer.from_file(str(path)), CHATML

    def make_model(self) -> tuple[Any, Any, Any]:
        """Return the model, its compiled body and its output layer."""
        model = LlamaForCausalLM(model_config(self.recipe)).to(self.device, torch.float32)
        if self.start:
            begun = LlamaForCausalLM.from_pretrained(self.start, dtype=torch.float32)
            model.load_state_dict(begun.state_dict())
        return model, torch.compile(model.model, dynamic=True), model.lm_head

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Muon for the matrices (Jordan 2024), AdamW for the rest.

        Muon's updates are scaled to AdamW's, so that one learning rate serves both.
        """
        matrices = [p for n, p in self.trained.items() if p.dim() == 2 and "embed" not in n]
        embeddings = [p for n, p in self.trained.items() if "embed" in n]
        vectors = [p for p in self.trained.values() if p.dim() < 2]
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

    def export(self, folder: Path) -> None:
        """Write the averaged weights in bf16 with tokenizer, profile and record."""
        tokenizers.save(self.tokenizer, folder)
        self.take_average()
        self.model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(self.record(), indent=1) + "\n")
        profile = Profile(prompt=PROMPT[0].content, guess=True)
        (folder / FILE).write_text(profile.model_dump_json(indent=1) + "\n")
        self.model.to(torch.float32)
