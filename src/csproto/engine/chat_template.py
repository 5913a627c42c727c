"""Reads from a model's tokenizer which marks stand around its messages.

SGLang's frontend language knows a dozen templates by name and picks one by the model's
path. Here the template beside the weights is asked: what does it put before and after a
message of each role?
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from csproto.errors import CsprotoError

MARK = "\u2063mark\u2063"  # text that no template has
Marks = dict[str, tuple[str, str]]  # role to what stands before and after a message
Rendered = Callable[..., str]
CHATML: Marks = {
    role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")
}


class TemplateUnusable(CsprotoError):
    """The marks cannot be read from a chat template."""


def marks_of(model: str | Path) -> Marks:
    """Return what stands before and after a message of each role.

    model: a model folder. A folder without a template, and a model that is not on this
    machine, are read as ChatML.

    Raises TemplateUnusable.
    """
    source, tokens = _template(Path(model))
    return _taken_apart(source, tokens, str(model)) if source else CHATML


def _template(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the template's source, and the special tokens that it may name."""
    config: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    source = config.get("chat_template") or ""
    if (folder / "chat_template.jinja").is_file():
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(source, list):  # several templates, each with a name
        source = next((t["template"] for t in source if t["name"] == "default"), "")
    return source, {name: _text(config.get(name)) for name in ("bos_token", "eos_token")}


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token or "")


def _taken_apart(source: str, tokens: Mapping[str, str], name: str) -> Marks:
    """Find the marks of each role by adding one message after the other to a conversation."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise TemplateUnusable(f"The chat template of {name} is damaged: {error}.") from error

    def rendered(roles: Sequence[str], more: bool = False) -> str:
        messages = [{"role": role, "content": MARK} for role in roles]
        # `enable_thinking` is the switch of templates whose models think aloud first.
        return template.render(
            messages=messages, add_generation_prompt=more, enable_thinking=False, **tokens
        )

    try:
        start = ["system", "user"] if _takes_system(rendered) else ["user"]
        both = [*start, "assistant"]
        prefix, suffix = _added(rendered, start, "assistant")
        opening = rendered(start, more=True)[len(rendered(start)) :]
        marks = {"user": _added(rendered, both, "user"), "assistant": (opening or prefix, suffix)}
        # If a template has no system messages, they get the marks of the user's.
        system = _added(rendered, both, "system") if len(start) > 1 else marks["user"]
    except (TemplateError, ValueError) as error:
        raise TemplateUnusable(
            f"The chat template of {name} cannot be used: {error}. "
            "Its messages must each stand between fixed marks."
        ) from error
    return marks | {"system": system}


def _takes_system(rendered: Rendered) -> bool:
    """Return whether the template accepts a system message."""
    try:
        rendered(["system", "user"])
    except TemplateError:
        return False
    return True


def _added(rendered: Rendered, before: list[str], role: str) -> tuple[str, str]:
    """Return what one more message adds before and after its text.

    Raises ValueError if the message changes what stands before it, or is left out.
    """
    shorter, longer = rendered(before), rendered([*before, role])
    if not longer.startswith(shorter):
        raise ValueError(f"a {role} message changes what stands before it")
    prefix, mark, suffix = longer[len(shorter) :].partition(MARK)
    if not mark:
        raise ValueError(f"a {role} message is left out")
    return prefix, suffix
