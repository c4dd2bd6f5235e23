"""Scores and predictions over whole datasets, and the metrics of tasks."""

import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from metro_jax.data.metrics import rank_accuracy
from metro_jax.training.inference import TaskEvaluator, Watch, over_dataset, table, write_json
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.utils import DatasetConfig

ROWS = tf.data.Dataset.from_tensor_slices({"x": np.arange(10, dtype=np.int32).reshape(5, 2)}).enumerate()


def test_rows_keep_their_index_and_fillers_are_dropped():
    score = over_dataset(
        lambda params, batch: jnp.sum(batch["x"], axis=1) * params, PjitPartitioner(), 2.0, batch_size=2
    )
    assert [(i, float(x)) for i, x in score(ROWS)] == [(i, 2.0 * (4 * i + 1)) for i in range(5)]


def test_auxiliary_values_and_keys():
    def predict(params, batch, rng=None):
        noise = jax.random.uniform(rng, (batch["x"].shape[0],))
        return batch["x"], {"noise": noise}

    pairs, aux = over_dataset(predict, PjitPartitioner(), None, batch_size=2)(ROWS)
    assert [i for i, _ in pairs] == list(range(5))
    assert len(aux["noise"]) == 5
    again = over_dataset(predict, PjitPartitioner(), None, batch_size=2)(ROWS)[1]
    other = over_dataset(predict, PjitPartitioner(), None, batch_size=2, seed=1)(ROWS)[1]
    assert aux["noise"] == again["noise"]
    assert aux["noise"] != other["noise"]
    assert len({float(x) for x in aux["noise"]}) == 5


def test_long_work_says_how_far_it_is():
    stream = io.StringIO()
    watch = Watch("here", total=3000, done=1000, period=0.0, stream=stream)
    watch.add(500)
    assert re.fullmatch(r"here: 1,500/3,000 examples  [\d,.]+ examples/s  \d+:\d\d:\d\d left\n", stream.getvalue())
    stream.truncate(0)
    Watch("there", period=3600.0, stream=stream).add(1)
    assert not stream.getvalue()
    Watch("there", stream=stream).say()
    assert re.search(r"there: 0 examples  0.0 examples/s\n$", stream.getvalue())


def test_rank_classification_over_a_task(data, bag):
    cfg = DatasetConfig("ranks", {"inputs": 16, "targets": 4}, "validation", 3, module="metro_jax.tasks.prepared")
    evaluator = TaskEvaluator(bag, cfg, PjitPartitioner())
    assert evaluator.tasks == ["ranks"]
    variables = bag.get_initial_variables(jax.random.key(0), {"encoder_input_tokens": (1, 4)})
    metrics = evaluator.evaluate(variables["params"], step=3)
    assert set(metrics["ranks"]) == {"accuracy", "examples"}
    assert metrics["ranks"]["examples"] == 10
    # With an output that is the same for every source, the scores can be had without the model.
    params = {"embedding": jnp.ones((736, 8)) / 8, "kernel": jnp.tile(jnp.linspace(0, 3, 736), (8, 1))}
    task = seqio.get_mixture_or_task("ranks")
    rows = list(task.get_dataset(cfg.task_feature_lengths, "validation", shuffle=False).as_numpy_iterator())
    labels = [task.postprocess_fn(None, example=row, is_target=True) for row in rows]
    log_probs = np.asarray(jax.nn.log_softmax(params["kernel"][0]))
    expected = rank_accuracy(labels, [log_probs[row["targets"]].sum() for row in rows])
    assert evaluator.evaluate(params, step=4)["ranks"] == pytest.approx(expected)


def test_results_are_readable(tmp_path):
    metrics = {"a_task": {"accuracy": 50.0}, "b": {"accuracy": 12.3456}}
    assert table(metrics).splitlines()[2].split() == ["b", "accuracy", "12.346"]
    write_json(str(tmp_path / "new" / "metrics.json"), metrics)
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == metrics
    assert len(list((tmp_path / "new").iterdir())) == 1
