"""The optimiser of METRO (spec 5.5) as an optax transformation, and the surface that T5X expects of an optimiser.

`MetroAdamW()` and `OptaxWrapper(chain)` are optimiser definitions: `.create(params)` gives an `Optimizer`, a pytree
with `.target` (parameters), `.state.step` and `.state.param_states` (moments), which is also what a checkpoint holds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import serialization, struct
from jaxtyping import Array, Float, Int

Params = Any
# Added to the norm before dividing by it, as the reference does (spec 5.5).
CLIP_EPSILON = 1e-6


class AdamState(NamedTuple):
    """Number of updates done, first and second moments."""

    count: Int[Array, ""]
    mu: Params
    nu: Params


def clip_factor(norm: Float[Array, ""], clip_norm: float) -> Float[Array, ""]:
    """What a gradient of this global norm is multiplied by: min(1, clip / (norm + 1e-6)) (spec 5.5)."""
    return jnp.minimum(1.0, clip_norm / (norm + CLIP_EPSILON))


def scale_by_metro_adam(
    beta1: float = 0.9,
    beta2: float = 0.98,
    epsilon: float = 1e-6,
    weight_decay: float = 0.01,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Direction of one update, to be multiplied by minus the learning rate (spec 5.5).

    Clips by global norm (0 turns it off), then Adam with epsilon on the *uncorrected* root of the second moment, plus
    decoupled decay of every parameter: biases, norms and embeddings included.
    """

    def init(params: Params) -> AdamState:
        def zeros() -> Params:
            return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

        return AdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(grads: Params, state: AdamState, params: Params | None = None) -> tuple[Params, AdamState]:
        if params is None:
            raise ValueError("weight decay needs the parameters: call update(grads, state, params)")
        if clip_norm > 0:
            factor = clip_factor(optax.tree.norm(grads), clip_norm)
            grads = jax.tree.map(lambda g: g * factor, grads)
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * jnp.square(g), state.nu, grads)
        correction = jnp.sqrt(_one_minus_power(beta2, count)) / _one_minus_power(beta1, count)
        direction = jax.tree.map(
            lambda p, m, v: weight_decay * p + correction * m / (jnp.sqrt(v) + epsilon), params, mu, nu
        )
        return direction, AdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _one_minus_power(base: float, exponent: Int[Array, ""]) -> Float[Array, ""]:
    """1 - base**exponent without the cancellation that float32 suffers at the first updates."""
    return -jnp.expm1(exponent * jnp.log(jnp.float32(base)))


def metro_adamw(learning_rate: Any, **options: float) -> optax.GradientTransformation:
    """The whole optimiser as optax users write it; `learning_rate` is a number or a function of the updates done."""
    return optax.chain(scale_by_metro_adam(**options), optax.scale_by_learning_rate(learning_rate))


@struct.dataclass
class OptimizerState:
    """Updates done and whatever the optimiser keeps per parameter."""

    step: Any  # int32 scalar; None where the tree holds axis names
    param_states: Any


