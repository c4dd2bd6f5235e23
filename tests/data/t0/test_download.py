"""Fetching P3 from a small server that speaks the Hub's protocol."""

import pytest

from metro_jax.cli import main
from metro_jax.data.t0 import download as download_lib
from metro_jax.data.t0.download import REPOSITORY, download
from tests.data.p3_server import serve


@pytest.fixture
def hub(p3_folder, monkeypatch):
    with serve(REPOSITORY, p3_folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def tasks_of(files):
    return {path.split("/")[-2] for path in files}


def test_only_what_is_needed_is_fetched(hub, tmp_path):
    absent = download(tmp_path / "p3", ["t0_train"])
    assert tasks_of(hub.fetched) == {"glue_mrpc_equivalent", "imdb_Movie_Expressed_Sentiment", "samsum_Summarize_"}
    assert len(absent) == 310
    assert absent["wiki_bio_who"] == "not in bigscience/P3"
    for file in hub.fetched:
        assert (tmp_path / "p3" / file).read_bytes() == (hub.folder / file).read_bytes()
    before = len(hub.fetched)
    download(tmp_path / "p3", ["t0_train"])
    assert len(hub.fetched) == before


def test_answer_choices_are_fetched_where_the_ranked_task_is_missing(hub, tmp_path):
    absent = download(tmp_path / "p3", ["t0_eval"])
    assert "super_glue_rte_can_we_infer" in tasks_of(hub.fetched)
    assert "super_glue_rte_can_we_infer_score_eval" not in absent
    assert "licence" in absent["story_cloze_2016_Novel_Correct_Ending_score_eval"]


def test_a_broken_download_goes_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.broken_after = 3
    with pytest.raises(ConnectionError, match="run the same command again"):
        download(tmp_path / "p3", ["t0_train"])
    first = len(hub.fetched)
    hub.broken_after = None
    download(tmp_path / "p3", ["t0_train"])
    assert first == 3
    assert len(hub.fetched) == len(set(hub.fetched))


def test_revisions_and_repositories_that_are_not_there(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="--revision"):
        download(tmp_path, ["t0_train"], revision="nowhere")
    with pytest.raises(FileNotFoundError, match="HF_ENDPOINT"):
        download(tmp_path, ["t0_train"], repository="some/thing")


def test_a_repository_without_the_tasks(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download_lib, "files_of_tasks", lambda files: {"a_task": ["a_task/b"]})
    with pytest.raises(ValueError, match="such as a_task"):
        download(tmp_path, ["t0_train"])


def test_the_command_downloads_and_encodes(hub, tmp_path, vocabulary_folder, capsys):
    command = ["data", "t0", "--p3", str(tmp_path / "p3"), "--download", "--mixtures", "t0_train"]
    assert main(command) == 0
    out = ["--vocab", str(vocabulary_folder), "--output", str(tmp_path / "out"), "--processes", "1", "--allow_missing"]
    assert main([*command, *out]) == 0
    output = capsys.readouterr().out
    assert "t0_train: 313 tasks, 3 found, 310 missing" in output
    assert "  not in bigscience/P3\n" in output
