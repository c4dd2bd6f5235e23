"""METRO-T0 in JAX. The public names are loaded when they are first used, so that importing costs next to nothing."""

import importlib
from typing import TYPE_CHECKING, Any

from metro_jax.version import __version__

if TYPE_CHECKING:
    from metro_jax.inference import MetroT0
    from metro_jax.model.config import MetroConfig
    from metro_jax.text.tokenizer import MetroTokenizer

__all__ = ["MetroConfig", "MetroT0", "MetroTokenizer", "__version__"]

_HOMES = {
    "MetroConfig": "metro_jax.model.config",
    "MetroT0": "metro_jax.inference",
    "MetroTokenizer": "metro_jax.text.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'metro_jax' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
