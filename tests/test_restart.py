"""Runs that are killed, asked to stop, or move to other devices go on as if nothing had happened."""

import json
import random
import re
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.launch import command, finish, launch, stand_in_gin, wait_for
from tests.training.data_folder import make_data_folder

SPEEDS = {"tokens_per_second", "steps_per_second", "examples_per_second", "data_wait", "mfu"}
STEPS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data_folder(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Starts a run of 60 steps that saves every third and evaluates every tenth; its data is read in two shards."""
    file = stand_in_gin(tmp_path_factory.mktemp("gin"))

    def start(model_dir, processes=1, devices=1, **bindings):
        settings = {"MODEL_DIR": f"'{model_dir}'", "TRAIN_STEPS": str(STEPS), "SAVE_PERIOD": "3", "STATS_PERIOD": "7"}
        settings |= {"stand_in.BagModel.config": "@stand_in.wide()"}  # its moments are spread over devices
        settings |= {"EVAL_PERIOD": "10", "EVAL_STEPS": "2", "train/utils.DatasetConfig.num_shards": "2"}
        return launch(command(file, **settings | bindings), data, processes, devices)

    return start


def arrays(model_dir):
    """Parameters, moments and step at the end of a run, as they are on disk."""
    checkpoint = ocp.PyTreeCheckpointHandler()
    folder = model_dir / f"checkpoint_{STEPS}" / "state"
    metadata = checkpoint.metadata(folder).tree
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    return checkpoint.restore(folder, args=ocp.args.PyTreeRestore(restore_args=args))


def logged(model_dir):
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, arrays(left), arrays(right))
    assert logged(left) == logged(right)


def assert_close(left, right):
    """Equal but for the order of summation over devices."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), arrays(left), arrays(right))
    for mine, other in zip(logged(left), logged(right), strict=True):
        assert mine.pop("split") == other.pop("split")
        assert mine == pytest.approx(other, rel=1e-5)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The model folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(run(folder))
    return folder


def kill_once(run, folder, delay):
    """Starts or continues a run and kills it `delay` seconds after it has checkpoints, unless it is done by then."""
    processes = run(folder)
    wait_for(folder / "checkpoint_3", processes)
    time.sleep(delay)
    for process in processes:
        process.kill()
    finish(processes, (-signal.SIGKILL, 0))


def test_a_run_killed_at_a_random_moment_ends_with_the_same_bits(run, whole, tmp_path):
    kill_once(run, tmp_path / "run", random.uniform(0, 0.5))
    (said,) = finish(run(tmp_path / "run"))
    assert "continuing from" in said
    assert_equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_killed_many_times_ends_with_the_same_bits(run, whole, tmp_path):
    for _ in range(6):
        kill_once(run, tmp_path / "run", random.uniform(0, 3))
    finish(run(tmp_path / "run"))
    assert_equal(tmp_path / "run", whole)


def test_processes_agree_when_to_stop_and_one_process_goes_on(run, whole, tmp_path):
    """SIGTERM to one of two; then all four devices in one process, which reads both shards of the data."""
    stopped = run(tmp_path / "run", processes=2, devices=2, SAVE_PERIOD="1")  # saving takes longer than a step
    wait_for(tmp_path / "run" / "checkpoint_3", stopped)
    stopped[1].send_signal(signal.SIGTERM)
    last_words = [re.search(r"stopped after step (\d+) with a checkpoint of step \1;", x) for x in finish(stopped)]
    steps = {int(words[1]) for words in last_words}
    assert len(steps) == 1
    (said,) = finish(run(tmp_path / "run", devices=4, SAVE_PERIOD=str(STEPS)))
    assert f"continuing from {tmp_path / 'run'}/checkpoint_{steps.pop()}" in said
    assert_close(tmp_path / "run", whole)


@pytest.mark.slow
def test_one_of_two_processes_killed_leaves_a_usable_checkpoint(run, tmp_path):
    """The other one ends too instead of waiting for ever; both continue to the bits of an undisturbed pair."""
    processes = run(tmp_path / "run", processes=2, devices=2)
    wait_for(tmp_path / "run" / "checkpoint_3", processes)
    processes[1].kill()
    finish(processes, (-signal.SIGKILL, -signal.SIGABRT, 1), timeout=120)
    finish(run(tmp_path / "run", processes=2, devices=2))
    finish(run(tmp_path / "whole", processes=2, devices=2))
    assert_equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_moves_to_another_mesh(run, whole, tmp_path):
    """From one device to four, two of them for each copy of the model, and on to the end."""
    finish(run(tmp_path / "run", TRAIN_STEPS="30", **{"utils.create_learning_rate_scheduler.total_steps": str(STEPS)}))
    finish(run(tmp_path / "run", devices=4, **{"partitioning.PjitPartitioner.num_partitions": "2"}))
    assert_close(tmp_path / "run", whole)
