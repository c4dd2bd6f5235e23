"""Generator, RTD head and the whole objective: properties, then the reference's values and gradients."""

import functools
import itertools
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metro_jax import objectives
from metro_jax.convert import params_to_fairseq
from metro_jax.model.config import RTD_HEADS, SHARING, MetroConfig, PretrainingConfig
from metro_jax.model.pretraining import MetroPretraining
from metro_jax.text.ids import swap_ids
from tests.model.helpers import check_gradients, load_fairseq, swap_columns
from tests.test_objectives import check_metrics, criterion_config

LENGTH = 24


def batch_of(seed: int, rows: int = 3, vocab: int = 50, length: int = LENGTH) -> dict[str, jnp.ndarray]:
    rng = np.random.default_rng(seed)
    original = rng.integers(4, vocab, (rows, length))
    original[-1, length // 2 :] = 0
    masked = np.zeros_like(original, bool)
    for row in range(rows):
        n = int((original[row] != 0).sum())
        masked[row, rng.choice(n, int(0.15 * n), replace=False)] = True
    return {
        "encoder_input_tokens": jnp.asarray(np.where(masked, vocab - 1, original)),
        "generator_target_tokens": jnp.asarray(np.where(masked, original, 0)),
        "decoder_input_tokens": jnp.asarray(np.pad(original, ((0, 0), (1, 0)), constant_values=vocab - 1)[:, :-1]),
        "decoder_target_tokens": jnp.asarray(original),
    }


def init(config: MetroConfig, pretraining: PretrainingConfig, seed: int = 0) -> Any:
    model = MetroPretraining(config, pretraining=pretraining)
    keys = {"params": jax.random.key(seed), "sampling": jax.random.key(seed)}
    return nn.unbox(jax.jit(model.init)(keys, batch_of(0, vocab=config.vocab_size)))["params"]


@functools.partial(jax.jit, static_argnames=("config", "pretraining"))
def apply(
    config: MetroConfig, pretraining: PretrainingConfig, params: Any, batch: Any, seed: Any = 0, **kw: Any
) -> Any:
    model = MetroPretraining(config, pretraining=pretraining)
    return model.apply({"params": params}, batch, rngs={"sampling": jax.random.key(seed)}, **kw)


@pytest.mark.parametrize(("sharing", "head"), [*itertools.product(SHARING, RTD_HEADS)])
def test_what_is_shared_is_not_there_twice(tiny: MetroConfig, sharing: str, head: str) -> None:
    params = jax.eval_shape(lambda: init(tiny, PretrainingConfig(sharing=sharing, rtd_head=head, generator_layers=1)))
    generator = params["generator"]
    assert ("token_embedding" in generator) == (sharing == "none")
    assert ("position_embedding" in generator["encoder"]) == (sharing in ("none", "token"))
    assert ("embedding_norm" in generator["encoder"]) == (sharing != "token_pos_norm")
    assert ("dense" in params["rtd_head"]) == (head == "roberta")


@pytest.mark.parametrize(
    ("config", "sharing", "layers", "own"),
    [
        (MetroConfig.base(), "token", 4, 29_767_936),
        (MetroConfig.base(), "token_pos_norm", 4, 28_978_432),
        (MetroConfig.base_pp(), "token", 4, 29_799_168),
        (MetroConfig.large_pp(), "token_pos_norm", 6, 76_705_792),
    ],
)
def test_generator_sizes_of_the_published_configurations(
    config: MetroConfig, sharing: str, layers: int, own: int
) -> None:
    """Spec 1.1: own parameters of the auxiliary model; 592,897 or 1,052,673 of a "roberta" head."""
    shapes = jax.eval_shape(
        lambda: init(config, PretrainingConfig(sharing=sharing, rtd_head="roberta", generator_layers=layers))
    )
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert count(shapes["generator"]) == own
    assert count(shapes["rtd_head"]) == config.d_model**2 + 4 * config.d_model + 1


@pytest.mark.slow
def test_rtd_starts_undecided_and_draws_carry_no_gradient(tiny: MetroConfig) -> None:
    pretraining = PretrainingConfig(rtd_head="roberta", generator_layers=1)
    params, batch = init(tiny, pretraining), batch_of(1)
    outputs = apply(tiny, pretraining, params, batch)
    assert (outputs.rtd_logits == 0).all()

    def only_main(params: Any) -> jnp.ndarray:
        outputs = apply(tiny, pretraining, params, batch)
        return outputs.logits.sum() + outputs.rtd_logits.sum()

    gradient = jax.jit(jax.grad(only_main))(params)["generator"]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_all_masked_positions_are_replaced_by_draws_and_no_others(tiny: MetroConfig) -> None:
    pretraining, batch = PretrainingConfig(generator_layers=1), batch_of(2)
    params = init(tiny, pretraining)
    a, b = (apply(tiny, pretraining, params, batch, seed).replaced_tokens for seed in (0, 1))
    masked = batch["generator_target_tokens"] != 0
    np.testing.assert_array_equal(a[~masked], batch["decoder_target_tokens"][~masked])
    assert (a[masked] != b[masked]).any()
    np.testing.assert_array_equal(a, apply(tiny, pretraining, params, batch, 0).replaced_tokens)


def test_draws_follow_the_generator(tiny: MetroConfig) -> None:
    """Over many keys the draws at one position have the generator's own probabilities (chi-square, 50 tokens)."""
    pretraining, batch = PretrainingConfig(generator_layers=1), {k: v[:1] for k, v in batch_of(3).items()}
    params = init(tiny, pretraining)
    params["generator"]["lm_head"]["bias"] = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
    draws = 4000
    run = jax.jit(jax.vmap(lambda seed: apply(tiny, pretraining, params, batch, seed).replaced_tokens[0]))
    outputs = apply(tiny, pretraining, params, batch)
    position = int(outputs.masked_positions[0, 0])
    tokens = np.concatenate([run(jnp.arange(n, n + 500))[:, position] for n in range(0, draws, 500)])
    expected = np.asarray(jax.nn.softmax(outputs.generator_logits[0, 0])) * draws
    statistic = ((np.bincount(tokens, minlength=50) - expected) ** 2 / expected).sum()
    assert statistic < 49 + 5 * np.sqrt(2 * 49)


@pytest.mark.slow
@pytest.mark.parametrize("padding_columns", [7, 0])
def test_gathered_and_full_projection_give_the_same_gradient(tiny: MetroConfig, padding_columns: int) -> None:
    pretraining = PretrainingConfig(rtd_head="roberta", sharing="token_pos_norm", generator_layers=1)
    params = init(tiny, pretraining)
    batch = {name: jnp.pad(value, ((0, 0), (0, padding_columns))) for name, value in batch_of(4).items()}
    slots = pretraining.masked_ceiling(LENGTH + padding_columns)
    sampled = jnp.asarray(np.random.default_rng(0).integers(4, 50, (3, slots)))

    def loss(params: Any, p: PretrainingConfig) -> jnp.ndarray:
        return objectives.metro_loss(apply(tiny, p, params, batch, sampled_tokens=sampled), p).total

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    lean, full = gradient(params, pretraining), gradient(params, pretraining.replace(full_metrics=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 + 1e-5 * np.abs(b).max()), lean, full)


def test_compiled_step_holds_no_tensor_of_batch_length_vocabulary() -> None:
    """Design decision 3, read off the optimised program of forward and backward pass together."""
    batch_size, length, vocab = 6, 40, 211  # sizes whose products occur nowhere else
    config = MetroConfig(vocab, 16, 4, 24, 2, 2)
    text = {}
    for full in (False, True):
        pretraining = PretrainingConfig(generator_layers=1, full_metrics=full)
        batch = batch_of(5, batch_size, vocab, length)
        shapes = jax.eval_shape(lambda p=pretraining: init(config, p))

        def loss(params: Any, batch: Any, p: PretrainingConfig = pretraining) -> Any:
            sums = objectives.metro_loss(apply(config, p, params, batch), p)
            return sums.total, sums.metrics

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        text[full] = step.lower(shapes, batch).compile().as_text()
    forbidden = batch_size * length * vocab

    def found(program: str) -> list[str]:
        """Shapes that hold as many numbers, or that have a vocabulary axis and more."""
        shapes = {dims: [int(n) for n in dims.split(",")] for dims in re.findall(r"\w+\[([\d,]+)\]", program)}
        return [
            text for text, dims in shapes.items()
            if np.prod(dims) == forbidden or (vocab in dims and np.prod(dims) > forbidden)
        ]  # fmt: skip

    assert found(text[True])  # the search finds such tensors where there are some
    assert not found(text[False])


def expected_batch(arrays: dict[str, np.ndarray]) -> tuple[dict[str, jnp.ndarray], jnp.ndarray]:
    """The fixture's batch and draws, the latter per row and masked position."""
    names = {
        "encoder_input_tokens": "src_tokens",
        "generator_target_tokens": "generator_target",
        "decoder_target_tokens": "discriminator_target",
        "decoder_input_tokens": "prev_output_tokens",
    }
    batch = {ours: jnp.asarray(swap_ids(arrays[theirs])) for ours, theirs in names.items()}
    masked = batch["generator_target_tokens"] != 0
    rows, columns = np.nonzero(masked)
    sampled = np.zeros_like(masked, np.int64)
    sampled[rows, (np.cumsum(masked, axis=1) - 1)[rows, columns]] = swap_ids(arrays["sampled_ids"])
    return batch, jnp.asarray(sampled)


@pytest.mark.golden
def test_values_losses_and_gradients_equal_the_reference(golden_dir: pathlib.Path) -> None:
    expected = json.loads((golden_dir / "metro_pretrain_expected.json").read_text())["combos"]
    with np.load(golden_dir / "metro_pretrain_expected.npz") as loaded:
        arrays = dict(loaded)
    batch, sampled = expected_batch(arrays)
    everything = {"target": "none", "max_masked_positions": sampled.shape[1], "full_metrics": True}
    assert expected
    for model in sorted({".".join(name.split(".")[:2]) for name in expected}):
        config, pretraining, params = load_fairseq(golden_dir, f"model.{model}")
        assert pretraining is not None
        pretraining = pretraining.replace(**everything)

        # The network's backward pass is compiled once per model, the losses' once per case: the chain rule joins them.
        def forward(params: Any, config: Any = config, pretraining: Any = pretraining) -> Any:
            outputs = apply(config, pretraining, params, batch, sampled_tokens=sampled)
            return {name: getattr(outputs, name) for name in ("generator_logits", "rtd_logits", "logits")}

        outputs = apply(config, pretraining, params, batch, sampled_tokens=sampled)
        backward = jax.jit(lambda params, cotangent, forward=forward: jax.vjp(forward, params)[1](cotangent)[0])
        check_values(model, outputs, arrays, batch)
        for name in [n for n in expected if n.startswith(f"{model}.")]:
            settings = criterion_config(expected[name]["criterion"], sampled.shape[1])

            def total(heads: Any, outputs: Any = outputs, settings: PretrainingConfig = settings) -> Any:
                sums = objectives.metro_loss(outputs.replace(**heads), settings)
                return sums.total, sums

            cotangent, sums = jax.grad(total, has_aux=True)(forward(params))
            check_metrics(sums, expected[name])
            gradients = params_to_fairseq(config, backward(params, cotangent), pretraining, dtype="float32")
            check_gradients(gradients, arrays, f"{name}.grad.")
        masked_input = MetroPretraining(config, pretraining=pretraining).apply(
            {"params": params}, batch["encoder_input_tokens"], method="encode"
        )
        valid = batch["decoder_target_tokens"] != 0
        np.testing.assert_allclose(
            masked_input[valid], arrays[f"{model}.encoder_out_of_masked_input"][valid], atol=1e-4
        )


def check_values(model: str, outputs: Any, arrays: dict[str, np.ndarray], batch: dict[str, jnp.ndarray]) -> None:
    """Logits of all three heads and the encoder output where the fixture defines them."""
    valid, masked = batch["decoder_target_tokens"] != 0, batch["generator_target_tokens"] != 0
    rows, columns = np.nonzero(masked)
    slots = (np.cumsum(masked, axis=1) - 1)[rows, columns]
    np.testing.assert_array_equal(outputs.replaced_tokens, swap_ids(arrays["replaced_tokens_input"]))
    compared = {
        "logits": (swap_columns(outputs.logits)[valid], arrays[f"{model}.logits"][valid]),
        "rtd_logits": (outputs.rtd_logits[valid], arrays[f"{model}.rtd_logits"][valid]),
        "encoder_out": (outputs.encoded[valid], arrays[f"{model}.encoder_out"][valid]),
        "generator_logits_masked": (
            swap_columns(outputs.generator_logits)[rows, slots],
            arrays[f"{model}.generator_logits_masked"],
        ),
    }
    for what, (ours, theirs) in compared.items():
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0, err_msg=f"{model} {what}")


