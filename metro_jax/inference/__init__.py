"""`MetroT0`: strings in, strings or scores out."""

from metro_jax.inference.engine import Ranking, TokenScores
from metro_jax.inference.metro import MetroT0

__all__ = ["MetroT0", "Ranking", "TokenScores"]
