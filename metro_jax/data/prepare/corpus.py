"""Preparing a corpus: text files to sharded records of documents, in many processes, to be continued after any stop.

The parent reads and writes, the workers do everything between. Chunks are numbered as they are read and written in that
order, chunk n to shard n modulo the number of shards, so that the bytes depend on input, vocabulary and settings alone.
After every chunk the journal says how far input and shards have got; a run that finds a journal of the same plan cuts
the shards back to what it says, and goes on from there.
"""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from metro_jax.data.prepare import inputs as inputs_lib
from metro_jax.data.prepare.documents import Documents
from metro_jax.data.prepare.errors import BadInputError, Problem, stopped_by
from metro_jax.data.prepare.inputs import Chunk, InputFile
from metro_jax.data.prepare.journal import Journal, write_all
from metro_jax.data.prepare.transform import Result, Transform
from metro_jax.data.prepare.workers import Workers
from metro_jax.data.record_format import describe, shard_names
from metro_jax.text import config as config_lib
from metro_jax.text import vocabulary as vocabulary_lib
from metro_jax.text.tokenizer import MetroTokenizer
from metro_jax.version import __version__

CHUNK = 1 << 20  # bytes of text given to a worker at a time
SHARD = 64 << 20  # bytes of text for which one shard is planned
MOST_SHARDS = 1024
COMPRESSION = 4  # text is about so many times larger than its compressed form
TOLD = 5  # problems told in an error
LISTED = 1000  # problems listed in the manifest

Watch = Callable[[int, int, collections.Counter], None]  # bytes read, bytes in all, counts so far


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to prepare, and how; `workers` and `skip_bad` do not change the records of good input."""

    inputs: tuple[str, ...]
    vocab: str
    output: str
    name: str = "corpus"
    split: str = "train"
    format: str = "auto"
    text_field: str = "text"
    language: str = "en"
    shards: int | None = None
    workers: int = 1
    skip_bad: bool = False
    overwrite: bool = False
    chunk: int = CHUNK


class OtherVocabularyError(ValueError):
    """The output folder holds records of another vocabulary."""


@dataclasses.dataclass
class _State:
    """How far a preparation has got."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    longest: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    sizes: dict[int, int] = dataclasses.field(default_factory=dict)  # bytes of each shard
    chunks: int = 0
    file: int = 0  # index of the input file to read next, and where in it
    position: int = 0
    line: int = 1

    def add(self, entry: dict[str, Any]) -> None:
        """Takes in an entry of the journal."""
        self.counts.update(entry["counts"])
        for name, value in entry["longest"].items():
            self.longest[name] = max(self.longest.get(name, 0), value)
        self.problems += entry["problems"][: LISTED - len(self.problems)]
        self.sizes[entry["shard"]] = entry["size"]
        self.chunks += 1
        self.file, self.position, self.line = entry["next"]


def prepare(settings: Settings, watch: Watch = lambda *_: None) -> dict[str, Any]:
    """Prepares a corpus, or goes on with it, and returns its manifest.

    Writes OUTPUT/NAME/SPLIT.tfrecord-*, info.SPLIT.json and manifest.SPLIT.json, and OUTPUT/vocab.

    Raises:
      BadInputError: input is no text of its format, and `skip_bad` is not set. StoppedError: no room left on the disk.
      OtherVocabularyError: the output folder has another vocabulary. FileExistsError: it has other records.
    """
    tokenizer = MetroTokenizer.from_pretrained(settings.vocab)
    files = inputs_lib.find_inputs(settings.inputs, settings.format)
    target = pathlib.Path(settings.output) / settings.name
    shards = settings.shards or default_shards(files)
    if shards < 1 or settings.workers < 1:
        raise ValueError(f"shards={shards}, workers={settings.workers}: at least one of each is needed")
    plan = _plan(settings, files, tokenizer, shards)
    done = _finished(target, settings, plan)
    if done is not None:
        return done
    partial = _partial(target, settings)
    try:
        install_vocabulary(pathlib.Path(settings.output) / "vocab", tokenizer)
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise stopped_by(error, target) or error from error
    with _locked(partial):
        run = _Run(settings, files, tokenizer, plan, target, watch)
        try:
            return run.finish(run.write())
        finally:
            run.close()


