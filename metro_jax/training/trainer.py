"""One training step: gradients of summed losses over microbatches, one division, one update (spec 5.3 and 5.5)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from metro_jax.model.network import PAD
from metro_jax.model.rows import PIECES
from metro_jax.objectives import LossSums
from metro_jax.training.flops import BACKWARD_FACTOR, dot_flops
from metro_jax.training.models import BaseModel, address
from metro_jax.training.optimizers import Optimizer
from metro_jax.training.partitioning import LOCAL_SUMS, PjitPartitioner, is_divisible

Batch = Mapping[str, Array]
Metrics = dict[str, tuple[Array, Array]]
NORMALIZATIONS = ("microbatch", "batch")


class Trainer:
    """Compiled steps of one model on one mesh.

    Args:
        model: says how to initialise and what the loss is.
        partitioner: the mesh.
        input_shapes: shape of every batch feature, over all processes.
        random_seed: all keys are folded from it, the purpose and the step; none is carried from step to step.
        learning_rate_fn: from the number of updates done to the rate.
        num_microbatches: pieces of the batch whose gradients are summed before the update; None or 1 takes it whole.
            Piece i has the rows i, i + n, i + 2n, ..., so that every device cuts up its own rows. Each device sums its
            own gradients, which are reduced over the `data` axis once, after the last piece.
        normalization: over which rows the means of spec 5.3 (MLM and RTD) are taken. "microbatch" is the reference's
            arithmetic, each microbatch by its own counts; "batch" takes them over all microbatches, so that the number
            of microbatches changes nothing but rounding (and the draws).
        use_hardware_rng: faster keys on TPU, whose bits depend on the mesh.

    Raises:
        ValueError: no learning rate, a batch that the devices or microbatches cannot share, an unknown normalization.
    """

    def __init__(
        self,
        model: BaseModel,
        partitioner: PjitPartitioner,
        input_shapes: Mapping[str, tuple[int, ...]],
        random_seed: int = 1,
        learning_rate_fn: Callable[[Array], Array] | None = None,
        num_microbatches: int | None = None,
        use_hardware_rng: bool = False,
        normalization: str = "microbatch",
    ) -> None:
        if learning_rate_fn is None:
            raise ValueError("learning_rate_fn is missing: bind trainer.Trainer.learning_rate_fn")
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization={normalization!r} must be one of {', '.join(map(repr, NORMALIZATIONS))}")
        self.normalization = normalization
        self.model = model
        self.partitioner = partitioner
        self.learning_rate_fn = learning_rate_fn
        self.num_microbatches = num_microbatches or 1
        partitioner.check_batch_size(next(iter(input_shapes.values()))[0], self.num_microbatches)
        impl = "unsafe_rbg" if use_hardware_rng else None
        # Made anew from the seed wherever it is used: a constant of the compiled step, not an array to keep.
        self.key = functools.partial(jax.random.key, random_seed, impl=impl)
        self._initial = functools.partial(model.get_initial_variables, input_shapes=dict(input_shapes))
        with partitioner.context():
            variables = jax.eval_shape(lambda: self._initial(address(self.key(), "init")))
        self.params_axes = variables["params_axes"]
        self.param_shardings = partitioner.param_shardings(variables["params"], self.params_axes)
        self.update_shardings = partitioner.update_shardings(self.param_shardings, variables["params"])
        self._shared_update = self.update_shardings != self.param_shardings
        self.abstract_state = jax.eval_shape(model.optimizer_def.create, variables["params"])
        self.state_shardings = self._shardings(self.abstract_state)
        self._local_shardings = jax.tree.map(partitioner.local_sum_sharding, self.param_shardings)
        batch_sharding = partitioner.batch_sharding
        self._train = jax.jit(
            self._train_step,
            in_shardings=(self.state_shardings, batch_sharding),
            out_shardings=(self.state_shardings, partitioner.replicated),
            donate_argnums=0,
        )
        self._eval = jax.jit(
            self._eval_step,
            in_shardings=(self.param_shardings, batch_sharding, None),
            out_shardings=partitioner.replicated,
        )

    def _shardings(self, state: Optimizer) -> Optimizer:
        """Moments are laid out as parameters are updated, whatever else the optimiser keeps is on every device."""
        derived = state.optimizer_def.derive_logical_axes(state, self.update_shardings)
        derived = dataclasses.replace(derived, target=self.param_shardings)
        replicated = self.partitioner.replicated

        def fitting(sharding: Any, leaf: Any) -> Any:
            # Factored statistics stand in the place of a parameter but have another shape.
            if sharding is None or len(sharding.spec) > leaf.ndim or not is_divisible(sharding, leaf.shape):
                return replicated
            return sharding

        return jax.tree.map(fitting, derived, state, is_leaf=lambda node: node is None)

    def init_state(self, params: Any = None) -> Optimizer:
        """Fresh moments at step 0, around fresh parameters or the ones given, laid out on the mesh."""
        create = self.model.optimizer_def.create
        with self.partitioner.context():
            if params is not None:
                return jax.jit(create, out_shardings=self.state_shardings)(params)

            def fresh() -> Optimizer:
                return create(self._initial(address(self.key(), "init"))["params"])

            return jax.jit(fresh, out_shardings=self.state_shardings)()

    def abstract_state_dict(self) -> dict[str, Any]:
        """Shapes, types and shardings of what a checkpoint holds."""
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self.abstract_state,
            self.state_shardings,
        )
        return placed.state_dict()

    def restore_state(self, state_dict: dict[str, Any]) -> Optimizer:
        """The training state from a checkpoint's arrays."""
        return self.abstract_state.restore_state(state_dict)

    def train(self, state: Optimizer, batch: Batch) -> tuple[Optimizer, Metrics]:
        """One update; `state` is used up. Metrics are (sum, count) on the devices and do not wait for the step."""
        with self.partitioner.context():
            return self._train(state, batch)

    def eval(self, params: Any, batch: Batch, index: int) -> Metrics:
        """Losses of one batch without dropout; the same `index` gives the same draws."""
        with self.partitioner.context():
            return self._eval(params, batch, index)

    def lower(self, batch: Mapping[str, Any], train: bool = True) -> Any:
        """The compiled step before it is compiled, for who wants to know what it will be (`metro-jax plan`).

        Args:
            batch: arrays or their shapes and types.
            train: the update; False is the losses of `eval`.
        """
        with self.partitioner.context():
            if train:
                return self._train.lower(self.abstract_state, dict(batch))
            return self._eval.lower(self.abstract_state.target, dict(batch), 0)

    def executed_flops(self, batch: Mapping[str, Any], train: bool = True) -> float:
        """Matrix products of a step as traced, on all devices together: recomputation counts, unlike `flops_per_step`.

        Args:
            batch: arrays or their shapes and types.
        """
        step = self._train_step if train else self._eval_step
        state = self.abstract_state if train else self.abstract_state.target
        with self.partitioner.context():
            return dot_flops(step, state, dict(batch), *([] if train else [jnp.zeros((), jnp.int32)]))

    def flops_per_step(self, batch: Mapping[str, Any]) -> float:
        """Floating point operations that the model needs for one update, on all devices together.

        Matrix products of the forward pass, three times: recomputation and the optimiser are not the model's.

        Args:
            batch: arrays or their shapes and types.
        """
        with self.partitioner.context():
            return BACKWARD_FACTOR * dot_flops(
                lambda params, rows: self.model.loss_sums(params, rows, self.key()).total,
                self.abstract_state.target,
                dict(batch),
            )

    def _train_step(self, state: Optimizer, batch: Batch) -> tuple[Optimizer, Metrics]:
        step = state.state.step
        rate = self.learning_rate_fn(step)
        sums, grads = self._gradients(state.target, batch, address(self.key(), "train", step))
        # A batch without a single target has a zero gradient, not 0/0 (spec 11, quirk 12).
        grads = jax.tree.map(lambda g: g / jnp.where(sums.normalizer > 0, sums.normalizer, 1.0), self._cut(grads))
        one = jnp.ones(())
        extra = {"learning_rate": (rate, one), "gradient_norm": (optax.tree.norm(grads), one)}
        if "encoder_input_tokens" in batch:
            # A count of nothing: it is added up for the speed, never averaged.
            extra["tokens"] = (jnp.sum(batch["encoder_input_tokens"] != PAD, dtype=jnp.float32), jnp.zeros(()))
        # Each device updates its own part of every parameter; the state's layout puts the parts together.
        state = dataclasses.replace(state, target=self._cut(state.target))
        state = state.apply_gradient(grads, learning_rate=rate)
        return dataclasses.replace(state, target=self._cut(state.target)), {**sums.metrics, **extra}

    def _cut(self, tree: Any) -> Any:
        """Gradients or parameters in the layout of the update; nothing where it is that of the parameters anyway."""
        if not self._shared_update:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.update_shardings)

    def _gradients(self, params: Any, batch: Batch, key: Array) -> tuple[LossSums, Any]:
        """Loss sums and gradient sums over the microbatches, not divided by anything."""

        def loss(params: Any, rows: Batch, key: Array, counts: Any) -> tuple[Array, tuple[Array, Array, Metrics]]:
            sums = self.model.loss_sums(params, rows, key, counts=counts)
            return sums.total, (sums.total, sums.normalizer, sums.metrics)

        differentiate = jax.grad(loss, has_aux=True)
        if self.num_microbatches == 1:
            grads, sums = differentiate(params, batch, key, None)
            return LossSums(*sums), grads

        pieces = self._pieces(batch)
        if self.normalization == "microbatch":
            counts = jax.vmap(lambda rows: self.model.counts(_merged(rows)))(pieces)
        else:
            counts = jax.tree.map(lambda x: jnp.full(self.num_microbatches, x), self.model.counts(batch))

        def piece(i: Array, rows: Batch, counts: Any) -> tuple[Any, Any]:
            """Sums and gradients of one microbatch, for each place along the axis LOCAL_SUMS."""
            local = jax.vmap(differentiate, (None, 0, None, None), axis_name=PIECES, spmd_axis_name=LOCAL_SUMS)
            with self.partitioner.local_context():
                grads, sums = local(params, rows, jax.random.fold_in(key, i), counts)
            return sums, jax.lax.with_sharding_constraint(grads, self._local_shardings)

        def add(total: Any, inputs: tuple[Any, ...]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, piece(*inputs)), None

        numbered = (jnp.arange(self.num_microbatches), pieces, counts)
        shapes = jax.eval_shape(piece, *jax.tree.map(lambda x: x[0], numbered))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, numbered)
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), total[0])
        return LossSums(*sums), self.partitioner.sum_of_places(total[1], self.update_shardings)

    def _pieces(self, batch: Batch) -> Batch:
        """[rows, ...] as [microbatch, place along LOCAL_SUMS, rows, ...]; no row leaves its device."""
        n, places = self.num_microbatches, self.partitioner.mesh.shape[LOCAL_SUMS]
        layout = NamedSharding(self.partitioner.mesh, PartitionSpec(None, LOCAL_SUMS, "fsdp"))

        def cut(x: Array) -> Array:
            x = x.reshape(places, x.shape[0] // (places * n), n, *x.shape[1:])
            return jax.lax.with_sharding_constraint(jnp.moveaxis(x, 2, 0), layout)

        return jax.tree.map(cut, dict(batch))

    def _eval_step(self, params: Any, batch: Batch, index: Array) -> Metrics:
        return self.model.loss_sums(params, batch, address(self.key(), "eval", index), deterministic=True).metrics


def _merged(rows: Batch) -> Batch:
    """[place, rows, ...] as [rows, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), dict(rows))
