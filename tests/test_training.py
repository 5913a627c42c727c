"""Training of the mini model.

Branches are what separate transcripts would be, and the loss falls.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from csproto.minimodel import rows, train
from csproto.minimodel import tokenizer as tokenizers
from csproto.minimodel.dialogues import Piece, conversations
from csproto.minimodel.rows import Row, batches, encoded, padded
from csproto.minimodel.train import Recipe, Training, loss_of

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
    small = batches(tokenizer, seed=1, dropout=0.0, batch_tokens=SMALL.batch_tokens)
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
    caplog.set_level("INFO", logger="csproto.minimodel.train")
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
