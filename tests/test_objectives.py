"""Losses: properties, then the numbers of the reference's criterion."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax import objectives
from metro_jax.model.config import PretrainingConfig
from metro_jax.model.pretraining import PretrainingOutputs, masked_positions, replace_masked
from metro_jax.text.ids import swap_ids


def outputs_from(
    original: np.ndarray,
    generator_target: np.ndarray,
    replaced: np.ndarray,
    logits: np.ndarray,
    rtd_logits: np.ndarray,
    generator_logits: np.ndarray,
    config: PretrainingConfig,
) -> PretrainingOutputs:
    """Outputs as the network would give them; `generator_logits` has one row per masked position, row-major."""
    masked = generator_target != 0
    ceiling = config.masked_ceiling(original.shape[1])
    positions = masked_positions(jnp.asarray(masked), ceiling)
    slots = np.cumsum(masked, axis=1) - 1
    rows, columns = np.nonzero(masked)
    placed = jnp.zeros((original.shape[0], ceiling, logits.shape[-1]))
    placed = placed.at[rows, slots[rows, columns]].set(generator_logits)
    return PretrainingOutputs(
        generator_logits=placed,
        rtd_logits=jnp.asarray(rtd_logits),
        logits=jnp.asarray(logits),
        masked_positions=positions,
        replaced_tokens=jnp.asarray(replaced),
        original_tokens=jnp.asarray(original),
        generator_targets=jnp.asarray(generator_target),
        encoded=jnp.zeros((*original.shape, 1)),
        logits_at_masked=False,
    )


def criterion_config(settings: dict, length: int) -> PretrainingConfig:
    """The fixture's criterion settings under our names."""
    return PretrainingConfig(
        target=settings["masked_positions_only"],
        weighted_lm_loss=settings["weighted_lm_loss"],
        divide_by_mean_weight=settings["divide_by_mean_weight"],
        label_smoothing=settings["label_smoothing"],
        lm_loss_weight=settings["discriminator_loss_weight"],
        rtd_loss_weight=settings["rtd_loss_weight"],
        rtd_only=settings["rtd_only"],
        max_masked_positions=length,
        full_metrics=True,
    )


def check_metrics(sums: objectives.LossSums, expected: dict) -> None:
    """Loss terms, counts and every derived metric of the fixture."""
    logged, derived = expected["logging_output"], expected["metrics"]
    np.testing.assert_allclose(sums.total, logged["loss"], rtol=1e-5)
    assert float(sums.normalizer) == expected["sample_size"]
    for name, key in (("generator_loss",) * 2, ("discriminator_loss",) * 2, ("rtd_loss",) * 2):
        np.testing.assert_allclose(float(sums.metrics[name][0]) * np.log(2), logged[key], rtol=1e-5, err_msg=name)
    for name, count in (("generator_loss", "generator_sample_size"), ("rtd_loss", "rtd_sample_size")):
        assert float(sums.metrics[name][1]) == logged[count], name
    values = objectives.summarize(sums.metrics)
    for name, value in derived.items():
        if name.endswith(("n_correct", "total")):
            continue
        # The fixture rounds to three decimals, and ppl to two (spec 5.4).
        digits = 2 if name == "ppl" else 3
        tolerance = 0.5001 * 10**-digits + 2e-5 * abs(value)
        assert abs(values.get(name, 0.0) - value) <= tolerance, (name, values.get(name), value)


@pytest.fixture(scope="module")
def criterion(golden_dir: pathlib.Path) -> tuple[dict, dict[str, np.ndarray]]:
    cases = json.loads((golden_dir / "criterion_expected.json").read_text())
    with np.load(golden_dir / "criterion_expected.npz") as arrays:
        return cases, dict(arrays)


@pytest.mark.golden
def test_losses_and_gradients_equal_the_reference(criterion: tuple[dict, dict[str, np.ndarray]]) -> None:
    cases, arrays = criterion
    assert cases
    original, target = swap_ids(arrays["discriminator_target"]), swap_ids(arrays["generator_target"])
    # The logits' vocabulary axis is numbered as in the fixture: exchange the two rows to ours, gradients back.
    columns = np.arange(arrays["logits"].shape[-1])
    columns[[0, 1]] = columns[[1, 0]]
    replaced = swap_ids(arrays["replaced_input"])
    given = arrays["logits"][..., columns], arrays["rtd_logits"], arrays["generator_logits"][..., columns]
    for name, case in cases.items():
        config = criterion_config(case["criterion"], original.shape[1])

        def total(logits, rtd, generator, config=config):
            outputs = outputs_from(original, target, replaced, logits, rtd, generator, config)
            sums = objectives.metro_loss(outputs, config)
            return sums.total, sums

        gradients, sums = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*given)
        check_metrics(sums, case)
        for key, gradient in zip(("logits", "rtd_logits", "generator_logits"), gradients, strict=True):
            expected = arrays[f"{name}.grad.{key}"]
            if key != "rtd_logits":
                gradient = gradient[..., columns]
            np.testing.assert_allclose(gradient, expected, atol=1e-5, rtol=1e-4, err_msg=f"{name} {key}")


