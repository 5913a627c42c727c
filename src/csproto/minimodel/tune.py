"""Fine-tuning of any model on the corpus, with LoRA (Hu et al. 2021, arXiv 2106.09685).

The model learns the wire format and the wishes, so that it needs no long prompt. Only
small matrices beside the model's own are trained; at the end they are added to the
weights, which SGLang then serves like any other.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from csproto.engine.cpu import make_torchvision_importable

make_torchvision_importable()

from transformers import AutoModelForCausalLM

from csproto.desk.profile import FILE, Profile
from csproto.engine.chat_template import Marks, marks_of
from csproto.errors import CsprotoError
from csproto.minimodel.dialogues import PROMPT
from csproto.minimodel.run import Run, Schedule

COPIED = ("tokenizer*", "vocab*", "merges*", "chat_template*", "special_tokens*", "generation*")


class NotTunable(CsprotoError):
    """The base model's folder lacks something, or peft is not installed."""


@dataclass(frozen=True)
class TuneRecipe(Schedule):
    """How a model is tuned.

    rank: of the added matrices. top_layers: how many layers get them, from the last one
    down; 0 stands for all. With few, each step is faster.
    """

    tokens: int = 1_000_000
    batch_tokens: int = 4_096
    learning_rate: float = 3e-4
    dropout: float = 0.0
    average: float = 0.98
    chunk: int = 64
    rank: int = 16
    top_layers: int = 0


class Tuning(Run):
    """The fine-tuning of a base model in a folder on this machine. Raises NotTunable."""

    def __init__(self, folder: Path, base: Path, recipe: TuneRecipe, device: str = "cpu") -> None:
        self.base, self.recipe = base, recipe
        super().__init__(folder, recipe, device)

    def make_tokenizer(self) -> tuple[Tokenizer, Marks]:
        """Return the base's own tokenizer and the marks of its chat template."""
        path = self.base / "tokenizer.json"
        if not path.is_file():
            raise NotTunable(f"{self.base} has no tokenizer.json: give the folder of a model.")
        return Tokenizer.from_file(str(path)), marks_of(self.base)

    def make_model(self) -> tuple[Any, Any, Any]:
        """Return the base with LoRA matrices, its body and its output layer."""
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise NotTunable(
                "Tuning needs peft, which is an extra. Install it: "
                "`.venv/bin/pip install --no-deps peft accelerate`."
            ) from error
        # The branches of a row need a mask that the fused kernels do not take.
        base = AutoModelForCausalLM.from_pretrained(
            self.base, dtype=self.kind, attn_implementation="eager"
        )
        layers, top = base.config.num_hidden_layers, self.recipe.top_layers
        linear = (n for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear))
        config = LoraConfig(
            r=self.recipe.rank,
            lora_alpha=2 * self.recipe.rank,
            target_modules=sorted({name.rpartition(".")[2] for name in linear}),
            layers_to_transform=list(range(layers - top, layers)) if top else None,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(base.to(self.device), config)
        return model, base.model, base.lm_head

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW for the added matrices."""
        rate = self.recipe.learning_rate
        return [torch.optim.AdamW(self.trained.values(), lr=rate, weight_decay=0.0)]

    def export(self, folder: Path) -> None:
        """Add the averaged matrices to the weights, and write the whole model."""
        folder.mkdir(parents=True, exist_ok=True)
        record = self.record() | {"base": self.base.name}
        self.take_average()
        self.model.merge_and_unload().save_pretrained(folder)
        for path in (found for pattern in COPIED for found in self.base.glob(pattern)):
            shutil.copy(path, folder)
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
        profile = Profile(prompt=PROMPT[0].content, guess=True)
        (folder / FILE).write_text(profile.model_dump_json(indent=1) + "\n")
