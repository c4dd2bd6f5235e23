"""The configuration inside a fairseq checkpoint, both directions (spec 10.2).

Depending on its age it is plain dictionaries, an argparse namespace, or omegaconf nodes; all become plain data here.
The model section of a pretraining run was overwritten by the generator's values (encoder_layers is its depth,
dropout 0), so it is asked only for what tensors cannot show.
"""

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.pickle_machine import Record
from metro_jax.convert.rules import Sizes, config_fields
from metro_jax.model.config import SHARING, MetroConfig, PretrainingConfig

LOG = logging.getLogger(__name__)

# Classes that a saved configuration may consist of; they are kept as data (see `plain`).
_CONFIG_CLASSES = ("argparse.Namespace", "enum.", "omegaconf.", "typing.", "fairseq.dataclass.", "pathlib.")
_CONFIG_TYPES = frozenset(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple"))
MAX_DEPTH = 32


def is_config_class(name: str) -> bool:
    """Whether a class may appear in a saved configuration; its instances are kept as inert records."""
    return name.startswith(_CONFIG_CLASSES) or name in _CONFIG_TYPES


def plain(value: Any, depth: int = 0) -> Any:
    """A saved configuration as plain data: namespaces and omegaconf nodes to containers, enums to their values."""
    if depth > MAX_DEPTH:
        raise ConversionError(f"the saved configuration is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if not isinstance(value, Record):
        return value if isinstance(value, (str, int, float, bool, type(None))) else None
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    if isinstance(state, dict):
        # omegaconf keeps children in `_content` and leaves in `_val`, a namespace is its attributes.
        return plain(state.get("_content", state.get("_val", state)), depth + 1)
    return plain(value.arguments[0], depth + 1) if len(value.arguments) == 1 else None


def model_section(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model section of a whole configuration; a section alone is returned as it is."""
    section = cfg.get("model")
    return section if isinstance(section, Mapping) else cfg


def main_config(sizes: Sizes, section: Mapping[str, Any], overwritten: bool) -> MetroConfig:
    """The main model's configuration.

    Args:
        overwritten: the section was saved by a pretraining run, so that its dropouts are the generator's.

    Raises:
        ConversionError: the numbers do not make a model.
    """
    fields: dict[str, Any] = dict(config_fields(sizes))
    # The table behind the relative buckets (spec 2.4); the position tables have two rows more (spec 2.1).
    fields["max_positions"] = first_of(section, ("max_positions", "max_source_positions"), sizes["P"] - 2)
    fields["relative_attention_max_distance"] = first_of(section, ("encoder_rp_max_dist",), 128)
    if not overwritten:
        fields["dropout_rate"] = first_of(section, ("dropout",), 0.1)
        fields["attention_dropout_rate"] = first_of(section, ("attention_dropout",), 0.1)
        fields["mlp_dropout_rate"] = first_of(section, ("activation_dropout",), 0.0)
    try:
        return MetroConfig(**fields, padding="training")
    except (ValueError, TypeError) as error:
        raise ConversionError(f"the fairseq checkpoint describes a model that cannot be built: {error}") from error


def first_of(section: Mapping[str, Any], names: tuple[str, ...], default: Any) -> Any:
    """The first of these settings that is there."""
    return next((section[name] for name in names if section.get(name) is not None), default)


def said_sharing(said: Any) -> str:
    """The setting; a boolean is what older configurations hold, and true meant the token matrix (spec 3.2)."""
    value = str(said).lower()
    if value == "true":
        LOG.info("share_generator_discriminator_embed: true is read as 'token'")
        return "token"
    value = "none" if value == "false" else value
    if value not in SHARING:
        near = difflib.get_close_matches(value, SHARING, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConversionError(
            f"share_generator_discriminator_embed={said!r} is not known; choose one of {', '.join(SHARING)}{hint}"
        )
    return value


def metro_config_to_fairseq(config: MetroConfig, pretraining: PretrainingConfig | None = None) -> dict[str, Any]:
    """The model section that belongs to `params_to_fairseq`, with the main model's true sizes."""
    section = {
        "encoder_embed_dim": config.d_model,
        "encoder_ffn_embed_dim": config.d_ff,
        "encoder_layers": config.num_encoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_embed_dim": config.d_model,
        "decoder_ffn_embed_dim": config.d_ff,
        "decoder_layers": config.num_decoder_layers,
        "decoder_attention_heads": config.num_heads,
        "encoder_rp_bins": config.relative_attention_num_buckets,
        "encoder_rp_max_dist": config.relative_attention_max_distance,
        "max_positions": config.max_positions,
        "max_source_positions": config.position_rows - 2,
        "max_target_positions": config.position_rows - 2,
        "dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
        "activation_dropout": config.mlp_dropout_rate,
        "activation_fn": "relu",
        "share_all_embeddings": True,
        "share_decoder_input_output_embed": True,
    }
    if pretraining is None:
        return section
    return section | {
        "generator_layers": pretraining.generator_layers,
        "generator_zero_dropout": pretraining.generator_dropout_rate == 0.0,
        "share_generator_discriminator_embed": pretraining.sharing,
        "rtd_head": pretraining.rtd_head,
    }
