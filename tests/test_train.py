"""`metro_jax.train` and `metro_jax.eval` as a user starts them, and the promise that a restart changes nothing."""

import functools
import json
import os
import re
import signal
import subprocess
import sys

import gin
import jax
import numpy as np
import pytest
import tensorflow as tf

from metro_jax import eval as eval_script
from metro_jax import train as train_script
from metro_jax.training.checkpoints import (
    CheckpointConfig,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
    checkpoint_steps,
)
from metro_jax.training.optimizers import MetroAdamW
from metro_jax.training.progress import NonFiniteLoss
from metro_jax.training.schedules import create_learning_rate_scheduler
from metro_jax.training.trainer import Trainer
from metro_jax.training.utils import DatasetConfig
from tests.launch import BINDINGS, PREPARED, command, stand_in_gin
from tests.training.data_folder import make_data_folder
from tests.training.stand_in import BagModel

LENGTHS = {"inputs": 16, "targets": 4}
SPEEDS = {"tokens_per_second", "steps_per_second", "examples_per_second", "data_wait", "mfu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data_folder(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture(autouse=True)
def clean(folder, monkeypatch):
    monkeypatch.setenv("METRO_DATA_DIR", str(folder))
    yield
    with gin.unlock_config():
        gin.clear_config()


class Terminated(Trainer):
    """A trainer whose process is asked to end during one of its steps."""

    def __init__(self, *args, at, **options):
        super().__init__(*args, **options)
        self.left = at

    def train(self, state, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train(state, batch)


def run(model_dir, trainer_cls=Trainer, total_steps=12, rate=0.05, restore=None, save=None, **options):
    """A run of the stand-in, shuffled and with dropout."""
    schedule = create_learning_rate_scheduler(base_learning_rate=rate, warmup_steps=2, total_steps=20)
    arguments = {
        "model": BagModel(MetroAdamW(clip_norm=2.0)),
        "model_dir": str(model_dir),
        "train_dataset_cfg": DatasetConfig("prompts", LENGTHS, "train", 8, module=PREPARED),
        "checkpoint_cfg": CheckpointConfig(restore=restore, save=save or SaveCheckpointConfig(period=5)),
        "trainer_cls": functools.partial(trainer_cls, learning_rate_fn=schedule),
        "total_steps": total_steps,
        "eval_steps": 2,
        "eval_period": 4,
        "stats_period": 4,
        **options,
    }
    return train_script.train(**arguments)


def logged(model_dir):
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]


@pytest.mark.slow  # test_restart.py kills a run, which asks for more
def test_a_run_that_was_stopped_twice_equals_one_that_was_not(tmp_path, capsys):
    """Bit for bit: parameters, moments, logged losses; stopped by a signal, by step count, and within a log period."""
    data = {
        "train_dataset_cfg": DatasetConfig("both", LENGTHS, "train", 8, module=PREPARED),
        "train_eval_dataset_cfg": DatasetConfig("prompts", LENGTHS, "validation", 2, shuffle=False, module=PREPARED),
    }
    _, whole = run(tmp_path / "whole", **data)
    assert run(tmp_path / "pieces", functools.partial(Terminated, at=3), **data)[0] == 3
    assert "stopped after step 3 with a checkpoint of step 3" in capsys.readouterr().err
    assert run(tmp_path / "pieces", total_steps=7, **data)[0] == 7
    step, pieces = run(tmp_path / "pieces", **data)
    assert f"continuing from {tmp_path / 'pieces' / 'checkpoint_7'}" in capsys.readouterr().err
    assert step == 12
    jax.tree.map(np.testing.assert_array_equal, pieces.state_dict(), whole.state_dict())
    assert logged(tmp_path / "pieces") == logged(tmp_path / "whole")
    assert [x["step"] for x in logged(tmp_path / "whole") if x["split"] == "train"] == [4, 8, 12]
    assert checkpoint_steps(tmp_path / "whole") == [5, 10, 12]


def test_a_run_that_was_killed_continues_from_the_checkpoint_before(tmp_path):
    """What happened after the last checkpoint happens again, the same; its log lines are not doubled."""
    _, whole = run(tmp_path / "whole")
    run(tmp_path / "killed")
    for step in (10, 12):
        (tmp_path / "killed" / f"checkpoint_{step}").rename(
            tmp_path / "killed" / f"checkpoint_{step}.orbax-checkpoint-tmp"
        )
    _, again = run(tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, again.state_dict(), whole.state_dict())
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def test_a_finished_run_is_left_alone(tmp_path):
    run(tmp_path, total_steps=4)
    before = (tmp_path / "metrics.jsonl").read_text()
    assert run(tmp_path, total_steps=4)[0] == 4
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert run(tmp_path, total_steps=4, relative_steps=2)[0] == 6


def test_other_checkpoints_give_parameters_only(tmp_path, capsys):
    _, first = run(tmp_path / "first", total_steps=4)
    restore = RestoreCheckpointConfig(str(tmp_path / "first"))
    step, state = run(tmp_path / "second", total_steps=1, rate=0.0, restore=restore)
    assert "without moments and step" in capsys.readouterr().err
    assert step == int(state.state.step) == 1
    gone = RestoreCheckpointConfig(str(tmp_path / "gone"))
    assert run(tmp_path / "second", total_steps=1, restore=gone)[0] == 1  # its own checkpoint is all it needs
    jax.tree.map(np.testing.assert_array_equal, state.target, first.target)


def test_a_run_stops_at_nan_and_names_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"update 3 gave .* nan.*good checkpoint: checkpoint_1\..*remove checkpoint_2"
    ):
        run(tmp_path, rate=1e38, save=SaveCheckpointConfig(period=1))
    assert checkpoint_steps(tmp_path) == [1, 2]


