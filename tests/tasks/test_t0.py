"""T0's mixtures as training sees them: from P3 through records to batches, and errors where something is missing."""

import pytest
import seqio

from metro_jax.data import feature_converters as fc
from metro_jax.data.lookup import find_task
from metro_jax.data.t0 import catalogue, prepare, report
from tests.data import p3_files

LENGTHS = {"inputs": 64, "targets": 16}
MODULE = "metro_jax.tasks.t0"


@pytest.fixture(scope="module")
def t0_folder(tmp_path_factory, vocabulary_folder):
    """P3 in the parquet layout, prepared with what is there."""
    root = tmp_path_factory.mktemp("t0_tasks")
    p3_files.write(root / "p3", "parquet", examples=12)
    names = ["t0_train", "t0_train_eval", "t0_eval"]
    work = prepare.plan(root / "p3", names)
    prepare.prepare(work, vocabulary_folder, root / "data", show=False)
    report.save(root / "data", report.report(root / "data", names, work.missing), allow_missing=True)
    report.save(root / "data", report.report(root / "data", ["t0p_train"], work.missing), allow_missing=False)
    return root / "data"


@pytest.fixture
def named(t0_folder, monkeypatch):
    monkeypatch.setenv("METRO_DATA_DIR", str(t0_folder))
    return t0_folder


@pytest.mark.parametrize(("name", "split"), [("t0_train", "train"), ("t0_train_epochs", "train"),
                                             ("t0_train_eval", "validation"),
                                             ("t0_train_eval_epochs", "validation")])  # fmt: skip
@pytest.mark.parametrize("pack", [False, True])
def test_batches(named, name, split, pack):
    find_task(name, MODULE)
    dataset = seqio.get_dataset(
        name, LENGTHS, fc.EncoderDecoderFeatureConverter(pack=pack), dataset_split=split, batch_size=4, num_epochs=None
    )
    for batch in dataset.take(4).as_numpy_iterator():
        assert batch["encoder_input_tokens"].shape == (4, 64)
        assert (batch["decoder_loss_weights"].sum(1) > 1).all()


def test_rates_are_capped_sizes(named):
    mixture = find_task("t0_train", MODULE)
    caps = catalogue.caps(catalogue.training_tasks("t0_train"))
    assert {task.name for task in mixture.tasks} == set(p3_files.TASKS) & set(caps)
    assert {mixture.get_rate(task) for task in mixture.tasks} == {12.0}
    assert find_task("t0_train_epochs", MODULE).source.caps == {task.name: caps[task.name] for task in mixture.tasks}


def test_every_evaluation_template_is_a_ranked_task(named):
    mixture = find_task("t0_eval", MODULE)
    assert {task.name for task in mixture.tasks} <= set(catalogue.evaluation_tasks())
    assert len(mixture.tasks) == 3
    assert all(task.metric_fns for task in mixture.tasks)


def test_the_templates_of_one_evaluation_task_are_a_mixture(named):
    rte = find_task("t0_eval_rte", MODULE)
    assert {task.name for task in rte.tasks} == {
        "super_glue_rte_must_be_true_score_eval",
        "super_glue_rte_can_we_infer_score_eval",
    }
    assert rte.num_input_examples("validation") == 48  # rows: 12 examples, 2 choices, 2 templates
    with pytest.raises(ValueError, match=r"none of its 10 templates is there; .*t0_report\.txt says why"):
        find_task("t0_eval_wsc", MODULE)


def test_validation_tasks_have_the_metrics_of_t0(named):
    mixture = find_task("t0_train_eval", MODULE)
    names = {task.name: [metric.__name__ for metric in task.metric_fns] for task in mixture.tasks}
    assert names == {"glue_mrpc_equivalent": ["accuracy"]}


def test_validation_examples_come_once_per_epoch(named):
    """Of all tasks that have the split; the others are left out, as in the mixture."""
    task = find_task("t0_train_eval_epochs", MODULE)
    assert "validation" in task.splits
    assert task.num_input_examples("validation") == 12
    sources = [row["inputs_pretokenized"] for row in p3_files.rows("glue_mrpc_equivalent", "validation", 12)]
    dataset = task.get_dataset(LENGTHS, "validation", shuffle=True, num_epochs=2, seed=3)
    found = [row["inputs_pretokenized"].decode() for row in dataset.as_numpy_iterator()]
    assert sorted(found[:12]) == sorted(found[12:]) == sorted(sources)


def test_a_mixture_with_missing_tasks_is_refused(named):
    for name in ("t0p_train", "t0p_train_epochs"):
        with pytest.raises(ValueError, match=r"389 of its 392 tasks are not in .*t0_report\.txt"):
            find_task(name, MODULE)


def test_a_mixture_that_was_never_made_says_how(named):
    with pytest.raises(ValueError, match="metro-jax data t0 --mixtures t0pp_train"):
        find_task("t0pp_train", MODULE)
