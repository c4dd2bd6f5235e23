"""The adapter under the real lm-evaluation-harness, on small tasks whose data lie beside them."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

from metro_jax.decoding import Beam, Greedy, Sample

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm_eval is not installed: pip install 'metro_jax[harness]'", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages the harness brings
    import datasets
    import huggingface_hub.constants
    import lm_eval
    import lm_eval.tasks

    from metro_jax.evaluation import harness

WORDS = ["blue", "dog", "man", "no", "yes"]
DOCS = [
    {"question": f"is the {word} positive? {word} {other}", "choices": WORDS[:3], "answer": number % 3}
    for number, (word, other) in enumerate(zip(WORDS[:4], WORDS[:0:-1], strict=True))
]  # four of them, as everywhere here: batches of one shape are compiled once
TASKS = {
    "small_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    },
    "small_likelihood": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_target": " {{choices[answer]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "small_answer": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n\n", "Q:"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "small_perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}


@pytest.fixture(scope="module", autouse=True)
def offline():
    """The packages of the harness ask no server; for this file only, since others test downloads."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        for module in (huggingface_hub.constants, datasets.config):
            patch.setattr(module, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory) -> pathlib.Path:
    """The tasks as the harness reads them: YAML (JSON is YAML) beside their data."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    for name, task in TASKS.items():
        data = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
            "test_split": "test",
        }
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **task, "metadata": {"version": 1.0}}))
    return folder


@pytest.fixture(scope="module")
def adapter(golden_dir):
    return harness.MetroLM(str(golden_dir / "hub_tiny"))


def requests(*arguments):
    return [types.SimpleNamespace(args=pair, task_name="a_task") for pair in arguments]


def run(task_folder, tmp_path, golden_dir, *tasks, **more):
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = lm_eval.tasks.TaskManager(include_path=str(task_folder), include_defaults=False)
        arguments = {"model": "metro_jax", "model_args": f"pretrained={golden_dir / 'hub_tiny'}"}
        return lm_eval.simple_evaluate(tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **arguments, **more)


def test_the_harness_runs_small_tasks(task_folder, tmp_path, golden_dir, model):
    """Every figure as it follows from `MetroT0` itself."""
    found = run(task_folder, tmp_path, golden_dir, "small_choice", "small_likelihood", "small_answer")["results"]
    contexts = [f"{doc['question']}\nAnswer:" for doc in DOCS]
    rankings = model.rank(contexts, [doc["choices"] for doc in DOCS])
    hits = [ranking.best == doc["answer"] for ranking, doc in zip(rankings, DOCS, strict=True)]
    assert found["small_choice"]["acc,none"] == pytest.approx(np.mean(hits))
    scores = [ranking.scores[doc["answer"]] for ranking, doc in zip(rankings, DOCS, strict=True)]
    assert found["small_likelihood"]["perplexity,none"] == pytest.approx(np.exp(-np.mean(scores)), rel=1e-4)
    answers = model.generate([doc["question"] for doc in DOCS], max_new_tokens=6)
    right = [doc["choices"][doc["answer"]] for doc in DOCS]
    hits = [harness.cut(answer, [" q:"]) == own for answer, own in zip(answers, right, strict=True)]
    assert found["small_answer"]["exact_match,none"] == pytest.approx(np.mean(hits))


def test_likelihoods_are_those_of_ranking(adapter, model):
    contexts = ["is that a dog?", "", "blue", "the man"]
    pairs = [(context, choice) for context in contexts for choice in (" yes", "no", " yes")]
    found = adapter.loglikelihood(requests(*pairs), disable_tqdm=True)
    rankings = model.rank(contexts, [["yes", "no", "yes"]] * 4)
    np.testing.assert_allclose([value for value, _ in found], [s for r in rankings for s in r.scores], atol=1e-4)


def test_generation_settings(adapter, model):
    text = "is that a dog?"
    plain = model.generate([text] * 4, max_new_tokens=6)[0]
    short = model.generate([text] * 4, max_new_tokens=2)[0]
    word = plain.split()[1]
    settings = [{"max_gen_toks": 6}, {"max_tokens": 2}, {"max_gen_toks": 6, "until": [word.upper(), "\n"]}]
    pairs = [(text, setting) for setting in settings for _ in range(4)]
    answers = adapter.generate_until(requests(*pairs), disable_tqdm=True)
    assert answers == [plain] * 4 + [short] * 4 + [plain[: f" {plain}".index(word) - 1].strip()] * 4


@pytest.mark.parametrize(
    ("settings", "options", "length", "stops"),
    [
        ({}, Greedy(), 256, []),
        ({"until": "\nQ:", "max_new_tokens": 7}, Greedy(), 7, [" q:"]),
        ({"num_beams": 2, "length_penalty": 0.5, "max_gen_toks": 5000}, Beam(2, 0.5), 1023, []),
        ({"do_sample": True, "temperature": 2.0, "top_k": 5, "top_p": 0.9}, Sample(2.0, 5, 0.9), 256, []),
        ({"do_sample": True, "temperature": 0.0}, Greedy(), 256, []),
        ({"do_sample": False, "temperature": 0.7, "repetition_penalty": 2.0}, Greedy(), 256, []),
    ],
)
def test_decoding_follows_the_settings(adapter, settings, options, length, stops):
    assert adapter._decoding(settings) == (options, length, stops)


def test_long_contexts_lose_words_at_the_chosen_end(model):
    words = [f"{word} dog{'!' * (number % 3)}" for number, word in enumerate(WORDS * 9)]
    text, whole = " ".join(words), model.tokenizer.encode(" ".join(words))
    left, right = (harness.shorten(text, model.tokenizer, 40, side) for side in harness.SIDES)
    assert text.endswith(left)
    assert text.startswith(right)
    for part, ids in ((left, whole[-40:]), (right, whole[:40])):
        kept = model.tokenizer.encode(part)
        assert 40 - 8 < len(kept) <= 40
        assert set(kept) <= set(whole)
        assert len(set(ids) & set(kept)) > 2
    assert model.tokenizer.encode(left)[1:-1] == whole[-len(model.tokenizer.encode(left)) + 1 : -1]
    assert harness.shorten("dog", model.tokenizer, 40, "left") == "dog"
    endless = harness.shorten("dogman" * 99, model.tokenizer, 40, "left")
    assert len(model.tokenizer.encode(endless)) <= 40
    assert endless


def test_stop_strings():
    assert harness.stop_strings(["\n", "\n\nQ:", "</S>", " "], lower=True) == [" q:", "</s>"]
    assert harness.cut("yes q: no", [" q:"]) == "yes"
    assert harness.cut("faq: no", [" q:"]) == "faq: no"
    assert harness.cut("q: no", [" q:"]) == ""
    assert harness.cut("one two three", ["three", "two"]) == "one"


@pytest.mark.parametrize(("given", "used"), [(None, 32), (1, 32), ("auto:4", 32), ("8", 8), (2, 2)])
def test_batch_size(golden_dir, given, used):
    arguments = {"batch_size": given, "device": "cuda:0", "max_batch_size": None}
    lm = harness.MetroLM.create_from_arg_obj({"pretrained": str(golden_dir / "hub_tiny")}, arguments)
    assert lm.batch_size == used


def test_what_is_refused(adapter, golden_dir, task_folder, tmp_path):
    folder = str(golden_dir / "hub_tiny")
    with pytest.raises(ValueError, match=r"batchsize: not known to metro_jax, which has .*batch_size"):
        harness.MetroLM(folder, batchsize=3)
    with pytest.raises(ValueError, match="pretrained=MODEL"):
        harness.MetroLM()
    with pytest.raises(ValueError, match="choose one of left, right"):
        harness.MetroLM(folder, truncation="middle")
    with pytest.raises(ValueError, match=r"between 3 and the model.s 1024"):
        harness.MetroLM(folder, max_length=5000)
    with pytest.raises(ValueError, match="no chat template"):
        adapter.apply_chat_template([])
    with pytest.raises(ValueError, match=r"small_perplexity.*language models.*leave these tasks out"):
        run(task_folder, tmp_path, golden_dir, "small_perplexity")


@pytest.mark.slow  # the harness reads thousands of task files first
def test_the_command(task_folder, tmp_path, golden_dir):
    arguments = ["--model_args", f"pretrained={golden_dir / 'hub_tiny'}", "--tasks", "small_choice,small_answer"]
    done = subprocess.run(
        [sys.executable, "-m", "metro_jax.evaluation.harness", *arguments, "--include_path", str(task_folder),
         "--output_path", str(tmp_path / "out"), "--log_samples"],
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "small_choice" in done.stdout
    (written,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(written.read_text())["config"]["model"] == "metro_jax"
