"""config.json: what it says, what it leaves out, what it must not say."""

import pytest

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.hub_config import hub_config_to_metro, metro_config_to_hub
from metro_jax.model.config import MetroConfig


def test_absent_fields_are_the_references_defaults():
    config = hub_config_to_metro({})
    assert (config.vocab_size, config.d_model, config.d_ff, config.num_heads) == (64518, 768, 3072, 8)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (6, 6)
    assert (config.relative_attention_num_buckets, config.relative_attention_max_distance) == (32, 128)
    assert (config.max_positions, config.position_rows) == (1024, 1026)
    assert (config.dropout_rate, config.layer_norm_epsilon) == (0.1, 1e-6)
    assert (config.padding, config.decoder_start_token, config.dtype) == ("hub", 2, "float32")


def test_given_fields_count():
    config = hub_config_to_metro(
        {
            "num_layers": 3,
            "dropout_rate": 0,
            "max_positions": 64,
            "decoder_start_token_id": 0,
            "num_decoder_layers": None,
        }
    )
    assert (config.num_encoder_layers, config.num_decoder_layers) == (3, 3)
    assert (config.dropout_rate, config.attention_dropout_rate) == (0, 0)
    assert (config.max_positions, config.position_rows) == (64, 1026)  # the tables have 1026 rows all the same
    assert config.decoder_start_token == 1  # <s>, in metro_jax numbering


@pytest.mark.parametrize("config", [MetroConfig.base(), MetroConfig.base_pp(), MetroConfig.large_pp()])
def test_written_and_read_again(config):
    written = metro_config_to_hub(config)
    assert hub_config_to_metro(written) == config.replace(padding="hub")
    assert written["relative_attention_max_distance"] == config.relative_attention_max_distance
    assert written["d_kv"] == 64
    assert all("--" in code for code in written["auto_map"].values())


def test_contradictions_are_all_listed():
    config = {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "num_layers": 7,
        "d_ff": "3072",
    }
    with pytest.raises(ConversionError, match=r"x/config\.json") as caught:
        hub_config_to_metro(config, "x/config.json", {"num_encoder_layers": 6, "d_ff": 3072})
    for part in (*config, "the tensors say 6"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"d_kv": 32},
        {"num_heads": 7},
        {"num_heads": 0},
        {"d_model": True},
        {"dropout_rate": 1.5},
        {"num_layers": 6.0},
        {"layer_norm_epsilon": "small"},
        {"layer_norm_epsilon": -1.0},
        {"decoder_start_token_id": 2.5},
        {"decoder_start_token_id": "2"},
        {"relative_attention_max_distance": 0},
        {"vocab_size": []},
    ],
)
def test_impossible_values(config):
    with pytest.raises(ConversionError, match=next(iter(config))):
        hub_config_to_metro(config)
