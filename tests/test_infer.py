"""`metro_jax.infer`, and the promise that neither a kill nor shards change what comes out."""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import gin
import jax
import pytest
import seqio

from metro_jax import eval as eval_script
from metro_jax import infer as infer_script
from metro_jax.data.lookup import find_task
from metro_jax.training.checkpoints import Checkpointer, RestoreCheckpointConfig
from metro_jax.training.errors import UserError
from metro_jax.training.inference_files import MANIFEST, Shard, checkpoint_identity
from metro_jax.training.models import MetroPretrainingModel
from metro_jax.training.utils import DatasetConfig
from tests.training.conftest import PRETRAINING, TINY
from tests.training.data_folder import make_data_folder
from tests.training.predictor import Predictor

PREPARED = "metro_jax.tasks.prepared"
LENGTHS = {"inputs": 16, "targets": 4}
WHOLE = "00000-of-00001"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data_folder(tmp_path_factory.mktemp("data") / "folder")


def save(model_dir, seed, step=3):
    model = Predictor()
    shapes = {"encoder_input_tokens": (1, 4)}
    state = model.optimizer_def.create(model.get_initial_variables(jax.random.key(seed), shapes)["params"])
    with Checkpointer(model_dir) as checkpointer:
        checkpointer.save(step, state.state_dict())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save(folder, seed=0)
    return folder


@pytest.fixture(autouse=True)
def clean(folder, monkeypatch):
    monkeypatch.setenv("METRO_DATA_DIR", str(folder))
    yield
    with gin.unlock_config():
        gin.clear_config()


def run(output_dir, model_dir, name="prompts", batch_size=4, split="train", **options):
    """40 examples: ten batches of 4 in chunks of two batches."""
    arguments = {
        "mode": "predict",
        "model": Predictor(),
        "dataset_cfg": DatasetConfig(name, LENGTHS, split, batch_size, shuffle=False, module=PREPARED),
        "restore_checkpoint_cfg": RestoreCheckpointConfig(str(model_dir)),
        "output_dir": str(output_dir),
        "checkpoint_period": 2,
        **options,
    }
    return infer_script.infer(**arguments)


