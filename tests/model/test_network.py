"""The encoder-decoder: properties first, then the numbers of the Hub form and of the training form."""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from metro_jax import objectives
from metro_jax.convert import load_hub_folder, params_to_fairseq
from metro_jax.model.config import MetroConfig
from metro_jax.model.network import EncoderDecoder, init_params
from metro_jax.text.ids import swap_ids
from tests.model.helpers import check_gradients, load_fairseq, swap_columns


def ids(seed: int, shape: tuple[int, int], vocab: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).integers(4, vocab, shape), jnp.int32)


@functools.partial(jax.jit, static_argnames=("config", "deterministic"))
def logits_of(
    config: MetroConfig, params: Any, source: Any, target: Any, *masks: Any, rngs: Any = None, **options: Any
):
    return EncoderDecoder(config).apply({"params": params}, source, target, *masks, rngs=rngs, **options)


def test_decoder_is_causal(tiny: MetroConfig, tiny_params: Any) -> None:
    """A later decoder token changes nothing before it, and every earlier one does."""
    source, target = ids(0, (1, 6), 50), ids(1, (1, 5), 50)
    plain = logits_of(tiny, tiny_params, source, target)
    for t in range(5):
        other = logits_of(tiny, tiny_params, source, target.at[0, t].set((target[0, t] - 3) % 46 + 4))
        moved = np.abs(other - plain)[0].max(axis=-1)
        assert (moved[:t] == 0).all()
        assert (moved[t:] > 1e-4).all()


def test_every_encoder_position_reaches_every_output(tiny: MetroConfig, tiny_params: Any) -> None:
    source, target = ids(0, (1, 6), 50), ids(1, (1, 5), 50)
    plain = logits_of(tiny, tiny_params, source, target)
    for t in range(6):
        other = logits_of(tiny, tiny_params, source.at[0, t].set((source[0, t] - 3) % 46 + 4), target)
        assert (np.abs(other - plain)[0].max(axis=-1) > 1e-5).all()


@pytest.mark.parametrize("padding", ["training", "hub"])
def test_padding_does_not_change_valid_positions(tiny: MetroConfig, tiny_params: Any, padding: str) -> None:
    config = tiny.replace(padding=padding)
    source, target = ids(0, (2, 7), 50), ids(1, (2, 5), 50)
    plain = logits_of(config, tiny_params, source, target)
    wide = jnp.pad(source, ((0, 0), (0, 4)))
    mask = (wide != 0).astype(jnp.int32)
    padded = logits_of(config, tiny_params, wide, jnp.pad(target, ((0, 0), (0, 3))), mask)
    np.testing.assert_allclose(padded[:, :5], plain, atol=1e-5)


