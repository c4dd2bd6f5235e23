"""Bad input: refused with its place and reason, left out only when asked, and then counted and listed."""

import gzip
import json

import pytest
import zstandard

from metro_jax.data.prepare import inputs
from metro_jax.data.prepare.errors import BadInputError

GOOD = "A dog helps.\n\nA man plays.\n"
PACKED = gzip.compress(("\n\n".join(f"dog {number}" for number in range(20000))).encode())
ZSTD = zstandard.compress(("\n\n".join(f"dog {number}" for number in range(20000))).encode())

CASES = {
    "empty": ("bad.txt", b"", r"bad\.txt: the file is empty"),
    "empty gzip": ("bad.gz", gzip.compress(b""), r"bad\.gz: the file is empty"),
    "binary": ("bad.bin", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 40, r"bad\.bin: the file is binary.*NUL"),
    "binary later": ("bad.txt", b"a dog\n" * 20000 + b"\0\0\n", r"bad\.txt:20001: a NUL byte"),
    "no gzip": ("bad.gz", b"\x1f\x8b" + b"not gzip" * 9, r"bad\.gz: broken compressed data"),
    "cut off gzip": ("bad.gz", PACKED[: len(PACKED) // 2], r"bad\.gz:\d+: broken compressed data \(.*ended"),
    "damaged gzip": ("bad.gz", PACKED[:-6] + b"\0\0\0\0\0\0", r"bad\.gz:\d+: broken compressed data \(CRC"),
    "cut off zstd": ("bad.zst", ZSTD[: len(ZSTD) // 2], r"bad\.zst.*broken compressed data \(zstd data ended"),
    "damaged zstd": ("bad.zst", ZSTD[:30] + b"\xff" * 40 + ZSTD[70:], r"bad\.zst.*broken compressed data"),
    "JSON": ("bad.jsonl", b'{"text": "A dog."}\n{"text": "a do\n', r"bad\.jsonl:2: not JSON \(Unterminated"),
    "JSON field": (
        "bad.jsonl",
        b'{"id": 1, "body": "x"}\n',
        r"bad\.jsonl:1: no text in field 'text'; there is body, id",
    ),
    "JSON list": ("bad.jsonl", b'["text"]\n', r"bad\.jsonl:1: no text in field 'text'; there is a list"),
    "JSON number": ("bad.jsonl", b'{"text": 5}\n', r"bad\.jsonl:1: no text in field 'text'"),
    "JSON depth": ("bad.jsonl", b"[" * 100000 + b"\n", r"bad\.jsonl:1: (JSON nested too deeply|not JSON)"),
    "half a character": ("bad.jsonl", b'{"text": "\\ud800"}\n', r"bad\.jsonl:1: half a character"),
    "encoding": ("bad.txt", b"caf\xe9 dog\n\na man\n", r"bad\.txt:1: not UTF-8: byte 0xe9 at 3"),
    "UTF-16": ("bad.txt", "a dog".encode("utf-16"), r"bad\.txt: the file is binary"),
    "endless line": ("bad.txt", b"a dog\n" + b"x" * 5000 + b"\nman\n", r"bad\.txt:2: a line of 5001 bytes.*no text"),
    "endless end": ("bad.txt", b"a dog\n" + b"x" * 5000, r"bad\.txt:2: a line of 5000 bytes, more than 4000"),
}


@pytest.fixture
def both(tmp_path, monkeypatch):
    """A good file and a bad one, of lines at most 4000 bytes long."""
    monkeypatch.setattr(inputs, "MAX_LINE", 4000)

    def both(name: str, content: bytes):
        (tmp_path / "a_good.txt").write_text(GOOD)
        (tmp_path / name).write_bytes(content)
        return tmp_path / "a_good.txt", tmp_path / name

    return both


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("workers", [1])
def test_refused_then_left_out(run, both, case, workers):
    name, content, message = CASES[case]
    if case == "JSON depth":  # a long line on purpose
        content = b"[" * 3900 + b"\n"
    files = both(name, content)
    with pytest.raises(BadInputError, match=message) as caught:
        run(*files, workers=workers)
    assert "--skip-bad" in str(caught.value)
    _, manifest = run(*files, workers=workers, skip_bad=True)  # goes on
    counts = manifest["counts"]
    assert counts["bad_input"] + counts["bad_files"] == 1
    assert counts["documents"] >= 2
    assert len(manifest["skipped"]) == 1
    assert name in manifest["skipped"][0]


def test_what_is_good_in_a_bad_file_is_kept(run, both):
    rows = [json.dumps({"text": f"A dog {number}."}) for number in range(9)]
    rows[3], rows[7] = "{", '{"text": 1}'
    files = both("bad.jsonl", "\n".join(rows).encode())
    with pytest.raises(BadInputError, match=r"2 pieces of bad input: .*:4: .*; .*:8: "):
        run(*files)
    _, manifest = run(*files, skip_bad=True)
    assert manifest["counts"]["documents"] == 2 + 7
    assert [text.split(": ")[0].rpartition("/")[2] for text in manifest["skipped"]] == ["bad.jsonl:4", "bad.jsonl:8"]


def test_a_broken_file_keeps_what_came_before(run, both):
    files = both("bad.gz", PACKED[: len(PACKED) // 2])
    _, manifest = run(*files, skip_bad=True)
    assert manifest["counts"]["documents"] > 1000


def test_bad_input_in_many_processes(run, both):
    files = both("bad.txt", b"a dog\n\n" * 3000 + b"caf\xe9\n")
    with pytest.raises(BadInputError, match=r"bad\.txt:6001: not UTF-8"):
        run(*files, workers=2)
    assert run(*files, workers=2, skip_bad=True)[1]["counts"]["documents"] == 3002


def test_an_endless_document_is_cut_and_takes_little_memory(run, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_DOCUMENT", 5000)
    (tmp_path / "in.txt").write_text("a dog helps a friend\n" * 2000)
    _, manifest = run(tmp_path / "in.txt", format="lines")
    assert manifest["counts"]["lines"] == 2000
    assert manifest["counts"]["documents"] == -(-2000 * 21 // (239 * 21))


def test_nothing_to_prepare(run, tmp_path):
    (tmp_path / "in.txt").write_text(" \n\t\n \u200b\n")
    with pytest.raises(BadInputError, match="no document with a word in 1 files"):
        run(tmp_path / "in.txt")
    with pytest.raises(FileNotFoundError, match=r"nowhere/\*\.txt: no such file, folder or glob.*is not there either"):
        run(tmp_path / "nowhere" / "*.txt")
    with pytest.raises(ValueError, match="format 'csv' is unknown: choose auto, lines"):
        run(tmp_path / "in.txt", format="csv")
    with pytest.raises(ValueError, match="workers=0"):
        run(tmp_path / "in.txt", workers=0)


def test_files_of_folders_and_globs(tmp_path):
    for name in ("b/x.txt", "b/c/y.txt", "b/.hidden", ".git/z.txt", "a.jsonl", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n\nb")
    found = inputs.find_inputs([str(tmp_path), str(tmp_path / "*.txt"), str(tmp_path / "b" / "x.txt")])
    assert [file.path.removeprefix(f"{tmp_path}/") for file in found] == ["a.jsonl", "a.txt", "b/c/y.txt", "b/x.txt"]
    assert [file.format for file in found] == ["jsonl", "lines", "lines", "lines"]
