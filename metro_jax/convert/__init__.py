"""Checkpoints in and out: one rule table per format, read in both directions.

Everything that comes out is in metro_jax layout (layers stacked, kernels [in, ..., out]) and numbering (pad 0, bos 1);
nothing else in the project knows the layout or numbering of the formats.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metro_jax.convert.conversion import Conversion, convert
    from metro_jax.convert.download import DownloadError, find_model
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
    from metro_jax.convert.source import Source, load_model, open_checkpoint
    from metro_jax.convert.tensors import open_tensors

# Where each name lives: modules are loaded when a name of theirs is used, so that a command line can be parsed at once.
_PLACES = {
    "CheckpointInfo": "hub",
    "Conversion": "conversion",
    "ConversionError": "errors",
    "DownloadError": "download",
    "FolderExistsError": "errors",
    "MissingFileError": "errors",
    "Source": "source",
    "TensorMismatchError": "errors",
    "UnsafePickleError": "errors",
    "convert": "conversion",
    "fairseq_to_params": "fairseq",
    "find_model": "download",
    "hub_config_to_metro": "hub_config",
    "hub_to_params": "hub",
    "load_hub_folder": "hub",
    "load_model": "source",
    "metro_config_to_fairseq": "fairseq_config",
    "metro_config_to_hub": "hub_config",
    "open_checkpoint": "source",
    "open_tensors": "tensors",
    "params_to_fairseq": "fairseq",
    "params_to_hub": "hub",
    "read_fairseq_checkpoint": "fairseq",
    "save_hub_folder": "hub",
}

__all__ = [
    "CheckpointInfo",
    "Conversion",
    "ConversionError",
    "DownloadError",
    "FolderExistsError",
    "MissingFileError",
    "Source",
    "TensorMismatchError",
    "UnsafePickleError",
    "convert",
    "fairseq_to_params",
    "find_model",
    "hub_config_to_metro",
    "hub_to_params",
    "load_hub_folder",
    "load_model",
    "metro_config_to_fairseq",
    "metro_config_to_hub",
    "open_checkpoint",
    "open_tensors",
    "params_to_fairseq",
    "params_to_hub",
    "read_fairseq_checkpoint",
    "save_hub_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
