"""A plug-in for SGLang, on every device, that bounds the memory for compiled grammars.

Our grammars differ from message to message, and SGLang keeps each one for ever, in two
places: in its own dictionary, and in the cache of the compiler that it takes from
xgrammar.

SGLang finds this plug-in wherever this package is installed beside it. A server on
another machine without it keeps every grammar: docs/extending.md says what to do.
"""

from typing import Any

# Compiled grammars that are kept at most, and the bytes that they may take together. With
# a vocabulary of 7,000 tokens, one for a message takes 0.1 to 0.5 MB; with the 150,000
# tokens of Qwen, up to 7 MB.
KEPT = 256
BYTES = 256 * 2**20


def register() -> None:
    """Register both hooks (entry point `sglang.srt.plugins`)."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    grammars = "sglang.srt.constrained.base_grammar_backend"
    HookRegistry.register(
        f"{grammars}.BaseGrammarBackend.set_cache", forget_the_oldest, HookType.AFTER
    )
    HookRegistry.register(
        f"{grammars}.create_grammar_backend", compile_without_cache, HookType.AFTER
    )


def forget_the_oldest(result: Any, backend: Any, *args: Any, **kwargs: Any) -> None:
    """Drop the grammars that came in first, until there are KEPT that take BYTES at most.

    sglang/srt/constrained/base_grammar_backend.py, `set_cache`, keeps every compiled
    grammar for ever. Dropping one that is in use is safe: its request holds it too.
    """
    cache: dict[Any, Any] = backend.cache
    sizes = {key: size_of(grammar) for key, grammar in list(cache.items())}
    total = sum(sizes.values())
    for key, size in list(sizes.items())[:-1]:  # the newest is about to be used
        if len(cache) <= KEPT and total <= BYTES:
            break
        cache.pop(key, None)
        total -= size


def size_of(grammar: Any) -> int:
    """Return the bytes that a compiled grammar takes; 0 if its backend does not say."""
    inner = getattr(grammar, "grammar", grammar)  # a reasoning parser wraps it
    return int(getattr(getattr(inner, "ctx", None), "memory_size_bytes", 0))


def compile_without_cache(backend: Any, *args: Any, **kwargs: Any) -> None:
    """Give an xgrammar backend a compiler that keeps nothing.

    sglang/srt/constrained/xgrammar_backend.py makes its compiler without a limit
    (`cache_limit_bytes=-1`), and only `/flush_cache` clears it. That cache is of no
    use: SGLang looks for a repeated grammar in its own dictionary first, and asks the
    compiler only if it is not there. A limit would do less: with 16 MB the process
    still grows by 96 MB, and compiling one of our grammars takes 2.1 ms instead of 1.8.
    """
    backend = getattr(backend, "grammar_backend", backend)  # a reasoning parser wraps it
    if not hasattr(backend, "grammar_compiler"):
        return  # not xgrammar

    from xgrammar import GrammarCompiler

    tokenizer = backend._tokenizer_info
    backend.grammar_compiler = GrammarCompiler(tokenizer, cache_enabled=False)
