"""A toy language model whose next token depends on the whole prefix, for the jitted algorithms and for plain Python."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.decoding import Decoded, Options, decode

START = 5
MAX_LENGTH = 12


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, to be a key of the compiled programs
class ToyModel:
    """Random logits looked up by a hash of the prefix, so that a wrongly ordered cache shows."""

    table: np.ndarray  # [states, vocab]
    eos_bias: np.ndarray  # [rows]
    eos: int
    pad: int  # no token of the model, so that seeing one means that the row has ended

    @classmethod
    def random(cls, seed: int, vocab: int, eos_bias: Sequence[float], scale: float = 2.0) -> "ToyModel":
        table = np.random.default_rng(seed).normal(size=(1009, vocab), scale=scale).astype(np.float32)
        return cls(table, np.asarray(eos_bias, np.float32), eos=2, pad=vocab)

    @property
    def rows(self) -> int:
        return len(self.eos_bias)

    def cache(self, rows: Sequence[int] | None = None) -> dict[str, Any]:
        """Before the first token; rows differ in where they start and in how much they favour eos."""
        chosen = np.arange(self.rows) if rows is None else np.asarray(rows)
        return {
            "hash": jnp.asarray(chosen * 37),
            "source": {"eos_bias": jnp.asarray(self.eos_bias)[chosen]},
            "index": 0,
        }

    def step(self, tokens: Any, cache: dict[str, Any], bad: float = 0.0) -> tuple[Any, dict[str, Any]]:
        """Rows that feed pads get `bad` added to all their logits."""
        state = (cache["hash"] * 31 + tokens * 7 + cache["index"]) % len(self.table)
        logits = jnp.asarray(self.table)[state].at[:, self.eos].add(cache["source"]["eos_bias"])
        logits = logits + jnp.where(tokens == self.pad, bad, 0.0)[:, None]
        return logits, {**cache, "hash": state, "index": cache["index"] + 1}

    def logits(self, row: int, prefix: Sequence[int]) -> np.ndarray:
        """The same, from the whole prefix and without a cache."""
        state = row * 37
        for index, token in enumerate(prefix):
            state = (state * 31 + token * 7 + index) % len(self.table)
        logits = self.table[state].copy()
        logits[self.eos] += self.eos_bias[row]
        return logits


@functools.lru_cache(maxsize=32)
def _compiled(model: ToyModel, options: Options, batch: int, bad: float, static: tuple[tuple[str, Any], ...]) -> Any:
    arguments = {"max_length": MAX_LENGTH, "start_token": START, "eos": model.eos, "pad": model.pad, **dict(static)}
    step = functools.partial(model.step, bad=bad)

    def program(cache: Any, dynamic: dict[str, Any]) -> Decoded:
        return decode(step, cache, batch, options=options, **arguments, **dynamic)

    # Compiling these small programs takes longer than running them.
    return jax.jit(program, compiler_options={"xla_backend_optimization_level": 0})


def _run(
    model: ToyModel, options: Options, rows: Sequence[int] | None = None, bad: float = 0.0, **arguments: Any
) -> Decoded:
    dynamic = {name: arguments.pop(name) for name in ("limit", "rng", "row_seeds") if name in arguments}
    batch = model.rows if rows is None else len(rows)
    return _compiled(model, options, batch, bad, tuple(sorted(arguments.items())))(model.cache(rows), dynamic)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum(dtype=np.float32))


@pytest.fixture(scope="session")
def toy_model():
    """Makes a ToyModel: toy_model(seed, vocab, (first and last bonus of eos, rows)); the same one for the same call."""
    return functools.cache(lambda seed, vocab, bias, scale=2.0: ToyModel.random(seed, vocab, np.linspace(*bias), scale))


@pytest.fixture(scope="session")
def run():
    """`decode` under jit on some rows of a toy model; start token 5, max_length 12."""
    return _run


@pytest.fixture(scope="session")
def log_softmax():
    """Log-probabilities of one row in float32 NumPy."""
    return _log_softmax
