"""Every recipe in gin_configs/recipes loads, resolves and dry-runs on a mesh of 64, with the published numbers."""

import dataclasses
import math
import pathlib
import re

import gin
import jax
import pytest

from metro_jax.model.config import MetroConfig, PretrainingConfig
from metro_jax.training import report
from metro_jax.training.gin_utils import installed_configs
from metro_jax.training.models import EncoderDecoderModel, MetroPretrainingModel
from metro_jax.training.plan import recipe as recipes
from metro_jax.training.schedules import create_learning_rate_scheduler

FOLDER = pathlib.Path(installed_configs()) / "recipes"
PUBLISHED = [name for name in recipes.names() if re.match("metro_|t5_", name)]
ABLATIONS = [name for name in recipes.names() if name.startswith("ablations/")]
# Parameters of the main model, and of generator and RTD head (spec 1.1).
MAIN = {"base": 225_618_432, "basepp": 249_604_608, "largepp": 773_644_288}
AUXILIARY = {"base": 29_767_936 + 769, "basepp": 29_009_664 + 592_897, "largepp": 77_758_464 + 1_052_673}
# Peak rate of pretraining and of finetuning, steps of pretraining, clipping (spec 5.5, 5.6, 6.5).
NUMBERS = {
    "base": (4e-4, 4e-5, 125_000, 0.0),
    "basepp": (2e-4, 2e-5, 2_000_000, 2.0),
    "largepp": (1e-4, 1e-5, 2_000_000, 2.0),
}
CONFIGS = {"base": MetroConfig.base, "basepp": MetroConfig.base_pp, "largepp": MetroConfig.large_pp}
OBJECTIVES = {
    "base": PretrainingConfig.base(),
    "basepp": PretrainingConfig.base_pp(),
    "largepp": PretrainingConfig.large_pp(),
}
TOPOLOGIES = sorted(path.stem for path in (FOLDER / "topologies").glob("*.gin"))


def bound(selector: str):
    """The value that the gin files bind."""
    return gin.query_parameter(selector)


def scheduler():
    """The schedule with its bound arguments."""
    function = gin.get_configurable(create_learning_rate_scheduler)
    return function()


def dry_run(recipe, devices: int = 64) -> str:
    partitioner = recipe.partitioner([jax.devices()[0]] * devices)
    return report.dry_run(recipe.trainer(partitioner), recipe.features())


def parameters(text: str) -> int:
    return int(re.search(r"([\d,]+) parameters, ", text)[1].replace(",", ""))


def test_all_published_recipes_are_there():
    sizes = ("base", "basepp", "largepp")
    wanted = {f"metro_{size}_{what}" for size in sizes for what in ("pretrain", "t0", "t0p", "t0pp")}
    assert set(PUBLISHED) == wanted | {"t5_base_pretrain", "t5_basepp_pretrain"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_published_numbers(name):
    recipe = recipes.load(name)
    kind, size, what = name.split("_")
    pretraining_rate, finetuning_rate, steps, clip = NUMBERS[size]
    pretrains = what == "pretrain"
    assert recipe.steps == (steps if pretrains else 125_000)
    features = recipe.features()
    assert features["encoder_input_tokens"].shape == (2048, 512)
    assert bound("MetroAdamW.clip_norm") == clip
    peak = scheduler()(10_000)
    assert peak == pytest.approx(pretraining_rate if pretrains else finetuning_rate)
    assert scheduler()(5_000) == pytest.approx(float(peak) / 2)  # warm-up of 10,000
    start = {"t5": {"base": 32768, "basepp": 64000}.get(size, 0)}.get(kind, 2)
    assert recipe.model.config == CONFIGS[size](dtype="bfloat16", decoder_start_token=start, remat=bound_remat(recipe))
    count = parameters(dry_run(recipe))
    if kind == "metro" and pretrains:
        assert isinstance(recipe.model, MetroPretrainingModel)
        assert recipe.model.pretraining == OBJECTIVES[size]
        assert count == MAIN[size] + AUXILIARY[size]
    else:
        assert isinstance(recipe.model, EncoderDecoderModel)
        assert count == MAIN[size]
    mixture = {"pretrain": {"metro": "metro_pretrain", "t5": "t5_pretrain"}[kind]}.get(what, f"{what}_train_epochs")
    assert recipe.dataset.mixture_or_task_name == mixture


def bound_remat(recipe) -> str:
    """What is recomputed is chosen for a machine, not published."""
    return recipe.model.config.remat


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_header_says_what_it_takes(name):
    header = (FOLDER / f"{name}.gin").read_text().split("from __gin__")[0]
    assert f"--gin_file=recipes/{name}.gin" in header
    for part in ("Reproduces:", "Data:", "Hardware:", "Tokens:", "Memory:", "Expected:"):
        assert f"# {part}" in header


@pytest.mark.parametrize("name", ["t5_base_pretrain", "t5_basepp_pretrain"])
def test_the_baselines_decoder_starts_with_the_first_sentinel(name):
    recipe = recipes.load(name)
    converter = recipe.model.FEATURE_CONVERTER_CLS(pack=False)
    assert converter.decoder_start == recipe.model.config.vocab_size - 512  # spec 9.1: the sentinels come last


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(name):
    base = recipes.load("metro_base_pretrain")
    before = dataclasses.asdict(base.model.pretraining), base.model.config, base.steps
    recipe = recipes.load(name)
    after = dataclasses.asdict(recipe.model.pretraining)
    assert sum(before[0][key] != after[key] for key in after) == 1
    assert (recipe.model.config, recipe.steps) == before[1:]
    assert parameters(dry_run(recipe)) >= MAIN["base"]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_topologys_settings_fit_every_size(topology):
    """Rows and parameters can be shared by the devices of the machine that the file is for."""
    file = f"recipes/topologies/{topology}.gin"
    devices = int(re.search(r"(\d+) chips", (FOLDER / "topologies" / f"{topology}.gin").read_text())[1])
    for name in ("metro_largepp_t0",) if topology.endswith("_large") else ("metro_basepp_pretrain",):
        recipe = recipes.load(name, more_files=[file])
        partitioner = recipe.partitioner([jax.devices()[0]] * devices)
        trainer = recipe.trainer(partitioner)
        assert math.prod(partitioner.mesh.shape.values()) == devices
        assert recipe.dataset.batch_size % (devices * trainer.num_microbatches) == 0


def test_unknown_recipes_are_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'metro_basepp_pretrain'"):
        recipes.load("metro_base_pp_pretrain")
