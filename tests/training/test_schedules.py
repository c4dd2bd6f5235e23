"""What T5X's own schedule needs to be METRO's; the schedule itself is in test_optimizers.py."""

import pytest

from metro_jax.training.schedules import create_learning_rate_scheduler, linear_decay_slope


@pytest.mark.parametrize(("total", "warmup"), [(30, 10), (125_000, 10_000)])
def test_the_slope_ends_at_zero(total, warmup):
    """Without `total_steps` the schedule is T5X's, whose slope is given per update."""
    slope = linear_decay_slope(total, warmup)
    by_slope = create_learning_rate_scheduler(base_learning_rate=4e-4, warmup_steps=warmup, decay_factor=slope)
    by_end = create_learning_rate_scheduler(base_learning_rate=4e-4, warmup_steps=warmup, total_steps=total)
    for step in (0, warmup // 2, warmup, (warmup + total) // 2, total - 1, total, total + 7):
        assert float(by_slope(step)) == pytest.approx(float(by_end(step)), rel=1e-5, abs=1e-9), step


def test_a_run_without_decay_is_refused():
    with pytest.raises(ValueError, match="TRAIN_STEPS=10 is not beyond WARMUP_STEPS=10"):
        linear_decay_slope(10, 10)
