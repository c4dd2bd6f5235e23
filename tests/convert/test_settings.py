"""Where a checkpoint's settings are written, and how they are read without executing anything."""

import json

import pytest

from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.hub_config import metro_config_to_hub
from metro_jax.convert.settings import find_settings, read_settings, write_settings
from metro_jax.model.config import MetroConfig, PretrainingConfig


def test_written_and_read(tmp_path):
    config, pretraining = MetroConfig.large_pp(dtype="bfloat16", remat="full"), PretrainingConfig.large_pp()
    write_settings(tmp_path / "metro_config.json", config, pretraining)
    settings = read_settings(tmp_path / "metro_config.json")
    assert MetroConfig(**settings.model) == config.replace(dtype="float32", remat="none")
    assert PretrainingConfig(**settings.pretraining) == pretraining
    write_settings(tmp_path / "metro_config.json", config, None)
    assert read_settings(tmp_path / "metro_config.json").pretraining == {}


def test_a_hub_config_will_do(tmp_path):
    config = MetroConfig.base_pp(padding="hub", relative_attention_max_distance=200)
    (tmp_path / "config.json").write_text(json.dumps(metro_config_to_hub(config)))
    assert MetroConfig(**read_settings(tmp_path / "config.json").model) == config


@pytest.mark.parametrize("name", ["base", "base_pp", "large_pp"])
def test_the_gin_files_of_the_published_sizes(name):
    import metro_jax.gin_configs  # pyright: ignore[reportMissingImports]

    (folder,) = metro_jax.gin_configs.__path__
    import pathlib

    settings = read_settings(pathlib.Path(folder) / "models" / f"{name}.gin")
    assert MetroConfig(**settings.model) == getattr(MetroConfig, name)()
    assert PretrainingConfig(**settings.pretraining) == getattr(PretrainingConfig, name)()


def test_gin_macros_includes_and_later_bindings(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.gin").write_text("RATE = 0.5\nconfig.MetroConfig:\n  d_model = 8\n  d_ff = 16\n")
    (tmp_path / "run.gin").write_text(
        "include 'models/small.gin'\nRATE = 0.25\nconfig.MetroConfig.dropout_rate = %RATE\nMetroConfig.d_ff = 32\n"
        "x.MetroConfigs.d_ff = 1\n"
    )
    settings = read_settings(tmp_path / "run.gin")
    assert settings.model == {"d_model": 8, "d_ff": 32, "dropout_rate": 0.25}


def test_nothing_that_a_gin_file_names_is_imported(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text("import antigravity_of_nobody\nfrom os import system\nMetroConfig.d_model = 8\nx.y = @system()\n")
    assert read_settings(path).model == {"d_model": 8}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.gin", "MetroConfig.d_model = @f()", "not a plain value"),
        ("x.gin", "MetroConfig.d_model = %NOWHERE", "not a plain value"),
        ("x.gin", "MetroConfig.d_modle = 8", "did you mean 'd_model'"),
        ("x.gin", "MetroConfig.d_model = = 8", "not a gin file"),
        ("x.gin", "include 'x.gin'", "8 deep"),
        ("x.gin", "include 'nowhere.gin'", "includes nowhere.gin"),
        ("x.json", '{"model": {"d_modle": 8}}', "did you mean 'd_model'"),
        ("x.json", '{"model": 3}', "must be objects"),
        ("x.json", '{"a": 3}', "neither a metro_config.json"),
        ("x.json", "{", "not valid JSON"),
    ],
)
def test_mistakes(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConversionError, match=said):
        read_settings(tmp_path / name)


def test_where_they_are_looked_for(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint_3"
    checkpoint.mkdir(parents=True)
    with pytest.raises(MissingFileError, match=r"--config gin_configs/models/base\.gin"):
        find_settings(checkpoint)
    (tmp_path / "run" / "config.gin").write_text("MetroConfig.d_ff = 1")
    assert find_settings(checkpoint).model == {"d_ff": 1}
    write_settings(tmp_path / "run" / "metro_config.json", MetroConfig(d_ff=2), None)
    assert find_settings(checkpoint).model["d_ff"] == 2
    (tmp_path / "given.gin").write_text("MetroConfig.d_ff = 3")
    assert find_settings(checkpoint, tmp_path / "given.gin").model == {"d_ff": 3}
