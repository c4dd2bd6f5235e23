"""What a runtime may ask of a model: T5X's protocol by duck typing, plus `loss_sums`, which the native trainer uses.

A model knows its network, its losses and its decoding; it knows nothing of meshes, checkpoints or data files. What it
says of seqio and clu is imported when it is asked for: a training step runs where there is neither.
"""

import importlib
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.core
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning as flax_partitioning
from jaxtyping import Array, Float, Int

from metro_jax import decoding, objectives
from metro_jax.model import cache as decoding_cache
from metro_jax.model.config import MetroConfig, PretrainingConfig
from metro_jax.model.network import PAD, EncoderDecoder
from metro_jax.model.pretraining import MetroPretraining
from metro_jax.objectives import LossSums
from metro_jax.training.optimizers import MetroAdamW, OptaxWrapper
from metro_jax.training.trees import unflatten

if TYPE_CHECKING:
    import seqio

Params = Any
Batch = Mapping[str, Array]


def address(key: Array, purpose: str, *numbers: Int[Array, ""] | int) -> Array:
    """The random key of one purpose at one place: folded, never threaded, so a restart finds the same one."""
    key = jax.random.fold_in(key, zlib.crc32(purpose.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def split_axes(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Boxed variables as T5X wants them: plain `params`, and `params_axes` with `name_axes` for every `name`."""
    boxes = jax.tree_util.tree_leaves_with_path(
        flax.core.unfreeze(variables["params"]), is_leaf=lambda node: isinstance(node, nn.Partitioned)
    )
    axes = {}
    for path, box in boxes:
        names = box.names if isinstance(box, nn.Partitioned) else (None,) * box.ndim
        axes["/".join(key.key for key in path) + "_axes"] = flax_partitioning.AxisMetadata(names=tuple(names))
    return {"params": nn.unbox(flax.core.unfreeze(variables["params"])), "params_axes": unflatten(axes)}


class _FeatureConverter:
    """A class of `metro_jax.data.feature_converters`, imported (with TensorFlow) when it is looked at."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any) -> Any:
        return getattr(importlib.import_module("metro_jax.data.feature_converters"), self.name)


class BaseModel:
    """Common part of the two models.

    Args:
        config: sizes of the network.
        optimizer_def: how parameters are updated.
        input_vocabulary, output_vocabulary: seqio vocabularies; only text in and out needs them.
        loss_normalizing_factor: constant that T5X's `loss_fn` divides by; None divides by the batch's own normaliser,
            which is right without microbatches only, since T5X sums the gradients of microbatches.
    """

    FEATURE_CONVERTER_CLS: Any  # a class of seqio feature converters

    def __init__(
        self,
        config: MetroConfig,
        module: nn.Module,
        optimizer_def: OptaxWrapper | None,
        input_vocabulary: "seqio.Vocabulary | None",
        output_vocabulary: "seqio.Vocabulary | None",
        loss_normalizing_factor: float | None,
    ) -> None:
        self.config = config
        self.module = module
        self.optimizer_def = optimizer_def if optimizer_def is not None else MetroAdamW()
        self.input_vocabulary = input_vocabulary
        self.output_vocabulary = output_vocabulary
        self.loss_normalizing_factor = loss_normalizing_factor

    def get_initial_variables(
        self, rng: Array, input_shapes: Mapping[str, Any], input_types: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fresh `params` and their `params_axes`; `input_shapes` maps each batch feature to its shape."""
        types = input_types or {}
        batch = {name: jnp.ones(shape, types.get(name, jnp.int32)) for name, shape in input_shapes.items()}
        return split_axes(self._init(rng, batch))

    def _init(self, rng: Array, batch: Batch) -> Mapping[str, Any]:
        raise NotImplementedError

    def counts(self, batch: Batch) -> Any:
        """Numbers that the loss of a row depends on besides the row: how many positions its batch has, by kind.

        A tree of scalars that follow from the ids alone, or None where the loss is a plain sum over rows.
        """
        del batch

    def loss_sums(
        self, params: Params, batch: Batch, rng: Array, deterministic: bool = False, counts: Any = None
    ) -> LossSums:
        """(total, normalizer, metrics): sums, so that batches can be added up before the one division (spec 5.3).

        Args:
            counts: as `counts(...)` gives them, of the rows over which means are taken; None means these rows.
        """
        raise NotImplementedError

    def loss_fn(
        self, params: Params, batch: Batch, dropout_rng: Array | None
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """T5X's training loss and its metrics."""
        rng = jax.random.key(0) if dropout_rng is None else dropout_rng
        return self._as_t5x(self.loss_sums(params, batch, rng, deterministic=dropout_rng is None))

    def eval_fn(self, params: Params, batch: Batch) -> tuple[Float[Array, ""], dict[str, Any]]:
        """T5X's evaluation loss: no dropout."""
        return self.loss_fn(params, batch, None)

    def _as_t5x(self, sums: LossSums) -> tuple[Float[Array, ""], dict[str, Any]]:
        divisor = sums.normalizer if self.loss_normalizing_factor is None else self.loss_normalizing_factor
        import clu.metrics

        average: Any = clu.metrics.Average
        metrics = {name: average(total=t, count=n) for name, (t, n) in sums.metrics.items()}
        return sums.total / divisor, metrics


class MetroPretrainingModel(BaseModel):
    """METRO pretraining: generator, corrective language modelling, replaced token detection (spec 3 and 5)."""

    FEATURE_CONVERTER_CLS = _FeatureConverter("MetroPretrainingFeatureConverter")

    def __init__(
        self,
        config: MetroConfig,
        pretraining: PretrainingConfig,
        optimizer_def: OptaxWrapper | None = None,
        input_vocabulary: "seqio.Vocabulary | None" = None,
        output_vocabulary: "seqio.Vocabulary | None" = None,
        loss_normalizing_factor: float | None = None,
    ) -> None:
        module = MetroPretraining(config, pretraining=pretraining)
        super().__init__(config, module, optimizer_def, input_vocabulary, output_vocabulary, loss_normalizing_factor)
        self.pretraining = pretraining

    def _init(self, rng: Array, batch: Batch) -> Mapping[str, Any]:
        rngs = {"params": rng, "sampling": address(rng, "sampling")}
        return self.module.init(rngs, batch, deterministic=True)

    def _settings(self, batch: Batch) -> PretrainingConfig:
        """The objective's settings for a batch: each packed block may round its number of masked positions up."""
        if "encoder_segment_ids" not in batch or self.pretraining.max_masked_positions is not None:
            return self.pretraining
        from metro_jax.data.feature_converters import MAX_SEGMENTS
        from metro_jax.data.preprocessors import max_masked

        length = batch["encoder_input_tokens"].shape[1]
        return self.pretraining.replace(
            max_masked_positions=max_masked(length, self.pretraining.mask_rate, MAX_SEGMENTS)
        )

    def counts(self, batch: Batch) -> objectives.MetroCounts:
        """Masked positions, positions with an RTD loss, and the sample size (spec 5.3)."""
        return objectives.metro_counts(batch, self._settings(batch))

    def loss_sums(
        self, params: Params, batch: Batch, rng: Array, deterministic: bool = False, counts: Any = None
    ) -> LossSums:
        """Losses of one (micro)batch; metrics as in spec 5.4. The draws of the generator come from `rng` too."""
        rngs = {"dropout": address(rng, "dropout"), "sampling": address(rng, "sampling")}
        module = MetroPretraining(self.config, pretraining=self._settings(batch))
        outputs: Any = module.apply({"params": params}, batch, deterministic=deterministic, rngs=rngs)
        return objectives.metro_loss(outputs, self.pretraining, counts)


class EncoderDecoderModel(BaseModel):
    """Prompt finetuning and evaluation of the main model (spec 6 and 8)."""

    FEATURE_CONVERTER_CLS = _FeatureConverter("EncoderDecoderFeatureConverter")

    def __init__(
        self,
        config: MetroConfig,
        optimizer_def: OptaxWrapper | None = None,
        input_vocabulary: "seqio.Vocabulary | None" = None,
        output_vocabulary: "seqio.Vocabulary | None" = None,
        label_smoothing: float = 0.0,
        decoding_options: decoding.Options | None = None,
        loss_normalizing_factor: float | None = None,
    ) -> None:
        module = EncoderDecoder(config)
        super().__init__(config, module, optimizer_def, input_vocabulary, output_vocabulary, loss_normalizing_factor)
        self.label_smoothing = label_smoothing
        self.decoding_options = decoding.Greedy() if decoding_options is None else decoding_options

    def _init(self, rng: Array, batch: Batch) -> Mapping[str, Any]:
        return self.module.init(rng, batch["encoder_input_tokens"], batch["decoder_input_tokens"], deterministic=True)

    def logits(
        self, params: Params, batch: Batch, rng: Array | None = None, deterministic: bool = True
    ) -> Float[Array, "batch length vocab"]:
        """float32 logits of the decoder for teacher-forced targets; packed batches carry segments and positions."""
        packing: dict[str, Any] = {
            name: batch.get(name)
            for name in ("encoder_positions", "decoder_positions", "encoder_segment_ids", "decoder_segment_ids")
        }
        rngs = None if rng is None else {"dropout": address(rng, "dropout")}
        logits: Any = self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            deterministic=deterministic,
            rngs=rngs,
            **packing,
        )
        return logits

    def loss_sums(
        self, params: Params, batch: Batch, rng: Array, deterministic: bool = False, counts: Any = None
    ) -> LossSums:
        """Cross entropy summed over target tokens (spec 6.4)."""
        logits = self.logits(params, batch, rng, deterministic)
        return objectives.sequence_loss(
            logits,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"].astype(jnp.float32),
            self.label_smoothing,
        )

    def score_batch(self, params: Params, batch: Batch) -> Float[Array, "batch"]:
        """Sum over the target tokens, eos included, of their log-probabilities (spec 8.1)."""
        log_probs = jax.nn.log_softmax(self.logits(params, batch), axis=-1)
        targets = batch["decoder_target_tokens"]
        picked = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        return jnp.sum(picked * batch["decoder_loss_weights"], axis=-1)

    def predict_batch(self, params: Params, batch: Batch, rng: Array | None = None) -> Int[Array, "batch length"]:
        """Generated ids up to and including eos, padded; as long as the batch's decoder side."""
        return self.predict_batch_with_aux(params, batch, rng)[0]

    def predict_batch_with_aux(
        self, params: Params, batch: Batch, rng: Array | None = None
    ) -> tuple[Int[Array, "batch length"], dict[str, Array]]:
        """Generated ids, and their `scores` (sums of log-probabilities as the decoding options define them)."""
        config, source = self.config, batch["encoder_input_tokens"]
        max_length = min(batch["decoder_input_tokens"].shape[1] + 1, config.max_length)
        mask = source != PAD
        encoded: Any = self.module.apply({"params": params}, source, mask, method="encode")
        params = decoding_cache.unstack_decoder(params, config)
        cache = decoding_cache.init_cache(params, config, encoded, mask, max_length)
        decoded = decoding.decode(
            lambda tokens, cache: decoding_cache.decode_step(params, config, tokens, cache),
            cache,
            source.shape[0],
            max_length=max_length,
            options=self.decoding_options,
            start_token=config.decoder_start_token,
            rng=rng,
            reorder=lambda cache, rows: cache._replace(past=decoding.gather_rows(cache.past, rows)),
        )
        return decoded.tokens[:, 1:], {"scores": decoded.scores}
