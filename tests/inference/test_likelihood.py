"""Likelihoods of continuations, and which of them greedy decoding would write."""

import numpy as np
import pytest

import metro_jax
from metro_jax.inference.likelihood import likelihoods

CONTEXTS = ["is that a dog?", "blue", "the man finds a bottle", "yes yes no"]


def test_with_the_end_mark_or_without(model: metro_jax.MetroT0) -> None:
    """The sum over all tokens of a continuation, or over all but the end mark; nothing depends on company."""
    whole, without = (likelihoods(model, CONTEXTS, [["yes", "no"]] * 4, end=end) for end in (True, False))
    scores = [token_scores.log_probabilities for token_scores in model.score(CONTEXTS, ["yes"] * 4)]
    assert [row[0].log_probability for row in whole] == pytest.approx([sum(row) for row in scores], abs=1e-4)
    assert [row[0].log_probability for row in without] == pytest.approx([sum(row[:-1]) for row in scores], abs=1e-4)


def test_greedy_continuations_are_recognised(model: metro_jax.MetroT0) -> None:
    """Against the logits: the best first word is greedy, the others are not."""
    rows = [model.tokenizer.encode(context) for context in CONTEXTS]
    source = np.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    logits = model.logits(source, np.full((len(rows), 1), model.config.decoder_start_token))[:, 0]
    pieces = [model.tokenizer.id_to_piece(int(token)) for token in logits.argmax(-1)]
    choices = []
    for piece in pieces:
        words = [piece.replace("▁", ""), "yes", "dog", "blue"]
        choices.append([word for word in words if len(model.tokenizer.encode_choice(word)) == 2])
    greedy = 0
    found = likelihoods(model, CONTEXTS, choices, end=False, progress=False)
    for piece, words, values in zip(pieces, choices, found, strict=True):
        for word, value in zip(words, values, strict=True):
            assert value.greedy == (model.tokenizer.pieces(word) == [piece])
            greedy += value.greedy
    assert greedy


def test_what_is_refused(model: metro_jax.MetroT0) -> None:
    with pytest.raises(ValueError, match=r"continuations\[0\]\[1\] is empty"):
        likelihoods(model, ["a dog"], [["yes", ""]], end=False)
    with pytest.raises(ValueError, match=r"continuations\[1\] is empty"):
        likelihoods(model, ["a dog", "a man"], [["yes"], []])
    with pytest.raises(ValueError, match=r"continuations\[0\]\[0\].*1024"):
        likelihoods(model, ["a dog"], [["word " * 1500]])
