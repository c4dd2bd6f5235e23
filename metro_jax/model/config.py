"""Sizes and switches of the network. Plain data: knows neither JAX nor any checkpoint format."""

import dataclasses
import difflib
from typing import Any, Self

DTYPES = ("float32", "bfloat16", "float16")
REMAT = ("none", "minimal", "full")
PADDING = ("training", "hub")
SHARING = ("none", "token", "token_pos", "token_pos_norm")
RTD_HEADS = ("simple", "roberta")
LM_TARGETS = ("none", "lm", "both")

# Position row of the first real token is 2: the tables of the reference reserve rows 0 and 1 (pad) (spec 2.1).
PAD_POSITION = 1


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, known))}{hint}")


def _at_least(config: Any, bound: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < bound:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {bound}")


def _rates(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}={value!r} must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class MetroConfig:
    """The encoder-decoder (spec 1 and 2); the defaults are the base model.

    Args:
        vocab_size: rows of the token matrix, sentinels included.
        d_model, num_heads, d_ff: widths; a head is d_model // num_heads wide.
        relative_attention_num_buckets, relative_attention_max_distance: the encoder's relative bias (spec 2.4).
        max_positions: size of the table the relative buckets are shifted by (spec 2.4); not a limit on length.
        position_rows: rows of each position table, two more than the longest sequence (spec 2.1).
        dropout_rate, attention_dropout_rate, mlp_dropout_rate: after sublayers, on attention weights, inside the MLP.
        decoder_start_token: first decoder input of finetuned models, in metro_jax ids (spec 2.7).
        dtype: of the computation; parameters are float32, and softmax, norms and losses run in float32 (spec 2.8).
        remat: what the backward pass recomputes: nothing ("none"), all but matrix products ("minimal"), or each whole
            layer ("full").
        padding: "training" hides pads by id and zeroes their embedding, "hub" hides them by mask only (spec 2.6).
    """

    vocab_size: int = 33280
    d_model: int = 768
    num_heads: int = 12
    d_ff: int = 3072
    num_encoder_layers: int = 12
    num_decoder_layers: int = 12
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    max_positions: int = 1024
    position_rows: int = 1026
    layer_norm_epsilon: float = 1e-5
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    mlp_dropout_rate: float = 0.0
    decoder_start_token: int = 2
    dtype: str = "float32"
    remat: str = "none"
    padding: str = "training"

    def __post_init__(self) -> None:
        _at_least(self, 1, "vocab_size", "d_model", "num_heads", "d_ff", "num_encoder_layers", "num_decoder_layers")
        _at_least(self, 8, "relative_attention_num_buckets")
        _at_least(self, 1, "max_positions", "relative_attention_max_distance")
        _at_least(self, 3, "position_rows")
        _rates(self, "dropout_rate", "attention_dropout_rate", "mlp_dropout_rate")
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("remat", self.remat, REMAT)
        _one_of("padding", self.padding, PADDING)
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model={self.d_model} is not a multiple of num_heads={self.num_heads}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head (d // h, which also sets the attention scale, spec 2.3)."""
        return self.d_model // self.num_heads

    @property
    def max_length(self) -> int:
        """Longest sequence the position tables can tell apart: 1024 for every published model."""
        return self.position_rows - PAD_POSITION - 1

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; unknown names raise with the nearest known one."""
        return _replace(self, changes)

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """METRO base: 225,618,432 parameters (spec 1.1)."""
        return cls().replace(**changes)

    @classmethod
    def base_pp(cls, **changes: Any) -> Self:
        """METRO base++: the base network on the 64k vocabulary, 249,604,608 parameters (spec 1.1)."""
        return cls(vocab_size=64512).replace(**changes)

    @classmethod
    def large_pp(cls, **changes: Any) -> Self:
        """METRO large++ as trained: 773,644,288 parameters, relative distance 256 (published Hub configs say 128)."""
        return cls(
            vocab_size=64512,
            d_model=1024,
            num_heads=16,
            d_ff=4096,
            num_encoder_layers=24,
            num_decoder_layers=24,
            relative_attention_num_buckets=128,
            relative_attention_max_distance=256,
        ).replace(**changes)


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """What pretraining adds: the generator, the RTD head, and the objective (spec 3 and 5).

    Args:
        generator_layers: depth of the auxiliary model; its widths are the main model's.
        generator_dropout_rate: 0 in every published configuration (spec 3.1).
        sharing: what the generator shares with the main encoder (spec 3.2); the reference's `true` means "token".
        rtd_head: "simple" or "roberta" (spec 3.3); the reference's `true` means "simple".
        target: where the losses look (`masked_positions_only`, spec 5.2): every published configuration uses "lm".
        weighted_lm_loss, divide_by_mean_weight: weigh the corrective LM loss by the RTD probability (spec 5.2).
        lm_loss_weight, rtd_loss_weight: the two lambdas of spec 5.3.
        rtd_only: drop the corrective LM loss.
        mask_rate: share of masked positions, for the ceiling below.
        max_masked_positions: ceiling per row on masked positions; None means floor(mask_rate * length) + 1, which
            unpacked rows cannot exceed. Positions beyond it carry no loss; the metric `dropped_masks` is their share in
            percent.
        full_metrics: also project unmasked positions in target "lm" and "both", for `unreplaced_accuracy`. Costs a
            tensor of batch x length x vocabulary.
    """

    generator_layers: int = 4
    generator_dropout_rate: float = 0.0
    sharing: str = "token"
    rtd_head: str = "simple"
    target: str = "lm"
    weighted_lm_loss: bool = False
    divide_by_mean_weight: bool = False
    label_smoothing: float = 0.0
    lm_loss_weight: float = 1.0
    rtd_loss_weight: float = 50.0
    rtd_only: bool = False
    mask_rate: float = 0.15
    max_masked_positions: int | None = None
    full_metrics: bool = False

    def __post_init__(self) -> None:
        _at_least(self, 1, "generator_layers")
        _rates(self, "generator_dropout_rate", "label_smoothing", "mask_rate")
        _one_of("sharing", self.sharing, SHARING)
        _one_of("rtd_head", self.rtd_head, RTD_HEADS)
        _one_of("target", self.target, LM_TARGETS)
        if self.max_masked_positions is not None:
            _at_least(self, 1, "max_masked_positions")

    def masked_ceiling(self, length: int) -> int:
        """How many masked positions a row of `length` tokens may have (spec 4.2: floor(rate * n + U), U < 1)."""
        if self.max_masked_positions is not None:
            return min(self.max_masked_positions, length)
        return min(int(self.mask_rate * length) + 1, length)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; unknown names raise with the nearest known one."""
        return _replace(self, changes)

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """As published for base: corrective LM loss weighted by the RTD probability (spec 5.3)."""
        return cls(weighted_lm_loss=True).replace(**changes)

    @classmethod
    def base_pp(cls, **changes: Any) -> Self:
        """As published for base++."""
        return cls(rtd_head="roberta", sharing="token_pos_norm").replace(**changes)

    @classmethod
    def large_pp(cls, **changes: Any) -> Self:
        """As published for large++."""
        return cls(generator_layers=6, rtd_head="roberta").replace(**changes)


def _replace(config: Any, changes: dict[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        _one_of(f"{type(config).__name__} field", name, tuple(known))
    return dataclasses.replace(config, **changes)
