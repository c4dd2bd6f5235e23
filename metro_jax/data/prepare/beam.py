"""The same preparation as an Apache Beam pipeline, for corpora that outgrow one machine (extra `beam`).

    python -m metro_jax.data.prepare.beam --input ... --vocab ... --output ... [Beam's own options, such as --runner]

Files are cut into the same chunks by the same code, each chunk is transformed by the same `Transform` and goes to the
same shard, in the same order: the records are byte for byte those of `metro-jax data corpus`. One worker reads a file
(compressed files cannot be entered in the middle), so give Beam many files rather than one. Input and output are paths
that every worker can reach; the counts are in the info file, a manifest is not written.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

try:
    import apache_beam as beam
    from apache_beam import pvalue
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError(f"{error}: the pipeline needs Apache Beam: pip install 'metro_jax[beam]'") from error

from metro_jax.data.prepare import corpus, inputs
from metro_jax.data.prepare.documents import Documents
from metro_jax.data.prepare.errors import BadInputError
from metro_jax.data.prepare.inputs import Chunk, InputFile
from metro_jax.data.prepare.transform import Result, Transform
from metro_jax.data.record_format import describe, shard_names
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.text.vocabulary import write_file

Place = tuple[int, int]  # of a chunk: its file and its number in the file


class CutIntoChunks(beam.DoFn):
    """A numbered file to its chunks, each with its place."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk

    def process(self, element: tuple[int, InputFile], *args: Any, **kwargs: Any) -> Iterator[tuple[Place, Chunk]]:  # type: ignore[override]
        """Yields place and chunk."""
        index, file = element
        for number, chunk in enumerate([] if file.problem else inputs.chunks(file, self._chunk)):
            yield (index, number), chunk


class MakeRecords(beam.DoFn):
    """Chunks to results; the first piece of bad input is an error unless it is to be left out."""

    def __init__(self, vocab: str, text_field: str, language: str, skip_bad: bool) -> None:
        self._vocab, self._text_field, self._language, self._skip_bad = vocab, text_field, language, skip_bad
        self._transform: Transform | None = None

    def setup(self) -> None:
        """Reads the vocabulary, once in each worker."""
        self._transform = Transform(
            MetroTokenizer.from_pretrained(self._vocab), Documents(self._text_field, self._language)
        )

    def process(self, element: tuple[Place, Chunk], *args: Any, **kwargs: Any) -> Iterator[tuple[Place, Result]]:  # type: ignore[override]
        """Yields place and result."""
        place, chunk = element
        assert self._transform is not None, "Beam calls setup first"
        result = self._transform(chunk)
        if result.problems and not self._skip_bad:
            raise BadInputError(f"{result.problems[0]}; repair it, or leave bad input out with --skip-bad")
        yield place, result


class SumUp(beam.CombineFn):
    """Adds up counts and longest lengths."""

    def create_accumulator(self) -> Result:  # type: ignore[override]
        return Result()

    def add_input(self, mutable_accumulator: Result, element: Result, *args: Any, **kwargs: Any) -> Result:  # type: ignore[override]
        mutable_accumulator.counts.update(element.counts)
        for name, value in element.longest.items():
            mutable_accumulator.longest[name] = max(mutable_accumulator.longest.get(name, 0), value)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[Result], *args: Any, **kwargs: Any) -> Result:  # type: ignore[override]
        total = Result()
        for accumulator in accumulators:
            self.add_input(total, accumulator)
        return total

    def extract_output(self, accumulator: Result, *args: Any, **kwargs: Any) -> Result:  # type: ignore[override]
        return accumulator


def assign_shard(element: tuple[Place, Result], before: dict[int, int], shards: int) -> tuple[int, tuple[Place, bytes]]:
    """The shard of a chunk: its number in the whole corpus modulo the number of shards, and what to write."""
    (index, number), result = element
    return (before[index] + number) % shards, ((index, number), result.records)


def chunks_before(counts: dict[int, int], files: int) -> dict[int, int]:
    """For each file the number of chunks of the files before it."""
    before, total = {}, 0
    for index in range(files):
        before[index] = total
        total += counts.get(index, 0)
    return before


def write_shard(element: tuple[int, Iterable[tuple[Place, bytes]]], folder: str, names: Sequence[str]) -> int:
    """Writes the records of a shard in the order of their chunks, under a temporary name first."""
    shard, parts = element
    final = os.path.join(folder, names[shard])
    temporary = f"{final}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        for _, records in sorted(parts):
            file.write(records)
    os.replace(temporary, final)
    return shard


