"""A finetuning checkpoint as a model that answers: sizes from the shapes of its arrays, parameters, tokenizer."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from metro_jax.inference import MetroT0
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import init_params
from metro_jax.text.tokenizer import MetroTokenizer


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> MetroConfig:
    """The sizes of a network from the shapes of its parameters; what shapes cannot tell is as published for base."""
    vocab_size, d_model = shapes["token_embedding"]
    layers, _, num_heads, _ = shapes["encoder/layers/self_attention/query/kernel"]
    return MetroConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        num_heads=num_heads,
        d_ff=shapes["encoder/layers/mlp/wi/kernel"][-1],
        num_encoder_layers=layers,
        num_decoder_layers=shapes["decoder/layers/mlp/wi/kernel"][0],
        relative_attention_num_buckets=shapes["encoder/layers/relative_bias"][1],
        position_rows=shapes["encoder/position_embedding"][0],
    )


def load_checkpoint(model_dir: pathlib.Path, vocabulary: pathlib.Path) -> MetroT0:
    """The model of the newest checkpoint of a training run.

    Raises:
      FileNotFoundError: there is no checkpoint. ValueError: it holds another kind of model.
    """
    from metro_jax.training.checkpoints import find_checkpoints, restore_params, stored_shapes

    path = find_checkpoints(model_dir)[-1]
    prefix = "target/"
    shapes = {k.removeprefix(prefix): v for k, v in stored_shapes(path).items() if k.startswith(prefix)}
    config = config_of(shapes)
    params, _ = restore_params(
        path, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), jax.eval_shape(lambda: init_params(config)))
    )
    return MetroT0(config, params, MetroTokenizer.from_pretrained(vocabulary))
