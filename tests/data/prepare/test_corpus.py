"""Preparing a corpus: the right records from every format, the same bytes by any number of processes and stops."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from metro_jax.data import records
from metro_jax.data.prepare import corpus, inputs
from metro_jax.data.prepare.errors import BadInputError
from metro_jax.data.sources import PreparedSource, VocabularyMismatchError
from metro_jax.data.vocabulary import MetroVocabulary

from .conftest import contents

# A run in a process of its own, which can be killed, limited and measured.
CHILD = """
import os, sys
from metro_jax.data.prepare import corpus, journal
if __name__ == "__main__":
    chunk, workers = int(os.environ.get("CHUNK", 2000)), int(sys.argv[4])
    settings = corpus.Settings((sys.argv[1],), *sys.argv[2:4], chunk=chunk, shards=3, workers=workers)
    kill = sys.argv[5] if len(sys.argv) > 5 else ""
    seen = []
    append = journal.Journal.append
    def dying(self, entry):
        seen.append(entry)
        if kill == "before" and len(seen) == 6:   # records are written, the journal does not know
            os.kill(os.getpid(), 9)
        append(self, entry)
        if kill == "after" and len(seen) == 6:
            os.kill(os.getpid(), 9)
        if kill == "torn" and len(seen) == 6:     # half a line in the journal
            with open(self.path, "ab") as file:
                file.write(b'{"counts": {"docu')
            os.kill(os.getpid(), 9)
    journal.Journal.append = dying
    if kill == "publish":
        replace = os.replace
        def killing(source, target):
            replace(source, target)
            if "tfrecord-00001" in str(target):
                os.kill(os.getpid(), 9)
        os.replace = killing
    corpus.prepare(settings)
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def child(tmp_path: pathlib.Path, *arguments: object, **options) -> subprocess.CompletedProcess:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def rows(folder: pathlib.Path, name: str = "corpus") -> list[tuple[list[int], list[int]]]:
    read = records.read_records(folder, name, "train", "documents")
    return [(row["ids"].tolist(), row["line_lengths"].tolist()) for row in read]


# The right records


def test_records_are_those_of_the_tensorflow_writer(run, formats, texts, tokenizer, tmp_path):
    folder, manifest = run(formats["lines.txt"], shards=1)
    info = records.write_documents(tmp_path / "tf", "corpus", "train", texts, tokenizer, progress=False)
    assert (
        contents(folder)["train.tfrecord-00000-of-00001"]
        == (tmp_path / "tf" / "corpus" / "train.tfrecord-00000-of-00001").read_bytes()
    )
    assert json.loads((folder / "info.train.json").read_text()) == info
    assert manifest["counts"]["documents"] == len(texts)
    assert manifest["counts"]["ids"] == info["totals"]["ids"]


def test_every_format_gives_the_same_records(run, formats):
    expected = None
    for number, (name, path) in enumerate(formats.items()):
        folder, manifest = run(path, to=f"out{number}", shards=1)
        data = contents(folder)["train.tfrecord-00000-of-00001"]
        expected = expected or data
        assert data == expected, name
        assert manifest["counts"]["bad_input"] == 0


def test_documents_keep_their_order_and_are_spread_over_shards(run, formats, texts, tokenizer):
    folder, _ = run(formats["lines.txt"])
    ours = sorted(rows(folder.parent))
    encoded = [tokenizer.training_ids_batch(lines, bos=False) for lines in texts]
    assert ours == sorted(([i for line in doc for i in line], [len(line) for line in doc]) for doc in encoded)
    assert all((folder / name).stat().st_size for name in records.shard_names("train", 3))


def test_tasks_read_what_was_prepared(run, formats, vocabulary_folder):
    folder, manifest = run(formats["lines.txt"])
    source = PreparedSource("corpus", "documents", MetroVocabulary(folder.parent / "vocab"), folder.parent)
    data = list(source.get_dataset("train", shuffle=False).as_numpy_iterator())
    assert len(data) == source.num_input_examples("train") == manifest["counts"]["documents"]
    assert sum(int(np.sum(row["line_lengths"])) for row in data) == manifest["counts"]["ids"]


