"""Configuration: published sizes, and mistakes that say what would have been right."""

import pytest

from metro_jax.model.config import MetroConfig, PretrainingConfig


def test_published_sizes() -> None:
    assert MetroConfig.base() == MetroConfig()
    assert MetroConfig.base_pp().vocab_size == 64512
    large = MetroConfig.large_pp()
    assert (large.d_model, large.num_heads, large.num_encoder_layers, large.head_dim) == (1024, 16, 24, 64)
    assert large.relative_attention_max_distance == 256
    assert MetroConfig().max_length == 1024


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float23"}, ["float23", "float32"]),
        ({"remat": "ful"}, ["ful", "'full'"]),
        ({"padding": "right"}, ["right", "training", "hub"]),
        ({"num_heads": 5}, ["768", "5"]),
        ({"d_ff": 0}, ["d_ff", "0", "1"]),
        ({"dropout_rate": 1.5}, ["dropout_rate", "1.5"]),
        ({"num_layer": 3}, ["num_layer", "num_encoder_layers"]),
    ],
)
def test_mistakes_name_value_and_remedy(changes: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        MetroConfig().replace(**changes)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"sharing": "true"}, {"rtd_head": "Roberta"}, {"target": "all"}, {"generator_layers": 0}]
)
def test_pretraining_mistakes_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(changes)))):
        PretrainingConfig().replace(**changes)


@pytest.mark.parametrize(("length", "expected"), [(512, 77), (16, 3), (3, 1), (1, 1)])
def test_masked_ceiling(length: int, expected: int) -> None:
    assert PretrainingConfig().masked_ceiling(length) == expected
    assert PretrainingConfig(max_masked_positions=2).masked_ceiling(length) == min(2, length)
