"""The reference's random data steps in NumPy, draw by draw: an oracle for tests, not used in training.

Generator: NumPy's legacy one (`numpy.random.RandomState`), seeded per sample with `sample_seed`; the order of the draws
is that of spec 4.1 to 4.3. Epochs count from 1.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The legacy seed of one sample in one epoch (spec 4.2). The modulus is taken in double precision, which rounds."""
    return int(hash((seed, epoch, index)) % 1e6)


def crop_start(length: int, limit: int, random: np.random.RandomState) -> int:
    """Where the crop of a line of `length` tokens to `limit` begins; the last possible start never occurs (4.1)."""
    return int(random.randint(0, length - limit)) if length > limit else 0


def complete_doc_blocks(line_lengths: list[int], block_size: int) -> list[tuple[int, int]]:
    """Token ranges [start, end) of the blocks of whole lines within documents (spec 4.1)."""
    blocks: list[tuple[int, int]] = []
    start = end = 0
    for length in line_lengths:
        separator = length == 1
        if not separator and (end == start or end - start + length <= block_size):
            end += length
            continue
        if end - start > 1:
            blocks.append((start, end))
        start = end + 1 if separator else end
        end = start if separator else start + length
    if end - start > 1:
        blocks.append((start, end))
    return blocks


@dataclasses.dataclass(frozen=True)
class MaskDraws:
    """The random part of masking one sample: which positions, what happens there, and the replacing ids."""

    masked: Bool[np.ndarray, " length"]
    kept: Bool[np.ndarray, " length"]
    randomised: Bool[np.ndarray, " length"]
    random_ids: Int[np.ndarray, " length"]


def mask_draws(
    length: int, rate: float, keep: float, randomise: float, vocab_size: int, random: np.random.RandomState
) -> MaskDraws:
    """Draws the masks of one sample of `length` tokens (spec 4.2)."""
    count = int(rate * length + random.rand())
    masked = np.zeros(length, bool)
    masked[random.choice(length, count, replace=False)] = True
    changed = masked & (random.rand(length) < keep + randomise)
    stays = random.rand(length) < keep / (keep + randomise)
    kept, randomised = changed & stays, changed & ~stays
    weights = np.ones(vocab_size)
    weights[:4] = 0  # the four specials are never drawn
    random_ids = np.zeros(length, np.int64)
    if randomised.any():
        random_ids[randomised] = random.choice(vocab_size, int(randomised.sum()), p=weights / weights.sum())
    return MaskDraws(masked, kept, randomised, random_ids)


def apply_masks(tokens: Int[np.ndarray, " length"], draws: MaskDraws, mask_id: int, pad: int = 0) -> tuple:
    """The masked sequence and the generator's targets (the original id at masked positions, pad elsewhere)."""
    inputs = np.where(draws.masked & ~draws.kept, mask_id, tokens)
    inputs = np.where(draws.randomised, draws.random_ids, inputs)
    return inputs, np.where(draws.masked, tokens, pad)


def span_draws(
    length: int, rate: float, empty: float, longest: int, random: np.random.RandomState
) -> tuple[Bool[np.ndarray, " length"], Int[np.ndarray, " empties"]]:
    """Draws the hidden tokens and the positions of empty spans of the T5 baseline (spec 4.3)."""
    masked = np.zeros(length, bool)
    count = int(rate * (1 - empty) * length / ((1 + longest) / 2) + random.rand())
    indices = random.choice(length, count, replace=False)
    masked[indices] = True
    for step in range(longest - 1):
        count = int(count * (1 - 1 / (longest - step)) + random.rand())
        indices = (random.choice(indices, count, replace=False) + 1) % length
        masked[indices] = True
    if empty == 0:
        return masked, np.zeros(0, np.int64)
    empties = max(0, int(rate * length - masked.sum() + random.rand()))
    empties = min(empties, int(rate * empty * length + 1))
    beside = np.concatenate([[False], masked[:-1]]) | np.concatenate([masked[1:], [False]])
    candidates = np.flatnonzero(~masked & ~beside)
    return masked, random.choice(candidates, min(empties, len(candidates)), replace=False)


def apply_spans(
    tokens: list[int], masked: list[bool], empties: list[int], sentinel: int, limit: int
) -> tuple[list[int], list[int]]:
    """Inputs and targets of span corruption; `sentinel` is the id of `<sen000>` (spec 4.3)."""
    inputs: list[int] = []
    targets: list[int] = []
    number = sentinel
    for position, (token, hidden) in enumerate(zip(tokens, masked, strict=True)):
        begins = hidden and (position == 0 or not masked[position - 1])
        if begins or position in empties:
            number += 1
            inputs.append(number)
            targets.append(number)
        (targets if hidden else inputs).append(token)
    return inputs[:limit], [*targets[:limit], sentinel]


def truncate(ids: list[int], limit: int, eos: int) -> list[int]:
    """Cuts to `limit` ids, the last of them eos (spec 6.3)."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], eos]


def round_up(length: int, multiple: int = 8) -> int:
    """The padded length of a batch (spec 4.1, 6.2)."""
    return -(-length // multiple) * multiple
