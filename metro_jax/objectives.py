"""Losses of pretraining and finetuning (spec 5.1 to 5.4 and 6.4).

Every loss is a sum with the count that belongs to it. `LossSums.total` is what a step differentiates; it is divided
once, by the summed `normalizer` of all microbatches.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from metro_jax.model.config import PretrainingConfig
from metro_jax.model.network import PAD
from metro_jax.model.pretraining import PretrainingOutputs, gather
from metro_jax.model.rows import over_pieces

Scalar = Float[Array, ""]
Metrics = dict[str, tuple[Scalar, Scalar]]
BITS = 1 / math.log(2)  # logged losses are in bits (spec 5.4)


@struct.dataclass
class LossSums:
    """A loss before its division.

    Args:
        total: the sum to differentiate.
        normalizer: what the gradient is divided by, summed over microbatches (`sample_size`).
        metrics: name -> (sum, count); the logged value is sum / count. Losses in bits, accuracies in percent.
    """

    total: Scalar
    normalizer: Scalar
    metrics: Metrics


@struct.dataclass
class MetroCounts:
    """What the combination of spec 5.3 divides and multiplies by: ng, nr and nd.

    They follow from the ids alone, so a trainer can take them over more rows than one call of the loss sees.
    """

    generator: Float[Array, "*microbatches"]  # masked positions
    rtd: Float[Array, "*microbatches"]  # positions with an RTD loss
    sample_size: Float[Array, "*microbatches"]


def metro_counts(batch: Mapping[str, Int[Array, "batch length"]], config: PretrainingConfig) -> MetroCounts:
    """The counts of a batch before any network has run."""
    masked, valid = batch["generator_target_tokens"] != PAD, batch["decoder_target_tokens"] != PAD
    in_reach = _count(jnp.minimum(jnp.sum(masked, axis=1), config.masked_ceiling(masked.shape[1])))
    return MetroCounts(
        generator=in_reach,
        rtd=_count(masked if config.target == "both" else valid),
        sample_size=_count(valid) if config.target == "none" else in_reach,
    )


def cross_entropy(
    logits: Float[Array, "*batch vocab"], targets: Int[Array, "*batch"], label_smoothing: float = 0.0
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Smoothed and plain negative log-likelihood per position, in nats, float32 (spec 5.2).

    The target's logit is picked by comparison rather than by a look-up: it stays local when the vocabulary is sharded.
    """
    logits = logits.astype(jnp.float32)
    vocab = logits.shape[-1]
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    hit = targets[..., None] == jnp.arange(vocab)
    nll = log_normalizer - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    if not label_smoothing:
        return nll, nll
    rest = label_smoothing / (vocab - 1)
    everything = vocab * log_normalizer - jnp.sum(logits, axis=-1)
    return (1 - label_smoothing - rest) * nll + rest * everything, nll


def masked_sum(x: Float[Array, "*batch"], where: Bool[Array, "*batch"] | Float[Array, "*batch"]) -> Scalar:
    """Sum over the positions that count; what stands elsewhere, NaN included, has no say."""
    return jnp.sum(jnp.where(where, x, 0.0))


def _count(where: Array) -> Scalar:
    return jnp.sum(where, dtype=jnp.float32)


def _mean(total: Scalar, count: Scalar) -> Scalar:
    """total / count, and 0 where there is nothing to count (spec 11, quirk 12)."""
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), 0.0)


def _accuracy(logits: Array, targets: Array, where: Array) -> tuple[Scalar, Scalar]:
    """Percent correct as (sum, count)."""
    return 100.0 * _count((jnp.argmax(logits, axis=-1) == targets) & where), _count(where)


def generator_loss(outputs: PretrainingOutputs) -> tuple[Scalar, Scalar, Metrics]:
    """Masked language modelling of the auxiliary model: (sum in nats, masked positions, metrics)."""
    length = outputs.original_tokens.shape[1]
    where = outputs.masked_positions < length
    targets = gather(outputs.generator_targets, outputs.masked_positions)
    total, count = masked_sum(cross_entropy(outputs.generator_logits, targets)[0], where), _count(where)
    masked = _count(outputs.generator_targets != PAD)
    metrics = {
        "generator_loss": (total * BITS, count),
        "generator_accuracy": _accuracy(outputs.generator_logits, targets, where),
        "dropped_masks": (100.0 * (masked - count), masked),
    }
    return total, count, metrics


def rtd_loss(outputs: PretrainingOutputs, target: str) -> tuple[Scalar, Scalar, Metrics]:
    """Replaced token detection over all valid positions, or the masked ones when `target` is "both"."""
    z, valid = outputs.rtd_logits, outputs.original_tokens != PAD
    replaced = valid & (outputs.original_tokens != outputs.replaced_tokens)
    unreplaced = valid & ~replaced
    where = outputs.generator_targets != PAD if target == "both" else valid
    # Binary cross entropy on logits, in the form that does not overflow.
    total = masked_sum(jax.nn.softplus(z) - z * replaced, where)
    count = _count(where)
    metrics = {
        "rtd_loss": (total * BITS, count),
        "rtd_replaced_accuracy": (100.0 * _count(replaced & (z >= 0)), _count(replaced)),
        "rtd_unreplaced_accuracy": (100.0 * _count(unreplaced & (z < 0)), _count(unreplaced)),
        "replace_ratio": (100.0 * _count(replaced), _count(valid)),
    }
    return total, count, metrics


