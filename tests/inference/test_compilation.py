"""What is said about compiled programs, and that they are kept."""

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp

from metro_jax.inference.compilation import Program


def test_programs_are_kept_from_the_first_model_on_but_not_at_import(tmp_path: pathlib.Path) -> None:
    code = """
import sys, jax, metro_jax.inference.metro, pathlib, os
import metro_jax.inference.compilation as c, metro_jax.compile_cache as k
folder = pathlib.Path(os.environ["METRO_JAX_CACHE"])
print(folder.exists(), jax.config.jax_compilation_cache_dir)
k.keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(c.Program("adding", lambda x, *, n: x + n, ("n",))(jax.numpy.ones(3), n=2).sum())
print(len(list(folder.rglob("*-cache"))))
jax.config.update("jax_compilation_cache_dir", "/elsewhere")
k.keep_compiled_programs()
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


def test_a_program_is_compiled_once_per_shape_and_static_value() -> None:
    program = Program("adding", lambda x, *, n: x + n, ("n",))
    for shape, n in ((2, 1), (2, 1), (3, 1), (3, 2), (2, 1)):
        assert float(program(jnp.zeros(shape), n=n).sum()) == shape * n
    assert len(program.compiled) == 3
