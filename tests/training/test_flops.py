"""Matrix products are counted as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from metro_jax.training.flops import BACKWARD_FACTOR, dot_flops, peak_flops
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.schedules import create_learning_rate_scheduler
from metro_jax.training.trainer import Trainer


def test_products_inside_scans_and_calls():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert dot_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 5 * 7

    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.dot)(x, w), None), x, length=4)[0]

    assert dot_flops(scanned, jnp.ones((3, 5)), jnp.ones((5, 5))) == 4 * 2 * 3 * 5 * 5
    assert dot_flops(lambda a, b: jnp.einsum("xbi,xio->xbo", a, b), jnp.ones((2, 3, 5)), jnp.ones((2, 5, 7))) == 420


def test_a_step_needs_about_six_operations_per_parameter_and_token(model, batch):
    shapes = {name: x.shape for name, x in batch.items()}
    trainer = Trainer(model, PjitPartitioner(), shapes, learning_rate_fn=create_learning_rate_scheduler())
    c = model.config
    source, target = batch["encoder_input_tokens"].size, batch["decoder_input_tokens"].size
    projections = 4 * c.d_model**2 + 2 * c.d_model * c.d_ff
    linear = source * projections + target * (projections + 2 * c.d_model**2) + source * 2 * c.d_model**2
    linear += target * c.vocab_size * c.d_model
    assert trainer.flops_per_step(batch) == pytest.approx(BACKWARD_FACTOR * 2 * linear, rel=0.15)  # and attention
    assert trainer.flops_per_step(batch) > BACKWARD_FACTOR * 2 * linear


def test_peaks_are_known_by_name():
    assert peak_flops(jax.devices("cpu")[0]) is None
    assert peak_flops(type("Device", (), {"device_kind": "TPU v4"})()) == 275e12


def test_of_the_forms_for_several_platforms_the_cheapest_counts():
    def look_up(x):
        return jax.lax.platform_dependent(x, tpu=lambda x: x @ x, default=lambda x: x)

    assert dot_flops(lambda x: look_up(x) @ x, jnp.ones((4, 4))) == 2 * 4**3