def corrective_lm_loss(outputs: PretrainingOutputs, config: PretrainingConfig) -> tuple[Scalar, Scalar, Metrics]:
    """Corrective language modelling by the decoder: (sum in nats, positions, metrics without the final counts)."""
    original, length = outputs.original_tokens, outputs.original_tokens.shape[1]
    positions, logits, z = outputs.masked_positions, outputs.logits, outputs.rtd_logits
    metrics = _decoder_accuracies(outputs)
    if config.target == "none":
        targets, where = original, original != PAD
    else:
        targets, where, z = gather(original, positions), positions < length, gather(z, positions)
        logits = logits if outputs.logits_at_masked else gather(logits, positions)
    losses, nll = cross_entropy(logits, targets, config.label_smoothing)
    mean_weight = jnp.ones(())
    if config.weighted_lm_loss:
        weight = jax.lax.stop_gradient(jax.nn.sigmoid(z))
        losses, nll = losses * weight, nll * weight
        # In target "none" the mean runs over pads too (spec 5.2, quirk 8).
        mean_over = jnp.ones_like(where) if config.target == "none" else where
        mean_weight = _mean(over_pieces(masked_sum(weight, mean_over)), over_pieces(_count(mean_over)))
    safe = jnp.where(mean_weight > 0, mean_weight, 1.0)
    total, count = masked_sum(losses, where), _count(where)
    if config.divide_by_mean_weight:
        total = total / safe
    if config.rtd_only:
        total = jnp.zeros(())
    metrics |= {
        "discriminator_loss": (total * BITS, count),
        "nll_loss": (masked_sum(nll, where) / safe * BITS, count),
    }
    return total, count, metrics


def _decoder_accuracies(outputs: PretrainingOutputs) -> Metrics:
    """Decoder argmax on replaced and, where all positions were projected, on unreplaced tokens (spec 5.4)."""
    original = outputs.original_tokens
    valid = original != PAD
    replaced = valid & (original != outputs.replaced_tokens)
    if not outputs.logits_at_masked:
        return {
            "replaced_accuracy": _accuracy(outputs.logits, original, replaced),
            "unreplaced_accuracy": _accuracy(outputs.logits, original, valid & ~replaced),
        }
    # Every replaced token stands at a masked position, so that this one needs no other.
    positions = outputs.masked_positions
    where = gather(replaced, positions) & (positions < original.shape[1])
    return {"replaced_accuracy": _accuracy(outputs.logits, gather(original, positions), where)}


def metro_loss(outputs: PretrainingOutputs, config: PretrainingConfig, counts: MetroCounts | None = None) -> LossSums:
    """The three losses combined exactly as the reference does (spec 5.3).

    Args:
        counts: of the rows over which the means of MLM and RTD are taken; None takes them over the rows at hand.
    """
    generator_sum, num_generator, metrics = generator_loss(outputs)
    rtd_sum, num_rtd, rtd_metrics = rtd_loss(outputs, config.target)
    lm_sum, sample_size, lm_metrics = corrective_lm_loss(outputs, config)
    if counts is None:
        counts = MetroCounts(num_generator, num_rtd, sample_size)
    total = (
        _mean(generator_sum, counts.generator) * counts.sample_size
        + config.lm_loss_weight * lm_sum
        + config.rtd_loss_weight * _mean(rtd_sum, counts.rtd) * counts.sample_size
    )
    metrics = {"loss": (total * BITS, sample_size), **lm_metrics, **metrics, **rtd_metrics}
    return LossSums(total, sample_size, metrics)


def sequence_loss(
    logits: Float[Array, "batch length vocab"],
    targets: Int[Array, "batch length"],
    weights: Float[Array, "batch length"] | None = None,
    label_smoothing: float = 0.0,
) -> LossSums:
    """Cross entropy over the targets that are not pads: finetuning and the T5 baseline (spec 6.4)."""
    where = targets != PAD if weights is None else weights > 0
    losses, nll = cross_entropy(logits, targets, label_smoothing)
    total, count = masked_sum(losses, where), _count(where)
    metrics = {
        "loss": (total * BITS, count),
        "nll_loss": (masked_sum(nll, where) * BITS, count),
        "accuracy": _accuracy(logits, targets, where),
    }
    return LossSums(total, count, metrics)


def hub_loss(logits: Float[Array, "batch length vocab"], labels: Int[Array, "batch length"]) -> Scalar:
    """The Hub model's own loss: the mean over labels that are not -100, pad labels counted (spec 2.7, quirk 18)."""
    where = labels != -100
    losses = cross_entropy(logits, jnp.where(where, labels, 0))[0]
    return _mean(masked_sum(losses, where), _count(where))


def summarize(metrics: dict[str, tuple[Any, Any]]) -> dict[str, float]:
    """Logged values of accumulated metrics, `ppl` = 2^nll_loss among them; a metric without count is left out."""
    values = {name: float(total) / float(count) for name, (total, count) in metrics.items() if float(count) > 0}
    if "nll_loss" in values:
        values["ppl"] = 2.0 ** min(values["nll_loss"], 1000.0)
    return values
