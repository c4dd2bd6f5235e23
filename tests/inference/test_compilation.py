"""Where compiled programs are kept, and what is said about them."""

import logging
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from metro_jax.inference import compilation
from metro_jax.inference.compilation import Program, cache_folder


def test_the_variable_moves_or_disables_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("METRO_JAX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("METRO_JAX_CACHE", "OFF")
    assert cache_folder() is None
    monkeypatch.delenv("METRO_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform.startswith("linux"):
        assert cache_folder() == tmp_path / "xdg" / "metro_jax"


def test_programs_are_kept_from_the_first_model_on_but_not_at_import(tmp_path: pathlib.Path) -> None:
    code = """
import sys, jax, metro_jax.inference.metro, metro_jax.inference.compilation as c, pathlib, os
folder = pathlib.Path(os.environ["METRO_JAX_CACHE"])
print(folder.exists(), jax.config.jax_compilation_cache_dir)
c.keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(c.Program("adding", lambda x, *, n: x + n, ("n",))(jax.numpy.ones(3), n=2).sum())
print(len(list(folder.rglob("*-cache"))))
jax.config.update("jax_compilation_cache_dir", "/elsewhere")
c.keep_compiled_programs()
print(jax.config.jax_compilation_cache_dir)
"""
    environment = {**os.environ, "METRO_JAX_CACHE": str(tmp_path / "kept"), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    before, answer, kept, elsewhere = done.stdout.splitlines()
    assert (before, answer, elsewhere) == ("False None", "9.0", "/elsewhere")
    assert int(kept) >= 1
    assert "compiling adding" in done.stderr
    assert "adding: compiled or fetched in" in done.stderr


def test_a_folder_that_cannot_be_written_is_a_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METRO_JAX_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "metro_jax"):
        compilation.keep_compiled_programs()
    assert "METRO_JAX_CACHE" in caplog.text
    assert jax.config.jax_compilation_cache_dir is None


def test_a_program_is_compiled_once_per_shape_and_static_value() -> None:
    program = Program("adding", lambda x, *, n: x + n, ("n",))
    for shape, n in ((2, 1), (2, 1), (3, 1), (3, 2), (2, 1)):
        assert float(program(jnp.zeros(shape), n=n).sum()) == shape * n
    assert len(program.compiled) == 3
