"""`metro-jax plan` from the command line, for this machine's own compiler."""

import json

import pytest

from metro_jax.cli import main

SMALL = [
    "--set=MetroConfig.vocab_size=736",
    "--set=MetroConfig.d_model=16",
    "--set=MetroConfig.num_heads=2",
    "--set=MetroConfig.d_ff=32",
    "--set=MetroConfig.num_encoder_layers=1",
    "--set=MetroConfig.num_decoder_layers=1",
    "--set=BATCH_SIZE=4",
    "--level=O0",
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The command changes variables that other processes of the test run would inherit."""
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "" if name == "XLA_FLAGS" else "cpu")


def test_a_training_step_end_to_end(tmp_path, capsys):
    out, picture, program = (str(tmp_path / name) for name in ("plan.json", "plan.png", "plan.hlo"))
    files = ["--json", out, "--hlo", program, "--picture", picture]
    status = main(["plan", "quickstart_finetune", "--topology", "cpu:1", *files, *SMALL])
    text = capsys.readouterr().out
    assert status == 0
    assert "quickstart_finetune, train step on cpu:1: 1 x cpu, data=1 fsdp=1 model=1" in text
    assert "collectives: none" in text
    data = json.loads((tmp_path / "plan.json").read_text())
    parameters = data["memory"]["parameters"]
    # Two moments per parameter, in float32, and the number of updates.
    assert data["memory"]["optimizer"] == 2 * parameters + 4
    assert data["tokens_per_step"] == 4 * 128
    # Nothing is recomputed without remat, so what the step multiplies is what the model needs.
    assert data["flops_per_step"] == pytest.approx(data["model_flops_per_step"], rel=0.02)
    assert (tmp_path / "plan.hlo").read_text().startswith("HloModule")
    assert (tmp_path / "plan.png").exists()


def test_the_recipes_are_listed(capsys):
    assert main(["plan", "--list", "--topology", "cpu:1"]) == 0
    listed = capsys.readouterr().out.split()
    assert {"metro_basepp_pretrain", "ablations/rtd_off"} <= set(listed)
    assert not any("topologies" in name for name in listed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["metro_bas_pretrain", "--topology", "cpu:1"], "did you mean 'metro_base_pretrain'"),
        (["--topology", "cpu:1"], "name a recipe"),
        (["quickstart_pretrain", "--topology", "v5e-9"], "v5e comes as"),
        (["quickstart_pretrain", "--topology", "cpu:1", "--step", "generate"], "plan a t0 recipe"),
        (["quickstart_pretrain", "--topology", "cpu:1", "--mesh", "data=3"], "data=1 would be"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(arguments, said, capsys):
    assert main(["plan", *arguments]) == 2
    assert said in capsys.readouterr().err