@pytest.fixture
def stand_in(tmp_path):
    return stand_in_gin(tmp_path)


def test_train_and_eval_from_the_command_line(tmp_path, stand_in, capsys):
    assert train_script.main(command(stand_in, MODEL_DIR=f"'{tmp_path / 'run'}'")) == 0
    assert checkpoint_steps(tmp_path / "run") == [4]
    assert "create_learning_rate_scheduler" in (tmp_path / "run" / "config.gin").read_text()
    assert "step 4/4" in capsys.readouterr().err

    evaluation = tmp_path / "eval.gin"
    evaluation.write_text(
        "from __gin__ import dynamic_registration\ninclude 'runs/eval.gin'\nfrom tests.training import stand_in\n"
        "MODEL = @stand_in.BagModel()\n"
    )
    bindings = {
        "MIXTURE_OR_TASK_MODULE": BINDINGS["MIXTURE_OR_TASK_MODULE"],
        "MIXTURE_OR_TASK_NAME": "'ranks'",
        "CHECKPOINT_PATH": f"'{tmp_path / 'run'}'",
        "EVAL_OUTPUT_DIR": f"'{tmp_path / 'out'}'",
        "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 4}",
    }
    arguments = ["eval", f"--gin_file={evaluation}", *(f"--gin.{k}={v}" for k, v in bindings.items())]
    assert eval_script.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    accuracy = results[str(tmp_path / "run" / "checkpoint_4")]["ranks"]["accuracy"]
    assert 0 <= accuracy <= 100
    assert f"{accuracy:.3f}" in capsys.readouterr().out


OPTIMIZERS = {
    "adafactor": "OPTIMIZER = @optimizers.Adafactor()\n",
    "chain": (
        "import optax\nOPTIMIZER = @optimizers.OptaxWrapper()\n"
        "optimizers.OptaxWrapper.optax_optimizer = @optimizers.chain()\n"
        "optimizers.chain.transformations = [@optax.clip_by_global_norm(), @optax.adamw()]\n"
        "optax.clip_by_global_norm.max_norm = 1.0\noptax.adamw.learning_rate = 1e-2\n"
    ),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_other_optimisers_and_a_profile_through_gin(tmp_path, stand_in, name):
    file = tmp_path / "mine.gin"
    text = f"from __gin__ import dynamic_registration\ninclude '{stand_in}'\n"
    file.write_text(f"{text}from metro_jax.training import optimizers\n{OPTIMIZERS[name]}")
    settings = {"MODEL_DIR": f"'{tmp_path / 'run'}'", "STATS_PERIOD": "1", "EVAL_STEPS": "0"}
    profile = {"PROFILE_STEPS": "(2, 3)"} if name == "chain" else {}
    assert train_script.main(command(file, **settings, **profile)) == 0
    losses = [line["loss"] for line in logged(tmp_path / "run")]
    assert len(losses) == 4
    assert len(set(losses)) == 4
    assert bool(list((tmp_path / "run").rglob("*.xplane.pb"))) == bool(profile)


def test_the_configuration_is_kept_with_the_run(tmp_path, stand_in):
    assert train_script.main(command(stand_in, MODEL_DIR=f"'{tmp_path / 'run'}'", TRAIN_STEPS="3")) == 0
    assert "BATCH_SIZE" in (tmp_path / "run" / "config.gin").read_text()
    events = [
        value.tag
        for file in (tmp_path / "run" / "train").glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert "config/text_summary" in events or "config" in events


def test_a_run_with_another_seed_or_other_shards_is_not_taken_for_the_same(tmp_path, capsys):
    run(tmp_path, total_steps=4)
    with pytest.raises(ValueError, match="made with RANDOM_SEED=1, not 2"):
        run(tmp_path, total_steps=5, random_seed=2)
    (tmp_path / "checkpoint_4" / "dataset" / "train_ds-00000-of-00001.index").unlink()
    assert run(tmp_path, total_steps=5)[0] == 5
    assert "reading starts anew, in another order" in capsys.readouterr().err


def test_the_best_checkpoint_outlives_the_newest(tmp_path):
    """Judged by the loss of the evaluation; at a rate of 1 the first one is the best."""
    save = SaveCheckpointConfig(
        period=2, keep=1, keep_best=1, best_metric="training_eval/prompts/loss", best_mode="min"
    )
    evaluated = DatasetConfig("prompts", LENGTHS, "train", 8, shuffle=False, module=PREPARED)
    run(tmp_path, total_steps=10, rate=1.0, save=save, eval_period=2, train_eval_dataset_cfg=evaluated)
    losses = {x["step"]: x["loss"] for x in logged(tmp_path) if x["split"] != "train"}
    del losses[10]  # evaluated after the last saving
    assert checkpoint_steps(tmp_path) == sorted({min(losses, key=losses.get), 10})


def test_a_dry_run_writes_nothing(tmp_path, stand_in, capsys):
    assert train_script.main(command(stand_in, "--dry_run", MODEL_DIR=f"'{tmp_path / 'run'}'")) == 0
    out = capsys.readouterr().out
    assert "vocab, embed" in out
    assert "BATCH_SIZE = 8" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"MIXTURE_OR_TASK_NAME": "'bth'"}, "'bth' is not registered; .*both"),
        ({"MIXTURE_OR_TASK_NAME": None, "TRAIN_STEPS": None}, "left out: MIXTURE_OR_TASK_NAME, TRAIN_STEPS"),
        ({"TASK_FEATURE_LENGTHS": "{'inputs': 2000, 'targets': 4}"}, "'inputs' has length 2000, .* end at 64; give 64"),
        ({"train.eval_perod": "3"}, "did you mean 'eval_period'"),
        (
            {"INITIAL_CHECKPOINT_PATH": "'nowhere/checkpoint_3'"},
            "nowhere/checkpoint_3: no checkpoint; there is no such",
        ),
        ({"BATCH_SIZE": "7", "Trainer.num_microbatches": "2"}, "batch_size=7 is not a multiple of 2"),
        ({"train/utils.DatasetConfig.split": "'tests'"}, "no split 'tests'; it has 'train', 'validation'"),
        ({"train_eval/utils.DatasetConfig.split": "'tests'"}, "no split 'tests'; it has 'train', 'validation'"),
        ({"utils.create_learning_rate_scheduler.warmup_steps": "9"}, "total_steps=4 is not beyond warmup_steps=9"),
        ({"PjitPartitioner.num_partitions": "999"}, "num_partitions=999 .* does not divide"),
    ],
)
def test_mistakes_are_a_message_and_a_status(tmp_path, stand_in, capsys, bindings, message):
    status = train_script.main(command(stand_in, MODEL_DIR=f"'{tmp_path / 'run'}'", **bindings))
    err = capsys.readouterr().err
    assert status == 1
    assert "Traceback" not in err
    assert re.search(message, err), err
    assert not (tmp_path / "run").exists()