@struct.dataclass
class Optimizer:
    """Parameters with their optimiser state: T5X's name and layout."""

    optimizer_def: "OptaxWrapper" = struct.field(pytree_node=False)
    state: OptimizerState
    target: Params

    def apply_gradient(self, grads: Params, learning_rate: Float[Array, ""] | float | None = None) -> "Optimizer":
        """One update; the gradient is already divided by the batch's normaliser."""
        return self.optimizer_def.apply_gradient(self, grads, learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: {"target": ..., "state": {"step": ..., "param_states": ...}}."""
        state = {"step": self.state.step, "param_states": serialization.to_state_dict(self.state.param_states)}
        return {"target": serialization.to_state_dict(self.target), "state": state}

    def restore_state(self, state_dict: dict[str, Any]) -> "Optimizer":
        """The inverse of `state_dict`, for an optimiser of the same structure."""
        state = state_dict["state"]
        param_states = serialization.from_state_dict(self.state.param_states, state["param_states"])
        target = serialization.from_state_dict(self.target, state_dict["target"])
        return self.replace(  # pyright: ignore[reportAttributeAccessIssue]
            target=target, state=OptimizerState(state["step"], param_states)
        )


class OptaxWrapper:
    """Any optax transformation as an optimiser definition.

    Args:
        optax_optimizer: the transformation.
        scale_by_learning_rate: False where the chain holds its own schedule (T5X's only way; the Trainer's
            `learning_rate_fn` is then only logged); True where updates still want multiplying by minus the rate.
    """

    def __init__(self, optax_optimizer: optax.GradientTransformation, scale_by_learning_rate: bool = False) -> None:
        self.optax_optimizer = optax_optimizer
        self.scale_by_learning_rate = scale_by_learning_rate

    def create(self, target: Params) -> Optimizer:
        """Parameters with fresh moments at step 0."""
        state = OptimizerState(jnp.zeros((), jnp.int32), self.optax_optimizer.init(target))
        return Optimizer(optimizer_def=self, state=state, target=target)

    def apply_gradient(self, optimizer: Optimizer, grads: Params, learning_rate: Any = None) -> Optimizer:
        """One update of `optimizer`."""
        updates, param_states = self.optax_optimizer.update(grads, optimizer.state.param_states, optimizer.target)
        if self.scale_by_learning_rate:
            if learning_rate is None:
                raise ValueError("this optimiser needs a learning_rate with every update")
            updates = jax.tree.map(lambda u: -learning_rate * u, updates)
        target = optax.apply_updates(optimizer.target, updates)
        state = OptimizerState(optimizer.state.step + 1, param_states)
        return optimizer.replace(target=target, state=state)  # pyright: ignore[reportAttributeAccessIssue]

    def derive_logical_axes(self, optimizer: Optimizer, param_logical_axes: Params) -> Optimizer:
        """`optimizer` with axis names in the place of arrays: moments like their parameters, everything else None.

        Args:
            param_logical_axes: the tree of the parameters with a tuple of names (or PartitionSpec) at each leaf.
        """
        structure = jax.tree.structure(optimizer.target)

        def like_params(node: Any) -> bool:
            return jax.tree.structure(node) == structure

        def axes(node: Any) -> Any:
            return param_logical_axes if like_params(node) else None

        param_states = jax.tree.map(axes, optimizer.state.param_states, is_leaf=like_params)
        return optimizer.replace(  # pyright: ignore[reportAttributeAccessIssue]
            target=param_logical_axes, state=OptimizerState(step=None, param_states=param_states)
        )


class MetroAdamW(OptaxWrapper):
    """The published optimiser: AdamW with epsilon on the uncorrected root, decay on everything (spec 5.5).

    Args:
        clip_norm: 0 for base, 2.0 for base++ and large++.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.98,
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
        clip_norm: float = 0.0,
    ) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r} must be at least 0 and below 1")
        if clip_norm < 0:
            raise ValueError(f"clip_norm={clip_norm!r} must not be negative; 0 turns clipping off")
        super().__init__(scale_by_metro_adam(beta1, beta2, epsilon, weight_decay, clip_norm), True)


class Adafactor(OptaxWrapper):
    """Adafactor (arXiv 1804.04235) as optax has it, with the Trainer's learning rate; not METRO's published optimiser.

    Layers are stacked in one array, so its clipping and parameter scale see all layers of a kind as one.

    Args:
        min_dim_size_to_factor: smaller dimensions keep full second moments.
        decay_rate, clipping_threshold, multiply_by_parameter_scale, weight_decay_rate: as in `optax.adafactor`.
    """

    def __init__(
        self,
        min_dim_size_to_factor: int = 128,
        decay_rate: float = 0.8,
        multiply_by_parameter_scale: bool = True,
        clipping_threshold: float | None = 1.0,
        weight_decay_rate: float | None = None,
    ) -> None:
        update = optax.adafactor(
            learning_rate=None,
            min_dim_size_to_factor=min_dim_size_to_factor,
            decay_rate=decay_rate,
            multiply_by_parameter_scale=multiply_by_parameter_scale,
            clipping_threshold=clipping_threshold,
            weight_decay_rate=weight_decay_rate,
        )
        # optax has turned the sign already; the wrapper subtracts.
        super().__init__(optax.chain(update, optax.scale(-1.0)), True)


def chain(transformations: Sequence[optax.GradientTransformation]) -> optax.GradientTransformation:
    """`optax.chain` of a list, which gin can bind: `optimizers.chain.transformations = [@optax.adamw(), ...]`."""
    return optax.chain(*transformations)
