"""T5X's commands as a user types them, on prepared data: pretrain, finetune, evaluate, infer, and between the runtimes.

Half a minute to a minute each, so they are marked slow.

    .venv/bin/python -m pytest -n 0 -m '' tests/t5x
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from metro_jax.training.checkpoints import checkpoint_steps

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 736, "d_model": 16, "num_heads": 2, "d_ff": 32, "num_encoder_layers": 1, "num_decoder_layers": 1}
PRETRAIN = {
    "MIXTURE_OR_TASK_NAME": "'metro_pretrain'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 16}",
    "TRAIN_STEPS": "4",
    "BATCH_SIZE": "8",
}
FINETUNE = PRETRAIN | {"MIXTURE_OR_TASK_NAME": "'both'", "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 4}"}
PERIODS = {"WARMUP_STEPS": "2", "EVAL_PERIOD": "2", "SAVE_PERIOD": "2", "EVAL_STEPS": "1"}
# On a CPU T5X takes its mesh from model_parallel_submesh only: hosts x devices that share a copy of the model.
FOUR_BY_TWO = {"PjitPartitioner.num_partitions": "None", "PjitPartitioner.model_parallel_submesh": "(1, 2)"}
RANKS = {"MIXTURE_OR_TASK_NAME": "'ranks'", "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 4}", "BATCH_SIZE": "4"}


def command(runtime, script, run_file, folder, devices=1, **bindings):
    """Runs a module of a runtime; what it says."""
    search = [] if runtime == "metro_jax" else ["--gin_search_paths=gin_configs"]
    bindings = {"MIXTURE_OR_TASK_MODULE": "'metro_jax.tasks.prepared'", **bindings}
    settings = {f"MetroConfig.{name}": value for name, value in SIZES.items()} | bindings
    arguments = [f"--gin.{name.replace('__', '.')}={value}" for name, value in settings.items()]
    files = ["--gin_file=models/tiny.gin", f"--gin_file={run_file}"]
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", f"{runtime}.{script}", *search, *files, *arguments],
        env={**os.environ, "METRO_DATA_DIR": str(folder), "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def losses(said, name="loss"):
    """A training metric in every log line of T5X."""
    return [float(x) for x in re.findall(rf"collection=train .*?[ ,]{name}=([\d.]+)", said)]


def infer(runtime, checkpoint, out, folder, mode, devices=1, **more):
    run_file = "runs/infer.gin" if runtime == "metro_jax" else "t5x/infer.gin"
    bindings = RANKS | {"CHECKPOINT_PATH": f"'{checkpoint}'", "INFER_OUTPUT_DIR": f"'{out}'", "infer.mode": f"'{mode}'"}
    command(runtime, "infer", run_file, folder, devices, **bindings, **more)
    path = out / f"ranks-{mode}.jsonl-00000-of-00001"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def pretrained(t5x, folder, tmp_path_factory):
    """A model folder of T5X's pretraining, and what was said."""
    model_dir = tmp_path_factory.mktemp("pretrained")
    said = command("t5x", "train", "t5x/pretrain.gin", folder, **PRETRAIN, **PERIODS, MODEL_DIR=f"'{model_dir}'")
    assert checkpoint_steps(model_dir) == [0, 2, 4]
    return model_dir, said


@pytest.fixture(scope="module")
def tuned(pretrained, folder, tmp_path_factory):
    """A checkpoint of T5X's finetuning from T5X's pretraining, on 4x2 devices."""
    model_dir = tmp_path_factory.mktemp("tuned")
    evaluation = {"INFER_EVAL_NAME": "'ranks'", "train.infer_eval_dataset_cfg": "@infer_eval/utils.DatasetConfig()"}
    said = command(
        "t5x", "train", "t5x/finetune.gin", folder, 8, **FINETUNE, **PERIODS, **evaluation, **FOUR_BY_TWO,
        MODEL_DIR=f"'{model_dir}'", INITIAL_CHECKPOINT_PATH=f"'{pretrained[0] / 'checkpoint_4'}'",
    )  # fmt: skip
    assert checkpoint_steps(model_dir) == [0, 2, 4]  # steps are counted anew
    assert "ranks/accuracy at step 4" in said
    assert len(losses(said)) == 2
    return model_dir / "checkpoint_4"


