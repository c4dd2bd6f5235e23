"""What a run says and writes while it runs."""

import io
import json
import math

import jax.numpy as jnp
import pytest

from metro_jax.training.errors import UserError
from metro_jax.training.progress import METRICS_FILE, NonFiniteLoss, Progress, clock, rounded


def metrics(loss, count=2.0, rate=0.5):
    return {"loss": (jnp.float32(loss), jnp.float32(count)), "learning_rate": (jnp.float32(rate), jnp.ones(()))}


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_a_line_per_period_with_sums_divided_by_counts(tmp_path):
    out = io.StringIO()
    progress = Progress(str(tmp_path), 5, 2, stream=out)
    for step, (loss, count) in enumerate([(1.0, 1.0), (5.0, 2.0), (2.0, 1.0), (2.0, 1.0), (7.0, 1.0)], start=1):
        progress.add(step, metrics(loss, count, rate=step / 10), examples=8)
    progress.close()
    assert [(x["step"], x["loss"], x["learning_rate"]) for x in lines(tmp_path)] == [
        (2, 2.0, pytest.approx(0.2)),
        (4, 2.0, pytest.approx(0.4)),
        (5, 7.0, pytest.approx(0.5)),
    ]
    said = out.getvalue().splitlines()
    assert said[0].startswith("first step after")
    said = said[1:]
    assert said[0].startswith("step 2/5  loss 2.000  lr 2.00e-01")
    assert "tokens/s" in said[0]
    assert "% waiting for data" in said[0]
    assert said[0].endswith("left")
    assert list(tmp_path.glob("train/events*"))


def test_sums_survive_a_restart_within_a_period(tmp_path):
    whole = Progress(str(tmp_path / "whole"), 10, 4)
    first = Progress(str(tmp_path / "first"), 10, 4)
    for step in (1, 2, 3):
        whole.add(step, metrics(step / 3), 1)
        first.add(step, metrics(step / 3), 1)
    first.flush()
    second = Progress(str(tmp_path / "first"), 10, 4, first_step=3, saved=json.loads(json.dumps(first.state())))
    second.add(4, metrics(7.1), 1)
    whole.add(4, metrics(7.1), 1)
    for progress in (first, second, whole):
        progress.close()
    assert lines(tmp_path / "first")[0]["loss"] == lines(tmp_path / "whole")[0]["loss"]


def test_lines_that_will_be_written_again_are_removed(tmp_path):
    entries = [
        {"step": 2, "split": "train"},
        {"step": 4, "split": "train"},
        {"step": 4, "split": "training_eval/x"},
        {"step": 5, "split": "train"},  # an earlier run ended here
        {"step": 5, "split": "training_eval/x"},
        {"step": 6, "split": "train"},  # after the checkpoint
    ]
    text = "".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 8, "spl'
    (tmp_path / METRICS_FILE).write_text(text)
    Progress(str(tmp_path), 10, 2, 4, first_step=5)
    assert lines(tmp_path) == entries[:3]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, bad):
    progress = Progress(str(tmp_path), 10, 5, checkpoints=[1, 2], writes=False)
    for step, loss in ((1, 1.0), (2, 1.0), (3, 1.0)):
        progress.add(step, metrics(loss), 1)
    progress.add(4, metrics(bad), 1)
    with pytest.raises(NonFiniteLoss, match=r"update 4 gave .*loss (nan|inf).*Last good checkpoint: checkpoint_2\."):
        progress.add(5, metrics(1.0), 1)
    late = Progress(str(tmp_path), 10, 5, writes=False)
    late.add(1, metrics(1.0), 1)
    late.add(2, metrics(bad), 1)
    with pytest.raises(NonFiniteLoss, match="No good checkpoint was written yet"):
        late.flush()


def test_the_checkpoint_that_gave_the_loss_is_not_called_good(tmp_path):
    progress = Progress(str(tmp_path), 10, 5, checkpoints=[2, 3], writes=False)
    progress.add(3, metrics(1.0), 1)
    progress.add(4, metrics(math.nan), 1)
    with pytest.raises(NonFiniteLoss, match=r"good checkpoint: checkpoint_2\..*remove checkpoint_3 first"):
        progress.flush()


def test_evaluation_sums_over_batches(tmp_path):
    out = io.StringIO()
    progress = Progress(str(tmp_path), 10, 5, stream=out)
    values = progress.averages(5, "task", iter([metrics(1.0, 1.0), metrics(5.0, 3.0)]))
    assert not progress.is_evaluated(5)
    progress.evaluated(5, {"training_eval/task": values})
    assert progress.is_evaluated(5)
    progress.close()
    assert values["loss"] == 1.5
    assert lines(tmp_path)[0] == {"step": 5, "split": "training_eval/task", **values}
    assert out.getvalue().startswith("eval of task after step 5: loss 1.500")


def test_rounding_as_the_reference_logs():
    assert rounded("loss", 1.23456) == 1.235
    assert rounded("ppl", 1.23456) == 1.23
    assert clock(3725) == "1:02:05"


def test_values_of_the_best_metric_are_collected_across_restarts(tmp_path):
    first = Progress(str(tmp_path), 10, 5, 2, best_metric="inference_eval/task/accuracy")
    first.evaluated(2, {"inference_eval/task": {"accuracy": 50.0}, "inference_eval/other": {"accuracy": 1.0}})
    first.close()
    scores = {}
    second = Progress(str(tmp_path), 10, 5, 2, first_step=2, best_metric="inference_eval/task/accuracy", scores=scores)
    second.evaluated(4, {"inference_eval/task": {"accuracy": 60.0}})
    second.close()
    assert scores == {2: 50.0, 4: 60.0}
    with pytest.raises(UserError, match=r"no 'acuracy'; did you mean 'accuracy'\?; it has accuracy"):
        Progress(str(tmp_path), 10, 5, 2, first_step=2, best_metric="inference_eval/task/acuracy")


def test_only_the_first_process_writes(tmp_path):
    progress = Progress(str(tmp_path / "run"), 2, 1, writes=False)
    progress.add(1, metrics(1.0), 1)
    progress.add(2, metrics(1.0), 1)
    progress.close()
    assert not (tmp_path / "run").exists()


def test_speed_counts_what_the_devices_counted(tmp_path):
    out = io.StringIO()
    progress = Progress(str(tmp_path), 3, 3, flops_per_step=1e6, peak_flops=1e12, stream=out)
    for step in (1, 2, 3):
        progress.waited(0.001)
        progress.add(step, metrics(1.0) | {"tokens": (jnp.float32(500), jnp.zeros(()))}, examples=4)
    progress.close()
    (line,) = lines(tmp_path)
    assert line["tokens_per_second"] == pytest.approx(500 / 4 * line["examples_per_second"], rel=1e-3)
    assert line["mfu"] == pytest.approx(100 * 1e6 * line["steps_per_second"] / 1e12, rel=1e-3)
    assert line["data_wait"] > 0
    assert "tokens" not in line
    assert "% MFU" in out.getvalue()
