"""Attention weights and token probabilities: those that make the model's own outputs."""

import numpy as np
import pytest

import metro_jax
from metro_jax.inference import encoder_attention, token_choices
from metro_jax.model import serving

TEXT = "Is that a good or a bad review? A lovely lamp."


def test_attention_weights_are_those_of_the_output(model: metro_jax.MetroT0) -> None:
    """The encoder's layers computed once more with the weights that were reported give the encoder's output."""
    pieces, weights = encoder_attention(model, TEXT)
    ids, config, side = model.tokenizer.encode(TEXT), model.config, model._weights["encoder"]
    assert pieces == ["<s>", *model.tokenizer.pieces(TEXT), "</s>"]
    assert weights.shape == (config.num_encoder_layers, config.num_heads, len(ids), len(ids))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    x = np.asarray(model._weights["token_embedding"]["kernel"])[np.asarray([ids])]
    x = serving.norm(side["embedding_norm"], x + side["position_embedding"][2 : 2 + len(ids)], config)
    for layer, seen in zip(side["layers"], weights, strict=True):
        value = serving.heads(serving.linear(layer["self"], x, config), config)[2]
        attended = np.einsum("hqs,bhsk->bqhk", seen, value).reshape(x.shape)
        out = serving.linear(layer["self_out"], attended, config)
        x = serving.mlp(layer, serving.norm(layer["self_attention_norm"], x + out, config), config)
    np.testing.assert_allclose(x[0], model.encode([TEXT])[0], atol=1e-4)


def test_token_probabilities_are_those_of_score(model: metro_jax.MetroT0) -> None:
    size = model.config.vocab_size
    found = token_choices(model, TEXT, "good or bad", count=size)
    scored = model.score([TEXT], ["good or bad"])[0]
    assert found.pieces == scored.pieces
    np.testing.assert_allclose(np.log(found.probabilities), scored.log_probabilities, atol=1e-4)
    for names, values, piece, probability in zip(
        found.likely, found.likely_probabilities, found.pieces, found.probabilities, strict=True
    ):
        assert len(set(names)) == size
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert values[names.index(piece)] == pytest.approx(probability)
    few = token_choices(model, TEXT, "good or bad", count=3)
    assert few.likely == [names[:3] for names in found.likely]


def test_complaints_name_what_is_wrong(model: metro_jax.MetroT0) -> None:
    with pytest.raises(ValueError, match="count=0 must lie between 1 and"):
        token_choices(model, TEXT, "good", count=0)
    with pytest.raises(ValueError, match="position tables of this model end at 1024"):
        encoder_attention(model, "word " * 1100)
    with pytest.raises(TypeError, match="give one string"):
        encoder_attention(model, [TEXT])  # pyright: ignore[reportArgumentType]