def test_documents_without_a_word_are_dropped(run, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "A dog."}\n{"text": "\u200b"}\n{"text": "  "}\n\n')
    _, manifest = run(tmp_path / "in.jsonl")
    assert (manifest["counts"]["documents"], manifest["counts"]["empty_documents"]) == (1, 1)


def test_lines_longer_than_a_block_are_kept_and_counted(run, tmp_path):
    (tmp_path / "in.txt").write_text("dog " * 2000 + "\n\nfriend\n")
    folder, manifest = run(tmp_path / "in.txt", shards=1)
    assert manifest["counts"]["long_lines"] == 1
    assert len(rows(folder.parent)[0][1]) == 1


# The same bytes


def test_same_bytes_for_any_number_of_processes(run, formats, tmp_path):
    files = [formats["lines.txt"], formats["rows.jsonl"], formats["lines.zst"]]
    expected = contents(run(*files, to="one")[0])
    assert len(expected) == 5
    for workers in (2, 3):
        assert contents(run(*files, to=f"out{workers}", workers=workers)[0]) == expected


def test_the_manifest_says_what_was_used(run, formats, tokenizer):
    import hashlib

    path = formats["lines.txt.gz"]
    _, manifest = run(path)
    (entry,) = manifest["inputs"]
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (entry["path"], entry["format"], entry["bytes"]) == (str(path), "lines", path.stat().st_size)
    assert manifest["plan"]["vocabulary"] == tokenizer.fingerprint()
    assert {"metro_jax", "python", "sentencepiece", "sentencex"} <= set(manifest["plan"]["versions"])


# Any stop


@pytest.mark.parametrize(("kill", "workers", "name"), [
    ("before", 1, "lines.txt"), ("after", 2, "rows.json.gz"), ("torn", 1, "lines.zst"), ("publish", 1, "lines.txt"),
])  # fmt: skip
def test_goes_on_after_a_kill(run, formats, tmp_path, vocabulary_folder, kill, workers, name):
    expected = contents(run(formats[name], to="whole")[0])
    killed = child(tmp_path, formats[name], vocabulary_folder, tmp_path / "out", workers, kill)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out" / "corpus" / "info.train.json").exists()
    read = []
    folder, _ = run(formats[name], watch=lambda *told: read.append(told))
    assert contents(folder) == expected
    assert not list(folder.glob(".*"))
    assert len(read) < len(expected["train.tfrecord-00000-of-00003"]) / 100 + 30  # it did not begin anew


def test_a_kill_at_every_chunk_loses_and_repeats_nothing(run, formats):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    expected = contents(run(formats["lines.txt"], formats["rows.jsonl"], to="whole")[0])
    stops = 0
    while True:
        try:
            folder, _ = run(formats["lines.txt"], formats["rows.jsonl"], watch=stop)
            break
        except Stop:
            stops += 1
    assert stops > 10
    assert contents(folder) == expected


def test_a_run_that_is_done_is_done(run, formats):
    folder, manifest = run(formats["lines.txt"])
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(formats["lines.txt"])[1] == manifest
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_other_settings_do_not_go_on(run, formats):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        run(formats["lines.txt"], watch=stop)
    with pytest.raises(FileExistsError, match=r"begun here with other chunk, shards; .*--overwrite"):
        run(formats["lines.txt"], chunk=3000, shards=2)
    assert run(formats["lines.txt"], chunk=3000, shards=2, overwrite=True)[1]["counts"]["documents"]


def test_other_records_are_not_replaced_unasked(run, formats):
    run(formats["lines.txt"])
    with pytest.raises(FileExistsError, match=r"is there already.*--overwrite"):
        run(formats["whole.txt"])
    folder, _ = run(formats["whole.txt"], shards=2, overwrite=True)
    assert sorted(path.name for path in folder.glob("*tfrecord*")) == records.shard_names("train", 2)


