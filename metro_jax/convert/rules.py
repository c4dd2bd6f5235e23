"""Rule tables: what a format calls each parameter, read in both directions.

A rule says: this stored tensor, of these axes, is this entry of the parameter tree, of these axes, by this change. Axes
are letters; their sizes are never told but solved from the checkpoint (`apply.match`) or a configuration (`sizes_of`):

    V vocabulary   P position rows   d model width   f feed-forward width   B relative buckets   h heads   k = d / h
    L, D, G layers of encoder, decoder, generator: the leading axis of stacked parameters, `{i}` in a tensor's name

Stored linear maps are [out, in], kernels of the tree [in, out] with heads as an axis of their own. Rows 0 and 1 of
whatever is indexed by the vocabulary change places: stored ids have bos 0 and pad 1, metro_jax ids pad 0 and bos 1.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from metro_jax.convert.lazy import LazyTensor
from metro_jax.model.config import MetroConfig

Sizes = dict[str, int]
Tensor = LazyTensor | np.ndarray


@dataclasses.dataclass(frozen=True)
class Change:
    """How the values of a stored tensor become those of a parameter of the given shape, and back."""

    name: str
    to_param: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    to_tensor: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def _swap_rows(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    swapped = x.copy()
    swapped[[0, 1]] = x[[1, 0]]
    return swapped


RESHAPE = Change("reshape", lambda x, shape: x.reshape(shape), lambda x, shape: x.reshape(shape))
TRANSPOSE = Change(
    "transpose", lambda x, shape: x.T.reshape(shape), lambda x, shape: x.reshape(tuple(reversed(shape))).T
)
SWAP_ROWS = Change("swap rows 0 and 1", _swap_rows, _swap_rows)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One stored tensor (per layer) and its place in the tree.

    Args:
        tensor: its name, with `{i}` for the layer.
        axes: of the stored tensor, letters separated by blanks.
        param: path in the tree, steps separated by slashes.
        param_axes: of the parameter, without the leading axis of layers.
        change: how one becomes the other.
        layers: letter of the layer count for stacked parameters, else "".
        copies: further names of the same values; any subset may be present, the first of them in this order counts.
        copies_agree: the copies present must be equal; otherwise the first one wins.
    """

    tensor: str
    axes: str
    param: str
    param_axes: str
    change: Change
    layers: str = ""
    copies: tuple[str, ...] = ()
    copies_agree: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return (self.tensor, *self.copies)

    def tensor_shape(self, sizes: Sizes) -> tuple[int, ...]:
        return resolve(self.axes, sizes)

    def layer_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Shape of the parameter of one layer."""
        return resolve(self.param_axes, sizes)

    def param_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Shape of the parameter, layers stacked."""
        return ((sizes[self.layers],) if self.layers else ()) + self.layer_shape(sizes)

    def name(self, layer: int) -> str:
        return self.tensor.replace("{i}", str(layer))


def resolve(axes: str, sizes: Sizes) -> tuple[int, ...]:
    """Letters to numbers."""
    return tuple(_size(axis, sizes) for axis in axes.split())


def _size(axis: str, sizes: Sizes) -> int:
    if axis == "1":
        return 1
    if axis == "k":
        return sizes["d"] // sizes["h"]
    return sizes[axis]


def sizes_of(config: MetroConfig) -> Sizes:
    """The letters above for a configuration (those of the main model)."""
    return {
        "V": config.vocab_size,
        "P": config.position_rows,
        "d": config.d_model,
        "f": config.d_ff,
        "B": config.relative_attention_num_buckets,
        "h": config.num_heads,
        "L": config.num_encoder_layers,
        "D": config.num_decoder_layers,
    }


def config_fields(sizes: Sizes) -> dict[str, int]:
    """The inverse of `sizes_of`, as fields of MetroConfig."""
    return {
        "vocab_size": sizes["V"],
        "position_rows": sizes["P"],
        "d_model": sizes["d"],
        "d_ff": sizes["f"],
        "relative_attention_num_buckets": sizes["B"],
        "num_heads": sizes["h"],
        "num_encoder_layers": sizes["L"],
        "num_decoder_layers": sizes["D"],
    }


# -- the building blocks that tables of both formats are made of


def linear(tensor: str, param: str, wide: str, layers: str = "") -> list[Rule]:
    """A linear map with bias; `wide` is "out in" in letters."""
    out, inner = wide.split()
    return [
        Rule(f"{tensor}.weight", wide, f"{param}/kernel", f"{inner} {out}", TRANSPOSE, layers),
        Rule(f"{tensor}.bias", out, f"{param}/bias", out, RESHAPE, layers),
    ]


def norm(tensor: str, param: str, layers: str = "") -> list[Rule]:
    """A LayerNorm."""
    return [
        Rule(f"{tensor}.weight", "d", f"{param}/scale", "d", RESHAPE, layers),
        Rule(f"{tensor}.bias", "d", f"{param}/bias", "d", RESHAPE, layers),
    ]


def attention(tensor: str, param: str, names: tuple[str, str, str, str], layers: str) -> list[Rule]:
    """The four projections; `names` are what the format calls query, key, value and output."""
    *inner, out = names
    rules = []
    for name, part in zip(inner, ("query", "key", "value"), strict=True):
        rules += [
            Rule(f"{tensor}.{name}.weight", "d d", f"{param}/{part}/kernel", "d h k", TRANSPOSE, layers),
            Rule(f"{tensor}.{name}.bias", "d", f"{param}/{part}/bias", "h k", RESHAPE, layers),
        ]
    return [
        *rules,
        Rule(f"{tensor}.{out}.weight", "d d", f"{param}/out/kernel", "h k d", TRANSPOSE, layers),
        Rule(f"{tensor}.{out}.bias", "d", f"{param}/out/bias", "d", RESHAPE, layers),
    ]


def table(tensor: str, param: str, axes: str, layers: str = "") -> list[Rule]:
    """An embedding table whose rows keep their places."""
    return [Rule(tensor, axes, param, axes, RESHAPE, layers)]


# -- what a table says about a whole checkpoint


def tensor_shapes(rules: tuple[Rule, ...], sizes: Sizes, copies: bool = True) -> dict[str, tuple[int, ...]]:
    """Every stored name with its shape, without or with the further names of tied tensors."""
    shapes = {}
    for rule in rules:
        names = (
            [rule.name(i) for i in range(sizes[rule.layers])] if rule.layers else rule.names[: None if copies else 1]
        )
        shapes |= dict.fromkeys(names, rule.tensor_shape(sizes))
    return shapes


def param_shapes(rules: tuple[Rule, ...], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every path of the parameter tree with its shape."""
    return {rule.param: rule.param_shape(sizes) for rule in rules}


def count_parameters(rules: tuple[Rule, ...], sizes: Sizes) -> int:
    """Parameters, tied ones once (spec 1.1)."""
    return sum(math.prod(shape) for shape in param_shapes(rules, sizes).values())


# -- parameter trees


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to paths. Boxes around arrays (Flax's partitioning metadata) are opened."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value.unbox() if hasattr(value, "unbox") else value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Paths to nested dictionaries."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *steps, last = path.split("/")
        node = tree
        for step in steps:
            node = node.setdefault(step, {})
        node[last] = value
    return tree
