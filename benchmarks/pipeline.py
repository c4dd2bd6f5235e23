"""Masked and packed pretraining tokens per second and core: the seqio pipeline beside the reference's way, in one run.

    python benchmarks/pipeline.py --vocab FOLDER

Both sides read the same prepared documents (made here, with random ids and line lengths like those of prose) and make
masked batches of 512 ids. The peer is the reference's way: example by example in Python and NumPy, crops, blocks and
masks as spec 4.1 and 4.2 draw them, padded to a matrix, not packed. Rates are ids per second of processor time, of all
threads, so per core; the sides take turns, and the ratio is the median over rounds.

What the accelerator wants comes from a plan (docs/tpu_plan.md): an update of the base recipe, so many ids, takes so
many seconds on so many v4 chips. That time is an estimate, at the fast end of its range: input is asked for most there.
"""

import argparse
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import seqio
import tensorflow as tf

from metro_jax.data import feature_converters, preprocessors, records, reference
from metro_jax.data.preprocessors import KEEP_RATE, MASK_RATE, RANDOM_RATE
from metro_jax.tasks import pretraining
from metro_jax.text.ids import BOS, EOS, NUM_SPECIAL
from metro_jax.text.tokenizer import MetroTokenizer

LENGTH, BATCH = 512, 64
# `metro-jax plan metro_base_pretrain --topology v4-128 --gin_file recipes/topologies/v4_128.gin` (docs/tpu_plan.md)
STEP_SECONDS, STEP_CHIPS, STEP_IDS = 0.360, 64, 2**20
CHIPS, CORES = 8, 16  # the host that must not starve


def make_corpus(folder: str, tokenizer: MetroTokenizer, documents: int) -> None:
    """Documents of random ids: lines of 2 to 90 ids (mean 25), 1 to 120 lines (mean 30)."""
    draw = np.random.default_rng(0)
    with records.RecordWriter(folder, "corpus", "train", "documents", tokenizer, shards=4) as writer:
        for _ in range(documents):
            lengths = np.clip(draw.gamma(2.5, 10.0, np.clip(int(draw.exponential(30)), 1, 120)), 2, 90).astype(int)
            ids = draw.integers(NUM_SPECIAL, tokenizer.vocab_size - 512, lengths.sum())
            ids[np.cumsum(lengths) - 1] = EOS
            writer.write({"ids": ids.tolist(), "line_lengths": lengths.tolist()})


def pipeline(pack: bool, task: str = "metro_pretrain") -> Iterator[np.ndarray]:
    """The encoder's rows of endless batches of the project's pipeline."""
    converter = feature_converters.MetroPretrainingFeatureConverter
    if task == "t5_pretrain":
        converter = feature_converters.SpanCorruptionFeatureConverter
    dataset = seqio.get_dataset(
        task, {"inputs": LENGTH, "targets": LENGTH}, converter(pack=pack), shuffle=True, seed=1, num_epochs=None,
        batch_size=BATCH,
    )  # fmt: skip
    for batch in dataset.as_numpy_iterator():
        yield batch["encoder_input_tokens"]  # type: ignore[index]


def stage(blocks: bool) -> Iterator[np.ndarray]:
    """Where the time goes: documents as they are read, or cut into blocks but not masked."""
    source = seqio.TaskRegistry.get("metro_pretrain").source
    dataset = source.get_dataset("train", shuffle=True, seed=1).repeat()
    if blocks:
        with seqio.map_seed_manager(1):
            dataset = preprocessors.blocks(dataset, {"targets": LENGTH})
    for example in dataset.as_numpy_iterator():
        yield example["targets" if blocks else "ids"]  # type: ignore[index]


