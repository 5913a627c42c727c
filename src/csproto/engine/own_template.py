"""The chat template of a served model, as SGLang's frontend language takes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang.lang.chat_template import ChatTemplate

from csproto.engine.chat_template import beginning_of, marks_of


@dataclass
class OwnTemplate(ChatTemplate):
    """A chat template of SGLang's frontend, with a text before the first message."""

    beginning: str = ""

    def get_prefix_and_suffix(
        self, role: str, hist_messages: list[dict[str, Any]]
    ) -> tuple[str, str]:
        """Return what stands before and after a message that follows others."""
        prefix, suffix = super().get_prefix_and_suffix(role, hist_messages)
        return (prefix if hist_messages else self.beginning + prefix), suffix


def own_template(info: Mapping[str, Any]) -> OwnTemplate:
    """Return the model's own template: SGLang's choice goes by the path, often wrongly.

    info: the server's `/model_info`. Raises TemplateUnusable.
    """
    model = str(info.get("tokenizer_path") or info["model_path"])
    marks = marks_of(model, info.get("architectures") or ())
    return OwnTemplate("by the tokenizer", None, marks, beginning=beginning_of(model))
