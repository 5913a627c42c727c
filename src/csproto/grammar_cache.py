"""A plug-in for SGLang, on every device: its grammar cache gets a bound, because our grammars differ from message to message."""

from typing import Any

KEPT = 256  # compiled grammars; one of a message takes 0.1 to 0.5 MB with a vocabulary of 7,000


def register() -> None:
    """Register the hook (entry point `sglang.srt.plugins`)."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(
        "sglang.srt.constrained.base_grammar_backend.BaseGrammarBackend.set_cache", forget_the_oldest, HookType.AFTER
    )


def forget_the_oldest(result: Any, backend: Any, *args: Any, **kwargs: Any) -> None:
    """Drop what came in first, once there are more than KEPT.

    sglang/srt/constrained/base_grammar_backend.py, `set_cache`, keeps every compiled grammar for ever. A grammar in use is held by its request.
    """
    cache: dict[Any, Any] = backend.cache
    while len(cache) > KEPT:
        cache.pop(next(iter(cache)), None)