def test_mistakes_in_evaluation(tmp_path, capsys):
    assert eval_script.main(["eval"]) == 1
    assert "no gin file" in capsys.readouterr().err
    assert eval_script.main(["eval", "--gin_file=models/tiny.gin"]) == 1
    assert "add a run file, --gin_file=runs/eval.gin" in capsys.readouterr().err
    arguments = ["eval", "--gin_file=models/tiny.gin", "--gin_file=runs/eval.gin", "--gin.MIXTURE_OR_TASK_NAME='ranks'"]
    more = [
        f"--gin.MIXTURE_OR_TASK_MODULE='{PREPARED}'",
        "--gin.EVAL_OUTPUT_DIR='out'",
        f"--gin.CHECKPOINT_PATH='{tmp_path}'",
    ]
    assert eval_script.main([*arguments, *more]) == 1
    assert "holds no complete checkpoint_<step>" in capsys.readouterr().err


@pytest.mark.slow  # the small quickstart does it in every run
def test_metro_is_pretrained_by_the_module(tmp_path, folder):
    """The real model in a process of its own, as a user types it; three updates."""
    sizes = {
        "vocab_size": 736,
        "d_model": 16,
        "num_heads": 2,
        "d_ff": 32,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
    }
    bindings = BINDINGS | {
        "MIXTURE_OR_TASK_NAME": "'metro_pretrain'",
        "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 16}",
        "TRAIN_STEPS": "3",
        "EVAL_STEPS": "0",
        "STATS_PERIOD": "1",
        "MODEL_DIR": f"'{tmp_path / 'run'}'",
        **{f"MetroConfig.{name}": str(value) for name, value in sizes.items()},
    }
    settings = [f"--gin.{name}={value}" for name, value in bindings.items()]
    # The compiler's optimisations take longer than the run.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    arguments = [sys.executable, "-m", "metro_jax.train", "--gin_file=models/tiny.gin", "--gin_file=runs/pretrain.gin"]
    done = subprocess.run([*arguments, *settings], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = logged(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"loss", "nll_loss", "discriminator_loss", "generator_loss", "rtd_loss", "learning_rate"} <= set(lines[0])
    assert lines[0]["rtd_loss"] == pytest.approx(1.0, abs=0.01)  # the RTD head starts at exactly 0: one bit per token
    assert lines[0]["learning_rate"] == 0.0  # spec 5.5: the first update changes nothing but the moments
