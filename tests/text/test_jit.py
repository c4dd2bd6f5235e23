"""Compiling: what is kept on disk, and what is said about it."""

import numba
import pytest

from metro_jax.text import jit


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch):
    calls = []

    def njit(signatures, cache=False, **_):
        calls.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'x.py'")
        return lambda function: (signatures, function)

    monkeypatch.setattr(numba, "njit", njit)
    assert jit.kernel("int64(int64)")(len) == (["int64(int64)"], len)
    assert calls == [True, False]


def test_other_errors_are_shown(monkeypatch):
    def njit(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(numba, "njit", njit)
    with pytest.raises(RuntimeError, match="something else"):
        jit.kernel("int64(int64)")(len)


def test_compiling_is_told_once():
    told = []
    with jit.OnCompiling(lambda: told.append(1)):
        for _ in range(2):
            numba.njit(["int64(int64)"])(lambda x: x + 1)
    numba.njit(["int64(int64)"])(lambda x: x + 2)
    assert told == [1]
