"""Training-form checkpoints of the reference, a fairseq fork (spec 10.2), both directions.

A `.pt` file is a dict with at least `cfg` (sections `task`, `model`, ...) and `model` (the state dict). The state dict
names the token matrix three times (`{encoder,decoder}.embed_tokens.weight`, `decoder.output_projection.weight`), and in
pretraining whatever the generator shares once more under the generator's names. `*.version` buffers carry the number 3
and no information. Sizes are counted from the tensors (see `fairseq_config` for why).
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from metro_jax.convert.apply import HINT, match, to_lazy_params, to_params, to_tensors
from metro_jax.convert.errors import ConversionError
from metro_jax.convert.fairseq_config import (
    first_of,
    is_config_class,
    main_config,
    metro_config_to_fairseq,
    model_section,
    plain,
    said_sharing,
)
from metro_jax.convert.lazy import LazyTensor, same_values
from metro_jax.convert.pickle_reader import read_torch
from metro_jax.convert.rules import SWAP_ROWS, Rule, Sizes, Tensor, attention, linear, norm, sizes_of, table
from metro_jax.convert.torch_writer import write_torch
from metro_jax.model.config import SHARING, MetroConfig, PretrainingConfig

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
_AUXILIARY = "generator.sentence_encoder"
# A buffer that fairseq wants to find when it loads: below 3 it would expect another network.
_VERSION = np.full((1,), 3, np.float32)


# -- the table


def _encoder(tensor: str, param: str, layers: str) -> list[Rule]:
    """What main encoder and generator have in common."""
    stored, tree = f"{tensor}.layers.{{i}}", f"{param}/layers"
    return [
        *attention(f"{stored}.self_attn", f"{tree}/self_attention", _PROJECTIONS, layers),
        *table(f"{stored}.self_attn_rel_pos.rel_attn_bias.weight", f"{tree}/relative_bias", "B h", layers),
        *norm(f"{stored}.self_attn_layer_norm", f"{tree}/self_attention_norm", layers),
        *_mlp(stored, tree, layers),
    ]


def _mlp(stored: str, tree: str, layers: str) -> list[Rule]:
    return [
        *linear(f"{stored}.fc1", f"{tree}/mlp/wi", "f d", layers),
        *linear(f"{stored}.fc2", f"{tree}/mlp/wo", "d f", layers),
        *norm(f"{stored}.final_layer_norm", f"{tree}/mlp_norm", layers),
    ]


def _tied(rules: list[Rule], tensor: str, also: str, shared: bool) -> list[Rule]:
    """Rules of main-model tensors, which the generator names once more where it shares them."""
    if not shared:
        return rules
    return [dataclasses.replace(rule, copies=(rule.tensor.replace(tensor, also, 1),)) for rule in rules]


def fairseq_rules(pretraining: PretrainingConfig | None = None) -> tuple[Rule, ...]:
    """The table: the main model alone, or with generator and RTD head as `pretraining` shares and shapes them."""
    level = SHARING.index(pretraining.sharing) if pretraining else 0
    tokens = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    auxiliary_tokens = (f"{_AUXILIARY}.embed_tokens.weight", "generator.lm_head.weight")
    decoder, tree = "decoder.layers.{i}", "decoder/layers"
    rules = [
        Rule(
            "encoder.embed_tokens.weight",
            "V d",
            "token_embedding",
            "V d",
            SWAP_ROWS,
            copies=tokens + (auxiliary_tokens if level >= 1 else ()),
        ),
        *_tied(
            table("encoder.embed_positions.weight", "encoder/position_embedding", "P d"),
            "encoder",
            _AUXILIARY,
            level >= 2,
        ),
        *_tied(norm("encoder.layernorm_embedding", "encoder/embedding_norm"), "encoder", _AUXILIARY, level >= 3),
        *_encoder("encoder", "encoder", "L"),
        *table("decoder.embed_positions.weight", "decoder/position_embedding", "P d"),
        *norm("decoder.layernorm_embedding", "decoder/embedding_norm"),
        *attention(f"{decoder}.self_attn", f"{tree}/self_attention", _PROJECTIONS, "D"),
        *norm(f"{decoder}.self_attn_layer_norm", f"{tree}/self_attention_norm", "D"),
        *attention(f"{decoder}.encoder_attn", f"{tree}/cross_attention", _PROJECTIONS, "D"),
        *norm(f"{decoder}.encoder_attn_layer_norm", f"{tree}/cross_attention_norm", "D"),
        *_mlp(decoder, tree, "D"),
    ]
    if pretraining is None:
        return tuple(rules)
    if level < 1:
        first, *rest = auxiliary_tokens
        rules.append(Rule(first, "V d", "generator/token_embedding", "V d", SWAP_ROWS, copies=tuple(rest)))
    if level < 2:
        rules += table(f"{_AUXILIARY}.embed_positions.weight", "generator/encoder/position_embedding", "P d")
    if level < 3:
        rules += norm(f"{_AUXILIARY}.layernorm_embedding", "generator/encoder/embedding_norm")
    rules += [
        *_encoder(_AUXILIARY, "generator/encoder", "G"),
        *linear("generator.lm_head.dense", "generator/lm_head/dense", "d d"),
        *norm("generator.lm_head.layer_norm", "generator/lm_head/norm"),
        Rule("generator.lm_head.bias", "V", "generator/lm_head/bias", "V", SWAP_ROWS),
    ]
    if pretraining.rtd_head == "roberta":
        rules += [*linear("rtd_head.dense", "rtd_head/dense", "d d"), *norm("rtd_head.layer_norm", "rtd_head/norm")]
    return (*rules, *linear("rtd_head", "rtd_head/out", "1 d"))


def fairseq_sizes(config: MetroConfig, pretraining: PretrainingConfig | None) -> Sizes:
    sizes = sizes_of(config)
    return sizes if pretraining is None else sizes | {"G": pretraining.generator_layers}


# -- reading


def read_fairseq_checkpoint(path: str | pathlib.Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """State dict (read when used) and configuration of a fairseq `.pt` file; no class of it is ever built.

    Raises:
        ConversionError: unsafe, damaged or too old (see `pickle_reader`), or without the entry `model`.
    """
    return split_fairseq(path, read_torch(path, records=is_config_class))


def split_fairseq(path: str | pathlib.Path, root: Any) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """State dict and configuration of what a `.pt` file holds."""
    if type(root) is not dict or type(root.get("model")) is not dict:
        found = ", ".join(map(repr, list(root)[:10])) if type(root) is dict else f"a {type(root).__name__}"
        raise ConversionError(
            f"{path}: not a fairseq checkpoint: expected a dict with `model` and `cfg`, found {found}"
        )
    tensors = {name: value for name, value in root["model"].items() if isinstance(value, LazyTensor)}
    others = [f"{name!r}" for name in root["model"] if name not in tensors]
    if others:
        raise ConversionError(f"{path}: these entries of the state dict are not tensors: {', '.join(others)}")
    cfg = plain(root.get("cfg") or root.get("args") or {})
    return tensors, cfg if isinstance(cfg, dict) else {}


def fairseq_to_params(
    tensors: Mapping[str, Tensor],
    cfg: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    main_only: bool = False,
    lazy: bool = False,
) -> tuple[MetroConfig, PretrainingConfig | None, dict[str, Any]]:
    """A state dict of the training form to configuration and parameters.

    Args:
        tensors: names to arrays, lazy or not.
        cfg: the saved configuration, whole or its model section; None and absent fields are allowed.
        dtype: of the parameters; "stored" keeps each tensor's.
        main_only: leave generator and RTD head out.
        lazy: give parameters that are read when they are used.

    Returns:
        The configuration of the main model, what pretraining added (None if nothing), the parameter tree.

    Raises:
        TensorMismatchError: missing, unknown or misshapen tensors, all listed.
        ConversionError: tied tensors differ, or the configuration names an unknown way of sharing.
    """
    section = model_section(cfg or {})
    extra = [name for name in tensors if name.startswith(("generator.", "rtd_head."))]
    pretraining = None if main_only or not extra else _pretraining(tensors, section)
    dropped = frozenset(extra) if pretraining is None else frozenset()
    plan = match(
        fairseq_rules(pretraining),
        tensors,
        "the fairseq checkpoint",
        ignored=lambda name: name in dropped or name.endswith(".version"),
        hint="Without generator and RTD head it can be read by main_only=True." if pretraining else HINT,
    )
    # What the generator's constructor left in a saved pretraining configuration says nothing about the main model.
    config = main_config(plan.sizes, section, overwritten=bool(extra))
    if pretraining is not None:
        pretraining = pretraining.replace(generator_layers=plan.sizes["G"])
    read = to_lazy_params if lazy else to_params
    return config, pretraining, read(plan, tensors, dtype)


def _pretraining(tensors: Mapping[str, Tensor], section: Mapping[str, Any]) -> PretrainingConfig:
    """What the auxiliary tensors are, their depth apart. The saved objective is not read: it is the recipe's matter."""
    wide = any(name.startswith(("rtd_head.dense.", "rtd_head.layer_norm.")) for name in tensors)
    said = section.get("share_generator_discriminator_embed")
    sharing = _found_sharing(tensors) if said is None else said_sharing(said)
    rate = 0.0 if section.get("generator_zero_dropout", True) else first_of(section, ("dropout",), 0.0)
    return PretrainingConfig(sharing=sharing, rtd_head="roberta" if wide else "simple", generator_dropout_rate=rate)


