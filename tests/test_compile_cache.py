"""Where compiled programs are kept."""

import logging
import pathlib
import sys

import jax
import pytest

from metro_jax.compile_cache import cache_folder, describe, keep_compiled_programs


def test_the_variable_moves_or_disables_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("METRO_JAX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("METRO_JAX_CACHE", "OFF")
    assert cache_folder() is None
    monkeypatch.delenv("METRO_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform.startswith("linux"):
        assert cache_folder() == tmp_path / "xdg" / "metro_jax"


def test_words_on_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("METRO_JAX_CACHE", "off")
    assert describe() == "not kept, because METRO_JAX_CACHE=off: every process compiles anew"
    monkeypatch.setenv("METRO_JAX_CACHE", str(tmp_path))
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "program").write_bytes(bytes(3 * 2**20))
    assert describe().startswith(f"kept in {tmp_path}, 3 MiB;")


def test_a_folder_that_cannot_be_written_is_a_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METRO_JAX_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "metro_jax"):
        keep_compiled_programs()
    assert "METRO_JAX_CACHE" in caplog.text
    assert jax.config.jax_compilation_cache_dir is None
