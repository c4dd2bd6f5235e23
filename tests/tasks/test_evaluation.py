"""Evaluation in training and `MetroT0` agree on the same examples: ranked choices and generated text."""

import json

import pytest
import seqio

from metro_jax.data import records
from metro_jax.data.t0 import catalogue, p3, prepare, report
from metro_jax.evaluation import metrics
from metro_jax.tasks import prepared
from metro_jax.training.inference import TaskEvaluator, over_dataset
from metro_jax.training.models import EncoderDecoderModel
from metro_jax.training.partitioning import PjitPartitioner
from metro_jax.training.utils import DatasetConfig
from tests.data import p3_files
from tests.inference.conftest import model, quick_compilation

__all__ = ["model", "quick_compilation"]  # the tiny Hub model
LENGTHS = {"inputs": 512, "targets": 256}  # spec 8.1
RTE = "super_glue_rte_must_be_true_score_eval"
ANLI = "anli_MNLI_crowdsource_r1_score_eval"


@pytest.fixture(scope="module")
def p3_folder(tmp_path_factory, vocabulary_folder):
    """P3 files, and what `metro-jax data t0` makes of them."""
    root = tmp_path_factory.mktemp("evaluation")
    p3_files.write(root / "p3", "tfrecord", examples=6)
    names = [catalogue.TRAIN_EVAL, catalogue.EVALUATION]
    work = prepare.plan(root / "p3", names)
    prepare.prepare(work, vocabulary_folder, root / "data", show=False)
    report.save(root / "data", report.report(root / "data", names, work.missing), allow_missing=True)
    return root


def network(model):
    """The model of the runtimes, which hides pads by their id, as gin's MetroConfig does; the Hub's takes masks."""
    return EncoderDecoderModel(model.config.replace(padding="training"))


def evaluate(folder, monkeypatch, model, name, lengths, module="metro_jax.tasks.t0"):
    monkeypatch.setenv("METRO_DATA_DIR", str(folder))
    cfg = DatasetConfig(name, lengths, "validation", 8, module=module)
    evaluator = TaskEvaluator(network(model), cfg, PjitPartitioner())
    return evaluator.evaluate(model.params, step=0)


def test_ranking_of_p3_rows(p3_folder, monkeypatch, model):
    """Over all that lies in t0_eval, from the rows of P3 themselves."""
    found = evaluate(p3_folder / "data", monkeypatch, model, "t0_eval", {"inputs": 96, "targets": 16})
    expected = {}
    for task in (RTE, ANLI):
        groups: dict[int, list] = {}
        for row, _ in p3.rows(p3.splits(p3_folder / "p3", task)["validation"]):
            groups.setdefault(row.idx[0], []).append(row)
        rankings = model.rank([g[0].inputs for g in groups.values()], [[r.targets for r in g] for g in groups.values()])
        hits = [group[ranking.best].is_correct for group, ranking in zip(groups.values(), rankings, strict=True)]
        expected[task] = {"accuracy": pytest.approx(100 * sum(hits) / len(hits)), "examples": len(groups)}
    assert {task: found[task] for task in expected} == expected
    other = "super_glue_rte_can_we_infer_score_eval"  # from the choices of the plain task: a second template of RTE
    rte = (found[RTE]["accuracy"] + found[other]["accuracy"]) / 2
    assert found["t0_eval_rte"] == {"accuracy": pytest.approx(rte), "templates": 2}
    anli = found[ANLI]["accuracy"]
    assert found["t0_eval_anli_r1"] == {"accuracy": anli, "templates": 1}
    assert found["t0_eval"] == {"accuracy": pytest.approx((rte + anli) / 2), "tasks": 2}


