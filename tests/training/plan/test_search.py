"""What a search tries, leaves out, and how it ranks."""

import argparse

import jax

from metro_jax.training.plan import search
from metro_jax.training.plan.report import as_json
from metro_jax.training.plan.search import Choice, Result
from metro_jax.training.plan.topology import Topology


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


def test_how_much_less_memory_a_choice_can_need():
    large = Choice(4, 1, "minimal", 2)
    assert Choice(2, 1, "none", 1).saves_at_most(large) == 1
    assert Choice(4, 1, "full", 2).saves_at_most(large) == float("inf")
    assert Choice(8, 1, "none", 1).saves_at_most(large) == 2
    assert Choice(8, 2, "minimal", 16).saves_at_most(large) == 2 * 2 * 8


ARGUMENTS = argparse.Namespace(
    recipe="quickstart_pretrain",
    topology="cpu:1",
    slices=1,
    bindings=["a.b=1"],
    gin_file=["x.gin"],
    level="O0",
    most=1,
    complete=False,
)


def test_what_fits_comes_first_and_the_table_shows_all(plan, too_large):
    results = [
        Result(Choice(1, 1, "none", 1), as_json(too_large)),
        Result(Choice(2, 1, "full", 2), as_json(plan)),
    ]
    ranked = sorted(results, key=lambda result: result.rank)
    assert ranked[0].fits
    text = search.table(ranked)
    assert "full" in text.splitlines()[1]
    assert "too large" in text.splitlines()[2]
    assert "21.50" in text.splitlines()[2]
    assert ranked[0].summary()["remat"] == "full"


def test_the_command_keeps_what_the_user_gave():
    line = search.command_line(ARGUMENTS, Choice(2, 1, "full", 4))
    assert line[:4] == ["plan", "quickstart_pretrain", "--topology", "cpu:1"]
    for pair in (("--gin_file", "x.gin"), ("--set", "a.b=1"), ("--set", "MetroConfig.remat='full'")):
        assert any(tuple(line[i : i + 2]) == pair for i in range(len(line)))
    assert "--set \"MetroConfig.remat='full'\" --mesh" in search.shown(line)
    replaced = argparse.Namespace(**vars(ARGUMENTS) | {"bindings": ["MetroConfig.remat = 'none'"]})
    assert search.command_line(replaced, Choice(2, 1, "full", 4)).count("--set") == 1
    assert line[-4:] == ["--mesh", "fsdp=2,model=1", "--microbatches", "4"]


def test_the_search_ends_when_enough_fit(monkeypatch, plan, too_large):
    """Compilation is replaced: which combinations are tried and which are spared."""
    tried = []

    def planned(line, level):
        remat = next(word.partition("=")[2] for word in line if word.startswith("MetroConfig.remat"))
        tried.append((remat.strip("'"), int(line[-1])))
        return as_json(plan if remat == "'full'" else too_large), "text"

    monkeypatch.setattr(search, "run_plan", planned)
    monkeypatch.setattr(search, "MICROBATCHES", (1, 2))
    monkeypatch.setattr(search, "FSDP", (1,))
    monkeypatch.setattr(search, "MODEL", (1,))
    arguments = argparse.Namespace(**vars(ARGUMENTS) | {"bindings": [], "gin_file": []})
    host = Topology("cpu:1", tuple(jax.devices()[:1]), None)
    found = search.search(arguments, host)
    # 21.5 of 15.75 GiB: two pieces might fit, and come after what has one.
    assert tried == [("none", 1), ("minimal", 1), ("full", 1)]
    assert found[0].fits
    tried.clear()
    assert "what would fit" in search.what_would_fit(arguments, host)
    assert tried == [("full", 1)]  # what saves most comes first there


def test_a_plan_in_its_own_process_and_what_is_wrong_with_one():
    line = ["plan", "quickstart_pretrain", "--topology", "cpu:1", "--mesh"]
    plan, text = search.run_plan([*line, "fsdp=1,model=1"], "O0")
    assert plan is not None, text
    assert plan["fits"]
    assert "quickstart_pretrain, train step on cpu:1" in text
    plan, text = search.run_plan([*line, "fsdp=3"], "O0")
    assert plan is None
    assert "fsdp" in text
