"""`metro-jax eval harness` gives everything to the harness."""

import argparse
import sys
import types

import pytest

from metro_jax.evaluation import harness_command


@pytest.fixture
def given(monkeypatch):
    """What the harness's command was given."""
    seen: list[list[str]] = []
    stand_in = types.SimpleNamespace(main=lambda arguments: seen.append(list(arguments)) or 0)
    monkeypatch.setitem(sys.modules, "metro_jax.evaluation.harness", stand_in)
    return seen


@pytest.mark.parametrize("line", ["--model_args pretrained=M --tasks a b", "ls tasks", "--help", ""])
@pytest.mark.parametrize("separator", [[], ["--"]])
def test_everything_is_handed_on(given, line, separator):
    parser = argparse.ArgumentParser()
    harness_command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["harness", *separator, *line.split()])
    assert arguments.function(arguments) == 0
    assert given == [line.split()]
