"""Models of the Hub by name, end to end against a server of our own that speaks its protocol."""

import json
import os
import pathlib
import pty
import shutil
import subprocess
import sys
import termios

import numpy as np
import pytest

from metro_jax.convert.download import DownloadError, describe_cache, find_model
from metro_jax.convert.errors import ConversionError
from metro_jax.convert.hub import params_to_hub, save_hub_folder
from metro_jax.convert.rules import flatten, sizes_of
from metro_jax.convert.source import load_model
from tests.hub_server import LARGE, HubServer

from . import torch_files
from .conftest import CONFIG, random_params
from .test_conversion import VOCABULARY, VOCABULARY_SIZE, MetroTokenizer
from .test_hub import HUB_RULES

NAME = "gonglinyuan/metro_t0pp_basepp"
CODE = ("configuration_fairseq_t5.py", "modeling_fairseq_t5.py", "tokenization_fairseq_t5.py")
CONFIG = CONFIG.replace(vocab_size=VOCABULARY_SIZE, d_model=48, d_ff=96)
FILES = {"config.json", "sp.model", "dict.txt", "tokenizer_config.json", "special_tokens_map.json"}
FILES |= {"generation_config.json", "pytorch_model.bin"}


@pytest.fixture(scope="module")
def params():
    return random_params(HUB_RULES, sizes_of(CONFIG))


@pytest.fixture(scope="module")
def repository(tmp_path_factory, params) -> pathlib.Path:
    """Laid out as the published ones: a float16 pytorch_model.bin with four copies, code, and what git adds."""
    folder = tmp_path_factory.mktemp("hub") / "repository"
    save_hub_folder(folder, CONFIG, params, MetroTokenizer.from_pretrained(VOCABULARY))
    (folder / "model.safetensors").unlink()
    torch_files.save(folder / "pytorch_model.bin", params_to_hub(CONFIG, params))
    for name in CODE:
        (folder / name).write_text("raise SystemExit('code of a checkpoint was executed')\n")
    (folder / "README.md").write_text("A model card.\n")
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    assert (folder / "pytorch_model.bin").stat().st_size > LARGE
    return folder


