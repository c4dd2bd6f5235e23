"""Result folders: what is on disk counts, what does not belong is refused."""

import json
import pathlib

import pytest

from metro_jax.evaluation import results
from metro_jax.evaluation.examples import Example
from metro_jax.evaluation.results import Folder, OtherRunError, Shard

IDENTITY = {"protocol": {"kind": "t0"}, "model": {"dtype": "float32", "fingerprint": "abc"}}


def example(index: int, prompt: str = "Is it?") -> Example:
    return Example("rte", "t", index, prompt, ("Yes", "No"), 1)


def folder(path: pathlib.Path, examples: list[Example], **model: str) -> Folder:
    made = Folder(path, {**IDENTITY, "model": {**IDENTITY["model"], **model}})
    made.open({"templates": {}}, examples)
    return made


def test_what_was_written_is_read_again(tmp_path: pathlib.Path) -> None:
    first = folder(tmp_path, [example(0)])
    with first.writer(Shard()) as writer:
        writer.write([(example(0), [-1.5, -0.5], 1), (example(1), [-0.25, -3.0], 0)])
    found = folder(tmp_path, [example(0), example(1), example(2)]).scores
    assert found == first.scores
    assert found["rte", "t", 0] == (example(0).digest(), (-1.5, -0.5), 1, 1)
    with folder(tmp_path, []).writer(Shard(1, 3)) as writer:
        writer.write([(example(2), [0.0, -1.0], 0)])
    assert sorted(results.read_scores(tmp_path)) == [("rte", "t", n) for n in range(3)]


def test_a_line_that_a_killed_run_left_is_mended(tmp_path: pathlib.Path) -> None:
    with folder(tmp_path, []).writer(Shard()) as writer:
        writer.write([(example(0), [-1.5, -0.5], 1)])
    (part,) = (tmp_path / "scores").iterdir()
    whole = part.read_text()
    part.write_text(whole + whole[: len(whole) // 2])
    assert list(results.read_scores(tmp_path)) == [("rte", "t", 0)]
    with folder(tmp_path, []).writer(Shard()) as writer:
        writer.write([(example(1), [-1.5, -0.5], 1)])
    assert list(results.read_scores(tmp_path)) == [("rte", "t", 0), ("rte", "t", 1)]
    part.write_text("half")
    results.mend(part)
    assert part.read_text() == ""


def test_a_folder_of_another_model_is_refused(tmp_path: pathlib.Path) -> None:
    folder(tmp_path, [])
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(OtherRunError, match=r"model fingerprint was 'abc' and is 'def'.*another --out"):
        folder(tmp_path, [], fingerprint="def")
    with pytest.raises(OtherRunError, match="model dtype was 'float32' and is 'bfloat16'"):
        folder(tmp_path, [], dtype="bfloat16")
    assert (tmp_path / "run.json").read_text() == before


def test_a_folder_of_other_data_is_refused(tmp_path: pathlib.Path) -> None:
    with folder(tmp_path, []).writer(Shard()) as writer:
        writer.write([(example(4), [-1.5, -0.5], 1)])
    folder(tmp_path, [example(4), example(5)])
    with pytest.raises(OtherRunError, match=r"other data.*example 4 of rte, template 't'"):
        folder(tmp_path, [example(4, "Is it not?")])


def test_two_processes_cannot_write_the_same_part(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    one = folder(tmp_path, [])
    with one.writer(Shard()), pytest.raises(OtherRunError, match=r"another process.*--shard"), one.writer(Shard()):
        pass
    with one.writer(Shard()):
        pass


def test_shares_are_whole_and_even() -> None:
    examples = [example(n, "word " * (n % 7)) for n in range(50)]
    for count in (1, 2, 3, 7):
        parts = [Shard(n, count).part(examples) for n in range(count)]
        assert sorted(e.index for part in parts for e in part) == list(range(50))
        work = [sum(len(e.prompt) for e in part) for part in parts]
        assert max(work) - min(work) <= 40
        assert Shard(0, count).part(examples[::-1]) == parts[0]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/", "-1/2"])
def test_shards_are_counted_from_one(text: str) -> None:
    assert Shard.parse("2/4") == Shard(1, 4)
    with pytest.raises(ValueError, match=r"such as 1/4"):
        Shard.parse(text)


def test_damaged_files_are_named(tmp_path: pathlib.Path) -> None:
    with folder(tmp_path, []).writer(Shard()) as writer:
        writer.write([(example(0), [-1.5, -0.5], 1)])
    (part,) = (tmp_path / "scores").iterdir()
    part.write_text(json.dumps({"task": "rte"}) + "\n")
    with pytest.raises(ValueError, match="line 1: no result"):
        results.read_scores(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is no JSON"):
        folder(tmp_path, [])