def random_outputs(seed: int, batch: int = 3, length: int = 20, vocab: int = 11) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    original = rng.integers(4, vocab, (batch, length))
    original[0, length - 6 :] = 0
    masked = (rng.random((batch, length)) < 0.2) & (original != 0)
    target = np.where(masked, original, 0)
    replaced = np.where(masked, rng.integers(4, vocab, (batch, length)), original)
    logits = rng.normal(size=(batch, length, vocab)).astype(np.float32)
    rtd = rng.normal(size=(batch, length)).astype(np.float32)
    generator = rng.normal(size=(int(masked.sum()), vocab)).astype(np.float32)
    return original, target, replaced, logits, rtd, generator


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", ["lm", "both"])
def test_gathered_logits_give_the_same_loss_as_all_of_them(target: str, weighted: bool) -> None:
    config = PretrainingConfig(target=target, weighted_lm_loss=weighted, max_masked_positions=20, full_metrics=True)
    everything = outputs_from(*random_outputs(0), config)
    from metro_jax.model.pretraining import gather

    gathered = everything.replace(logits=gather(everything.logits, everything.masked_positions), logits_at_masked=True)
    a, b = objectives.metro_loss(everything, config), objectives.metro_loss(gathered, config)
    np.testing.assert_allclose(a.total, b.total, rtol=1e-6)
    assert set(a.metrics) - set(b.metrics) == {"unreplaced_accuracy"}
    for name in b.metrics:
        np.testing.assert_allclose(a.metrics[name], b.metrics[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("target", ["none", "lm", "both"])
def test_a_batch_without_masked_tokens_has_finite_terms(target: str) -> None:
    original, _, _, logits, rtd, _ = random_outputs(1)
    config = PretrainingConfig(target=target, max_masked_positions=5, full_metrics=True)
    nothing = np.zeros((0, logits.shape[-1]), np.float32)
    outputs = outputs_from(original, np.zeros_like(original), original, logits, rtd, nothing, config)
    sums = objectives.metro_loss(outputs, config)
    assert np.isfinite(float(sums.total))
    assert float(sums.metrics["generator_loss"][0]) == 0
    if target != "none":
        assert float(sums.total) == 0


def test_masks_beyond_the_ceiling_are_counted() -> None:
    original, target, replaced, logits, rtd, generator = random_outputs(2)
    per_row = (target != 0).sum(axis=1)
    ceiling = int(per_row.max()) - 1
    config = PretrainingConfig(max_masked_positions=ceiling, full_metrics=True)
    kept = np.cumsum(target != 0, axis=1)[np.nonzero(target)] <= ceiling
    rows, columns = np.nonzero(target)
    fewer = target.copy()
    fewer[rows[~kept], columns[~kept]] = 0
    outputs = outputs_from(original, fewer, replaced, logits, rtd, generator[kept], config)
    outputs = outputs.replace(generator_targets=jnp.asarray(target))
    sums = objectives.metro_loss(outputs, config)
    assert float(sums.metrics["dropped_masks"][0]) == 100 * (~kept).sum() > 0


def test_pads_have_no_say() -> None:
    config = PretrainingConfig(max_masked_positions=20, full_metrics=True)
    original, target, replaced, logits, rtd, generator = random_outputs(3)
    pads = original == 0
    noisy_logits, noisy_rtd = np.where(pads[..., None], 77.0, logits), np.where(pads, -55.0, rtd)
    a = objectives.metro_loss(outputs_from(original, target, replaced, logits, rtd, generator, config), config)
    b = objectives.metro_loss(
        outputs_from(original, target, replaced, noisy_logits, noisy_rtd, generator, config), config
    )
    assert float(a.total) == float(b.total)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_smoothed_cross_entropy_is_the_formula_of_the_specification(smoothing: float) -> None:
    rng = np.random.default_rng(4)
    logits, targets = rng.normal(size=(5, 7)).astype(np.float32) * 3, rng.integers(0, 7, 5)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -log_p[np.arange(5), targets]
    rest = smoothing / 6
    expected = (1 - smoothing - rest) * nll + rest * (-log_p).sum(-1)
    losses, plain = objectives.cross_entropy(jnp.asarray(logits), jnp.asarray(targets), smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(plain, nll, rtol=1e-5)


def test_sequence_loss_counts_targets_or_weights() -> None:
    rng = np.random.default_rng(5)
    logits = jnp.asarray(rng.normal(size=(2, 4, 9)), jnp.float32)
    targets = jnp.asarray([[5, 6, 2, 0], [7, 2, 0, 0]])
    sums = objectives.sequence_loss(logits, targets)
    assert float(sums.normalizer) == 5
    fewer = objectives.sequence_loss(logits, targets, jnp.asarray([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
    assert float(fewer.normalizer) == 2
    assert float(fewer.total) < float(sums.total)


def test_replacing_puts_the_nth_draw_at_the_nth_masked_position() -> None:
    tokens = jnp.asarray([[9, 9, 9, 9], [8, 8, 8, 8]])
    masked = jnp.asarray([[True, False, True, True], [False, False, True, False]])
    sampled = jnp.asarray([[1, 2], [3, 4]])
    # The third mask of the first row has no slot: it keeps its input.
    np.testing.assert_array_equal(replace_masked(tokens, masked, sampled), [[1, 9, 2, 9], [8, 8, 3, 8]])
    np.testing.assert_array_equal(masked_positions(masked, 3), [[0, 2, 3], [2, 4, 4]])
