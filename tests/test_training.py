"""Training of the mini model.

Branches are what separate transcripts would be, and the loss falls.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from csproto.desk.profile import profile_of
from csproto.engine.chat_template import marks_of
from csproto.minimodel import rows, train
from csproto.minimodel import tokenizer as tokenizers
from csproto.minimodel.dialogues import Piece, conversations
from csproto.minimodel.rows import Row, batches, encoded, padded
from csproto.minimodel.run import loss_of
from csproto.minimodel.train import Recipe, Training
from csproto.minimodel.tune import NotTunable, TuneRecipe, Tuning

SMALL = Recipe(
    hidden=48,
    layers=2,
    heads=2,
    kv_heads=1,
    intermediate=64,
    batch_tokens=2_048,
    warmup=0.0,
    dropout=0.0,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizers.train()


def apart(pieces: list[Piece]) -> list[list[Piece]]:
    """A transcript with branches as transcripts without.

    One for each other message, and the trunk.
    """
    rows, trunk = [], []
    for piece in pieces:
        rows += [[*trunk, *exchange] for exchange in piece.instead]
        trunk = [*trunk, piece._replace(instead=())]
    return [*rows, trunk]


def test_a_branch_is_read_like_a_transcript_of_its_own(tokenizer: Tokenizer, monkeypatch) -> None:
    """A triage has the same loss in a branch and alone: positions and mask are right."""
    monkeypatch.setattr(rows, "USER_SHARE", 0.0)
    pieces = next(p for p in conversations(5, 200) if sum(bool(piece.instead) for piece in p) >= 2)
    torch.manual_seed(0)
    model = train.LlamaForCausalLM(train.model_config(SMALL)).float()

    def total(row: Row) -> tuple[float, float]:
        batch = padded([row])
        weight = float(batch[1, :, 1:].sum())
        return float(loss_of(model.model, model.lm_head, batch)) * weight, weight

    *others, trunk = (encoded(p, tokenizer, tokenizer) for p in apart(pieces))
    together = encoded(pieces, tokenizer, tokenizer)
    # What the trunk has before a branch counts there once more: take it off.
    expected, weight = total(trunk)
    for other in others:
        start = next(i for i in range(len(other.ids)) if other.ids[i] != trunk.ids[i])
        before = Row(*(line[:start] for line in other))
        whole, part = total(other), total(before) if sum(before.weights) else (0.0, 0.0)
        expected, weight = expected + whole[0] - part[0], weight + whole[1] - part[1]
    loss, counted = total(together)
    assert len(others) >= 14
    assert counted == pytest.approx(weight)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_batches_hold_what_they_may(tokenizer: Tokenizer) -> None:
    branched = False
    small = batches(tokenizer, seed=1, dropout=0.0, batch_tokens=SMALL.batch_tokens, chunk=64)
    for number, batch in islice(small, 12):
        ids, weights, branches, positions = batch
        assert number == 0
        assert ids.shape[0] == 1 or ids.numel() <= SMALL.batch_tokens
        assert ids.max() < tokenizer.get_vocab_size()
        assert not weights[ids == 0].any()
        assert positions.max() < 4096
        assert weights.sum() > 0
        branched |= bool(branches.max() > 0)
    assert branched


def test_orthogonal_in_float32_is_torchs_own() -> None:
    gradient = torch.randn(40, 96, generator=torch.Generator().manual_seed(3))
    settings = ((3.4445, -4.7750, 2.0315), 5, 1e-7)
    ours, theirs = (
        train.orthogonal(gradient, *settings),
        torch.optim._muon._zeropower_via_newtonschulz(gradient, *settings),
    )
    assert torch.linalg.svdvals(ours).min() > 0.6
    assert torch.linalg.svdvals(ours).max() < 1.3
    assert (ours - theirs.float()).norm() < 0.05 * ours.norm()


@pytest.mark.long
def test_a_run_learns_stops_and_goes_on(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="csproto.minimodel.run")
    first = Training(tmp_path, replace(SMALL, tokens=60_000), start=None)
    first.run()
    again = Training(tmp_path, replace(SMALL, tokens=300_000))
    assert again.step == first.step > 0
    again.run()
    losses = [
        float(r.getMessage().split("loss ")[1].split()[0])
        for r in caplog.records
        if "loss" in r.getMessage()
    ]
    assert losses[-1] < 0.8 * losses[0]
    again.export(tmp_path / "out")
    assert train.LlamaForCausalLM.from_pretrained(tmp_path / "out").config.hidden_size == 48


@pytest.fixture
def base(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A tiny Qwen2 with random weights, as a folder of somebody else's model."""
    folder = tmp_path / "base"
    tokenizers.save(tokenizer, folder)
    config = Qwen2Config(
        vocab_size=tokenizers.VOCABULARY,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def test_tuning_learns_stops_goes_on_and_ends_as_plain_weights(
    base: Path, tmp_path: Path, caplog
) -> None:
    pytest.importorskip("peft", reason="tuning needs peft, which is an extra")
    caplog.set_level("INFO", logger="csproto.minimodel.run")
    recipe = TuneRecipe(
        tokens=20_000, batch_tokens=1_024, chunk=16, learning_rate=2e-2, warmup=0.0, top_layers=2
    )
    Tuning(tmp_path / "run", base, recipe).run()
    again = Tuning(tmp_path / "run", base, replace(recipe, tokens=60_000))
    assert again.tokens >= 20_000
    assert not any("layers.0." in name for name in again.trained), "only the last two are tuned"
    again.run()
    losses = [float(r.getMessage().split("loss ")[1].split()[0]) for r in caplog.records]
    assert losses[-1] < losses[0] < 9.1  # the logarithm of the vocabulary's size is 9.0

    ids = torch.arange(3, 40)[None]
    again.take_average()
    tuned = again.model(ids).logits.detach()
    again.export(tmp_path / "out")
    plain = Qwen2ForCausalLM.from_pretrained(tmp_path / "out")
    untuned = Qwen2ForCausalLM.from_pretrained(base)
    assert not any("lora" in name for name, _ in plain.named_parameters())
    difference = (plain(ids).logits - tuned).norm()
    assert difference < 0.05 * (untuned(ids).logits - tuned).norm()
    assert marks_of(tmp_path / "out") == marks_of(base)
    assert profile_of(tmp_path / "out").guess


def test_a_folder_without_a_tokenizer_cannot_be_tuned(tmp_path: Path) -> None:
    with pytest.raises(NotTunable, match=r"tokenizer\.json"):
        Tuning(tmp_path / "run", tmp_path, TuneRecipe())