def test_rows_do_not_see_each_other(tiny: MetroConfig, tiny_params: Any) -> None:
    source, target = ids(0, (4, 7), 50), ids(1, (4, 5), 50)
    together = logits_of(tiny, tiny_params, source, target)
    for row in range(4):
        alone = logits_of(tiny, tiny_params, source[row : row + 1], target[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_pads_are_skipped_by_positions(tiny: MetroConfig, tiny_params: Any) -> None:
    """A pad in front of or between tokens moves no position row (spec 2.1); only relative distances change."""
    from metro_jax.model.network import position_rows

    rows = position_rows(jnp.asarray([[0, 5, 6, 0, 7], [5, 6, 7, 0, 0]]))
    np.testing.assert_array_equal(rows, [[1, 2, 3, 1, 4], [2, 3, 4, 1, 1]])


def test_packed_rows_equal_separate_rows(tiny: MetroConfig, tiny_params: Any) -> None:
    first, second = ids(0, (1, 6), 50), ids(1, (1, 4), 50)
    a, b = ids(2, (1, 3), 50), ids(3, (1, 5), 50)
    join = lambda *parts: jnp.asarray([[x for part in parts for x in part]])  # noqa: E731
    packed = logits_of(
        tiny,
        tiny_params,
        jnp.pad(jnp.concatenate([first, second], axis=1), ((0, 0), (0, 2))),
        jnp.concatenate([a, b], axis=1),
        encoder_positions=join(range(6), range(4), [0, 0]),
        encoder_segment_ids=join([1] * 6, [2] * 4, [0, 0]),
        decoder_positions=join(range(3), range(5)),
        decoder_segment_ids=join([1] * 3, [2] * 5),
    )
    np.testing.assert_allclose(packed[:, :3], logits_of(tiny, tiny_params, first, a), atol=1e-5)
    np.testing.assert_allclose(packed[:, 3:], logits_of(tiny, tiny_params, second, b), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["minimal", "full"])
def test_recomputation_changes_no_gradient(tiny: MetroConfig, tiny_params: Any, remat: str) -> None:
    source, target = ids(0, (2, 7), 50), ids(1, (2, 5), 50)

    def loss(params: Any, config: MetroConfig) -> jnp.ndarray:
        rngs = {"dropout": jax.random.key(3)}
        out = EncoderDecoder(config).apply({"params": params}, source, target, deterministic=False, rngs=rngs)
        return (out**2).mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain = gradient(tiny_params, tiny)
    again = gradient(tiny_params, tiny.replace(remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4), plain, again)


def test_dropout_depends_on_its_key_alone(tiny: MetroConfig, tiny_params: Any) -> None:
    source, target = ids(0, (2, 7), 50), ids(1, (2, 5), 50)
    run = lambda seed: logits_of(  # noqa: E731
        tiny, tiny_params, source, target, deterministic=False, rngs={"dropout": jax.random.key(seed)}
    )
    np.testing.assert_array_equal(run(0), run(0))
    assert float(jnp.abs(run(0) - run(1)).max()) > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_stays_near_float32_and_gives_float32_logits(
    tiny: MetroConfig, tiny_params: Any, dtype: str
) -> None:
    source, target = ids(0, (2, 7), 50), ids(1, (2, 5), 50)
    exact = logits_of(tiny, tiny_params, source, target)
    low = logits_of(tiny.replace(dtype=dtype), tiny_params, source, target)
    assert low.dtype == jnp.float32
    # Two layers of eight-bit (bfloat16) or eleven-bit (float16) mantissas.
    scale = float(jnp.abs(exact).max())
    assert 0 < float(jnp.abs(low - exact).max()) < scale * (0.1 if dtype == "bfloat16" else 0.01)


def test_too_long_a_sequence_is_refused(tiny: MetroConfig, tiny_params: Any) -> None:
    with pytest.raises(ValueError, match=r"65 positions.*64"):
        logits_of(tiny, tiny_params, ids(0, (1, 65), 50), ids(0, (1, 3), 50))
    with pytest.raises(ValueError, match=r"decoder.*65"):
        logits_of(tiny, tiny_params, ids(0, (1, 3), 50), ids(0, (1, 65), 50))


def test_every_parameter_names_its_logical_axes(tiny: MetroConfig) -> None:
    one = jnp.ones((1, 1), jnp.int32)
    boxed = jax.eval_shape(EncoderDecoder(tiny).init, jax.random.key(0), one, one)["params"]
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    known = {"vocab", "embed", "abspos_buckets", "relpos_buckets", "heads", "kv", "mlp", "layers"}
    for leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned)
        assert len(leaf.names) == leaf.value.ndim
        assert set(leaf.names) <= known


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (MetroConfig.base(), 225_618_432),
        (MetroConfig.base_pp(), 249_604_608),
        (MetroConfig.large_pp(), 773_644_288),
    ],
)
def test_parameter_counts_of_the_published_sizes(config: MetroConfig, count: int) -> None:
    shapes = jax.eval_shape(lambda: init_params(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.fixture(scope="module")
def hub(golden_dir: pathlib.Path) -> tuple[MetroConfig, Any, dict[str, np.ndarray]]:
    config, params, _ = load_hub_folder(golden_dir / "hub_tiny")
    with np.load(golden_dir / "hub_tiny_expected.npz") as arrays:
        return config, params, dict(arrays)


@functools.partial(jax.jit, static_argnames="config")
def everything(config: MetroConfig, params: Any, *inputs: Any) -> tuple[Any, ...]:
    """Encoder output, logits, all hidden states."""
    model = EncoderDecoder(config, collect=True)
    encoded, decoded, *states = model.apply({"params": params}, *inputs, method="hidden_states")
    return encoded, model.apply({"params": params}, decoded, method="project"), *states


@pytest.mark.golden
def test_hub_form_equals_the_reference(hub: tuple[MetroConfig, Any, dict[str, np.ndarray]]) -> None:
    config, params, arrays = hub
    assert config.padding == "hub"
    runs = {name.rsplit(".", 1)[0] for name in arrays if name.endswith((".mask.logits", ".nomask.logits"))}
    assert runs
    for run in sorted(runs):
        case, kind = run.split(".")
        source, target = swap_ids(arrays[f"{case}.input_ids"]), swap_ids(arrays[f"{case}.decoder_input_ids"])
        encoder_mask = arrays[f"{case}.attention_mask"] if kind == "mask" else None
        decoder_mask = arrays.get(f"{case}.decoder_attention_mask") if kind == "mask" else None
        encoded, logits, encoder_states, decoder_states = everything(
            config, params, source, target, encoder_mask, decoder_mask
        )
        compared = {"logits": swap_columns(logits), "encoder_last_hidden_state": encoded}
        compared |= {f"encoder_hidden_states.{n}": state for n, state in enumerate(encoder_states)}
        compared |= {f"decoder_hidden_states.{n}": state for n, state in enumerate(decoder_states)}
        expected = {name.removeprefix(f"{run}."): value for name, value in arrays.items() if name.startswith(f"{run}.")}
        for name, value in expected.items():
            if name == "loss":
                continue
            known = np.isfinite(value)
            np.testing.assert_allclose(
                np.asarray(compared[name])[known], value[known], atol=1e-4, rtol=0, err_msg=f"{run} {name}"
            )
        if "loss" in expected:
            labels = arrays[f"{case}.labels"]
            ours = np.where(labels == -100, -100, swap_ids(labels))
            np.testing.assert_allclose(objectives.hub_loss(logits, jnp.asarray(ours)), expected["loss"], rtol=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["t5", "finetune"])
def test_training_form_equals_the_reference_with_gradients(golden_dir: pathlib.Path, kind: str) -> None:
    config, _, params = load_fairseq(golden_dir, "finetuned")
    expected = json.loads((golden_dir / "seq2seq_expected.json").read_text())
    with np.load(golden_dir / "seq2seq_expected.npz") as loaded:
        arrays = {name.removeprefix(f"{kind}."): loaded[name] for name in loaded if name.startswith(f"{kind}.")}
    source, target, inputs = (jnp.asarray(swap_ids(arrays[n])) for n in ("src_tokens", "target", "prev_output_tokens"))
    cases = [name for name in expected if name.startswith(f"{kind}.eps")]
    assert cases
    for name in cases:
        smoothing = float(name.removeprefix(f"{kind}.eps"))

        def total(params: Any, smoothing: float = smoothing) -> Any:
            logits = logits_of(config, params, source, inputs)
            sums = objectives.sequence_loss(logits, target, label_smoothing=smoothing)
            return sums.total, (sums, logits)

        gradients, (sums, logits) = jax.jit(jax.grad(total, has_aux=True))(params)
        valid = arrays["target"] != 1
        np.testing.assert_allclose(swap_columns(logits)[valid], arrays["logits"][valid], atol=1e-4)
        np.testing.assert_allclose(sums.total, expected[name]["loss"], rtol=1e-4)
        assert float(sums.normalizer) == expected[name]["sample_size"]
        values = objectives.summarize(sums.metrics)
        for metric in ("loss", "nll_loss", "accuracy"):
            assert abs(values[metric] - expected[name]["metrics"][metric]) < 1e-3
        check_gradients(params_to_fairseq(config, gradients, dtype="float32"), arrays, f"eps{smoothing}.grad.")
