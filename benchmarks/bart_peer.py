"""The peer of the inference benchmarks: transformers' BART in PyTorch, with the very weights of a metro_jax model.

BART (post-LN, ReLU, learned positions from row 2, one token matrix for inputs and output) is METRO without the relative
bias. With that bias at zero the two are the same function, and the benchmarks check it before they time anything.
"""

from typing import Any

import jax
import numpy as np

from metro_jax.model.config import MetroConfig

# In metro_jax ids, so that both sides read the same arrays.
PAD, BOS, EOS = 0, 1, 2
MISSING = (
    "the peer is missing: {error}. Install it with `pip install torch transformers` (on a machine without GPU from "
    "PyTorch's CPU index), or measure metro_jax alone with --sides ours."
)


def import_peer() -> tuple[Any, Any]:
    """torch and transformers, or an exit that says what to install."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise SystemExit(MISSING.format(error=error)) from None
    transformers.logging.set_verbosity_error()
    return torch, transformers


def device(torch: Any) -> str:
    """Where JAX computes is where torch must compute too."""
    if jax.default_backend() == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    raise SystemExit(f"JAX computes on {jax.devices()[0]}, but torch finds no GPU: nothing would be compared")


def bart(config: MetroConfig, params: Any, dtype: str) -> Any:
    """BartForConditionalGeneration with the weights of `params`, on JAX's device, ready to generate."""
    torch, transformers = import_peer()
    shape = transformers.BartConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_length,
        d_model=config.d_model,
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        encoder_attention_heads=config.num_heads,
        decoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.d_ff,
        decoder_ffn_dim=config.d_ff,
        activation_function="relu",
        scale_embedding=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=config.decoder_start_token,
        forced_eos_token_id=None,
        forced_bos_token_id=None,
    )
    model = transformers.BartForConditionalGeneration(shape).eval()
    state = model.state_dict()
    for name, value in state_dict(config, params).items():
        if state[name].shape != value.shape:
            raise SystemExit(f"{name}: this transformers has {tuple(state[name].shape)}, not {value.shape}")
        state[name] = torch.from_numpy(value)
    model.load_state_dict(state)
    model.tie_weights()
    model.generation_config.eos_token_id = None  # both sides generate exactly as many tokens as asked for
    return model.to(device(torch), getattr(torch, dtype))


def state_dict(config: MetroConfig, params: Any) -> dict[str, np.ndarray]:
    """The main model's parameters under BART's names, kernels transposed to output by input."""
    state: dict[str, np.ndarray] = {}
    for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
        state[f"model.{name}.weight"] = np.array(params["token_embedding"], np.float32)
    state["lm_head.weight"] = state["model.shared.weight"]
    for side, count in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        tree = jax.tree.map(lambda p: np.asarray(p, np.float32), params[side])
        state[f"model.{side}.embed_positions.weight"] = tree["position_embedding"]
        norm(state, f"model.{side}.layernorm_embedding", tree["embedding_norm"])
        for n in range(count):
            layer(state, f"model.{side}.layers.{n}", jax.tree.map(lambda p, n=n: p[n], tree["layers"]))
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def layer(state: dict[str, np.ndarray], name: str, tree: Any) -> None:
    """One layer of either stack; the decoder's has cross attention too."""
    blocks = [("self_attention", "self_attn"), ("cross_attention", "encoder_attn")]
    for ours, theirs in [block for block in blocks if block[0] in tree]:
        for part, projection in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
            linear(state, f"{name}.{theirs}.{projection}", tree[ours][part], inputs=2 if part == "out" else 1)
        norm(state, f"{name}.{theirs}_layer_norm", tree[f"{ours}_norm"])
    linear(state, f"{name}.fc1", tree["mlp"]["wi"])
    linear(state, f"{name}.fc2", tree["mlp"]["wo"])
    norm(state, f"{name}.final_layer_norm", tree["mlp_norm"])


def linear(state: dict[str, np.ndarray], name: str, tree: Any, inputs: int = 1) -> None:
    """A kernel of ours has its `inputs` input axes first."""
    kernel = tree["kernel"].reshape(int(np.prod(tree["kernel"].shape[:inputs])), -1)
    state[f"{name}.weight"], state[f"{name}.bias"] = kernel.T, tree["bias"].reshape(-1)


def norm(state: dict[str, np.ndarray], name: str, tree: Any) -> None:
    """A LayerNorm."""
    state[f"{name}.weight"], state[f"{name}.bias"] = tree["scale"], tree["bias"]


def generate(model: Any, tokens: np.ndarray, new: int, **options: Any) -> np.ndarray:
    """`new` greedy tokens per row by transformers' own `generate`, start token first."""
    torch, _ = import_peer()
    with torch.inference_mode():
        source = torch.from_numpy(tokens.astype(np.int64)).to(model.device)
        found = model.generate(
            input_ids=source,
            attention_mask=(source != PAD).long(),
            max_new_tokens=new,
            do_sample=False,
            num_beams=1,
            **options,
        )
        return found.cpu().numpy()  # which waits for the device


def logits(model: Any, tokens: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float32 logits of a plain forward pass."""
    torch, _ = import_peer()
    with torch.inference_mode():
        source, labels = (torch.from_numpy(x.astype(np.int64)).to(model.device) for x in (tokens, target))
        found = model(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=labels)
        return found.logits.float().cpu().numpy()
