"""Speed of preparing a corpus beside the reference recipe, in one run, per core.

    python benchmarks/preparation.py --vocab FOLDER [--input PATH ...]

The reference recipe takes one line at a time: its normaliser in Python, then sentencepiece. It is timed without reading
or writing anything (`recipe`), and as the reference goes on from there, with pieces joined to a line of text that is
split and looked up in the dictionary (`recipe with dictionary`). Its speed does not depend on how much there is, so of
long inputs it takes a sample (`--sample` lines, evenly spread).

What it is compared with is the command `metro-jax data corpus` as a process of its own: start, text file, records on
disk, hashes. What is compiled for the machine is compiled before. Of short texts the start is most of it, so a command
on one line is timed too, and the rates are shown without that as well. The lines of the sample must get the same ids by
its tokenizer as by the recipe; without a sample the counts of the whole must agree too.

Without --input the text is prose that every CPython carries (the sentences of the standard library's docstrings),
which holds many names of functions and few words twice: harder than most text. Rates are ids per second of the
processor, and of the clock for several processes.
"""

import argparse
import collections
import json
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import sentencepiece

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from tokenizer import SMALL_VOCABULARY, plain_normalize

from metro_jax.data.prepare import corpus, inputs
from metro_jax.data.prepare.documents import Documents
from metro_jax.quickstart.corpus import build_corpus
from metro_jax.text.ids import EOS, UNK
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.varints import pack_varints

BATCH = 20_000  # lines checked together


def recipe(model: sentencepiece.SentencePieceProcessor, lines: list[str]) -> int:
    """Number of ids of the lines, each ended by eos, by the reference recipe."""
    return sum(len([*model.encode(plain_normalize(line)), EOS]) for line in lines)


def recipe_with_dictionary(
    model: sentencepiece.SentencePieceProcessor, dictionary: dict[str, int], lines: list[str]
) -> int:
    """The same by way of a line of pieces and a dictionary, as the reference stores and reads it (spec 9.3)."""
    total = 0
    for line in lines:
        pieces = " ".join(model.encode(plain_normalize(line), out_type=str))
        total += len([*(dictionary.get(piece, UNK) for piece in pieces.split()), EOS])
    return total


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def prepare(arguments: argparse.Namespace, files: list[str], workers: int) -> tuple[int, float, float]:
    """Ids, processor seconds and seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metro_jax.cli", "data", "corpus", "--skip-bad"]
        command += ["--format", arguments.format, "--vocab", str(arguments.vocab), "--output", folder]
        command += ["--workers", str(workers), "--input", *files]
        used, start = processor_seconds(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = processor_seconds() - used, time.perf_counter() - start
        manifest = json.loads((pathlib.Path(folder) / "corpus" / "manifest.train.json").read_text())
        return manifest["counts"]["ids"], *seconds


def start_up(arguments: argparse.Namespace, workers: int) -> tuple[float, float]:
    """Processor seconds and seconds of the command on one line."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("The kettle is on.\n")
        file.flush()
        return prepare(arguments, [file.name], workers)[1:]


def read_lines(arguments: argparse.Namespace, files: list[str]) -> list[str]:
    """All lines of the input, as the recipe gets them."""
    documents_of = Documents()
    found = inputs.find_inputs(files, arguments.format)
    chunks = (chunk for file in found if not file.problem for chunk in inputs.chunks(file, corpus.CHUNK))
    return [line for chunk in chunks for document in documents_of(chunk, []) for line in document]


def standard_library(folder: str, repeat: int) -> list[str]:
    """A file of the standard library's prose, `repeat` times over."""
    path = pathlib.Path(folder) / "prose.txt"
    text = "\n".join("\n".join(document.sentences) + "\n" for document in build_corpus())
    path.write_text((text + "\n") * repeat, encoding="utf-8")
    return [str(path)]


