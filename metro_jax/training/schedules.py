"""Learning rate as a function of the updates already done (spec 5.5), under T5X's name and arguments."""

import difflib
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]
FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)


def create_learning_rate_scheduler(
    factors: str = "linear_decay",
    base_learning_rate: float = 4e-4,
    warmup_steps: int = 10_000,
    total_steps: int | None = None,
    decay_factor: float = 0.5,
    steps_per_decay: int = 20_000,
    steps_per_cycle: int = 100_000,
    step_offset: int = 0,
    min_learning_rate: float = 0.0,
) -> Schedule:
    """A product of factors, as in T5X; the default factor is METRO's warm-up and linear decay to zero (spec 5.5).

    Args:
        factors: names joined by `*`. `linear_decay` stands for warm-up and decay together and already holds the base
            rate, as in T5X: do not combine it with `constant` or `linear_warmup`.
        warmup_steps, total_steps: in updates. With `total_steps`, `linear_decay` reaches zero there; without it the
            slope is `decay_factor` per update (T5X's form).
        decay_factor, steps_per_decay: of `decay_every`.
        steps_per_cycle: of `cosine_decay`.
        min_learning_rate: floor; T5X has 1e-8, METRO ends at 0.

    Raises:
        ValueError: an unknown factor, or `total_steps` not beyond `warmup_steps`.
    """
    names = [name.strip() for name in factors.split("*")]
    for name in names:
        if name not in FACTORS:
            near = difflib.get_close_matches(name, FACTORS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"factors={factors!r}: {name!r} is not known; known are {', '.join(FACTORS)}{hint}")
    if total_steps is not None and "linear_decay" in names and total_steps <= warmup_steps:
        raise ValueError(
            f"total_steps={total_steps} is not beyond warmup_steps={warmup_steps}, so the learning rate could never "
            f"decay; train longer or set utils.create_learning_rate_scheduler.warmup_steps below {total_steps}"
        )

    def factor(name: str, step: Array) -> Float[Array, ""]:
        after = jnp.maximum(step - warmup_steps, 0)
        if name == "constant":
            return jnp.float32(base_learning_rate)
        if name == "linear_warmup":
            return _warmup(step, warmup_steps)
        if name == "linear_decay":
            if total_steps is None:
                decay = jnp.maximum(1.0 - decay_factor * after, 0.0)
            else:
                # Subtracting whole numbers keeps the last rates exact; 1 - n/T in float32 would lose them.
                left = jnp.clip(total_steps - step, 0, total_steps - warmup_steps)
                decay = left / jnp.float32(total_steps - warmup_steps)
            return base_learning_rate * jnp.minimum(_warmup(step, warmup_steps), decay)
        if name == "rsqrt_decay":
            return 1 / jnp.sqrt(jnp.maximum(jnp.maximum(step, warmup_steps), 1))
        if name == "rsqrt_normalized_decay":
            return jnp.sqrt(max(warmup_steps, 1) / jnp.maximum(jnp.maximum(step, warmup_steps), 1))
        if name == "decay_every":
            return decay_factor ** (step // steps_per_decay)
        progress = jnp.maximum(0.0, after / steps_per_cycle)
        return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0))))

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.maximum(jnp.asarray(step, jnp.int32) - step_offset, 0)
        rate = jnp.float32(1.0)
        for name in names:
            rate = rate * factor(name, step)
        return jnp.maximum(rate, min_learning_rate).astype(jnp.float32)

    return schedule


def linear_decay_slope(total_steps: int, warmup_steps: int) -> float:
    """T5X's `decay_factor` with which its `linear_decay` reaches zero at `total_steps`, as METRO's schedule does.

    Raises:
        ValueError: `total_steps` not beyond `warmup_steps`.
    """
    if total_steps <= warmup_steps:
        raise ValueError(
            f"TRAIN_STEPS={total_steps} is not beyond WARMUP_STEPS={warmup_steps}, so the learning rate could never "
            f"decay; train longer or set WARMUP_STEPS below {total_steps}"
        )
    return 1.0 / (total_steps - warmup_steps)


def _warmup(step: Array, warmup_steps: int) -> Float[Array, ""]:
    return jnp.minimum(step / jnp.float32(warmup_steps), 1.0) if warmup_steps > 0 else jnp.float32(1.0)
