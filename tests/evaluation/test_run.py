"""The scores of a run are the reference's, and depend on nothing but model and example."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import metro_jax
from metro_jax.evaluation import run
from metro_jax.evaluation.examples import Example, Record, judge
from metro_jax.evaluation.results import Folder, Score, Shard

LIMITS = {"max_source": 512, "max_choice": 256}


@pytest.fixture(scope="session")
def golden(golden_dir: pathlib.Path) -> list[dict]:
    groups = json.loads((golden_dir / "rank_eval.json").read_text())["groups"]
    return [{"group": group["name"], **example} for group in groups for example in group["examples"]]


@pytest.fixture(scope="session")
def examples(golden: list[dict]) -> list[Example]:
    """The reference's prompts; the groups are templates of one task."""
    made = []
    for name in dict.fromkeys(row["group"] for row in golden):
        rows = [row for row in golden if row["group"] == name]
        records = [Record(n, row["prompt"], tuple(row["choices"]), row["target"], str(n)) for n, row in enumerate(rows)]
        found, account = judge("golden", name, records)
        assert not account.left_out
        made += found
    return made


def scored(path: pathlib.Path, model, examples: list[Example], shard: Shard = Shard(), **options) -> dict:  # noqa: B008
    folder = Folder(path, {"model": "tiny"})
    folder.open({}, examples)
    run.score(model, folder, examples, shard, progress=False, **LIMITS, **options)
    return folder.scores


def assert_same(found: dict[tuple, Score], expected: dict[tuple, Score]) -> None:
    assert found.keys() == expected.keys()
    for key, score in expected.items():
        np.testing.assert_allclose(found[key].scores, score.scores, atol=1e-4, rtol=1e-5)
        assert found[key][2:] == score[2:]


