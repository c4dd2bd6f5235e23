"""`metro-jax data corpus` and `metro-jax data vocab`."""

import argparse
import collections
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from metro_jax.data.prepare.inputs import FORMATS

FAILED, INTERRUPTED = 1, 130


def add_parser(commands: Any) -> None:
    """Adds the two commands to the group `metro-jax data`."""
    corpus = commands.add_parser(
        "corpus",
        help="text files to records of token ids, for pretraining",
        description="Prepares text for pretraining: normalised and encoded once, into sharded records of documents. "
        "A run that was stopped, in whatever way, continues when the same command is given again.",
    )
    _add_input(corpus)
    corpus.add_argument("--vocab", required=True, metavar="FOLDER", help="sp.model, dict.txt, tokenizer_config.json")
    corpus.add_argument("--output", required=True, metavar="FOLDER", help="the data folder")
    corpus.add_argument("--name", default="corpus", help="folder of the records in it (default: %(default)s)")
    corpus.add_argument("--split", default="train", help="default: %(default)s")
    corpus.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="processes (default: %(default)s, one for each core here)")  # fmt: skip
    corpus.add_argument("--shards", type=int, help="files to write (default: one for each 64 MiB of text)")
    corpus.add_argument("--overwrite", action="store_true", help="begin anew; replaces the split when all is done")
    corpus.set_defaults(function=run_corpus)

    vocab = commands.add_parser(
        "vocab",
        help="train a vocabulary from text files",
        description="Trains a SentencePiece unigram vocabulary of the published shape: sp.model, dict.txt, "
        "tokenizer_config.json.",
    )
    _add_input(vocab)
    vocab.add_argument("--output", required=True, metavar="FOLDER", help="where the three files go")
    vocab.add_argument("--size", type=int, default=33280,
                       help="entries in all, a multiple of 128 (default: %(default)s, as base)")  # fmt: skip
    vocab.add_argument("--sentinels", type=int, default=512, help="of these entries (default: %(default)s)")
    vocab.add_argument("--lines", type=int, default=2_000_000,
                       help="train on a sample of at most so many lines (default: %(default)s)")  # fmt: skip
    vocab.add_argument("--cased", action="store_true", help="keep capitals (the published text path has none)")
    vocab.add_argument("--threads", type=int, default=1, help="more are faster, but not the same twice (default: 1)")
    vocab.add_argument("--verbose", action="store_true", help="show what SentencePiece reports")
    vocab.add_argument("--overwrite", action="store_true", help="replace a vocabulary that is there")
    vocab.set_defaults(function=run_vocab)


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH",
                        help="files, folders or globs; gzip and zstd are read as they are")  # fmt: skip
    formats = "; ".join(f"{name}: {meaning}" for name, meaning in FORMATS.items())
    parser.add_argument("--format", default="auto",
                        help=f"{formats} (default: told from each file's name and beginning)")  # fmt: skip
    parser.add_argument("--text-field", default="text", help="of JSON lines (default: %(default)s)")
    parser.add_argument("--language", default="en",
                        help="whose sentences are found in documents of one line (default: %(default)s)")  # fmt: skip
    parser.add_argument("--skip-bad", action="store_true", help="leave bad input out, counted and listed")


def run_corpus(arguments: argparse.Namespace) -> int:
    """Prepares a corpus."""
    _load_kernels()
    from metro_jax.data.prepare.corpus import Settings, prepare
    from metro_jax.data.prepare.errors import StoppedError

    settings = Settings(
        inputs=tuple(arguments.input),
        vocab=arguments.vocab,
        output=arguments.output,
        name=arguments.name,
        split=arguments.split,
        format=arguments.format,
        text_field=arguments.text_field,
        language=arguments.language,
        shards=arguments.shards,
        workers=arguments.workers,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
    )
    try:
        with _progress("preparing") as show:
            manifest = prepare(settings, show)
    except KeyboardInterrupt:
        print("stopped; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED
    except StoppedError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    _report(manifest, pathlib.Path(settings.output) / settings.name, settings.split)
    return 0


def _load_kernels() -> None:
    """Loads what is compiled, and says so where that takes long. Worker processes find it on disk."""
    from metro_jax.text.jit import OnCompiling

    told = "compiling for this machine, once (about ten seconds; NUMBA_CACHE_DIR says where it is kept)"
    with OnCompiling(lambda: print(told, file=sys.stderr)):
        import metro_jax.data.prepare.transform  # noqa: F401


def _report(manifest: dict[str, Any], folder: pathlib.Path, split: str) -> None:
    counts = manifest["counts"]
    print(
        f"{counts['documents']:,} documents, {counts['lines']:,} lines, {counts['ids']:,} ids in "
        f"{manifest['plan']['shards']} shards"
    )
    for name, meaning in (
        ("empty_documents", "documents without a word, dropped"),
        ("long_lines", "lines of more than 511 ids, of which training takes a crop"),
        ("bad_input", "pieces of bad input left out"),
        ("bad_files", "files left out"),
    ):
        if counts[name]:
            print(f"{counts[name]:,} {meaning}")
    for problem in manifest["skipped"][:5]:
        print(f"  {problem}")
    print(f"{folder}: {split}.tfrecord-*, info.{split}.json, manifest.{split}.json")


def run_vocab(arguments: argparse.Namespace) -> int:
    """Trains a vocabulary."""
    from metro_jax.data.prepare import vocabulary
    from metro_jax.text.tokenizer import MetroTokenizer

    folder = pathlib.Path(arguments.output)
    if (folder / "sp.model").exists() and not arguments.overwrite:
        raise FileExistsError(f"{folder} holds a vocabulary; choose another --output, or --overwrite")
    with _progress("reading") as show:
        lines = vocabulary.sample_lines(
            arguments.input,
            arguments.lines,
            format_=arguments.format,
            text_field=arguments.text_field,
            language=arguments.language,
            skip_bad=arguments.skip_bad,
            watch=show,
        )
    print(f"training on {len(lines):,} lines", file=sys.stderr)
    vocabulary.train_vocabulary(
        lines,
        folder,
        arguments.size,
        arguments.sentinels,
        cased=arguments.cased,
        threads=arguments.threads,
        verbose=arguments.verbose,
    )
    tokenizer = MetroTokenizer.from_pretrained(folder)
    print(f"{folder}: {tokenizer.vocab_size:,} entries, {len(tokenizer.sentinel_ids)} of them sentinels")
    return 0


@contextmanager
def _progress(label: str) -> Iterator[Callable[..., None]]:
    """A bar on standard error with share, speed and time left; yields what is to be told of bytes and counts."""
    import rich.console
    import rich.progress

    columns = (
        rich.progress.TextColumn(label),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TextColumn("{task.fields[ids]}"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, ids="")

        def show(read: int, total: int, counts: "collections.Counter[str] | None" = None) -> None:
            ids = f"{counts['ids'] / 1e6:.1f} M ids" if counts else ""
            bar.update(task, completed=min(read, total), total=total, ids=ids)

        yield show