def peer(folder: str, vocab_size: int, mask_id: int) -> Iterator[np.ndarray]:
    """The same batches, unpacked, one example after the other in Python."""
    rows: list[tuple] = []
    for epoch in range(1, 1_000_000):
        for index, document in enumerate(records.read_records(folder, "corpus", "train", "documents")):
            random = np.random.RandomState(reference.sample_seed(1, epoch, index))
            tokens, lengths = document["ids"], document["line_lengths"].tolist()
            for begin, end in reference.complete_doc_blocks(lengths, LENGTH - 1):
                block = np.concatenate([[BOS], tokens[begin:end]])[:LENGTH]
                draws = reference.mask_draws(len(block), MASK_RATE, KEEP_RATE, RANDOM_RATE, vocab_size, random)
                rows.append((block, *reference.apply_masks(block, draws, mask_id)))
                if len(rows) == BATCH:
                    matrices = np.zeros((3, BATCH, LENGTH), np.int32)
                    for number, row in enumerate(rows):
                        for matrix, part in zip(matrices, row, strict=True):
                            matrix[number, : len(part)] = part
                    rows = []
                    yield matrices[0]


def rate(batches: Iterator[np.ndarray], ids: int) -> tuple[float, float, float]:
    """Ids per processor second and per second of the clock, and the share of padding, over about `ids` ids."""
    found = cells = 0
    started, clock = time.process_time(), time.perf_counter()
    while found < ids:
        rows = next(batches)
        found, cells = found + int((rows != 0).sum()), cells + rows.size
    return found / (time.process_time() - started), found / (time.perf_counter() - clock), 1 - found / cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=pathlib.Path, required=True, help="a folder with sp.model and dict.txt")
    parser.add_argument("--documents", type=int, default=3000, help="in the corpus (default 3000)")
    parser.add_argument("--ids", type=int, default=1_000_000, help="per side and round (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=5)
    update = f"of an update of {STEP_IDS:,} ids on {STEP_CHIPS} chips (default: %(default)s, as planned)"
    parser.add_argument("--step", type=float, default=STEP_SECONDS, metavar="SECONDS", help=update)
    arguments = parser.parse_args()
    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(os.path.join(folder, "vocab"))
        make_corpus(folder, tokenizer, arguments.documents)
        os.environ["METRO_DATA_DIR"] = folder
        assert pretraining.CORPUS == "corpus"
        sides = {
            "peer": peer(folder, tokenizer.vocab_size, tokenizer.mask_id),
            "metro_pretrain": pipeline(pack=False),
            "metro_pretrain, packed": pipeline(pack=True),
            "t5_pretrain": pipeline(pack=False, task="t5_pretrain"),
            "only documents read": stage(blocks=False),
            "only blocks": stage(blocks=True),
        }
        results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
        for number in range(arguments.rounds + 1):
            for name, batches in sides.items() if number % 2 else reversed(list(sides.items())):
                measured = rate(batches, arguments.ids)
                if number:  # the first round fills the buffers
                    results[name].append(measured)
                time.sleep(0.2)
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, {machine}")
    report(results, arguments.step)


def report(results: dict[str, list[tuple[float, float, float]]], step: float) -> None:
    """The table, and what it means for a host of v4 chips."""
    print(f"{'':24}{'ids/s per core':>16}{'ids/s, clock':>14}{'padding':>10}{'ratio to peer (range)':>26}")
    for name, rounds in results.items():
        ratios = [one[0] / other[0] for one, other in zip(rounds, results["peer"], strict=True)]
        core, clock, padding = (statistics.median(values) for values in zip(*rounds, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:24}{core:16,.0f}{clock:14,.0f}{padding:10.1%}{spread:>26}")
    wanted = STEP_IDS / STEP_CHIPS / step
    core = statistics.median(one[0] for one in results["metro_pretrain, packed"])
    print(
        f"\nbase recipe: at {step * 1e3:.0f} ms per update on {STEP_CHIPS} chips a v4 chip takes {wanted:,.0f} ids/s.\n"
        f"One core feeds {core / wanted:.1f} chips; {CHIPS} chips want {CHIPS * wanted / core:.1f} of {CORES} cores."
    )


if __name__ == "__main__":
    main()