def default_shards(files: list[InputFile]) -> int:
    """One shard for each 64 MiB of text, by the sizes on disk."""
    text = sum(
        file.size * (COMPRESSION if pathlib.Path(file.path).suffix in inputs_lib.COMPRESSED else 1) for file in files
    )
    return max(1, min(MOST_SHARDS, -(-text // SHARD)))


def _plan(settings: Settings, files: list[InputFile], tokenizer: MetroTokenizer, shards: int) -> dict[str, Any]:
    """Everything the records depend on."""
    return {
        "inputs": [[file.path, file.size, file.modified, file.format] for file in files],
        "vocabulary": tokenizer.fingerprint(),
        "vocab_size": tokenizer.vocab_size,
        "shards": shards,
        "text_field": settings.text_field,
        "language": settings.language,
        "chunk": settings.chunk,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions that records can depend on."""
    found = {"metro_jax": __version__, "python": platform.python_version()}
    for name in ("sentencepiece", "sentencex"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _finished(target: pathlib.Path, settings: Settings, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest, when these records are there already; a reason to refuse is raised."""
    info, manifest = target / f"info.{settings.split}.json", target / f"manifest.{settings.split}.json"
    partial = _partial(target, settings)
    if settings.overwrite:
        if partial.is_dir():
            with _locked(partial):
                shutil.rmtree(partial)
        return None
    if not info.exists():
        return None
    known = json.loads(manifest.read_text()) if manifest.exists() else {}
    if known.get("plan") == plan:
        return known
    theirs = json.loads(info.read_text()).get("vocabulary")
    if theirs != plan["vocabulary"]:
        raise OtherVocabularyError(
            f"{target}: split {settings.split!r} was prepared with vocabulary {theirs}, the one in {settings.vocab} is "
            f"{plan['vocabulary']}; use that vocabulary, another --output, or --overwrite"
        )
    raise FileExistsError(
        f"{target}: split {settings.split!r} is there already, from other input or settings (see {manifest.name}); "
        "choose another --name or --output, or --overwrite"
    )


def _partial(target: pathlib.Path, settings: Settings) -> pathlib.Path:
    """Where the journal and the shards in the making are."""
    return target / f".{settings.split}.partial"


def install_vocabulary(folder: pathlib.Path, tokenizer: MetroTokenizer) -> None:
    """Puts the vocabulary beside the records, where tasks look for it; another one that is there is not touched."""
    if (folder / vocabulary_lib.MODEL_NAME).exists():
        present = MetroTokenizer.from_pretrained(folder).fingerprint()
        if present != tokenizer.fingerprint():
            raise OtherVocabularyError(
                f"{folder} holds vocabulary {present}, this one is {tokenizer.fingerprint()}, and the records of a "
                "data folder share one vocabulary; choose another --output, or give that folder as --vocab"
            )
        return
    tokenizer.save_pretrained(folder)
    (folder / config_lib.SPECIAL_TOKENS_FILE_NAME).unlink()


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of a folder; the lock dies with the process."""
    with open(folder.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(
                f"{folder}: another process is preparing this split now; wait for it, or end it first"
            ) from error
        yield
        folder.with_suffix(".lock").unlink(missing_ok=True)


class _Run:
    """One run of a preparation: from where the journal ends to the end of the input."""

    def __init__(self, settings: Settings, files: list[InputFile], tokenizer: MetroTokenizer, plan: dict[str, Any],
                 target: pathlib.Path, watch: Watch) -> None:  # fmt: skip
        self._settings, self._files, self._plan = settings, files, plan
        self._transform = Transform(tokenizer, Documents(settings.text_field, settings.language))
        self._target, self._partial, self._watch = target, _partial(target, settings), watch
        self._journal = Journal(self._partial)
        self._state = _State()

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    def write(self) -> _State:
        """Reads and writes what is left."""
        self._resume()
        unreadable = [Problem(file.path, 0, file.problem) for file in self._files if file.problem]
        self._check(unreadable, len(unreadable))
        before, total = 0, sum(file.size for file in self._files)
        starts = {}
        for index, file in enumerate(self._files):
            starts[index] = before
            before += file.size
        with Workers(self._transform, self._settings.workers) as workers:
            for (index, chunk), result in workers.map(self._chunks()):
                self._check(result.problems, result.counts["bad_input"])
                self._append(index, chunk, result)
                self._watch(starts[index] + chunk.read, total, self._state.counts)
        self._state.counts["bad_files"] = len(unreadable)
        self._state.problems = [str(problem) for problem in unreadable] + self._state.problems
        return self._state

    def _resume(self) -> None:
        entries = self._journal.read()
        first = next(entries, None)
        if first is None:
            self._journal.append({"plan": self._plan})
        elif first["plan"] != self._plan:
            different = sorted(key for key in self._plan if first["plan"].get(key) != self._plan[key])
            raise FileExistsError(
                f"{self._partial}: a preparation was begun here with other {', '.join(different)}; run it with those, "
                "or give up what it did with --overwrite"
            )
        for entry in entries:
            self._state.add(entry)
        for shard in range(self._plan["shards"]):
            path, size = self._shard(shard), self._state.sizes.get(shard, 0)
            present = path.stat().st_size if path.exists() else 0
            if present < size:
                if self._published(shard, size):
                    continue
                raise BadInputError(f"{path} has {present} bytes, {size} were written; start again with --overwrite")
            if present > size:
                os.truncate(path, size)

    def _published(self, shard: int, size: int) -> bool:
        """Whether a run that was killed at its very end had moved this shard to its place."""
        final = self._target / shard_names(self._settings.split, self._plan["shards"])[shard]
        return not self._shard(shard).exists() and final.exists() and final.stat().st_size == size

    def _chunks(self) -> Iterator[tuple[int, Chunk]]:
        """The chunks that are left, with the index of their file."""
        begun, position, line = self._state.file, self._state.position, self._state.line
        for index, file in enumerate(self._files[begun:], begun):
            if not file.problem:
                start = (position, line) if index == begun else (0, 1)
                for chunk in inputs_lib.chunks(file, self._settings.chunk, *start):
                    yield index, chunk

    def _check(self, problems: list[Problem], count: int) -> None:
        """Refuses bad input unless it is to be skipped."""
        if not problems or self._settings.skip_bad:
            return
        told = "; ".join(map(str, problems[:TOLD])) + ("; ..." if count > TOLD else "")
        raise BadInputError(
            f"{count} piece{'s' * (count > 1)} of bad input: {told}. Repair the input, or leave such pieces out with "
            "--skip-bad, which continues where this stopped"
        )

    def _append(self, index: int, chunk: Chunk, result: Result) -> None:
        """Writes the records of a chunk, then the journal."""
        state = self._state
        shard = state.chunks % self._plan["shards"]
        path = self._shard(shard)
        try:
            with open(path, "ab", buffering=0) as file:
                write_all(file, result.records)
        except OSError as error:
            raise stopped_by(error, path) or error from error
        entry = {
            "next": [index + 1, 0, 1] if chunk.last else [index, chunk.end, chunk.next_line],
            "shard": shard,
            "size": state.sizes.get(shard, 0) + len(result.records),
            "counts": dict(result.counts),
            "longest": result.longest,
            "problems": [str(problem) for problem in result.problems],
        }
        self._journal.append(entry)
        state.add(entry)

    def _shard(self, shard: int) -> pathlib.Path:
        return self._partial / f"shard-{shard:05d}"

    def finish(self, state: _State) -> dict[str, Any]:
        """Puts shards, manifest and info file in their places, the info file last, and returns the manifest."""
        split, shards, counts = self._settings.split, self._plan["shards"], state.counts
        if not counts["documents"]:
            raise BadInputError(
                f"{', '.join(self._settings.inputs)}: no document with a word in {len(self._files)} files; check the "
                "input, its --format, and for JSON lines --text-field"
            )
        info = describe("documents", shards, self._plan["vocabulary"], self._plan["vocab_size"]) | {
            "examples": counts["documents"],
            "totals": {"ids": counts["ids"], "line_lengths": counts["lines"]},
            "longest": state.longest,
            "dropped": {"empty document": counts["empty_documents"]} if counts["empty_documents"] else {},
        }
        manifest = {
            "plan": self._plan,
            "inputs": list(self._hashes()),
            "counts": {name: counts[name] for name in COUNTS},
            "skipped": state.problems,
        }
        try:
            self._publish(split, shard_names(split, shards), manifest, info)
        except OSError as error:
            raise stopped_by(error, self._target) or error from error
        return manifest

    def _hashes(self) -> Iterator[dict[str, Any]]:
        """Names, sizes and SHA-256 of the input files; BadInputError when one has changed since they were looked at."""
        for file in self._files:
            with open(file.path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                status = os.fstat(stream.fileno())
            if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
                raise BadInputError(f"{file.path} was changed while it was read; start again with --overwrite")
            yield {"path": file.path, "bytes": file.size, "sha256": digest, "format": file.format}

    def _publish(self, split: str, names: list[str], manifest: dict, info: dict) -> None:
        target = self._target
        (target / f"info.{split}.json").unlink(missing_ok=True)  # until all is in place the split counts as missing
        in_place = {name for shard, name in enumerate(names) if self._published(shard, self._state.sizes.get(shard, 0))}
        for old in target.glob(f"{split}.tfrecord-*"):
            if old.name not in in_place:
                old.unlink()
        for shard, name in enumerate(names):
            if name not in in_place:
                self._shard(shard).touch()  # there may have been no chunk for it
                os.replace(self._shard(shard), target / name)
        for what, value in (("manifest", manifest), ("info", info)):
            text = json.dumps(value, indent=2, sort_keys=True) + "\n"
            vocabulary_lib.write_file(target / f"{what}.{split}.json", text.encode())
        shutil.rmtree(self._partial)


#: What the manifest counts. Long lines are those of which training takes a crop.
COUNTS = ("documents", "lines", "ids", "long_lines", "empty_documents", "bad_input", "bad_files")