def check(model: sentencepiece.SentencePieceProcessor, tokenizer: MetroTokenizer, lines: list[str]) -> None:
    """Refuses to measure what gives other ids."""
    for start in range(0, len(lines), BATCH):
        batch = lines[start : start + BATCH]
        ids = (token for line in batch for token in [*model.encode(plain_normalize(line)), EOS])
        if tokenizer.training_lines("\n".join(batch).encode()).packed.tobytes() != pack_varints(ids):
            raise SystemExit(f"lines {start} to {start + len(batch)} of the sample have other ids: fix that first")


def measure(arguments: argparse.Namespace, files: list[str]) -> None:
    """Measures, and prints what was measured."""
    everything = read_lines(arguments, files)
    lines = everything[:: max(1, len(everything) // arguments.sample)]
    model = sentencepiece.SentencePieceProcessor(model_file=str(arguments.vocab / "sp.model"))
    tokenizer = MetroTokenizer.from_pretrained(arguments.vocab)
    dictionary = {tokenizer.id_to_piece(index): index for index in range(tokenizer.vocab_size)}
    check(model, tokenizer, lines)
    rates: dict[str, list[float]] = collections.defaultdict(list)
    starts: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(arguments.rounds):
        for name, work in (
            ("recipe", lambda: recipe(model, lines)),
            ("recipe with dictionary", lambda: recipe_with_dictionary(model, dictionary, lines)),
        ):
            used = processor_seconds()
            expected = work()
            rates[name].append(expected / (processor_seconds() - used))
        for workers in arguments.workers:
            ids, used, elapsed = prepare(arguments, files, workers)
            if len(lines) == len(everything) and ids != expected:
                raise SystemExit(f"{ids} ids prepared, {expected} by the recipe: fix that first")
            name = f"data corpus, {workers} worker{'s' * (workers > 1)}"
            start_used, start_elapsed = start_up(arguments, workers)
            starts[name].append(start_used)
            rates[name].append(ids / used)
            rates[f"{name}, without start"].append(ids / max(used - start_used, 1e-9))
            rates[f"{name}, by the clock"].append(ids / elapsed)
            rates[f"{name}, by the clock, without start"].append(ids / max(elapsed - start_elapsed, 1e-9))
    words = collections.Counter(word for line in everything for word in line.split())
    print(f"Python {platform.python_version()}, sentencepiece {sentencepiece.__version__}, {platform.machine()}")
    print(f"vocabulary {arguments.vocab.name}; {len(everything):,} lines, {sum(words.values()):,} words of which "
          f"{len(words):,} are different, {ids:,} ids; {arguments.rounds} rounds; "
          f"the recipe takes {len(lines):,} of the lines")  # fmt: skip
    for name, seconds in starts.items():
        print(f"{name}: the start alone takes {statistics.median(seconds):.2f} s of the processor")
    print(f"{'':50}{'M ids/s':>10}{'to recipe':>12}{'with dictionary':>18}")
    for name, values in rates.items():
        ratios = [
            statistics.median(value / peer for value, peer in zip(values, rates[peer_name], strict=True))
            for peer_name in ("recipe", "recipe with dictionary")
        ]
        print(f"{name:50}{statistics.median(values) / 1e6:10.2f}{ratios[0]:12.2f}{ratios[1]:18.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=pathlib.Path, default=SMALL_VOCABULARY,
                        help="folder with sp.model and dict.txt (default: the small one of the tests)")  # fmt: skip
    parser.add_argument("--input", nargs="+", help="files, folders or globs, as for `metro-jax data corpus`")
    parser.add_argument("--format", default="auto", help="of the input (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1,
                        help="times the standard library's prose (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sample", type=int, default=100_000, help="lines for the recipe (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="default: %(default)s")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.repeat, arguments.sample, *arguments.workers) < 1:
        parser.error("--rounds, --repeat, --sample and --workers must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, arguments.input or standard_library(folder, arguments.repeat))


if __name__ == "__main__":
    main()
