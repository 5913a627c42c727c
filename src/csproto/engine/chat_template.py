"""Reads from a model's tokenizer which marks stand around its messages.

SGLang's frontend language knows a dozen templates by name and picks one by the model's
path. Here the model's own template is asked: what does it put before and after a
message of each role?
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from csproto.engine.tokenizer_files import BY_HAND, TokenizerFiles, tokenizer_files
from csproto.errors import CsprotoError

Marks = dict[str, tuple[str, str]]  # role to what stands before and after a message
Rendered = Callable[..., str]
CHATML: Marks = {
    role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")
}
# Architectures whose instruction models all use ChatML, if there is no template to ask.
CHATML_ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM")
# Stands before a system message where a template has none within a conversation. The text
# of a customer cannot hold it: `transcript.clean` parts "<" from "|".
SYSTEM = "<|system|>\n"


class TemplateUnusable(CsprotoError):
    """The marks cannot be read from a chat template."""


def marks_of(model: str | Path, architectures: Sequence[str] = ()) -> Marks:
    """Return what stands before and after a message of each role.

    model: a model folder, or a model's id. A folder without a template is read as ChatML.
    architectures: what the server says of the model, if it is not on this machine.

    Raises TemplateUnusable.
    """
    files = tokenizer_files(str(model))
    if files is None:
        if set(architectures) & set(CHATML_ARCHITECTURES):
            return CHATML
        name = Path(model).name
        raise TemplateUnusable(
            f"How messages to {model} are written is not known: its tokenizer's files are neither "
            f"on this machine nor on a hub that can be reached. Put its tokenizer_config.json, "
            f"and chat_template.jinja if it has one, into {BY_HAND / name}."
        )
    return _marks(files, str(model)) if files.template else CHATML


def beginning_of(model: str | Path) -> str:
    """Return what a prompt must begin with: the BOS token, if only the template writes it.

    Most tokenizers put it in front of every text by themselves, and a second one would
    be as wrong as none. Raises TemplateUnusable.
    """
    files = tokenizer_files(str(model))
    bos = files.token("bos_token") if files else ""
    if not files or not bos or not files.template:
        return ""
    written = _renderer(files, str(model))(["user"]).startswith(bos)
    return bos if written and not files.begins_with(bos) else ""


class _Generation(Extension):
    """The block `{% generation %}`, by which training finds what the assistant wrote."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _renderer(files: TokenizerFiles, name: str) -> Rendered:
    """Return the template as a function of roles; the n-th message holds the text `_mark(n)`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        template = environment.from_string(files.template)
    except TemplateError as error:
        raise TemplateUnusable(f"The chat template of {name} is damaged: {error}.") from error
    tokens = {token: files.token(token) for token in ("bos_token", "eos_token")}

    def rendered(roles: Sequence[str], more: bool = False) -> str:
        messages = [{"role": r, "content": _mark(n)} for n, r in enumerate(roles)]
        # `enable_thinking` is the switch of templates whose models think aloud first.
        return template.render(
            messages=messages, add_generation_prompt=more, enable_thinking=False, **tokens
        )

    return rendered


def _mark(place: int) -> str:
    """Return a text that no template has."""
    return f"\u2063mark{place}\u2063"


def _marks(files: TokenizerFiles, name: str) -> Marks:
    """Find the marks of each role in conversations of different lengths."""
    rendered = _renderer(files, name)
    try:
        short, long = ["user"], ["user", "assistant", "user"]
        user_end, end = _after(rendered, short), _after(rendered, long[:2])
        # The second message of the user's: a template may put more before the first one.
        user = _between(rendered, long, 1).removeprefix(end), user_end
        opening = rendered(short, more=True)[len(rendered(short)) :]
        usual = _between(rendered, long, 0).removeprefix(user_end)
        # Blanks alone are nothing to begin an answer with: the model writes them itself.
        assistant = opening or (usual if usual.strip() else ""), end
        system = _system(rendered) or (user[0] + SYSTEM, user_end)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TemplateUnusable(
            f"The chat template of {name} cannot be used: {error}. "
            "Its messages must each stand between fixed marks."
        ) from error
    return {"system": system, "user": user, "assistant": assistant}


def _system(rendered: Rendered) -> tuple[str, str] | None:
    """Return the marks of a system message within a conversation; None if none can be there."""
    roles = ["user", "assistant", "system", "user"]
    try:
        whole = rendered(roles)
        if _mark(2) not in whole:
            return None
        end = _after(rendered, roles[:3])
        before = _between(rendered, roles, 1).removeprefix(_after(rendered, roles[:2]))
        after = _between(rendered, roles, 2)
    except (TemplateError, ValueError):
        return None
    # Part of the user's message, or before all others: not a message of its own there.
    return (before, end) if end and after.startswith(end) else None


def _after(rendered: Rendered, roles: Sequence[str]) -> str:
    """Return what stands after the last message. Raises ValueError if it is left out."""
    _, mark, after = rendered(roles).rpartition(_mark(len(roles) - 1))
    if not mark:
        raise ValueError(f"a {roles[-1]} message is left out")
    return after


def _between(rendered: Rendered, roles: Sequence[str], place: int) -> str:
    """Return what stands between a message and the next. Raises ValueError if one is missing."""
    whole = rendered(roles)
    _, first, rest = whole.partition(_mark(place))
    between, second, _ = rest.partition(_mark(place + 1))
    if not first or not second:
        raise ValueError(f"a message of {' or '.join(roles[place : place + 2])} is left out")
    return between
