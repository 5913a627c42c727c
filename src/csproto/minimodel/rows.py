"""Transcripts as training rows: tokens, what each counts in the loss, and branches side by side."""

import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from csproto.engine.chat_template import CHATML, Marks
from csproto.minimodel.dialogues import Piece, conversations

# Loss on customers' words: they teach the language, though the model never has to write them.
USER_WEIGHT = 0.15
# Share of the customers' tokens that carry a loss, drawn anew each time: the output layer is a
# third of the work.
USER_SHARE = 0.2
INTENT_WEIGHT = 3.0  # on the tokens that name act or intent: the hardest choices of all
ORDER_WEIGHT = 2.0  # on the ids of orders: looking up a reference is the skill that takes longest
REPLY_WEIGHT = 0.3  # on the first words of a reply: any of its wordings is right
CHUNK = 1_024  # conversations generated, sorted by length and batched together


class Row(NamedTuple):
    """A transcript in tokens, one list entry each.

    Messages that could stand in another's place are branches beside the trunk.
    """

    ids: list[int]
    weights: list[float]  # of the token's prediction in the loss
    branches: list[int]  # 0 is the trunk; a token sees the trunk before it and its own branch
    positions: list[int]  # a branch goes on where it leaves the trunk


def encoded(pieces: list[Piece], plain: Tokenizer, rough: Tokenizer, marks: Marks = CHATML) -> Row:
    """A transcript as tokens. Draws from `random`.

    plain, rough: a tokenizer, and one for what customers write, which may split words
    anew each time. marks: what stands around the messages of each role.
    """
    row = Row([], [], [], [])
    place, branch = 0, 0  # the next position and the branch it is on

    def add(text: str, weight: float, by: Tokenizer = plain) -> None:
        nonlocal place
        new = by.encode(text, add_special_tokens=False).ids
        row.ids.extend(new)
        row.weights.extend([weight] * len(new))
        row.branches.extend([branch] * len(new))
        row.positions.extend(range(place, place + len(new)))
        place += len(new)

    def message(piece: Piece, by: Tokenizer) -> None:
        before, after = marks[piece.role]
        add(before, 0.0)
        if piece.role == "user":
            start = len(row.ids)
            add(piece.content, 0.0, by)
            row.weights[start:] = [
                USER_WEIGHT * (random.random() < USER_SHARE) for _ in row.ids[start:]
            ]
        elif piece.learn < 0:
            start = len(row.ids)
            add(piece.content, 1.0)
            row.weights[start:] = _triage_weights(row.ids[start:], plain)
        else:
            add(piece.content[: piece.learn], REPLY_WEIGHT)
            add(piece.content[piece.learn :], 0.0)
        end = len(row.ids)
        add(after, 0.0)
        row.weights[end] = 1.0 if piece.learn < 0 else 0.0  # a triage has to end, too

    exact = pieces[0].content == "copy"  # what has to be repeated is read as it will be written
    branches = 0
    for piece in pieces:
        fork = place
        for exchange in piece.instead:
            branch = branches = branches + 1
            for other in exchange:
                message(other, rough)
            place, branch = fork, 0
        message(piece, plain if exact else rough)
    return row


def _triage_weights(ids: list[int], tokenizer: Tokenizer) -> list[float]:
    """The loss of each token of a triage."""
    chosen, begin, end = _choices(tokenizer), *map(tokenizer.token_to_id, (',"orders":["', '"]'))
    weights, inside = [], False
    for token in ids:
        weights.append(INTENT_WEIGHT if token in chosen else ORDER_WEIGHT if inside else 1.0)
        inside = token == begin or (inside and token != end)
    return weights


@cache
def _choices(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that name an act or an intent."""
    named = ('"intent":"', '"act":"')
    return frozenset(
        n for text, n in tokenizer.get_vocab().items() if any(name in text for name in named)
    )


def batches(
    tokenizer: Tokenizer,
    *,
    seed: int,
    dropout: float,
    batch_tokens: int,
    first_chunk: int = 0,
    marks: Marks = CHATML,
    chunk: int = CHUNK,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Endless batches: the number of the chunk, and a tensor.

    chunk: how many conversations are generated and sorted at a time.

    The tensor holds the four lists of its rows: (4, rows, longest), padded with zeros.
    """
    rough = Tokenizer.from_str(tokenizer.to_str())
    rough.model.dropout = dropout
    number = first_chunk
    while True:
        rows = sorted(
            (
                encoded(c, tokenizer, rough, marks)
                for c in conversations(seed * 1_000_003 + number, chunk)
            ),
            key=lambda row: len(row.ids),
        )
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        order = torch.randperm(
            len(groups), generator=torch.Generator().manual_seed(number)
        ).tolist()
        for place in order:
            yield number, padded(groups[place])
        number += 1


def padded(rows: list[Row]) -> torch.Tensor:
    longest = max(len(row.ids) for row in rows)
    return torch.tensor(
        [
            [[*line, *[0] * (longest - len(line))] for line in lines]
            for lines in zip(*rows, strict=True)
        ]
    )
