"""Applies a rule table: checks a checkpoint against it, then moves the values, one tensor at a time, either way."""

import collections
import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from metro_jax.convert.errors import ConversionError, TensorMismatchError
from metro_jax.convert.lazy import DTYPES, FLOATS, LazyStack, LazyTensor, same_values
from metro_jax.convert.rules import Rule, Sizes, Tensor, flatten, nest, param_shapes

# The first number in a name is the layer: "encoder.block.3.layer.0.layer_norm.weight".
_LAYER = re.compile(r"^(.*?\.)(0|[1-9][0-9]{0,5})(\..*)$")

HINT = "Is it of another model, or another format?"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checkpoint that fits a table: the sizes solved from it, and the stored names behind every rule."""

    rules: tuple[Rule, ...]
    sizes: Sizes
    sources: Mapping[str, list[str]]  # by parameter path: one name per layer, or the names of the copies present


# -- from stored tensors to parameters


def match(
    rules: tuple[Rule, ...],
    tensors: Mapping[str, Tensor],
    what: str,
    ignored: Callable[[str], bool] = lambda name: False,
    hint: str = HINT,
) -> Plan:
    """Check a checkpoint against a table, by names, shapes and number types; no values are read.

    Raises:
        TensorMismatchError: tensors are missing, unknown, misshapen or of a wrong type; all of them are listed.
    """
    single = {name: rule for rule in rules if not rule.layers for name in rule.names}
    stacked = {tuple(rule.tensor.split("{i}")): rule for rule in rules if rule.layers}
    present: dict[str, dict[int, str]] = collections.defaultdict(dict)
    unknown = []
    for name in tensors:
        parts = _LAYER.match(name)
        if name in single:
            rule = single[name]
            present[rule.param][rule.names.index(name)] = name
        elif parts and (parts[1], parts[3]) in stacked:
            present[stacked[parts[1], parts[3]].param][int(parts[2])] = name
        elif not ignored(name):
            unknown.append(name)
    sizes = _solve(rules, tensors, present)
    expected = [rule.name(0) for rule in rules]
    problems = {
        "missing": _missing(rules, present, sizes),
        "unknown": [_with_nearest(name, expected, i) for i, name in enumerate(unknown)],
        "misshapen": _misshapen(rules, tensors, present, sizes),
        "of a wrong type": [
            f"{name}: {tensors[name].dtype}, weights are {', '.join(DTYPES)}"
            for names in present.values()
            for name in names.values()
            if tensors[name].dtype not in FLOATS
        ],
    }
    if any(problems.values()):
        raise TensorMismatchError(what, problems, hint)
    return Plan(rules, sizes, {path: [names[i] for i in sorted(names)] for path, names in present.items()})


def _solve(rules: tuple[Rule, ...], tensors: Mapping[str, Tensor], present: Mapping[str, dict[int, str]]) -> Sizes:
    """Size of every letter: what most of the tensors say, so that a misshapen one is the one that stands out."""
    votes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    sizes: Sizes = {}
    for rule in rules:
        letters = rule.axes.split()
        for name in present[rule.param].values():
            shape = tensors[name].shape
            if len(shape) == len(letters):
                for letter, size in zip(letters, shape, strict=True):
                    votes[letter][size] += 1
        if rule.layers:
            sizes[rule.layers] = max(sizes.get(rule.layers, 0), *(i + 1 for i in present[rule.param]), 0)
    return sizes | {letter: counts.most_common(1)[0][0] for letter, counts in votes.items()}


def _missing(rules: tuple[Rule, ...], present: Mapping[str, dict[int, str]], sizes: Sizes) -> list[str]:
    layers = {
        letter: sorted({i for rule in rules if rule.layers == letter for i in present[rule.param]})
        for letter in {rule.layers for rule in rules if rule.layers}
    }
    lines = []
    reported = set()
    for rule in rules:
        found = present[rule.param]
        if not rule.layers:
            if not found:
                lines.append(rule.tensor + (f" (or {', '.join(rule.copies)})" if rule.copies else ""))
            continue
        seen = layers[rule.layers]
        lines += [rule.name(i) for i in seen or [0] if i not in found]
        prefix = rule.tensor.split("{i}")[0]
        if prefix not in reported:
            reported.add(prefix)
            gaps = [(a + 1, b - 1) for a, b in zip([-1, *seen], seen, strict=False) if b > a + 1]
            lines += [
                f"{prefix}{a}.* (the whole layer)" if a == b else f"{prefix}{a}.* to {b}.* (whole layers)"
                for a, b in gaps
            ]
    return lines


def _misshapen(
    rules: tuple[Rule, ...], tensors: Mapping[str, Tensor], present: Mapping[str, dict[int, str]], sizes: Sizes
) -> list[str]:
    lines = []
    for rule in rules:
        for name in present[rule.param].values():
            shape, letters = tuple(tensors[name].shape), rule.axes.split()
            if len(shape) != len(letters):
                lines.append(f"{name}: shape {shape}, expected {len(letters)} axes ({rule.axes})")
            elif shape != rule.tensor_shape(sizes):
                lines.append(f"{name}: shape {shape}, expected {rule.tensor_shape(sizes)} ({rule.axes})")
            elif 0 in shape:
                lines.append(f"{name}: shape {shape} is empty")
    if sizes.get("d") and sizes.get("h") and sizes["d"] % sizes["h"]:
        lines.append(f"width {sizes['d']} is not a multiple of the {sizes['h']} heads of the relative bias tables")
    if sizes.get("V", 2) < 2:
        lines.append(f"a vocabulary of {sizes['V']} ids has no room for <s> and <pad>")
    return lines


def _with_nearest(name: str, expected: list[str], position: int) -> str:
    """`name` with what it may have been; only for the first few, because the search is slow."""
    parts = _LAYER.match(name)
    plain = f"{parts[1]}0{parts[3]}" if parts else name
    near = difflib.get_close_matches(plain, expected, n=1, cutoff=0.8) if position < 10 else []
    return f"{name} (nearest known: {near[0]})" if near and near[0] != plain else name


def to_params(plan: Plan, tensors: Mapping[str, Tensor], dtype: str = "float32") -> dict[str, Any]:
    """The parameter tree, in memory of its own.

    Args:
        dtype: "float32", "float16", "bfloat16", or "stored" for what each tensor has in the checkpoint.

    Raises:
        ConversionError: tied tensors that must agree do not, or a value does not fit into dtype.
    """
    return nest({path: np.array(leaf) for path, leaf in flatten(to_lazy_params(plan, tensors, dtype)).items()})


def to_lazy_params(plan: Plan, tensors: Mapping[str, Tensor], dtype: str = "float32") -> dict[str, Any]:
    """The parameter tree with leaves that are read, one layer at a time, when they are used; otherwise `to_params`."""
    check_dtype(dtype, "stored")
    check_tied(plan, tensors)

    def lazy(rule: Rule, name: str, kind: np.dtype) -> LazyTensor:
        shape = rule.layer_shape(plan.sizes)
        return LazyTensor(
            shape,
            kind,
            lambda: rule.change.to_param(cast(name, np.asarray(tensors[name]), kind), shape),
            (id(tensors), name, str(kind)),
        )

    flat: dict[str, LazyTensor | LazyStack] = {}
    for rule in plan.rules:
        names = plan.sources[rule.param]
        if not rule.layers:
            names = names[:1]
        kind = np.result_type(*(tensors[name].dtype for name in names)) if dtype == "stored" else DTYPES[dtype]
        parts = [lazy(rule, name, kind) for name in names]
        flat[rule.param] = LazyStack(parts) if rule.layers else parts[0]
    return nest(flat)


def check_tied(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Raises a ConversionError that lists all tied tensors that differ although their rule says that they agree."""
    differing = [
        f"{name} differs from {names[0]}"
        for rule in plan.rules
        if not rule.layers and rule.copies_agree
        for names in [plan.sources[rule.param]]
        for name in names[1:]
        if not same_values(tensors[names[0]], tensors[name])
    ]
    if differing:
        raise ConversionError("tensors that the model ties are not equal: " + "; ".join(differing))