def point_to(url, monkeypatch):
    """What HF_ENDPOINT does for a process that begins."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(repository, tmp_path, monkeypatch):
    copy = shutil.copytree(repository, tmp_path / "served")
    with HubServer({NAME: copy, "someone/private": copy}, {"someone/private": "hf_secret"}) as server:
        point_to(server.url, monkeypatch)
        # Another test's login must not decide this one.
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield server


def assert_loads(folder, params):
    config, read, vocabulary = load_model(folder)
    assert config == CONFIG
    assert vocabulary == folder
    expected = flatten(params)
    for path, value in flatten(read).items():
        np.testing.assert_array_equal(value, expected[path])


def test_only_what_is_needed_is_downloaded_and_only_once(hub, tmp_path, params):
    folder = find_model(NAME, cache_dir=tmp_path / "cache")
    assert {path.name for path in folder.iterdir()} == FILES
    assert sorted(hub.downloads()) == sorted(FILES)
    assert folder.name == hub.commit(NAME)
    assert_loads(folder, params)
    assert find_model(NAME, cache_dir=tmp_path / "cache") == folder
    assert find_model(NAME, revision=hub.commit(NAME), cache_dir=tmp_path / "cache") == folder
    assert len(hub.downloads()) == len(FILES)


def test_a_broken_download_goes_on_where_it_stopped(hub, tmp_path, params, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # it goes on after the last whole one
    size = (hub.repositories[NAME] / "pytorch_model.bin").stat().st_size
    hub.cut["pytorch_model.bin"] = [40_000, 30_000]
    folder = find_model(NAME, cache_dir=tmp_path)
    asked = [request for request in hub.requests if request.startswith("GET /cdn") and "pytorch_model" in request]
    assert [request.partition("bytes=")[2] for request in asked] == ["", "40000-", "70000-"]
    assert (folder / "pytorch_model.bin").stat().st_size == size
    assert_loads(folder, params)


def test_what_never_arrives_is_reported_and_the_next_call_fetches_the_rest(hub, tmp_path, params):
    hub.longer["pytorch_model.bin"] = 100  # the server promises more than it has
    with pytest.raises(DownloadError, match=r"pytorch_model\.bin: the download failed.*size"):
        find_model(NAME, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("pytorch_model.bin"))
    hub.longer.clear()
    before = len(hub.downloads())
    assert_loads(find_model(NAME, cache_dir=tmp_path / "cache"), params)
    assert hub.downloads()[before:] == ["pytorch_model.bin"]


def test_a_file_that_was_uploaded_cut_short_is_refused(hub, tmp_path):
    path = hub.repositories[NAME] / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ConversionError, match="cut short"):
        load_model(find_model(NAME, cache_dir=tmp_path))


def test_offline_uses_what_is_there(hub, tmp_path, params, monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(DownloadError, match=r"config\.json: not in the cache.*no server may be asked"):
        find_model(NAME, cache_dir=tmp_path, local_files_only=True)
    folder = find_model(NAME, cache_dir=tmp_path)
    hub.requests.clear()
    assert find_model(NAME, cache_dir=tmp_path, local_files_only=True) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model(NAME, cache_dir=tmp_path) == folder
    assert not hub.requests
    assert_loads(folder, params)
    (folder / "dict.txt").unlink()
    with pytest.raises(DownloadError, match=r"dict\.txt: not in the cache"):
        find_model(NAME, cache_dir=tmp_path, local_files_only=True)


def test_a_server_that_is_down_is_made_up_for_by_the_cache(hub, tmp_path, monkeypatch, caplog):
    folder = find_model(NAME, cache_dir=tmp_path)
    point_to("http://127.0.0.1:1", monkeypatch)  # nothing listens there
    assert find_model(NAME, cache_dir=tmp_path) == folder
    assert "using the files of an earlier download" in caplog.text
    with pytest.raises(DownloadError, match=f"{NAME}: the download failed"):
        find_model(NAME, cache_dir=tmp_path / "empty")


def test_unknown_and_private_repositories(hub, tmp_path):
    with pytest.raises(
        DownloadError, match=r"gonglinyuan/metro_t0: neither a folder here nor a model.*status 401.*name"
    ):
        find_model("gonglinyuan/metro_t0", cache_dir=tmp_path)
    with pytest.raises(DownloadError, match=r"status 401.*hf auth login"):
        find_model("someone/private", cache_dir=tmp_path)
    with pytest.raises(DownloadError, match="status 404"):
        find_model("someone/private", cache_dir=tmp_path, token="hf_wrong")
    assert find_model("someone/private", cache_dir=tmp_path, token="hf_secret").is_dir()
    with pytest.raises(DownloadError, match="has no revision 'v9'"):
        find_model(NAME, revision="v9", cache_dir=tmp_path)


def test_a_failing_server_is_named(hub, tmp_path):
    hub.status["pytorch_model.bin"] = 403
    with pytest.raises(DownloadError, match=r"pytorch_model\.bin: .* answered with status 403"):
        find_model(NAME, cache_dir=tmp_path)


def test_repositories_of_other_models(hub, tmp_path):
    (hub.repositories[NAME] / "dict.txt").unlink()
    (hub.repositories[NAME] / "pytorch_model.bin").unlink()
    with pytest.raises(DownloadError, match=r"not a METRO-T0 repository: it has no dict\.txt, no model\.safe"):
        find_model(NAME, cache_dir=tmp_path)
    assert not hub.downloads()


def test_shards_are_those_of_the_index(hub, tmp_path, params):
    folder = hub.repositories[NAME]
    (folder / "pytorch_model.bin").unlink()
    tensors = params_to_hub(CONFIG, params)
    shards = {"pytorch_model-00001-of-00002.bin": {}, "pytorch_model-00002-of-00002.bin": {}}
    for i, (name, tensor) in enumerate(tensors.items()):
        list(shards.values())[i % 2][name] = np.ascontiguousarray(tensor)
    for name, part in shards.items():
        torch_files.save(folder / name, part)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch_files.save(folder / "pytorch_model-00003-of-00003.bin", {"left_over": np.ones(2)})
    found = find_model(NAME, cache_dir=tmp_path)
    assert set(shards) < set(hub.downloads())
    assert "pytorch_model-00003-of-00003.bin" not in hub.downloads()
    assert_loads(found, params)
    index["weight_map"]["lm_head.weight"] = "../../secrets.bin"
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match=r"refused shard names.*\.\./\.\./secrets\.bin"):
        find_model(NAME, cache_dir=tmp_path)


def test_paths_and_names_are_told_apart(repository, tmp_path):
    assert find_model(repository) == repository
    with pytest.raises(ValueError, match="revision='v1' is for models of the Hub"):
        find_model(repository, revision="v1")
    for name in ("nowhere", "a/b/c", "../up", str(tmp_path / "none")):
        with pytest.raises(FileNotFoundError, match="there is no such folder"):
            find_model(name)


def test_a_model_answers_by_its_name(hub, tmp_path):
    """The command of a user, in a process of its own, with HF_ENDPOINT and nothing of this process."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, "-m", "metro_jax.cli"]
    ask = [*command, "ask", NAME, "the cat sat", "--max-new-tokens", "2"]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 120))
    done = subprocess.run(ask, stdout=subprocess.PIPE, stderr=end, text=True, env=environment, check=False)
    os.close(end)
    said = os.read(terminal, 2**20).decode()
    os.close(terminal)
    assert done.returncode == 0, said
    assert len(done.stdout.splitlines()) == 1
    assert "pytorch_model.bin" in said  # the progress bar
    assert not set(CODE) & set(hub.downloads())
    offline = environment | {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"}
    again = subprocess.run(ask, capture_output=True, text=True, env=offline, check=False)
    assert again.stdout == done.stdout
    convert = [*command, "convert", NAME, str(tmp_path / "ours"), "--to", "jax"]
    done = subprocess.run(convert, capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stderr
    assert load_model(tmp_path / "ours")[0].vocab_size == VOCABULARY_SIZE
    missing = subprocess.run(
        [*command, "ask", "gonglinyuan/nothing", "hello"], capture_output=True, text=True, env=environment, check=False
    )
    assert missing.returncode == 2
    assert "neither a folder here nor a model at" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_words_on_what_is_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert describe_cache().startswith("none downloaded yet; in")
    (tmp_path / "models--gonglinyuan--metro_t0pp_basepp").mkdir()
    assert describe_cache() == f"{NAME}; in {tmp_path}, which HF_HOME moves"
