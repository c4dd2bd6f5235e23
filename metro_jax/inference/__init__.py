"""`MetroT0`: strings in, strings or scores out. The names are loaded when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metro_jax.inference.engine import Ranking, TokenScores
    from metro_jax.inference.inspection import Attention, TokenChoices, encoder_attention, token_choices
    from metro_jax.inference.metro import MetroT0

__all__ = ["Attention", "MetroT0", "Ranking", "TokenChoices", "TokenScores", "encoder_attention", "token_choices"]

_HOMES = {
    "Attention": "inspection",
    "MetroT0": "metro",
    "Ranking": "engine",
    "TokenChoices": "inspection",
    "TokenScores": "engine",
    "encoder_attention": "inspection",
    "token_choices": "inspection",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"metro_jax.inference.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'metro_jax.inference' has no attribute {name!r}; it offers {', '.join(__all__)}")
