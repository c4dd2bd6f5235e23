"""The picture of a plan."""

import dataclasses

from metro_jax.training.plan import picture


def test_it_is_drawn_with_and_without_an_estimate(plan, tmp_path):
    for name, made in (("with.png", plan), ("without.svg", dataclasses.replace(plan, estimate=None))):
        picture.draw(made, str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 5000