def test_pretraining_gives_the_losses_of_the_start(pretrained):
    """The RTD head starts at one bit per token, the generator near log2 of the vocabulary."""
    assert losses(pretrained[1], "rtd_loss")[0] == pytest.approx(1.0, abs=0.01)
    assert losses(pretrained[1], "generator_loss")[0] == pytest.approx(np.log2(SIZES["vocab_size"]), abs=0.5)
    assert len(losses(pretrained[1])) == 2


@pytest.mark.parametrize("submesh", ["(1, 1)", "(1, 2)"])
def test_eight_devices_give_the_same_losses(pretrained, folder, tmp_path, submesh):
    """Over 8x1 (data) and 4x2 (data, model) devices."""
    layout = FOUR_BY_TWO | {"PjitPartitioner.model_parallel_submesh": submesh}
    bindings = PRETRAIN | PERIODS | layout | {"MODEL_DIR": f"'{tmp_path}'"}
    said = command("t5x", "train", "t5x/pretrain.gin", folder, devices=8, **bindings)
    model = int(submesh[-2])
    assert f"global_mesh devices shape: ({8 // model}, {model})" in said
    assert losses(said) == pytest.approx(losses(pretrained[1]), rel=1e-4)
    kernel = re.search(r"encoder/layers/mlp/wi/kernel .*partition spec (.*)", (tmp_path / "model-info.txt").read_text())
    assert kernel[1] == "(None, None, 'model')"


def test_evaluation_and_scores_agree_between_the_runtimes(tuned, folder, tmp_path):
    """On a checkpoint of T5X."""
    bindings = RANKS | {"CHECKPOINT_PATH": f"'{tuned}'"}
    said = command("t5x", "eval", "t5x/eval.gin", folder, **bindings, EVAL_OUTPUT_DIR=f"'{tmp_path / 'theirs'}'")
    accuracy = float(re.search(r"ranks/accuracy at step 4: ([\d.]+)", said)[1])
    command("metro_jax", "eval", "runs/eval.gin", folder, **bindings, EVAL_OUTPUT_DIR=f"'{tmp_path / 'ours'}'")
    results = json.loads((tmp_path / "ours" / "metrics.json").read_text())
    assert results[str(tuned)]["ranks"]["accuracy"] == pytest.approx(accuracy, abs=1e-3)

    theirs = infer("t5x", tuned, tmp_path / "theirs_infer", folder, "score", devices=8, **FOUR_BY_TWO)
    ours = infer("metro_jax", tuned, tmp_path / "ours_infer", folder, "score")
    assert len(theirs) == len(ours) == 20
    for a, b in zip(theirs, ours, strict=True):
        assert a["score"] == pytest.approx(b["score"], rel=1e-5)
        assert a["inputs"].items() <= b["inputs"].items()


def test_native_checkpoints_are_read_by_t5x(t5x, folder, tmp_path):
    """Pretrained natively, finetuned, and inferred with T5X; and the native runtime on what came out."""
    warmup = {"utils.create_learning_rate_scheduler.warmup_steps": "2", "EVAL_STEPS": "0"}
    pretrained, tuned = tmp_path / "pretrained", tmp_path / "tuned"
    command("metro_jax", "train", "runs/pretrain.gin", folder, **PRETRAIN, **warmup, MODEL_DIR=f"'{pretrained}'")
    command(
        "t5x", "train", "t5x/finetune.gin", folder, **FINETUNE, **PERIODS, MODEL_DIR=f"'{tuned}'",
        INITIAL_CHECKPOINT_PATH=f"'{pretrained / 'checkpoint_4'}'",
    )  # fmt: skip
    more = FINETUNE | warmup | {"MODEL_DIR": f"'{tmp_path / 'more'}'", "INITIAL_CHECKPOINT_PATH": f"'{tuned}'"}
    command("metro_jax", "train", "runs/finetune.gin", folder, **more)
    native = tmp_path / "more" / "checkpoint_4"
    theirs = infer("t5x", native, tmp_path / "theirs", folder, "predict_with_aux")
    ours = infer("metro_jax", native, tmp_path / "ours", folder, "predict_with_aux")
    for a, b in zip(theirs, ours, strict=True):
        assert a["prediction"] == b["prediction"]
        assert a["aux"]["scores"] == pytest.approx(b["aux"]["scores"], rel=1e-5)
