"""What a search tries, leaves out, and how it ranks."""

import argparse

from metro_jax.training.plan import search
from metro_jax.training.plan.search import Choice, Result


def test_choices_fit_devices_rows_and_sizes():
    found = search.choices(devices=64, batch=2048, d_model=768, num_heads=12)
    assert Choice(4, 1, "minimal", 2) in found
    for choice in found:
        shards = 64 // choice.model
        assert 2048 % (shards * choice.microbatches) == 0
        assert 64 % (choice.fsdp * choice.model) == 0
    # The least extra work comes first: nothing recomputed, one piece, no model parallelism.
    assert found[0] == Choice(1, 1, "none", 1)
    assert all(choice.fsdp <= 1 for choice in search.choices(1, 32, 768, 12))


def test_what_needs_more_than_something_too_large_is_left_out():
    large = Choice(4, 1, "minimal", 2)
    assert Choice(2, 1, "none", 1).saves_no_more(large)
    assert not Choice(4, 1, "full", 2).saves_no_more(large)
    assert not Choice(8, 1, "none", 1).saves_no_more(large)


def test_what_fits_comes_first_and_the_command_repeats_it(plan, too_large):
    results = [Result(Choice(1, 1, "none", 1), too_large), Result(Choice(2, 1, "full", 2), plan)]
    ranked = sorted(results, key=lambda result: result.seconds)
    assert ranked[0].plan is plan
    text = search.table(ranked)
    assert "too large" in text.splitlines()[2]
    assert "21.50" in text.splitlines()[2]
    arguments = argparse.Namespace(recipe="metro_base_pretrain", topology="v4-8")
    command = ranked[0].command(arguments)
    assert "--mesh data=2,fsdp=2,model=1 --microbatches 2 --set \"MetroConfig.remat='full'\"" in command
    assert ranked[0].summary()["remat"] == "full"


def test_the_search_ends_when_enough_fit(monkeypatch, plan, too_large):
    """Compilation is replaced: which combinations are tried and which are spared."""
    tried = []

    def compiled(recipe, topology, step, level):
        tried.append((recipe.model.config.remat, step.microbatches))
        return plan if recipe.model.config.remat == "full" else too_large

    class FakeStep:
        def __init__(self, microbatches):
            self.microbatches = microbatches

    monkeypatch.setattr(search, "make_plan", compiled)
    monkeypatch.setattr(search, "training_step", lambda recipe, partitioner, microbatches: FakeStep(microbatches))
    monkeypatch.setattr(search, "MICROBATCHES", (1, 2))
    monkeypatch.setattr(search, "FSDP", (1,))
    monkeypatch.setattr(search, "MODEL", (1,))
    import jax

    from metro_jax.training.plan.topology import Topology

    arguments = argparse.Namespace(
        recipe="quickstart_pretrain", topology="cpu:1", bindings=[], gin_file=[], level="O0", most=1
    )
    found = search.search(arguments, Topology("cpu:1", tuple(jax.devices()[:1]), None))
    assert tried == [("none", 1), ("minimal", 1), ("full", 1)]
    assert found[0].plan.fits
    tried.clear()
    assert "what would fit" in search.what_would_fit(arguments, Topology("cpu:1", tuple(jax.devices()[:1]), None))
    assert tried == [("full", 1)]  # what saves most comes first there