@pytest.mark.golden
def test_ranking_of_the_golden_examples(tmp_path, monkeypatch, model, golden_dir):
    """Row by row, with sources that are cut, against the numbers of the reference and against `MetroT0.rank`."""
    model.tokenizer.save_pretrained(tmp_path / "vocab")
    groups = json.loads((golden_dir / "rank_eval.json").read_text())["groups"]
    examples = [example for group in groups for example in group["examples"]]
    prompts, choices = [e["prompt"] for e in examples], [e["choices"] for e in examples]
    rows = list(zip(prompts, choices, [e["target"] for e in examples], strict=True))
    records.write_ranked(tmp_path, "golden", "validation", rows, model.tokenizer, progress=False)
    monkeypatch.setenv("METRO_DATA_DIR", str(tmp_path))
    prepared.refresh()
    task = seqio.get_mixture_or_task("golden")
    dataset = task.get_dataset(LENGTHS, "validation", shuffle=False)
    converted = EncoderDecoderModel.FEATURE_CONVERTER_CLS(pack=False)(dataset, LENGTHS)
    score = over_dataset(network(model).score_batch, PjitPartitioner(), model.params, 8)
    scores = [float(value) for _, value in sorted(score(converted.enumerate()))]
    assert scores == pytest.approx([value for e in examples for value in e["scores"]], abs=1e-4, rel=1e-4)
    rankings = model.rank(prompts, choices)
    assert scores == pytest.approx([value for ranking in rankings for value in ranking.scores], abs=1e-4, rel=1e-4)
    labels = [task.postprocess_fn("", example=row, is_target=True) for row in dataset.as_numpy_iterator()]
    hits = [e["choices"].index(e["target"]) == r.best for e, r in zip(examples, rankings, strict=True)]
    (accuracy,) = task.metric_fns
    assert accuracy(labels, scores)["accuracy"] == pytest.approx(100 * sum(hits) / len(hits))
    known = sum(group["accuracy"] * len(group["examples"]) for group in groups) / len(examples)
    assert accuracy(labels, scores)["accuracy"] == pytest.approx(100 * known)


def test_generated_answers(p3_folder, monkeypatch, model):
    """The metrics that promptsource names, of whole targets against what `MetroT0.generate` writes."""
    found = evaluate(p3_folder / "data", monkeypatch, model, "t0_train_eval", {"inputs": 96, "targets": 8})
    names = catalogue.metrics()
    tasks = [task for task in p3_files.TASKS if task in catalogue.mixtures()["t0_train_eval"]]
    assert set(found) == set(tasks)
    for task in tasks:
        rows = [row for row, _ in p3.rows(p3.splits(p3_folder / "p3", task)["validation"])]
        answers = model.generate([row.inputs for row in rows], max_new_tokens=8)
        targets = [" ".join(row.targets.split()) for row in rows]  # the made-up text has lower-case words only
        expected = {}
        for metric in metrics.find_metrics(names[task]):
            expected |= metric(targets, answers)
        assert found[task] == pytest.approx(expected), task


def test_own_tasks_get_metrics_from_the_data_folder(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("METRO_DATA_DIR", str(tmp_path))
    tokenizer.save_pretrained(tmp_path / "vocab")
    for name in ("own", "other"):
        records.write_prompted(tmp_path, name, "validation", [("a dog", "The  DOG")], tokenizer, progress=False)
    (tmp_path / "metrics.json").write_text('{"own": ["rouge", "accuracy"]}')
    prepared.refresh()
    own = seqio.get_mixture_or_task("own")
    assert own.metric_fns == [metrics.rouge, metrics.accuracy]
    assert own.postprocess_fn("The  DOG", example={}, is_target=True) == "the dog"
    assert own.postprocess_fn("the dog", example={}, is_target=False) == "the dog"
    assert not seqio.get_mixture_or_task("other").metric_fns
    (tmp_path / "metrics.json").write_text('{"own": ["acuracy"]}')
    with pytest.raises(ValueError, match=r"metrics\.json, task 'own': metric 'acuracy' .* accuracy"):
        prepared.refresh()
    (tmp_path / "metrics.json").write_text('{"own": "accuracy"}')
    with pytest.raises(ValueError, match="'own' needs a list"):
        prepared.refresh()
