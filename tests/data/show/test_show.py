"""`metro-jax data show`: examples in colour and figures."""

import numpy as np
import pytest
import seqio

from metro_jax.cli import main
from metro_jax.data import records
from metro_jax.data.lookup import find_task
from metro_jax.data.show import colours, stats
from tests.data.fixtures import data_folder, prepared, tokenizer, vocabulary_folder

__all__ = ["data_folder", "prepared", "tokenizer", "vocabulary_folder"]

MODULE = "metro_jax.tasks.prepared"


def styles(text):
    return {text.plain[span.start : span.end]: span.style for span in text.spans}


def test_masks_are_told_apart(tokenizer):
    words = tokenizer.training_ids("station helps dog simple", bos=True)
    inputs = list(words)
    inputs[1], inputs[2] = tokenizer.mask_id, words[4]
    generator_targets = [0, words[1], words[2], words[3], 0, 0]
    example = {"inputs": inputs, "targets": words, "generator_targets": np.array(generator_targets)}
    (label, masked), (_, original) = colours.example_lines(example, tokenizer)
    assert label == "inputs (3 of 6 masked)"
    assert masked.plain == "<s> <sen000> simple dog simple </s>"
    found = [(masked.plain[span.start : span.end], span.style) for span in masked.spans]
    assert found == [
        ("<s>", colours.SPECIAL),
        ("<sen000>", colours.MASK),
        ("simple", colours.RANDOM),
        ("dog", colours.KEPT),
        ("</s>", colours.SPECIAL),
    ]
    assert original.plain == "<s> station helps dog simple </s>"


def test_sentinels_have_colours_of_their_own(tokenizer):
    first = tokenizer.sentinel_ids.start
    text = colours.coloured([1, first + 1, first + 2, 2, 0, 0], tokenizer)
    assert text.plain == "<s> <sen001> <sen002> </s>"
    assert styles(text)["<sen001>"] != styles(text)["<sen002>"]


@pytest.mark.parametrize(
    ("task", "split", "expected"),
    [
        ("metro_pretrain", "train", "masked)"),
        ("t5_pretrain", "train", "<sen001>"),
        ("liked", "train", "targets ("),
        ("both", "train", "targets ("),
        ("liked_score_eval", "validation", "choice 1 of example 0"),
    ],
)
def test_examples_are_printed(data_folder, capsys, task, split, expected):
    command = ["data", "show", task, "--split", split, "--inputs", "64", "--targets", "64", "--number", "2"]
    assert main(command) == 0
    assert expected in capsys.readouterr().out


def test_figures_of_a_mixture(data_folder, tmp_path, capsys):
    picture = tmp_path / "both.png"
    assert main(["data", "show", "both", "--stats", "--inputs", "8", "--targets", "4", "--plot", str(picture)]) == 0
    output = capsys.readouterr().out
    assert "liked" in output
    assert "stars" in output
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_figures_are_counted(data_folder):
    rows = list(records.read_records(data_folder, "liked", "train", "prompted"))
    lengths = [len(row["inputs"]) for row in rows]
    found = stats.task_stats(find_task("liked", MODULE), "train", {"inputs": 8, "targets": 16}, 1000)
    assert (found.available, found.examined) == (40, 40)
    assert found.too_long["inputs"] == pytest.approx(np.mean([n > 8 for n in lengths]))
    assert found.padding["inputs"] == pytest.approx(1 - sum(min(n, 8) for n in lengths) / (8 * 40))
    wide = stats.task_stats(find_task("liked", MODULE), "train", {"inputs": 64, "targets": 64}, 1000)
    assert wide.too_long == {"inputs": 0, "targets": 0}
    assert wide.packed_padding["inputs"] < wide.padding["inputs"]


def test_packing_saves_most_of_the_padding_of_blocks(data_folder):
    found = stats.task_stats(find_task("metro_pretrain", MODULE), "train", {"inputs": 128, "targets": 128}, 1000)
    assert found.packed_padding["inputs"] < 0.5 * found.padding["inputs"]
    ranked = stats.task_stats(find_task("liked_score_eval", MODULE), "validation", {"inputs": 16, "targets": 8}, 1000)
    assert ranked.packed_padding is None
    assert ranked.examined == 27


def test_wrong_use_is_explained(data_folder, capsys):
    for arguments, message in (
        (["likd"], "liked"),
        (["liked", "--split", "test"], "there is train"),
        (["liked", "--number", "0"], "--number 0"),
        (["liked", "--data", "/nowhere"], "does not exist"),
    ):
        assert main(["data", "show", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert seqio.TaskRegistry.get("liked")
