"""Proof that two checkpoints are the same model: `metro-jax convert --verify` (see docs/conversion.md for the report).

Every parameter is compared by its hash, and both sides answer the same prompts on this project's network; the PyTorch
original joins them where the user names a copy of its code (`verify_torch`).
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from metro_jax.convert.apply import cast
from metro_jax.convert.rules import flatten
from metro_jax.convert.source import Source
from metro_jax.convert.verify_network import Answers, Prompts, fixed_prompts, run_network
from metro_jax.version import __version__

# How far logits of two implementations may lie apart in float32, in units of the largest logit or of 1: the tolerance
# that this project's network is held to against the reference.
TOLERANCE = 1e-4
TOP = 5


def verify(source: Source, result: Source, code: pathlib.Path | None = None) -> dict[str, Any]:
    """Compares a checkpoint with what it was converted to.

    Args:
        result: read back from disk.
        code: a folder with the PyTorch original's modeling_fairseq_t5.py; it is imported, which runs it.

    Returns:
        The report, plain data: `passed`, and under `tensors`, `network`, `pytorch` what it rests on.
    """
    tensors = compare_tensors(source.params, result.params)
    prompts = fixed_prompts(source if source.vocabulary else result)
    before, after = run_network(source, prompts), run_network(result, prompts)
    network = compare_answers(before, after, prompts, ("source", "result"))
    # The same bits on the same program; a change of number type is no fault of the conversion, only reported.
    exact = all(row["largest_difference"] == 0 for row in tensors)
    network["passed"] = not exact or network["logits"]["largest_difference"] == 0
    report: dict[str, Any] = {
        "metro_jax": __version__,
        "source": describe(source),
        "result": describe(result),
        "tensors": {
            "count": len(tensors),
            "equal": sum(row["equal"] for row in tensors),
            "largest_difference": max((row["largest_difference"] for row in tensors), default=0.0),
            "passed": all(row["equal"] for row in tensors),
            "rows": tensors,
        },
        "network": network,
        "pytorch": None,
    }
    if code is not None:
        from metro_jax.convert.verify_torch import run_original

        hub = result if result.form == "hub" else source
        original, versions = run_original(hub, code, prompts)
        ours = after if hub is result else before
        compared = compare_answers(ours, original, prompts, ("metro_jax", "pytorch"))
        compared["passed"] = compared["logits"]["largest_difference"] <= TOLERANCE * max(
            1.0, compared["logits"]["largest_value"]
        )
        report["pytorch"] = {"checkpoint": hub.form, "code": str(code), **versions, **compared}
    parts = [report["tensors"], network, *([report["pytorch"]] if report["pytorch"] else [])]
    report["passed"] = all(part["passed"] for part in parts)
    return report


def describe(source: Source) -> dict[str, Any]:
    """What a checkpoint is, for the report."""
    return {
        "form": source.form,
        "path": str(source.path),
        "files": [str(path) for path in source.files],
        "config": dataclasses.asdict(source.config),
        "pretraining": None if source.pretraining is None else dataclasses.asdict(source.pretraining),
        "notes": list(source.notes),
    }


# -- tensors


def compare_tensors(source: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per parameter and layer that both sides have, and one for each that only the result has.

    `equal` says that the source's value, in the result's number type, has the result's hash.
    """
    theirs, ours = flatten(source), flatten(result)
    rows = []
    for path, leaf in ours.items():
        parts = getattr(leaf, "parts", None)
        if path not in theirs:
            rows.append({"name": path, "layer": None, "equal": False, "largest_difference": float("inf")})
        elif parts is None:
            rows.append(_compare(path, None, theirs[path], leaf))
        else:
            rows += [_compare(path, i, theirs[path][i], part) for i, part in enumerate(parts)]
    return rows


def _compare(path: str, layer: int | None, source: Any, result: Any) -> dict[str, Any]:
    before, after = np.asarray(source), np.asarray(result)
    same_shape = before.shape == after.shape
    hashes = [digest(cast(path, before, after.dtype)), digest(after)]
    difference = np.abs(before.astype(np.float32) - after.astype(np.float32)) if same_shape else np.array([np.inf])
    return {
        "name": path,
        "layer": layer,
        "shape": list(after.shape),
        "dtypes": [str(before.dtype), str(after.dtype)],
        "sha256": hashes,
        "equal": same_shape and hashes[0] == hashes[1],
        "largest_difference": 0.0 if hashes[0] == hashes[1] and before.dtype == after.dtype else _largest(difference),
    }


