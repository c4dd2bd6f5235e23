"""`metro-jax data t0`."""

import pytest

from metro_jax.cli import main
from metro_jax.data.folder import read_mixtures
from metro_jax.data.t0 import catalogue

FEW = ["glue_mrpc_equivalent", "imdb_Movie_Expressed_Sentiment", "samsum_Summarize_"]


def t0(*arguments):
    return main(["data", "t0", "--processes", "1", *map(str, arguments)])


def test_an_incomplete_mixture_needs_a_flag(p3_folder, tmp_path, vocabulary_folder, capsys):
    command = ("--p3", p3_folder, "--vocab", vocabulary_folder, "--output", tmp_path, "--mixtures", "t0_train")
    assert t0(*command) == 2
    output = capsys.readouterr()
    assert "t0_train: 313 tasks, 3 found, 310 missing" in output.out
    assert "t0_train lacks 310 tasks" in output.err
    assert "--allow_missing" in output.err
    assert read_mixtures(tmp_path)["t0_train"]["allow_missing"] is False
    assert t0(*command, "--allow_missing") == 0
    assert "3 splits are done already" in capsys.readouterr().out
    assert read_mixtures(tmp_path)["t0_train"]["allow_missing"] is True


def test_a_complete_mixture_is_fine(p3_folder, tmp_path, vocabulary_folder, monkeypatch):
    kept = tuple(task for task in catalogue.tasks() if task.name in FEW)
    monkeypatch.setattr(catalogue, "tasks", lambda: kept)
    assert t0("--p3", p3_folder, "--vocab", vocabulary_folder, "--output", tmp_path, "--mixtures", "t0_train") == 0


def test_wrong_use_is_explained(p3_folders, tmp_path, vocabulary_folder, capsys):
    rest = ("--vocab", vocabulary_folder, "--output", tmp_path / "out")
    for arguments, message in (
        (("--p3", tmp_path / "nowhere", *rest), "no such folder"),
        (("--p3", tmp_path, *rest), "none of the wanted tasks is here"),
        (("--p3", p3_folders["parquet"], *rest, "--mixtures", "t0_trian"), "the nearest known names are t0_train"),
        (("--p3", p3_folders["parquet"]), "--vocab and --output are needed"),
        (("--p3", p3_folders["parquet"], *rest, "--processes", "0"), "--processes 0"),
    ):
        assert t0(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_lists_the_mixtures(capsys):
    with pytest.raises(SystemExit):
        main(["data", "t0", "--help"])
    assert "t0pp_train" in capsys.readouterr().out
