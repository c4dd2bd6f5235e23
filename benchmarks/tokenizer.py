"""Speed of MetroTokenizer.encode_batch beside its peer, in one run on one core.

    python benchmarks/tokenizer.py --vocab FOLDER

The peer is what one would write without this library: a plain Python normaliser and one call of sentencepiece per
text, ids with `<s>` and `</s>`. Both get the same texts (English prose that every CPython carries: pydoc's topics and
the docstrings of the standard library) and must return the same ids before anything is timed. Each round times both,
in alternating order; the ratio is the median of the rounds' ratios. The tokenizer's stores of words are emptied before
every round, so that no round profits from having seen the texts before.
"""

import argparse
import ast
import gc
import pathlib
import platform
import re
import statistics
import string
import sysconfig
import time
import unicodedata
from collections.abc import Callable, Iterator
from pydoc_data import topics

import sentencepiece

from metro_jax.text.ids import BOS, EOS, UNK
from metro_jax.text.tokenizer import MetroTokenizer

SMALL_VOCABULARY = pathlib.Path(__file__).parent.parent / "tests" / "text" / "data"
ASCII_PUNCTUATION = frozenset(string.punctuation)
QUOTES = str.maketrans({"‘": "'", "’": "'", "´": "'", "“": '"', "”": '"', "—": "-", "–": "-"})
CONTRACTIONS = [(re.compile(rf"' {end}\b"), f"'{end}") for end in [*"smdSMDtT", "ll", "re", "ve"]]
CAPITAL_CONTRACTIONS = [(re.compile(rf"' {end}\b"), f"'{end} ") for end in ["LL", "RE", "VE"]]


def is_punctuation(character: str) -> bool:
    return character in ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def plain_normalize(text: str) -> str:
    """The normalisation of spec 9.2, lower-cased, as plain Python."""
    text = text.strip().replace("``", '"').replace("''", '"').translate(QUOTES)
    tokens = []
    for token in text.split():
        start, end = 0, len(token)
        while start < end and is_punctuation(token[start]):
            start += 1
        if start == end:
            tokens.append(token)
            continue
        while is_punctuation(token[end - 1]):
            end -= 1
        tokens.extend(part for part in (token[:start], token[start:end], token[end:]) if part)
    text = " ".join(tokens)
    for pattern, replacement in [*CONTRACTIONS, *CAPITAL_CONTRACTIONS]:
        text = pattern.sub(replacement, text)
    return " ".join(text.split()).lower()


class Peer:
    """One text at a time through the plain normaliser and sentencepiece."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model"))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        encode = self.model.encode
        return [[BOS, *(encode(plain_normalize(text)) or [UNK]), EOS] for text in texts]


def standard_library_texts(characters: int) -> list[str]:
    """Paragraphs of pydoc's topics, then of docstrings, until there are so many characters."""
    texts, total = [], 0
    for document in documents():
        for paragraph in document.split("\n\n"):
            if paragraph.strip():
                texts.append(paragraph)
                total += len(paragraph)
            if total >= characters:
                return texts
    return texts


def documents() -> Iterator[str]:
    yield from topics.topics.values()
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (docstring := ast.get_docstring(node)):
                yield docstring


def seconds(work: Callable[[], object], forget: Callable[[], None]) -> float:
    forget()
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(
    candidates: dict[str, Callable[[], object]], rounds: int, forget: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round; the order turns around from round to round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        order = list(candidates.items())
        for name, work in order if number % 2 else reversed(order):
            elapsed = seconds(work, forget)
            if number > 0:  # the first round warms the machine up
                times[name].append(elapsed)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vocab",
        type=pathlib.Path,
        default=SMALL_VOCABULARY,
        help="folder with sp.model and dict.txt, a published one for figures that mean something "
        "(default: the small vocabulary of the tests)",
    )
    parser.add_argument("--characters", type=int, default=2_000_000, help="amount of text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of sentencepiece in encode_batch; the peer always has one (default: %(default)s, which is fair)",
    )
    arguments = parser.parse_args()
    if min(arguments.characters, arguments.rounds, arguments.threads) < 1:
        parser.error("--characters, --rounds and --threads must be at least 1")

    tokenizer, peer = MetroTokenizer.from_pretrained(arguments.vocab, lower=True), Peer(arguments.vocab)
    texts = standard_library_texts(arguments.characters)
    rows = tokenizer.encode_batch(texts)
    if rows != peer.encode_batch(texts):
        raise SystemExit(
            "the tokenizer and its peer give different ids: this benchmark compares nothing; fix that first"
        )
    normalized = [plain_normalize(text) for text in texts]
    times = measure(
        {
            "peer": lambda: peer.encode_batch(texts),
            "encode_batch": lambda: tokenizer.encode_batch(texts, num_threads=arguments.threads),
            "sentencepiece alone": lambda: [peer.model.encode(text) for text in normalized],
        },
        arguments.rounds,
        tokenizer.clear_caches,
    )

    characters, ids = sum(map(len, texts)), sum(map(len, rows))
    print(f"Python {platform.python_version()}, sentencepiece {sentencepiece.__version__}, {platform.machine()}")
    print(f"vocabulary {arguments.vocab.name}: {tokenizer.vocab_size} ids, threads {arguments.threads}")
    print(f"texts {len(texts)}, {characters} characters, {ids} ids; {arguments.rounds} rounds")
    print(f"{'':22}{'median s':>10}{'best s':>10}{'Mchar/s':>10}{'Mid/s':>10}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:22}{median:10.4f}{min(values):10.4f}{characters / median / 1e6:10.2f}{ids / median / 1e6:10.2f}")
    ratios = [slow / fast for slow, fast in zip(times["peer"], times["encode_batch"], strict=True)]
    print(
        f"ratio of speeds, encode_batch to peer: {statistics.median(ratios):.2f} (median; {min(ratios):.2f} to "
        f"{max(ratios):.2f}); at least 1.00 is asked for"
    )


if __name__ == "__main__":
    main()