@pytest.fixture(scope="module")
def whole(folder, model_dir, tmp_path_factory):
    """The file of an uninterrupted run, alone in its folder with its manifest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRO_DATA_DIR", str(folder))
        (path,) = run(tmp_path_factory.mktemp("whole"), model_dir)
    return path


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of that folder."""
    return pathlib.Path(shutil.copytree(whole.parent, tmp_path / "finished"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def examples(name="prompts", split="train"):
    return list(find_task(name, PREPARED).get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator())


class Stopped(Exception):
    pass


def stop_at(chunk, path, *arguments, by):
    """Writes chunks until `chunk`, of which only a part arrives."""
    infer_script.write_inferences_to_file(path, *arguments)
    if f"chunk{chunk:05}" in path:
        with open(path, "r+") as file:
            file.truncate(100)
        by()


def stop():
    raise Stopped


def test_a_prediction_per_example_in_order(whole):
    assert whole.name == f"prompts-predict.jsonl-{WHOLE}"
    found = lines(whole)
    expected = examples()
    assert len(found) == len(expected) == 40
    for line, example in zip(found, expected, strict=True):
        assert line["inputs"] == {
            "inputs_pretokenized": example["inputs_pretokenized"].decode(),
            "targets_pretokenized": example["targets_pretokenized"].decode(),
        }
        assert set(line) == {"inputs", "prediction"}
    assert len({line["prediction"] for line in found}) > 5
    present = {child.name for child in whole.parent.iterdir()}
    assert present == {whole.name, f"{whole.name}.COMPLETED", MANIFEST}


def test_modes_and_what_a_line_holds(tmp_path, model_dir):
    write = functools.partial(infer_script.write_inferences_to_file, output_ids=True)
    (path,) = run(tmp_path / "aux", model_dir, mode="predict_with_aux", split="validation", write_fn=write)
    vocabulary = find_task("prompts", PREPARED).output_features["targets"].vocabulary
    for line in lines(path):
        logits = line["aux"]["per_token"]["logits"]
        assert line["aux"]["scores"] == pytest.approx(sum(logits), rel=1e-5)
        assert len(line["prediction_tokens"]) == len(logits) == 4
        assert line["prediction"] == vocabulary.decode(line["prediction_tokens"])

    write = functools.partial(infer_script.write_inferences_to_file, include_all_inputs=True)
    (path,) = run(tmp_path / "score", model_dir, "ranks", mode="score", split="validation", write_fn=write)
    for line, example in zip(lines(path), examples("ranks", "validation"), strict=True):
        assert line["score"] < 0
        assert line["inputs"]["idx"] == example["idx"].tolist()
        assert line["inputs"]["is_correct"] is bool(example["is_correct"])
        assert line["inputs"]["targets"] == example["targets"].tolist()

    write = functools.partial(infer_script.write_inferences_to_file, input_fields_to_include=["targets"])
    (path,) = run(tmp_path / "chosen", model_dir, mode="score", split="validation", write_fn=write)
    assert set(lines(path)[0]["inputs"]) == {"targets", "targets_pretokenized"}


def test_a_task_without_text_gets_it_from_its_ids(tmp_path, model_dir):
    @seqio.map_over_dataset
    def without_text(example):
        return {name: example[name] for name in ("inputs", "targets")}

    task = find_task("prompts", PREPARED)
    steps = [*task.preprocessors, without_text]
    seqio.TaskRegistry.add("ids_only", source=task.source, preprocessors=steps, output_features=task.output_features)
    (path,) = run(tmp_path, model_dir, "ids_only", split="validation")
    decode = task.output_features["inputs"].vocabulary.decode
    for line, example in zip(lines(path), examples("prompts", "validation"), strict=True):
        assert line["inputs"]["inputs_pretokenized"] == decode(example["inputs"].tolist())
    seqio.TaskRegistry.remove("ids_only")


@pytest.mark.parametrize("batch_size", [4, 8])
def test_a_stopped_run_continues_after_its_last_complete_chunk(tmp_path, model_dir, whole, batch_size, capsys):
    """To the same bytes, also with other batches than before."""
    with pytest.raises(Stopped):
        run(tmp_path, model_dir, write_fn=functools.partial(stop_at, 2, by=stop))
    shard = Shard(tmp_path, "prompts", "predict", 0, 1, "jsonl")
    assert len(shard.chunks()) == 2
    assert not shard.path.exists()
    run(tmp_path, model_dir, batch_size=batch_size)
    assert "continuing after 16 examples" in capsys.readouterr().err
    assert shard.path.read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_that_was_killed_continues(tmp_path, model_dir, whole):
    """kill -9 in a process of its own, while a chunk is being written."""
    script = (
        "import functools, os, signal, sys\n"
        "from tests import test_infer as t\n"
        "kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)\n"
        "t.run(sys.argv[1], sys.argv[2], write_fn=functools.partial(t.stop_at, 3, by=kill))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "killed"), str(model_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    (again,) = run(tmp_path / "killed", model_dir)
    assert again.read_bytes() == whole.read_bytes()


def test_a_run_killed_between_the_last_file_and_the_tidying(finished, model_dir, whole):
    completed, leftover = finished / f"{whole.name}.COMPLETED", finished / f"tmp-prompts-{WHOLE}"
    completed.unlink()
    leftover.mkdir()
    run(finished, model_dir)
    assert (finished / whole.name).read_bytes() == whole.read_bytes()
    assert completed.exists()
    assert not leftover.exists()


def test_shards_together_are_the_whole(tmp_path, model_dir, whole):
    paths = [run(tmp_path / "shards", model_dir, shard_id=i, num_shards=3)[0] for i in (2, 0, 1)]
    assert [path.name for path in paths] == [f"prompts-predict.jsonl-{i:05}-of-00003" for i in (2, 0, 1)]
    together = sorted(line for path in paths for line in path.read_text().splitlines())
    assert together == sorted(whole.read_text().splitlines())
    with pytest.raises(UserError, match="num_shards: 3 there, 4 asked for"):
        run(tmp_path / "shards", model_dir, num_shards=4)


def test_a_mixture_gives_a_file_per_task_and_chunks_can_be_kept(tmp_path, model_dir):
    paths = run(tmp_path, model_dir, "both", split="validation", merge_chunked_results=False)
    assert sorted(path.name for path in paths) == [f"{name}-predict.jsonl-{WHOLE}" for name in ("prompts", "questions")]
    for task, path in zip(("prompts", "questions"), sorted(paths), strict=True):
        assert not path.exists()
        assert (tmp_path / f"{path.name}.COMPLETED").exists()
        chunks = sorted((tmp_path / f"tmp-{task}-{WHOLE}").iterdir())
        assert [len(lines(chunk)) for chunk in chunks] == [8, 2]
    run(tmp_path, model_dir, "both", split="validation", merge_chunked_results=False)  # there is nothing left to do


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "score"}, "mode: 'predict' there, 'score' asked for"),
        ({"name": "questions"}, "task: 'prompts' there, 'questions' asked for"),
        ({"split": "validation"}, "split: 'train' there, 'validation' asked for"),
    ],
)
def test_a_folder_of_something_else_is_refused(finished, model_dir, whole, change, message):
    with pytest.raises(UserError, match=message):
        run(finished, model_dir, **change)
    assert (finished / whole.name).read_bytes() == whole.read_bytes()


