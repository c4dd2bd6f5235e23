"""Token ids as coloured text: masks, random replacements, sentinels and special tokens stand out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.text import Text

from metro_jax.text.ids import NUM_SPECIAL, PAD
from metro_jax.text.tokenizer import MetroTokenizer

MASK, RANDOM, KEPT, SPECIAL = "bold white on red", "bold black on yellow", "bold black on green", "dim"
SENTINELS = ("bold magenta", "bold cyan", "bold blue", "bold green", "bold yellow")
LEGEND = (
    ("masked", MASK),
    ("masked, random token", RANDOM),
    ("masked, left as it is", KEPT),
    ("sentinel", SENTINELS[0]),
    ("special", SPECIAL),
)


def coloured(ids: Sequence[int], tokenizer: MetroTokenizer, original: Sequence[int] | None = None,
             masked: Sequence[bool] | None = None) -> Text:  # fmt: skip
    """The pieces of a row without padding; `original` and `masked` mark what METRO's masking did (spec 4.2)."""
    text, before = Text(), ""
    for position, token in enumerate(int(i) for i in ids):
        if token == PAD:
            continue
        piece = tokenizer.id_to_piece(token)
        if masked is not None and original is not None and masked[position]:
            style = MASK if token == tokenizer.mask_id else KEPT if token == original[position] else RANDOM
        elif token in tokenizer.sentinel_ids:
            style = SENTINELS[(token - tokenizer.sentinel_ids.start) % len(SENTINELS)]
        else:
            style = SPECIAL if token < NUM_SPECIAL else ""
        if text and (piece.startswith("▁") or style or before):
            text.append(" ")
        text.append(piece.removeprefix("▁") or "▁", style)
        before = style
    return text


def example_lines(example: Mapping[str, Any], tokenizer: MetroTokenizer) -> list[tuple[str, Text]]:
    """(label, coloured row) of every part of an example worth seeing."""
    inputs, targets = np.asarray(example["inputs"]).tolist(), np.asarray(example["targets"]).tolist()
    if "generator_targets" in example:
        masked = np.asarray(example["generator_targets"]) != PAD
        share = f"{int(masked.sum())} of {len(inputs)} masked"
        return [
            (f"inputs ({share})", coloured(inputs, tokenizer, targets, masked.tolist())),
            ("targets", coloured(targets, tokenizer)),
        ]
    lines = [(f"inputs ({len(inputs)})", coloured(inputs, tokenizer))]
    label = f"targets ({len(targets)})"
    if "is_correct" in example:
        example_number, choice = (int(i) for i in example["idx"])
        label = f"choice {choice} of example {example_number}{', correct' if example['is_correct'] else ''}"
    return [*lines, (label, coloured(targets, tokenizer))]


def legend() -> Text:
    """What the colours mean."""
    text = Text()
    for label, style in LEGEND:
        text.append(f" {label} ", style)
        text.append("  ")
    return text
