"""Optimiser and schedule against the reference's numbers, and the surface that T5X drives."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metro_jax.training import optimizers
from metro_jax.training.schedules import create_learning_rate_scheduler

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, 0.2])}
GRADS = {"kernel": jnp.array([[0.3, 0.1], [-0.2, 0.4]]), "bias": jnp.array([1.0, -1.0])}


def schedule_of(entry):
    return create_learning_rate_scheduler(
        base_learning_rate=entry["peak_lr"], warmup_steps=entry["warmup_updates"], total_steps=entry["total_updates"]
    )


@pytest.mark.golden
def test_schedule_equals_the_reference(golden_dir):
    entries = json.loads((golden_dir / "optim_expected.json").read_text())["schedule"]
    assert entries
    for entry in entries:
        rates = jax.jit(schedule_of(entry))
        for updates, expected in entry["lr_after_n_updates"].items():
            np.testing.assert_allclose(
                float(rates(int(updates))), expected, rtol=1e-6, err_msg=f"{entry['name']} {updates}"
            )


def adam_cases(golden_dir):
    expected = json.loads((golden_dir / "optim_expected.json").read_text())
    arrays = dict(np.load(golden_dir / "optim_expected.npz"))
    clips = sorted({match[1] for key in arrays if (match := re.match(r"clip([0-9.]+)\.step", key))})
    assert clips
    return expected, arrays, clips


@pytest.mark.golden
def test_adam_equals_the_reference(golden_dir):
    expected, arrays, clips = adam_cases(golden_dir)
    names = [key.removeprefix("init.") for key in arrays if key.startswith("init.")]
    adam = expected["adam"]
    rates = create_learning_rate_scheduler(
        base_learning_rate=adam["peak_lr"], warmup_steps=adam["warmup"], total_steps=adam["total"]
    )
    for clip in clips:
        definition = optimizers.MetroAdamW(
            beta1=adam["betas"][0],
            beta2=adam["betas"][1],
            epsilon=adam["eps"],
            weight_decay=adam["weight_decay"],
            clip_norm=float(clip),
        )
        state = definition.create({name: jnp.asarray(arrays[f"init.{name}"]) for name in names})
        step = jax.jit(lambda state, grads: state.apply_gradient(grads, learning_rate=rates(state.state.step)))
        for u, rate in enumerate(expected[f"clip{clip}.lr_used"], start=1):
            np.testing.assert_allclose(float(rates(state.state.step)), rate, rtol=1e-6)
            grads = {name: jnp.asarray(arrays[f"grad.step{u}.{name}"]) for name in names}
            norm = float(optax.tree.norm(grads))
            np.testing.assert_allclose(norm, expected[f"clip{clip}.grad_norms_before_clip"][u - 1], rtol=1e-6)
            state = step(state, grads)
            for name in names:
                np.testing.assert_allclose(state.target[name], arrays[f"clip{clip}.step{u}.{name}"], atol=1e-6)


@pytest.mark.golden
def test_the_optax_form_is_the_same_optimiser(golden_dir):
    expected, arrays, clips = adam_cases(golden_dir)
    names = [key.removeprefix("init.") for key in arrays if key.startswith("init.")]
    adam = expected["adam"]
    rates = create_learning_rate_scheduler(
        base_learning_rate=adam["peak_lr"], warmup_steps=adam["warmup"], total_steps=adam["total"]
    )
    clip = clips[-1]
    tx = optimizers.metro_adamw(rates, clip_norm=float(clip))
    params = {name: jnp.asarray(arrays[f"init.{name}"]) for name in names}
    state = tx.init(params)
    for u in range(1, len(expected[f"clip{clip}.lr_used"]) + 1):
        updates, state = tx.update({name: jnp.asarray(arrays[f"grad.step{u}.{name}"]) for name in names}, state, params)
        params = optax.apply_updates(params, updates)
        for name in names:
            np.testing.assert_allclose(params[name], arrays[f"clip{clip}.step{u}.{name}"], atol=1e-6)


def test_first_update_changes_moments_only():
    rates = create_learning_rate_scheduler(base_learning_rate=1.0, warmup_steps=2, total_steps=4)
    before = optimizers.MetroAdamW().create(PARAMS)
    after = before.apply_gradient(GRADS, learning_rate=rates(before.state.step))
    jax.tree.map(np.testing.assert_array_equal, after.target, PARAMS)
    assert float(jnp.abs(after.state.param_states.mu["bias"]).min()) > 0
    assert int(after.state.step) == 1


def test_decay_reaches_every_parameter():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    state = optimizers.MetroAdamW(weight_decay=0.5).create(PARAMS).apply_gradient(zero, learning_rate=0.1)
    jax.tree.map(lambda new, old: np.testing.assert_allclose(new, 0.95 * old, rtol=1e-6), state.target, PARAMS)


def test_clipping_scales_to_the_norm():
    assert float(optimizers.clip_factor(jnp.float32(1.0), 2.0)) == 1.0
    assert float(optimizers.clip_factor(jnp.float32(8.0), 2.0)) == pytest.approx(0.25)


def test_state_dict_round_trip():
    state = optimizers.MetroAdamW().create(PARAMS).apply_gradient(GRADS, learning_rate=0.1)
    fresh = state.optimizer_def.create(jax.tree.map(jnp.zeros_like, PARAMS))
    restored = fresh.restore_state(state.state_dict())
    assert set(state.state_dict()) == {"target", "state"}
    assert set(state.state_dict()["state"]) == {"step", "param_states"}
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize("tx", [optax.adafactor(0.1), optax.chain(optax.clip(1.0), optax.adamw(0.1))])
def test_any_optax_chain_trains_and_gets_axes(tx):
    definition = optimizers.OptaxWrapper(tx)
    state = definition.create(PARAMS)
    moved = state.apply_gradient(GRADS)
    assert not np.array_equal(moved.target["kernel"], PARAMS["kernel"])
    axes = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
    derived = definition.derive_logical_axes(state, axes)
    assert derived.target is axes
    assert derived.state.step is None
    restored = state.restore_state(moved.state_dict())
    jax.tree.map(np.testing.assert_array_equal, restored, moved)


def test_moments_get_the_axes_of_their_parameters():
    axes = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
    definition = optimizers.MetroAdamW()
    derived = definition.derive_logical_axes(definition.create(PARAMS), axes)
    assert derived.state.param_states == optimizers.AdamState(count=None, mu=axes, nu=axes)


def test_schedule_in_the_form_of_t5x():
    rate = create_learning_rate_scheduler(factors="constant * rsqrt_decay", base_learning_rate=2.0, warmup_steps=100)
    assert float(rate(25)) == pytest.approx(0.2)
    assert float(rate(400)) == pytest.approx(0.1)
    rate = create_learning_rate_scheduler(factors="constant * linear_warmup", base_learning_rate=2.0, warmup_steps=100)
    assert float(rate(50)) == pytest.approx(1.0)
    rate = create_learning_rate_scheduler(base_learning_rate=1.0, warmup_steps=10, decay_factor=0.1)
    assert float(rate(15)) == pytest.approx(0.5)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="did you mean 'rsqrt_decay'"):
        create_learning_rate_scheduler(factors="constant * rsqr_decay")
    with pytest.raises(ValueError, match=r"warmup_steps=10, .*below 5"):
        create_learning_rate_scheduler(warmup_steps=10, total_steps=5)
    with pytest.raises(ValueError, match="clip_norm=-1"):
        optimizers.MetroAdamW(clip_norm=-1)
    with pytest.raises(ValueError, match="learning_rate"):
        optimizers.MetroAdamW().create(PARAMS).apply_gradient(GRADS)
