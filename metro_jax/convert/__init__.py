"""Checkpoints in and out: one rule table per format, read in both directions.

Everything that comes out is in metro_jax layout (layers stacked, kernels [in, ..., out]) and numbering (pad 0, bos 1);
nothing else in the project knows the layout or numbering of the formats.
"""

from metro_jax.convert.errors import (
    ConversionError,
    FolderExistsError,
    MissingFileError,
    TensorMismatchError,
    UnsafePickleError,
)
from metro_jax.convert.fairseq import fairseq_to_params, params_to_fairseq, read_fairseq_checkpoint
from metro_jax.convert.fairseq_config import metro_config_to_fairseq
from metro_jax.convert.hub import CheckpointInfo, hub_to_params, load_hub_folder, params_to_hub, save_hub_folder
from metro_jax.convert.hub_config import hub_config_to_metro, metro_config_to_hub
from metro_jax.convert.tensors import open_tensors

__all__ = [
    "CheckpointInfo",
    "ConversionError",
    "FolderExistsError",
    "MissingFileError",
    "TensorMismatchError",
    "UnsafePickleError",
    "fairseq_to_params",
    "hub_config_to_metro",
    "hub_to_params",
    "load_hub_folder",
    "metro_config_to_fairseq",
    "metro_config_to_hub",
    "open_tensors",
    "params_to_fairseq",
    "params_to_hub",
    "read_fairseq_checkpoint",
    "save_hub_folder",
]