def write_info(total: Result, shards: Sequence[int], path: str, description: dict[str, Any]) -> None:
    """Writes the info file when all shards are there (that is why it is told of them)."""
    counts = total.counts
    if not counts["documents"]:
        raise BadInputError("no document with a word in the input; check --input, --format and --text-field")
    info = description | {
        "examples": counts["documents"],
        "totals": {"ids": counts["ids"], "line_lengths": counts["lines"]},
        "longest": total.longest,
        "dropped": {"empty document": counts["empty_documents"]} if counts["empty_documents"] else {},
    }
    assert len(shards) == description["num_shards"], "every shard is written, with or without records"
    write_file(pathlib.Path(path), (json.dumps(info, indent=2, sort_keys=True) + "\n").encode())


def run(settings: corpus.Settings, options: PipelineOptions) -> None:
    """Runs the pipeline to its end.

    Raises BadInputError, OtherVocabularyError and FileExistsError as `metro_jax.data.prepare.corpus.prepare`.
    """
    tokenizer = MetroTokenizer.from_pretrained(settings.vocab)
    files = inputs.find_inputs(settings.inputs, settings.format)
    unreadable = [f"{file.path}: {file.problem}" for file in files if file.problem]
    if unreadable and not settings.skip_bad:
        raise BadInputError(f"{'; '.join(unreadable[:5])}; repair it, or leave bad input out with --skip-bad")
    shards = settings.shards or corpus.default_shards(files)
    folder = pathlib.Path(settings.output) / settings.name
    info = folder / f"info.{settings.split}.json"
    if info.exists() and not settings.overwrite:
        raise FileExistsError(f"{info} is there already; choose another --name or --output, or --overwrite")
    corpus.install_vocabulary(pathlib.Path(settings.output) / "vocab", tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    info.unlink(missing_ok=True)
    for old in folder.glob(f"{settings.split}.tfrecord-*"):
        old.unlink()
    description = describe("documents", shards, tokenizer.fingerprint(), tokenizer.vocab_size)
    make = MakeRecords(settings.vocab, settings.text_field, settings.language, settings.skip_bad)
    with beam.Pipeline(options=options) as pipeline:
        results = (
            pipeline
            | "Files" >> beam.Create(list(enumerate(files)))
            | "Spread files" >> beam.Reshuffle()
            | "Cut" >> beam.ParDo(CutIntoChunks(settings.chunk))
            | "Spread chunks" >> beam.Reshuffle()
            | "Records" >> beam.ParDo(make)
        )
        counts = results | "Files of chunks" >> beam.Map(lambda pair: pair[0][0]) | beam.combiners.Count.PerElement()
        before = (
            pipeline
            | "Once" >> beam.Create([None])
            | "Before" >> beam.Map(lambda _, pairs, n: chunks_before(pairs, n), pvalue.AsDict(counts), len(files))
        )
        written = (
            (
                results | "Shards" >> beam.Map(assign_shard, pvalue.AsSingleton(before), shards),
                pipeline | "Every shard" >> beam.Create([(shard, ((-1, -1), b"")) for shard in range(shards)]),
            )
            | beam.Flatten()
            | beam.GroupByKey()
            | "Write" >> beam.Map(write_shard, str(folder), shard_names(settings.split, shards))
        )
        total = results | "Results" >> beam.Map(lambda pair: pair[1]) | beam.CombineGlobally(SumUp())  # type: ignore[arg-type]
        _ = total | "Info" >> beam.Map(write_info, pvalue.AsList(written), str(info), description)  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline from the command line; arguments that are not known here are Beam's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="files, folders or globs")
    for name in ("vocab", "output"):
        parser.add_argument(f"--{name}", required=True, metavar="FOLDER")
    for name, default in (("name", "corpus"), ("split", "train"), ("format", "auto"), ("text-field", "text"),
                          ("language", "en")):  # fmt: skip
        parser.add_argument(f"--{name}", default=default, help="as for `metro-jax data corpus` (default: %(default)s)")
    parser.add_argument("--shards", type=int, help="default: one for each 64 MiB of text")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad input out")
    parser.add_argument("--overwrite", action="store_true", help="replace the split")
    arguments, rest = parser.parse_known_args(argv)
    values = vars(arguments)
    try:
        run(corpus.Settings(inputs=tuple(values.pop("input")), **values), PipelineOptions(rest))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