# -- from parameters to stored tensors


def check_params(rules: tuple[Rule, ...], sizes: Sizes, params: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The flat tree, its leaves NumPy arrays or lazy, if it has exactly the entries and shapes of the table.

    Raises:
        TensorMismatchError: entries are missing, unknown, misshapen or of a wrong type; all of them are listed.
    """
    flat = {
        path: value if isinstance(value, LazyTensor | LazyStack) else np.asarray(value)
        for path, value in flatten(params).items()
    }
    expected = param_shapes(rules, sizes)
    known = {path: value for path, value in flat.items() if path in expected}
    unknown = [path for path in flat if path not in expected]
    problems = {
        "missing": [path for path in expected if path not in flat],
        "unknown": [_with_nearest(path, list(expected), i) for i, path in enumerate(unknown)],
        "misshapen": [
            f"{path}: shape {value.shape}, expected {expected[path]}"
            for path, value in known.items()
            if value.shape != expected[path]
        ],
        "of a wrong type": [
            f"{path}: {value.dtype}, weights are {', '.join(DTYPES)}"
            for path, value in known.items()
            if value.dtype not in FLOATS
        ],
    }
    if any(problems.values()):
        raise TensorMismatchError(what, problems, "Do the parameters belong to this configuration?")
    return known


def to_tensors(
    rules: tuple[Rule, ...], sizes: Sizes, params: Mapping[str, Any], dtype: str, copies: bool = True
) -> dict[str, LazyTensor]:
    """The stored tensors by name, each computed when it is used; tied names share one.

    Args:
        dtype: as of `to_params`; "stored" keeps what each parameter has.
        copies: give tied tensors under all of their names.

    Raises:
        TensorMismatchError: the parameters do not fit the table.
        ConversionError: when a tensor is used and a value does not fit into dtype.
    """
    check_dtype(dtype, "stored")
    flat = check_params(rules, sizes, params, "the parameters")
    tensors: dict[str, LazyTensor] = {}

    def lazy(rule: Rule, name: str, layer: int | None) -> LazyTensor:
        shape = rule.tensor_shape(sizes)
        value = flat[rule.param] if layer is None else flat[rule.param][layer]
        kind = value.dtype if dtype == "stored" else DTYPES[dtype]
        return LazyTensor(
            shape,
            kind,
            lambda: cast(name, rule.change.to_tensor(np.asarray(value), shape), kind),
            (id(flat), rule.param, layer),
        )

    for rule in rules:
        if rule.layers:
            tensors |= {rule.name(i): lazy(rule, rule.name(i), i) for i in range(sizes[rule.layers])}
        else:
            tensors |= dict.fromkeys(rule.names if copies else rule.names[:1], lazy(rule, rule.tensor, None))
    return tensors


def watched(params: Mapping[str, Any], dtype: str, tick: Callable[[int], None]) -> dict[str, Any]:
    """A lazy tree as dtype ("stored" changes nothing), which tells `tick` the bytes of every leaf that was read."""
    check_dtype(dtype, "stored")

    def watch(path: str, leaf: LazyTensor) -> LazyTensor:
        def read() -> np.ndarray:
            array = cast(path, np.asarray(leaf), kind)
            tick(leaf.nbytes)
            return array

        kind = leaf.dtype if dtype == "stored" else DTYPES[dtype]
        return LazyTensor(leaf.shape, kind, read, (leaf.identity, str(kind)))

    flat: dict[str, Any] = {}
    for path, leaf in flatten(params).items():
        parts = leaf.parts if isinstance(leaf, LazyStack) else (leaf,)
        watching = [watch(path, part) for part in parts]
        flat[path] = LazyStack(watching) if isinstance(leaf, LazyStack) else watching[0]
    return nest(flat)


def check_dtype(dtype: str, *more: str) -> None:
    """Raises a ConversionError for a number type that weights are not stored in."""
    known = (*[name for name in DTYPES if name != "float64"], *more)
    if dtype not in known:
        near = difflib.get_close_matches(str(dtype), known, n=1)
        raise ConversionError(
            f"dtype={dtype!r} is not known; choose one of {', '.join(known)}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )


def cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` as dtype; a finite value that becomes infinite is an error, because the network would not survive it."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", under="ignore"):
        result = array.astype(dtype)
    if dtype.itemsize < array.dtype.itemsize or str(dtype) == "float16":
        lost = np.isinf(result) & np.isfinite(array)
        if lost.any():
            worst = float(np.abs(array[lost].astype(np.float64)).max())
            raise ConversionError(
                f"{name}: {int(lost.sum())} values do not fit into {dtype} (the largest is {worst:g}); "
                "write float32 or bfloat16 instead"
            )
    return result