def test_input_that_changes_meanwhile_is_refused(run, formats, tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(formats["lines.txt"].read_bytes())

    def change(*_):
        os.utime(path, (1, 1))

    with pytest.raises(BadInputError, match="was changed while it was read"):
        run(path, watch=change)


def test_two_at_a_time_are_refused(run, formats):
    def again(*_):
        run(formats["lines.txt"])

    with pytest.raises(FileExistsError, match="another process is preparing"):
        run(formats["lines.txt"], watch=again)


def test_full_disk_stops_cleanly_and_goes_on(run, formats, tmp_path, vocabulary_folder, tokenizer):
    whole, _ = run(formats["lines.txt"], to="whole", shards=1, chunk=corpus.CHUNK)
    command = ["data", "corpus", "--input", str(formats["lines.txt"]), "--vocab", str(vocabulary_folder), "--output",
               str(tmp_path / "out"), "--workers", "1"]  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "out" / "vocab")  # it fits on the disk
    limit = len(contents(whole)["train.tfrecord-00000-of-00001"]) - 1
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1)); from metro_jax import cli; "
        f"sys.exit(cli.main({command!r}))"
    )
    full = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert full.returncode == 1, full.stderr
    assert "too large" in full.stderr
    assert "run the same command again, which continues" in full.stderr
    again = subprocess.run(
        [sys.executable, "-m", "metro_jax.cli", *command], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "120 documents" in again.stdout
    assert contents(tmp_path / "out" / "corpus") == contents(whole)


def test_no_room_at_any_write_goes_on(run, formats, monkeypatch):
    import errno

    from metro_jax.data.prepare import journal
    from metro_jax.data.prepare.errors import StoppedError

    expected = contents(run(formats["lines.txt"], to="whole")[0])
    room = 0
    write = journal.write_all

    def short(file, data):
        nonlocal room
        room -= 1
        if room < 0:
            write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data)

    monkeypatch.setattr(journal, "write_all", short)
    monkeypatch.setattr(corpus, "write_all", short)
    stops = 0
    while True:
        room = 3
        try:
            folder, _ = run(formats["lines.txt"])
            break
        except StoppedError as error:
            assert "No space left" in str(error)  # noqa: PT017
            stops += 1
    assert stops > 3
    assert contents(folder) == expected


# The right vocabulary


def test_records_of_another_vocabulary_are_refused(run, formats, tmp_path, other_vocabulary_folder):
    folder, _ = run(formats["lines.txt"])
    out = str(folder.parent)
    with pytest.raises(corpus.OtherVocabularyError, match="was prepared with vocabulary"):
        corpus.prepare(corpus.Settings((str(formats["lines.txt"]),), str(other_vocabulary_folder), out))
    with pytest.raises(corpus.OtherVocabularyError, match="share one vocabulary"):
        corpus.prepare(corpus.Settings((str(formats["lines.txt"]),), str(other_vocabulary_folder), out, name="more"))
    source = PreparedSource("corpus", "documents", MetroVocabulary(other_vocabulary_folder), out)
    with pytest.raises(VocabularyMismatchError, match="was prepared with vocabulary"):
        source.get_dataset("train")


# Little memory, no TensorFlow


def test_memory_does_not_grow_with_the_corpus(tmp_path, vocabulary_folder, texts):
    text = ("\n\n".join("\n".join(document) for document in texts) + "\n\n").encode()
    peaks = []
    for times in (1, 4):
        path = tmp_path / f"times{times}.txt"
        path.write_bytes(text * (times * (2 << 20) // len(text)))
        result = child(
            tmp_path, path, vocabulary_folder, tmp_path / f"out{times}", 1, env=os.environ | {"CHUNK": "65536"}
        )
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout))
    assert peaks[1] - peaks[0] < 3 << 10, f"{peaks} KiB"  # the input grew by 6 MiB


def test_no_tensorflow_in_the_workers():
    heavy = ["tensorflow", "seqio", "jax", "torch", "apache_beam"]
    code = "import sys, metro_jax.data.prepare.workers, metro_jax.data.prepare.corpus, metro_jax.data.command; "
    result = subprocess.run(
        [sys.executable, "-c", code + f"print([name for name in {heavy} if name in sys.modules])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "[]"


def test_default_shards():
    def file(path: str, size: int) -> inputs.InputFile:
        return inputs.InputFile(path, size, 0, "lines")

    assert corpus.default_shards([file("a.txt", 1)]) == 1
    assert corpus.default_shards([file("a.txt", 65 << 20), file("b.gz", 64 << 20)]) == 6
    assert corpus.default_shards([file("a.txt", 1 << 50)]) == corpus.MOST_SHARDS