@pytest.mark.golden
def test_initialisation_has_the_statistics_of_the_reference(golden_dir: pathlib.Path) -> None:
    """Mean, spread and largest magnitude of every freshly initialised tensor, in the training form's names."""
    everything = json.loads((golden_dir / "init_stats.json").read_text())
    assert everything
    for sharing, stats in everything.items():
        tensors = {name: entry for name, entry in stats.items() if isinstance(entry, dict) and "shape" in entry}
        config, pretraining = sizes_from(tensors, sharing)
        ours = params_to_fairseq(config, init(config, pretraining, seed=7), pretraining, dtype="float32")
        for name, entry in tensors.items():
            if name.endswith("version"):
                continue
            check_tensor(name, np.asarray(ours[name]), entry)
        for name, norm in stats.get("_pad_row_norm", {}).items():
            # Row 1 is the pad's in the fixture's numbering.
            got = float(np.linalg.norm(ours[name][1]))
            assert got == 0 if norm == 0 else 0.5 < got / norm < 2, name


def sizes_from(tensors: dict[str, Any], sharing: str) -> tuple[MetroConfig, PretrainingConfig]:
    """Sizes of the fixture's model, read off the shapes."""
    vocab, d_model = tensors["encoder.embed_tokens.weight"]["shape"]
    buckets, heads = tensors["encoder.layers.0.self_attn_rel_pos.rel_attn_bias.weight"]["shape"]

    def depth(prefix: str) -> int:
        return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix))

    config = MetroConfig(
        vocab_size=vocab,
        d_model=d_model,
        num_heads=heads,
        d_ff=tensors["encoder.layers.0.fc1.weight"]["shape"][0],
        num_encoder_layers=depth("encoder.layers."),
        num_decoder_layers=depth("decoder.layers."),
        relative_attention_num_buckets=buckets,
        position_rows=tensors["encoder.embed_positions.weight"]["shape"][0],
    )
    head = "roberta" if any(name.startswith("rtd_head.dense") for name in tensors) else "simple"
    generator_layers = depth("generator.sentence_encoder.layers.")
    return config, PretrainingConfig(sharing=sharing, rtd_head=head, generator_layers=generator_layers)


def check_tensor(name: str, ours: np.ndarray, entry: dict[str, Any]) -> None:
    """Two samples of the same distribution: within five standard errors, and extremes of the same size."""
    assert list(ours.shape) == entry["shape"], name
    if entry["std"] == 0:
        np.testing.assert_array_equal(ours, entry["mean"], err_msg=name)
        return
    error = 5 / np.sqrt(ours.size) * np.sqrt(2)
    assert abs(ours.mean() - entry["mean"]) < error * entry["std"] + 1e-8, name
    assert abs(ours.std() / entry["std"] - 1) < error, (name, ours.std(), entry["std"])
    assert 0.6 < np.abs(ours).max() / entry["absmax"] < 1.6, name
