"""Hub-format folders (spec 10.1), both directions: `config.json`, weights, tokenizer files.

The weights name the token matrix four times (`shared.weight`, `{encoder,decoder}.embed_tokens.weight`,
`lm_head.weight`); files written by newer tools keep the first only, and so do we. The remote code that `auto_map` names
is ignored when reading and never executed; when writing it names the original repository's code, for those who load the
folder in PyTorch.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from metro_jax.convert.apply import check_dtype, match, to_lazy_params, to_params, to_tensors
from metro_jax.convert.folders import complete_folder
from metro_jax.convert.hub_config import hub_config_to_metro, metro_config_to_hub
from metro_jax.convert.lazy import same_values
from metro_jax.convert.rules import (
    SWAP_ROWS,
    Rule,
    Tensor,
    attention,
    config_fields,
    count_parameters,
    linear,
    norm,
    sizes_of,
    table,
)
from metro_jax.convert.safetensors_file import write_safetensors
from metro_jax.convert.tensors import open_tensors, read_json
from metro_jax.model.config import MetroConfig
from metro_jax.text.ids import swap_ids

_PROJECTIONS = ("q", "k", "v", "o")


def _stack(stack: str, layers: str) -> list[Rule]:
    block, tree = f"{stack}.block.{{i}}.layer", f"{stack}/layers"
    mlp = 1 if stack == "encoder" else 2
    rules = [
        *table(f"{stack}.pos_embed.weight", f"{stack}/position_embedding", "P d"),
        *norm(f"{stack}.first_layer_norm", f"{stack}/embedding_norm"),
        *attention(f"{block}.0.SelfAttention", f"{tree}/self_attention", _PROJECTIONS, layers),
        *norm(f"{block}.0.layer_norm", f"{tree}/self_attention_norm", layers),
    ]
    if stack == "encoder":
        rules += table(
            f"{block}.0.SelfAttention.relative_attention_bias.weight", f"{tree}/relative_bias", "B h", layers
        )
    else:
        rules += attention(f"{block}.1.EncDecAttention", f"{tree}/cross_attention", _PROJECTIONS, layers)
        rules += norm(f"{block}.1.layer_norm", f"{tree}/cross_attention_norm", layers)
    return [
        *rules,
        *linear(f"{block}.{mlp}.DenseReluDense.wi", f"{tree}/mlp/wi", "f d", layers),
        *linear(f"{block}.{mlp}.DenseReluDense.wo", f"{tree}/mlp/wo", "d f", layers),
        *norm(f"{block}.{mlp}.layer_norm", f"{tree}/mlp_norm", layers),
    ]


HUB_RULES: tuple[Rule, ...] = (
    Rule(
        "shared.weight",
        "V d",
        "token_embedding",
        "V d",
        SWAP_ROWS,
        copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        copies_agree=False,  # the reference ties them when it loads: the first one wins (spec 10.1)
    ),
    *_stack("encoder", "L"),
    *_stack("decoder", "D"),
)


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """What was read or written.

    Args:
        files: the weight files.
        parameters: their number, tied ones once.
        dtypes: number types of the stored tensors.
        notes: what a careful reader would want to know.
    """

    files: tuple[pathlib.Path, ...]
    parameters: int
    dtypes: tuple[str, ...]
    notes: tuple[str, ...] = ()


# -- reading


def load_hub_folder(
    folder: str | pathlib.Path, dtype: str = "float32"
) -> tuple[MetroConfig, dict[str, Any], CheckpointInfo]:
    """Configuration and parameters of a Hub-format folder, in metro_jax layout and numbering.

    Args:
        dtype: of the parameters; "stored" keeps what the file has.

    Raises:
        MissingFileError: no such folder, or a file is missing.
        ConversionError: damaged, unsafe, or config.json and the tensors contradict each other.
        TensorMismatchError: missing, unknown or misshapen tensors, all listed.
    """
    folder = pathlib.Path(folder)
    check_dtype(dtype, "stored")
    raw = read_json(folder / "config.json")
    tensors, files = open_tensors(folder)
    config, params, notes = hub_to_params(tensors, raw, dtype=dtype, what=str(folder))
    info = CheckpointInfo(
        tuple(files),
        count_parameters(HUB_RULES, sizes_of(config)),
        tuple(sorted({str(tensor.dtype) for tensor in tensors.values()})),
        notes,
    )
    return config, params, info


def hub_to_params(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    dtype: str = "float32",
    what: str = "the Hub checkpoint",
    lazy: bool = False,
) -> tuple[MetroConfig, dict[str, Any], tuple[str, ...]]:
    """Tensors with Hub names and the contents of config.json to configuration, parameters and notes.

    Args:
        lazy: give parameters that are read when they are used.
    """
    plan = match(HUB_RULES, tensors, what)
    metro = hub_config_to_metro(config, f"{what}: config.json", config_fields(plan.sizes))
    first, *others = plan.sources["token_embedding"]
    differing = [name for name in others if not same_values(tensors[first], tensors[name])]
    notes = [f"{first} is used; these copies of it differ and are ignored: {', '.join(differing)}"] if differing else []
    read = to_lazy_params if lazy else to_params
    return metro, read(plan, tensors, dtype), tuple(notes)


# -- writing


def params_to_hub(
    config: MetroConfig, params: Mapping[str, Any], *, dtype: str = "float16", copies: bool = True
) -> dict[str, np.ndarray]:
    """Tensors with Hub names; the defaults are what the reference's conversion writes (spec 10.3)."""
    lazy = to_tensors(HUB_RULES, sizes_of(config), _main_model(params), dtype, copies)
    return {name: np.asarray(tensor) for name, tensor in lazy.items()}


def save_hub_folder(
    folder: str | pathlib.Path,
    config: MetroConfig,
    params: Mapping[str, Any],
    tokenizer: Any = None,
    dtype: str = "float32",
    *,
    overwrite: bool = False,
) -> CheckpointInfo:
    """Write a Hub-format folder; it appears complete or not at all. Generator and RTD head are left out.

    Args:
        tokenizer: anything with `save_pretrained(folder)`; None writes no tokenizer files.
        dtype: "float32" is lossless, "float16" is what the published checkpoints have, "stored" is what params have.
        overwrite: replace a folder that already holds a checkpoint (a config.json), with all that is in it.

    Raises:
        FolderExistsError: the folder holds something already.
        TensorMismatchError: the parameters do not fit the configuration; all misfits are listed.
        ConversionError: a value does not fit into dtype.
    """
    check_dtype(dtype, "stored")
    sizes = sizes_of(config)
    tensors = to_tensors(HUB_RULES, sizes, _main_model(params), dtype, copies=False)
    with complete_folder(folder, overwrite=overwrite) as building:
        _write_json(
            building / "generation_config.json",
            {
                "decoder_start_token_id": swap_ids(config.decoder_start_token),
                "eos_token_id": 2,
                "pad_token_id": 1,
                "transformers_version": "4.28.1",
            },
        )
        if tokenizer is not None:
            tokenizer.save_pretrained(building)
        _write_json(building / "config.json", metro_config_to_hub(config))
        write_safetensors(building / "model.safetensors", tensors, {"format": "pt"})
    rows = config.position_rows
    notes = (f"position tables of {rows} rows: the original PyTorch code loads only 1026",) if rows != 1026 else ()
    dtypes = tuple(sorted({str(tensor.dtype) for tensor in tensors.values()}))
    written = pathlib.Path(os.path.realpath(folder)) / "model.safetensors"
    return CheckpointInfo((written,), count_parameters(HUB_RULES, sizes), dtypes, notes)


def _main_model(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in ("generator", "rtd_head")}


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