def test_a_folder_of_another_checkpoint_is_refused(finished, tmp_path, model_dir):
    save(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"checkpoint: .*asked for"):
        run(finished, tmp_path / "other")
    assert checkpoint_identity(model_dir / "checkpoint_3") != checkpoint_identity(tmp_path / "other" / "checkpoint_3")
    (finished / MANIFEST).unlink()
    with pytest.raises(UserError, match=f"but no {MANIFEST}"):
        run(finished, model_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "predikt"}, "mode='predikt' must be one of .*did you mean 'predict'"),
        ({"model": MetroPretrainingModel(TINY, PRETRAINING)}, "MetroPretrainingModel has no predict_batch"),
        ({"shard_id": 2, "num_shards": 2}, "shard_id=2 is not among the 2 shards"),
        ({"checkpoint_period": 0}, "checkpoint_period=0 must be at least 1"),
        ({"shard_id": 40, "num_shards": 41}, "there are no examples"),
        ({"restore_checkpoint_cfg": RestoreCheckpointConfig()}, "no checkpoint to infer with"),
        ({"restore_checkpoint_cfg": RestoreCheckpointConfig("x", "all")}, "inference takes one checkpoint"),
        ({"dataset_cfg": DatasetConfig("prompts", None, "train", 4, module=PREPARED)}, "set TASK_FEATURE_LENGTHS"),
    ],
)
def test_mistakes(tmp_path, model_dir, change, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", model_dir, **change)


@pytest.fixture
def stand_in(tmp_path):
    """Gin files that put the stand-in in the place of METRO: for inference and for evaluation."""
    for run_file in ("infer", "eval"):
        (tmp_path / f"{run_file}.gin").write_text(
            f"from __gin__ import dynamic_registration\ninclude 'runs/{run_file}.gin'\n"
            "from tests.training import predictor\nMODEL = @predictor.Predictor()\n"
        )
    return tmp_path


def command(name, folder, model_dir, out, *more, task="prompts"):
    bindings = {
        "MIXTURE_OR_TASK_MODULE": f"'{PREPARED}'",
        "MIXTURE_OR_TASK_NAME": f"'{task}'",
        "CHECKPOINT_PATH": f"'{model_dir}'",
        f"{name.upper()}_OUTPUT_DIR": f"'{out}'",
        "TASK_FEATURE_LENGTHS": str(LENGTHS),
        "BATCH_SIZE": "4",
    }
    return [name, f"--gin_file={folder / name}.gin", *(f"--gin.{k}={v}" for k, v in bindings.items()), *more]


def test_from_the_command_line(tmp_path, stand_in, model_dir, capsys):
    more = ["--gin.infer.mode='score'", "--gin.infer.num_shards=2", "--gin.infer.checkpoint_period=1", "--shard_id=1"]
    out = tmp_path / "out"
    assert infer_script.main(command("infer", stand_in, model_dir, out, *more)) == 0
    captured = capsys.readouterr()
    name = "prompts-score.jsonl-00001-of-00002"
    assert str(out / name) in captured.out
    assert re.search(rf"{name}: 5/5 examples  [\d.,]+ examples/s  0:00:00 left", captured.err)
    assert len(lines(out / name)) == 5
    assert not (out / "config.gin").exists()  # the first shard writes it, as in T5X
    assert infer_script.main(command("infer", stand_in, model_dir, out, *more[:3])) == 0
    assert "num_shards = 2" in (out / "config.gin").read_text()


def test_dry_runs_write_nothing(tmp_path, stand_in, model_dir, capsys):
    for name, main in (("infer", infer_script.main), ("eval", eval_script.main)):
        arguments = command(name, stand_in, model_dir, tmp_path / "out", "--dry_run", task="ranks")
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "BATCH_SIZE = 4" in out
        assert re.search(r"embedding +\(736, 8\) +model, fsdp +float32 +23,552", out)
        assert "encoder_input_tokens (4, 16)" in out
    assert not (tmp_path / "out").exists()


def test_mistakes_are_a_message_and_a_status(tmp_path, stand_in, model_dir, capsys):
    for more, message in (
        (["--gin.infer.mod='score'"], "did you mean 'mode'"),
        (["--gin.INFER_OUTPUT_DIR=%gin.REQUIRED"], "left out: INFER_OUTPUT_DIR"),
        (["--gin.CHECKPOINT_PATH='nowhere'"], "nowhere: no checkpoint"),
        (["--gin.SPLIT='test'"], "no split 'test'"),
        (["--shard_id=7"], "shard_id=7 is not among the 1 shards"),
    ):
        assert infer_script.main(command("infer", stand_in, model_dir, tmp_path / "out", *more)) == 1
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert re.search(message, err), err
    assert not (tmp_path / "out").exists()


def test_all_checkpoints_of_a_folder_are_evaluated(tmp_path, stand_in):
    save(tmp_path / "model", seed=0, step=1)
    save(tmp_path / "model", seed=1, step=5)
    more = ["--gin.utils.RestoreCheckpointConfig.mode='all'", "--gin.EVALUATOR_NUM_EXAMPLES=6",
            "--gin.EVALUATOR_USE_MEMORY_CACHE=False", "--gin.JSON_WRITE_N_RESULTS=2"]  # fmt: skip
    out = tmp_path / "out"
    assert eval_script.main(command("eval", stand_in, tmp_path / "model", out, *more, task="ranks")) == 0
    results = json.loads((out / "metrics.json").read_text())
    assert [os.path.basename(path) for path in results] == ["checkpoint_1", "checkpoint_5"]
    assert {r["ranks"]["examples"] for r in results.values()} == {3.0}
    written = sorted(out.glob("ranks-0*.jsonl"))
    assert [len(lines(path)) for path in written] == [2, 2]