def _found_sharing(tensors: Mapping[str, Tensor]) -> str:
    """What the tensors say where the configuration is silent: equal, or there under the main model's name only."""

    def shared(name: str) -> bool:
        main, auxiliary = tensors.get(f"encoder.{name}"), tensors.get(f"{_AUXILIARY}.{name}")
        return main is not None and (auxiliary is None or same_values(main, auxiliary))

    if not shared("embed_tokens.weight"):
        return "none"
    if not shared("embed_positions.weight"):
        return "token"
    norms = ("layernorm_embedding.weight", "layernorm_embedding.bias")
    return "token_pos_norm" if all(map(shared, norms)) else "token_pos"


# -- writing


def params_to_fairseq(
    config: MetroConfig,
    params: Mapping[str, Any],
    pretraining: PretrainingConfig | None = None,
    *,
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """The state dict of the training form, tied tensors under every name, version buffers included.

    Raises:
        TensorMismatchError: the parameters do not fit the configuration.
        ConversionError: a value does not fit into dtype.
    """
    lazy = _state_dict(config, params, pretraining, dtype)
    arrays: dict[int, np.ndarray] = {}
    for tensor in lazy.values():
        if id(tensor) not in arrays:
            arrays[id(tensor)] = np.asarray(tensor)
    return {name: arrays[id(tensor)] for name, tensor in lazy.items()}


def _state_dict(
    config: MetroConfig, params: Mapping[str, Any], pretraining: PretrainingConfig | None, dtype: str
) -> dict[str, Tensor]:
    stacks = ("encoder", "decoder") if pretraining is None else ("encoder", "decoder", _AUXILIARY)
    return {
        **to_tensors(fairseq_rules(pretraining), fairseq_sizes(config, pretraining), params, dtype),
        **{f"{stack}.version": _VERSION.copy() for stack in stacks},
    }


def write_fairseq_checkpoint(
    path: str | pathlib.Path,
    config: MetroConfig,
    params: Mapping[str, Any],
    pretraining: PretrainingConfig | None = None,
    *,
    dtype: str = "stored",
    sentinels: int = 512,
) -> None:
    """A `.pt` file as fairseq saves and loads it, tensor by tensor; there is no optimiser state in it.

    Args:
        dtype: as of `params_to_fairseq`; "stored" keeps what each parameter has.
        sentinels: of the vocabulary, which fairseq counts by the task's tokens_per_sample (spec 9.1).
    """
    task = {"tokens_per_sample": sentinels}
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    root = {
        "args": None,
        "cfg": {
            "task": task if pretraining is None else {"_name": "t5_metro", **task},
            "model": metro_config_to_fairseq(config, pretraining),
        },
        "model": _state_dict(config, params, pretraining, dtype),
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    write_torch(path, root)