def digest(array: np.ndarray) -> str:
    """SHA-256 of the bytes, in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _largest(difference: np.ndarray) -> float:
    return float(difference.max(initial=0.0))


# -- answers


def compare_answers(a: Answers, b: Answers, prompts: Prompts, names: tuple[str, str]) -> dict[str, Any]:
    """Largest differences of hidden states and logits, the best first tokens of each answer, and the texts."""
    real = {"encoder": prompts.mask, "decoder": np.ones(prompts.decoder_tokens.shape, bool)}
    layers = {
        stack: [_largest(np.abs(x - y)[real[stack]]) for x, y in zip(a.states[stack], b.states[stack], strict=True)]
        for stack in ("encoder", "decoder")
    }
    rows = []
    for i, text in enumerate(prompts.texts):
        best = {name: _top(side.logits[i, 0], prompts) for name, side in zip(names, (a, b), strict=True)}
        generated = {name: side.generated[i] for name, side in zip(names, (a, b), strict=True)}
        rows.append(
            {
                "prompt": text,
                "top": best,
                "top_equal": [entry["id"] for entry in best[names[0]]] == [entry["id"] for entry in best[names[1]]],
                "generated": generated,
                "generated_equal": generated[names[0]] == generated[names[1]],
            }
        )
    return {
        "layers": layers,
        "logits": {
            "largest_difference": _largest(np.abs(a.logits - b.logits)),
            "largest_value": float(np.abs(a.logits).max()),
        },
        "prompts": rows,
    }


def _top(logits: np.ndarray, prompts: Prompts) -> list[dict[str, Any]]:
    order = np.argsort(-logits, kind="stable")[:TOP]
    return [{"id": int(i), "piece": prompts.piece(int(i)), "logit": float(logits[i])} for i in order]


# -- the report for people


def write_report(report: Mapping[str, Any], folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `verify.json` and `verify.txt`."""
    data, text = folder / "verify.json", folder / "verify.txt"
    folder.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text.write_text(render(report), encoding="utf-8")
    return data, text


def render(report: Mapping[str, Any]) -> str:
    """The report as a table."""
    tensors, network, original = report["tensors"], report["network"], report["pytorch"]
    lines = [
        f"source   {report['source']['form']:8} {report['source']['path']}",
        f"result   {report['result']['form']:8} {report['result']['path']}",
        "",
        f"tensors  {tensors['equal']} of {tensors['count']} equal by SHA-256, largest difference "
        f"{tensors['largest_difference']:.3g}",
        *_tensor_lines(tensors["rows"]),
        "",
        *_answer_lines("metro_jax's network on both", network),
    ]
    if original is None:
        lines += ["", "PyTorch original: not run (name a folder with its code: --pytorch-code FOLDER)"]
    else:
        what = f"PyTorch original (torch {original['torch']}, transformers {original['transformers']}) beside metro_jax"
        lines += ["", *_answer_lines(what, original)]
    return "\n".join([*lines, "", f"verdict  {'same model' if report['passed'] else 'NOT THE SAME MODEL'}", ""])


def _tensor_lines(rows: list[dict[str, Any]]) -> list[str]:
    """One line per group: a stack's layer, or what has no layers."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        stack = re.match(r"(.*?)/layers/", row["name"])
        where = (stack[1], row["layer"]) if stack else (row["name"], -1)
        groups.setdefault(where, []).append(row)
    lines = [f"  {'':36} {'tensors':>8} {'equal':>8} {'largest difference':>20}"]
    for (name, layer), group in sorted(groups.items()):
        title = name if layer < 0 else f"{name} layer {layer}"
        equal, worst = sum(row["equal"] for row in group), max(row["largest_difference"] for row in group)
        lines.append(f"  {title:36} {len(group):8} {equal:8} {worst:20.3g}")
    return lines


def _answer_lines(title: str, compared: Mapping[str, Any]) -> list[str]:
    lines = [f"{title}:", f"  {'':36} {'largest difference':>20}"]
    for stack, differences in compared["layers"].items():
        names = ["embedding", *(f"layer {i}" for i in range(len(differences) - 1))]
        pairs = zip(names, differences, strict=True)
        lines += [f"  {f'{stack} {name}':36} {difference:20.3g}" for name, difference in pairs]
    logits = compared["logits"]
    lines.append(
        f"  {'logits (largest ' + format(logits['largest_value'], '.3g') + ')':36} {logits['largest_difference']:20.3g}"
    )
    for row in compared["prompts"]:
        lines.append(f"  prompt  {row['prompt']}")
        for name, best in row["top"].items():
            top = "  ".join(f"{entry['piece']} {entry['logit']:.3f}" for entry in best)
            lines.append(f"    {name:10} top {TOP}: {top}")
            lines.append(f"    {'':10} text:  {row['generated'][name]!r}")
    return lines
