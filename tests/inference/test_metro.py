"""`MetroT0` on the reference's tiny Hub model: ranking and generation equal to the reference, and kind to its users."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import metro_jax
from metro_jax.decoding import Beam, Sample
from metro_jax.inference import engine
from metro_jax.text.ids import swap_ids


@pytest.mark.golden
def test_rank_equals_the_reference(model: metro_jax.MetroT0, golden_dir: pathlib.Path) -> None:
    groups = json.loads((golden_dir / "rank_eval.json").read_text())["groups"]
    examples = [example for group in groups for example in group["examples"]]
    assert examples
    # All groups in one call: numbers of choices and lengths differ within a batch.
    rankings = model.rank([e["prompt"] for e in examples], [e["choices"] for e in examples])
    for example, ranking in zip(examples, rankings, strict=True):
        np.testing.assert_allclose(ranking.scores, example["scores"], rtol=1e-4, atol=1e-4)
        assert ranking.best == example["prediction"]
        assert model.tokenizer.encode(example["prompt"], max_length=512) == swap_ids(example["input_ids"])
        labels = [model.tokenizer.encode_choice(choice) for choice in example["choices"]]
        assert labels == [swap_ids(ids) for ids in example["choice_label_ids"]]
    for group in groups:
        own = [rankings[examples.index(e)].best == e["target_index"] for e in group["examples"]]
        assert np.mean(own) == pytest.approx(group["accuracy"])


@pytest.mark.golden
def test_token_scores_equal_the_reference(model: metro_jax.MetroT0, golden_dir: pathlib.Path) -> None:
    groups = json.loads((golden_dir / "rank_eval.json").read_text())["groups"]
    examples = [e for group in groups for e in group["examples"] if e["prompt"].strip()]
    pairs = [
        (e["prompt"], choice, expected)
        for e in examples
        for choice, expected in zip(e["choices"], e["token_logprobs"], strict=True)
    ]
    # `score` does not cut: the reference's numbers of longer texts belong to their first 512 tokens.
    pairs = [pair for pair in pairs if len(model.tokenizer.encode(pair[0])) <= 512][:12]
    assert pairs
    found = model.score([prompt for prompt, *_ in pairs], [choice for _, choice, _ in pairs])
    for (_, choice, expected), scores in zip(pairs, found, strict=True):
        np.testing.assert_allclose(scores.log_probabilities, expected, rtol=1e-4, atol=1e-4)
        assert scores.pieces[-1] == "</s>"
        assert len(scores.pieces) == len(model.tokenizer.encode_choice(choice))
        assert scores.total == pytest.approx(sum(expected), rel=1e-4, abs=1e-4)


def test_answers_do_not_depend_on_company_order_or_batch(model: metro_jax.MetroT0, prompts: list[str]) -> None:
    together = model.generate(prompts, max_new_tokens=9)
    assert len(together) == len(prompts)
    assert model.generate(prompts[::-1], max_new_tokens=9, batch_size=4)[::-1] == together
    assert [model.generate([text], max_new_tokens=9)[0] for text in prompts[:2]] == together[:2]


def test_scores_do_not_depend_on_company(model: metro_jax.MetroT0, prompts: list[str]) -> None:
    choices = [["yes", "no"], ["a much longer ending than the others", "no", "maybe"], ["yes"]]
    together = model.rank(prompts[:3], choices)
    for text, options, ranking in zip(prompts, choices, together, strict=False):
        np.testing.assert_allclose(model.rank([text], [options])[0].scores, ranking.scores, atol=1e-4)
        assert len(ranking.scores) == len(options)


def test_batches_of_rankings_are_the_ranking(model: metro_jax.MetroT0, prompts: list[str]) -> None:
    texts = prompts[:2]
    whole = model.rank(texts, [["yes", "no"]] * 2)
    batches = list(model.rank_batches(texts, [["yes", "no"]] * 2, batch_size=1, progress=False))
    assert [len(batch) for batch in batches] == [1, 1]
    found = dict(pair for batch in batches for pair in batch)
    assert sorted(found) == [0, 1]
    for n, ranking in found.items():
        np.testing.assert_allclose(ranking.scores, whole[n].scores, atol=1e-4)
    ((cut,),) = model.rank_batches(["word " * 40], [["yes", "no"]], max_source=12)
    kept = model.tokenizer.decode(model.tokenizer.encode("word " * 40, max_length=12))
    np.testing.assert_allclose(cut[1].scores, model.rank([kept], [["yes", "no"]])[0].scores, atol=1e-4)


def test_a_fingerprint_is_of_all_that_decides_the_answers(model: metro_jax.MetroT0, golden_dir: pathlib.Path) -> None:
    mark = model.fingerprint()
    assert len(mark) == 64
    assert metro_jax.MetroT0.from_pretrained(golden_dir / "hub_tiny").fingerprint() == mark
    assert metro_jax.MetroT0.from_pretrained(golden_dir / "hub_tiny", dtype="bfloat16").fingerprint() != mark
    params = jax.tree.map(np.array, model.params)
    params["decoder"]["layers"]["mlp"]["wo"]["bias"][0, 0] += 1e-3
    assert metro_jax.MetroT0(model.config, params, model.tokenizer).fingerprint() != mark


def test_a_seed_decides_the_draws(model: metro_jax.MetroT0, prompts: list[str]) -> None:
    draw = lambda texts, seed: model.generate(texts, max_new_tokens=8, options=Sample(), seed=seed)  # noqa: E731
    assert draw(prompts, 1) == draw(prompts, 1) != draw(prompts, 2)
    assert draw(prompts[:1], 1) == draw(prompts, 1)[:1]


def test_beam_answers_do_not_depend_on_the_batch(model: metro_jax.MetroT0, prompts: list[str]) -> None:
    options = Beam(num_beams=3, length_penalty=0.0)
    together = model.generate(prompts, max_new_tokens=6, options=options)
    assert together == model.generate(prompts, max_new_tokens=6, options=options, batch_size=2)


def test_new_lengths_in_a_bucket_do_not_compile_again(model: metro_jax.MetroT0) -> None:
    engine.generate_tokens.compiled.clear()
    texts = [" ".join(["word"] * n) for n in range(1, 40)]
    lengths = {len(model.tokenizer.encode(text)) for text in texts}
    for n, text in enumerate(texts):
        model.generate([text], max_new_tokens=3 + n % 5)
    assert len(lengths) > 10
    buckets = {metro_jax.decoding.bucket_length(length) for length in lengths}
    assert len(engine.generate_tokens.compiled) == len(buckets) < len(lengths) / 4


def test_saving_and_loading_changes_nothing(
    model: metro_jax.MetroT0, prompts: list[str], tmp_path: pathlib.Path
) -> None:
    model.save_pretrained(tmp_path / "again")
    again = metro_jax.MetroT0.from_pretrained(tmp_path / "again")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.tokenizer.fingerprint() == model.tokenizer.fingerprint()


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantize": "int8"}], ids=["bfloat16", "int8"])
def test_low_precision_is_close(
    model: metro_jax.MetroT0, golden_dir: pathlib.Path, prompts: list[str], options: dict[str, str]
) -> None:
    low = metro_jax.MetroT0.from_pretrained(golden_dir / "hub_tiny", **options)  # type: ignore[arg-type]
    choices = [["yes", "no"]] * len(prompts)
    exact, near = model.rank(prompts, choices), low.rank(prompts, choices)
    a, b = (np.asarray([r.scores for r in rankings]) for rankings in (exact, near))
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_int8_answers_and_cannot_be_saved(golden_dir: pathlib.Path, prompts: list[str], tmp_path: pathlib.Path) -> None:
    low = metro_jax.MetroT0.from_pretrained(golden_dir / "hub_tiny", quantize="int8")
    assert low.generate(prompts, max_new_tokens=9) == low.generate(prompts, max_new_tokens=9, batch_size=1)
    with pytest.raises(ValueError, match=r"int8.*without quantize"):
        low.save_pretrained(tmp_path / "again")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="quantize='int4' is not known"):
        metro_jax.MetroT0.from_pretrained(golden_dir / "hub_tiny", quantize="int4")


def test_encoder_states_do_not_depend_on_company(model: metro_jax.MetroT0, prompts: list[str]) -> None:
    together = model.encode(prompts)
    for text, states in zip(prompts[:3], together, strict=False):
        assert states.shape == (len(model.tokenizer.encode(text)), model.config.d_model)
        np.testing.assert_allclose(model.encode([text])[0], states, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.generate([]), ["[]", "at least one"]),
        (lambda m: m.generate(["fine", "  "]), ["texts[1]", "empty"]),
        (lambda m: m.generate("one string"), ["one string", "list"]),
        (lambda m: m.generate(["x"], max_new_tokens=0), ["max_new_tokens=0", "1023"]),
        (lambda m: m.generate(["x"], max_new_tokens=1024), ["1024", "1023"]),
        (lambda m: m.generate(["word " * 1500]), ["texts[0]", "1024", "truncate"]),
        (lambda m: m.generate(["x"], options=Beam(num_return_sequences=2)), ["num_return_sequences"]),
        (lambda m: m.rank(["a"], [[]]), ["choices[0]", "at least one"]),
        (lambda m: m.rank(["a", "b"], [["x"]]), ["2 texts", "1 list"]),
        (lambda m: m.rank(["a"], ["yes"]), ["choices[0]='yes'"]),
        (lambda m: m.score(["a", "b"], ["x"]), ["2 texts", "one target per text"]),
        (lambda m: m.score(["a"], ["word " * 1500]), ["targets[0]", "1024"]),
        (lambda m: m.generate(["x"], batch_size=0), ["batch_size=0"]),
        (lambda m: m.logits(np.ones((1, 1025), int), np.ones((1, 2), int)), ["1025", "1024"]),
    ],
)
def test_mistakes_name_value_and_remedy(model: metro_jax.MetroT0, call, words: list[str]) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        call(model)
    for word in words:
        assert word in str(error.value)


def test_a_folder_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        metro_jax.MetroT0.from_pretrained(tmp_path / "nowhere")


def run_python(code: str, **environment: str) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_costs_neither_tensorflow_nor_torch() -> None:
    heavy = "tensorflow torch seqio clu t5x gin"
    code = f"import sys, metro_jax, metro_jax.inference; print([m for m in {heavy.split()} if m in sys.modules])"
    assert run_python(code).strip() == "[]"
    assert run_python("import sys, metro_jax; print('jax' in sys.modules)").strip() == "False"


def test_a_mesh_of_devices_gives_the_same_answers(model: metro_jax.MetroT0, golden_dir: pathlib.Path) -> None:
    code = f"""
import jax, numpy as np, metro_jax
mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
model = metro_jax.MetroT0.from_pretrained({str(golden_dir / "hub_tiny")!r}, mesh=mesh)
texts = ["window table", "the red house plays", "island"]
print(len(jax.devices()), model.generate(texts, max_new_tokens=5))
print([r.best for r in model.rank(texts, [["yes", "no", "island"]] * 3)])
"""
    out = run_python(code, XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu")
    expected = model.generate(["window table", "the red house plays", "island"], max_new_tokens=5)
    best = [
        r.best for r in model.rank(["window table", "the red house plays", "island"], [["yes", "no", "island"]] * 3)
    ]
    assert out.splitlines() == [f"4 {expected}", f"{best}"]