@pytest.fixture(scope="session")
def expected(model: metro_jax.MetroT0, examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> dict:
    return scored(tmp_path_factory.mktemp("expected"), model, examples)


@pytest.mark.golden
def test_scores_and_accuracy_equal_the_reference(
    golden: list[dict], examples: list[Example], expected: dict, golden_dir: pathlib.Path
) -> None:
    assert len(expected) == len(golden)
    for row, example in zip(golden, examples, strict=True):
        score = expected[example.key]
        np.testing.assert_allclose(score.scores, row["scores"], rtol=1e-4, atol=1e-4)
        assert (score.best, score.target) == (row["prediction"], row["target_index"])
    for group in json.loads((golden_dir / "rank_eval.json").read_text())["groups"]:
        own = [score.best == score.target for (_, name, _), score in expected.items() if name == group["name"]]
        assert np.mean(own) == pytest.approx(group["accuracy"])


def test_scores_depend_on_neither_batch_nor_order_nor_company(
    model: metro_jax.MetroT0, examples: list[Example], expected: dict, tmp_path: pathlib.Path
) -> None:
    few = examples[::7]  # each size of batch is compiled anew
    theirs = {example.key: expected[example.key] for example in few}
    assert_same(scored(tmp_path / "one", model, few, batch_size=1), theirs)
    assert_same(scored(tmp_path / "few", model, few), theirs)
    assert_same(scored(tmp_path / "reversed", model, examples[::-1]), expected)


def test_scores_do_not_depend_on_buckets(
    model: metro_jax.MetroT0,
    examples: list[Example],
    expected: dict,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from metro_jax.inference import batching

    monkeypatch.setattr(batching, "LABEL_BUCKETS", (300, batching.NODES_PER_BATCH))
    monkeypatch.setattr(
        batching, "bucket_length", lambda n, buckets=None, maximum=1024: 512 if not buckets else max(n, 300)
    )
    few = examples[::9]
    assert_same(scored(tmp_path, model, few), {example.key: expected[example.key] for example in few})


def test_choices_too_many_for_one_tree(model: metro_jax.MetroT0, tmp_path: pathlib.Path) -> None:
    words = ["word", "house", "red"]
    choices = tuple(" ".join(words[n % 3] for n in range(start, start + 60)) for start in range(12))
    labels = [len(model.tokenizer.encode_choice(choice)) for choice in choices]
    assert sum(labels) > 1024
    whole = scored(tmp_path / "whole", model, [Example("t", "t", 0, "red house", choices, 0)])["t", "t", 0]
    few = (choices[0], choices[5], choices[11])
    found = scored(tmp_path / "few", model, [Example("t", "t", 0, "red house", few, 0)])["t", "t", 0]
    np.testing.assert_allclose(found.scores, [whole.scores[n] for n in (0, 5, 11)], rtol=1e-5, atol=1e-3)


def test_a_run_goes_on_where_it_was_stopped(
    model: metro_jax.MetroT0, examples: list[Example], expected: dict, tmp_path: pathlib.Path
) -> None:
    class Stopped(Exception):
        pass

    class Stopping:
        """The model, until its second batch."""

        def rank_batches(self, *arguments, **options):
            for n, batch in enumerate(model.rank_batches(*arguments, **options)):
                if n == 2:
                    raise Stopped
                yield batch

    few = examples[::7]
    with pytest.raises(Stopped):
        scored(tmp_path, Stopping(), few, batch_size=1)
    folder = Folder(tmp_path, {"model": "tiny"})
    folder.open({}, few)
    assert len(folder.scores) == 2 < len(few)
    assert run.score(model, folder, few, Shard(), batch_size=1, progress=False, **LIMITS) == len(few) - 2
    assert_same(folder.scores, {example.key: expected[example.key] for example in few})
    assert run.score(model, folder, few, Shard(), progress=False, **LIMITS) == 0


def test_shards_together_are_the_whole(
    model: metro_jax.MetroT0, examples: list[Example], expected: dict, tmp_path: pathlib.Path
) -> None:
    few = examples[::7]
    for n in range(3):
        scored(tmp_path, model, few, Shard(n, 3), batch_size=1)
    folder = Folder(tmp_path, {"model": "tiny"})
    folder.open({}, few)
    assert_same(folder.scores, {example.key: expected[example.key] for example in few})
    assert len(list((tmp_path / "scores").iterdir())) == 3


def test_scores_do_not_depend_on_the_number_of_devices(
    golden_dir: pathlib.Path, examples: list[Example], expected: dict, tmp_path: pathlib.Path
) -> None:
    few = examples[::9]
    texts, choices = [e.prompt for e in few], [list(e.choices) for e in few]
    (tmp_path / "few.json").write_text(json.dumps([texts, choices]))
    code = f"""
import json, pathlib, jax, numpy as np, metro_jax
from metro_jax.inference.compilation import Program
Program.compiler_options = {{"xla_backend_optimization_level": 0}}
texts, choices = json.loads(pathlib.Path({str(tmp_path / "few.json")!r}).read_text())
mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
model = metro_jax.MetroT0.from_pretrained({str(golden_dir / "hub_tiny")!r}, mesh=mesh)
print(json.dumps([len(jax.devices()), [r.scores for r in model.rank(texts, choices)]]))
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | flags, check=False
    )
    assert done.returncode == 0, done.stderr
    devices, found = json.loads(done.stdout)
    assert devices == 3
    for example, scores in zip(few, found, strict=True):
        np.testing.assert_allclose(scores, expected[example.key].scores, atol=1e-4, rtol=1e-5)


def test_evaluation_needs_no_tensorflow() -> None:
    code = (
        "import sys\nfrom metro_jax.evaluation import command_t0, command_mmlu, compare\n"
        "heavy = {'tensorflow', 'torch', 'seqio', 'clu', 't5x', 'matplotlib', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "from metro_jax.inference import MetroT0\n"
        "heavy |= {'tensorflow', 'torch', 'seqio', 'clu', 't5x', 'matplotlib'} & set(sys.modules)\nprint(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
