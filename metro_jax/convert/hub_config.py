"""`config.json` of Hub-format folders, both directions (spec 10.1)."""

from collections.abc import Mapping
from typing import Any

from metro_jax.convert.errors import ConversionError
from metro_jax.model.config import MetroConfig
from metro_jax.text.config import CODE_REPOSITORY
from metro_jax.text.ids import swap_ids

# Fields of config.json that the tensors decide; what they stand for in MetroConfig.
_SIZE_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "d_ff": "d_ff",
    "num_layers": "num_encoder_layers",
    "num_decoder_layers": "num_decoder_layers",
    "num_heads": "num_heads",
    "relative_attention_num_buckets": "relative_attention_num_buckets",
}

# Defaults of the reference's configuration class for absent fields (spec 10.1).
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 64518,
    "d_model": 768,
    "d_ff": 3072,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "max_positions": 1024,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "decoder_start_token_id": 2,
}

# What the Hub form can be told to do and METRO never does (spec 10.1, 11).
_FIXED: dict[str, Any] = {
    "model_type": "fairseq_t5",
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
    "pad_token_id": 1,
    "eos_token_id": 2,
}


def hub_config_to_metro(
    config: Mapping[str, Any], what: str = "config.json", sizes: Mapping[str, int] | None = None
) -> MetroConfig:
    """A Hub configuration, absent fields by the reference's defaults; `auto_map` is ignored.

    Args:
        what: the file, for messages.
        sizes: fields of MetroConfig that the tensors decide: used where the file is silent, compared where it is not.

    Raises:
        ConversionError: not METRO's, or with impossible values, or contradicting the tensors; everything is listed.
    """
    problems = [
        f"{name}={config[name]!r}, expected {value!r}"
        for name, value in _FIXED.items()
        if config.get(name) is not None and config[name] != value
    ]
    given = {name: value for name, value in config.items() if value is not None}
    sizes = sizes or {}
    problems += [
        f"{name}={given[name]!r}, but the tensors say {sizes[field]}"
        for name, field in _SIZE_FIELDS.items()
        if name in given and field in sizes and given[name] != sizes[field]
    ]
    known = _DEFAULTS | {name: sizes[field] for name, field in _SIZE_FIELDS.items() if field in sizes} | given
    known.setdefault("num_decoder_layers", known["num_layers"])
    fields: dict[str, Any] = {field: known[name] for name, field in _SIZE_FIELDS.items()}
    same = ("relative_attention_max_distance", "max_positions", "dropout_rate", "layer_norm_epsilon")
    fields |= {name: known[name] for name in same}
    problems += _impossible(known)
    if not problems:
        try:
            return MetroConfig(
                **fields,
                # The Hub form's tables have 1024 + 2 rows whatever max_positions says (spec 2.1).
                position_rows=sizes.get("position_rows", 1026),
                attention_dropout_rate=known["dropout_rate"],
                decoder_start_token=swap_ids(known["decoder_start_token_id"]),
                padding="hub",
            )
        except (ValueError, TypeError) as error:
            problems.append(str(error))
    raise ConversionError(f"{what}: not the configuration of a METRO-T0 model: {'; '.join(problems)}")


def _impossible(config: Mapping[str, Any]) -> list[str]:
    """Values that no model can have, by the names of config.json."""
    whole = (*_SIZE_FIELDS, "relative_attention_max_distance", "max_positions", "d_kv")
    problems = [
        f"{name}={config[name]!r}, expected a whole number of at least 1"
        for name in whole
        if name in config and (type(config[name]) is not int or config[name] < 1)
    ]
    start, epsilon = config["decoder_start_token_id"], config["layer_norm_epsilon"]
    if type(start) is not int or start < 0:
        problems.append(f"decoder_start_token_id={start!r}, expected a token id")
    if type(epsilon) not in (int, float) or not epsilon > 0:
        problems.append(f"layer_norm_epsilon={epsilon!r}, expected a number above 0")
    if type(config["dropout_rate"]) not in (int, float):
        problems.append(f"dropout_rate={config['dropout_rate']!r}, expected a number")
    if not problems and config.get("d_kv", 0) and config["d_kv"] * config["num_heads"] != config["d_model"]:
        problems.append(
            f"d_kv={config['d_kv']} times num_heads={config['num_heads']} is not d_model={config['d_model']}"
        )
    return problems


def metro_config_to_hub(config: MetroConfig) -> dict[str, Any]:
    """Every field that published configurations have (spec 10.1), the true relative distance always among them."""
    return {
        "architectures": ["FairseqT5ForConditionalGeneration"],
        "auto_map": {
            "AutoConfig": f"{CODE_REPOSITORY}--configuration_fairseq_t5.FairseqT5Config",
            "AutoModelForSeq2SeqLM": f"{CODE_REPOSITORY}--modeling_fairseq_t5.FairseqT5ForConditionalGeneration",
        },
        "d_ff": config.d_ff,
        "d_kv": config.head_dim,
        "d_model": config.d_model,
        "decoder_start_token_id": swap_ids(config.decoder_start_token),
        "dropout_rate": config.dropout_rate,
        "eos_token_id": 2,
        "feed_forward_proj": "relu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "max_positions": config.max_positions,
        "model_type": "fairseq_t5",
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "pad_token_id": 1,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "torch_dtype": "float32",
        "transformers_version": "4.28.1",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
