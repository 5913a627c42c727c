"""Every message has a grammar no other message has.

A server that keeps them all runs out of memory.
"""

import json

import psutil
import pytest
from transformers import AutoTokenizer

from csproto import settings
from csproto.desk.handbook import default_handbook
from csproto.desk.triage import grammar
from csproto.engine.grammar_cache import (
    BYTES,
    KEPT,
    compile_without_cache,
    forget_the_oldest,
    size_of,
)


def grammar_of(text: str) -> str:
    return grammar(default_handbook(), text, ["123456"], waiting=False, begun=False)


def scheduler() -> psutil.Process:
    """The process that compiles grammars, of the server this test run has started."""
    for process in psutil.Process().children(recursive=True):
        if process.name() == "sglang::scheduler":
            return process
    pytest.skip("the server is not one of our own, so its memory cannot be seen")


def test_memory_does_not_grow_with_the_number_of_grammars(endpoint) -> None:
    """The first grammars fill what is kept.

    Three times as many after them must cost almost nothing.
    """
    process, batch, sent = scheduler(), 40, 0

    def grow_by(grammars: int) -> float:
        nonlocal sent
        before = process.memory_info().rss
        for start in range(sent, sent + grammars, batch):
            texts = [f"订单{number}到哪了,第{number}次问" for number in range(start, start + batch)]
            sampling = [
                {"max_new_tokens": 1, "temperature": 0, "ebnf": grammar_of(text)} for text in texts
            ]
            answers = json.loads(
                endpoint.post("/generate", {"text": texts, "sampling_params": sampling})
            )
            assert len(answers) == batch
        sent += grammars
        return (process.memory_info().rss - before) / grammars

    grow_by(320)
    assert sent > KEPT
    assert grow_by(960) < 30_000, "bytes for each grammar; 200,000 when all of them are kept"


def test_the_compiler_keeps_nothing_whoever_made_it() -> None:
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend

    tokenizer = AutoTokenizer.from_pretrained(settings.MINI_MODEL)
    backend = XGrammarGrammarBackend(tokenizer, vocab_size=len(tokenizer))

    class Wrapped:
        grammar_backend = backend

    backend.dispatch_ebnf(grammar_of("你好"))
    assert backend.grammar_compiler.get_cache_size_bytes() > 0, (
        "SGLang bounds its cache now: the hook can go"
    )
    for made in (backend, Wrapped(), None, object()):
        compile_without_cache(made)
        backend.dispatch_ebnf(grammar_of("再见"))
        assert backend.grammar_compiler.get_cache_size_bytes() == 0
        backend.reset()  # what `/flush_cache` does must not bring the cache back


def test_compiled_grammars_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large vocabulary makes each one larger: 256 of them could take 1.8 GB."""
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend

    tokenizer = AutoTokenizer.from_pretrained(settings.MINI_MODEL)
    backend = XGrammarGrammarBackend(tokenizer, vocab_size=len(tokenizer))
    compile_without_cache(backend)
    compiled = [backend.dispatch_ebnf(grammar_of(f"第{n}次问")) for n in range(6)]
    sizes = [size_of(grammar) for grammar in compiled]
    assert min(sizes) > 10_000
    assert size_of(object()) == 0
    monkeypatch.setattr("csproto.engine.grammar_cache.BYTES", sum(sizes[:3]))
    for place, one in enumerate(compiled):
        backend.set_cache(("ebnf", str(place)), one)
        forget_the_oldest(None, backend)
        assert sum(map(size_of, backend.cache.values())) <= sum(sizes[:3])
        assert ("ebnf", str(place)) in backend.cache
    assert len(backend.cache) >= 2
    monkeypatch.setattr("csproto.engine.grammar_cache.BYTES", 1)
    forget_the_oldest(None, backend)
    assert list(backend.cache) == [("ebnf", "5")], "the newest one stays, whatever its size"
    assert BYTES > KEPT * 2**19, "the shipped model keeps as many as before"
