"""The tiny Hub model and prompts for it. Programs are compiled without optimisation, which costs more than running."""

import json
import pathlib
from collections.abc import Iterator

import pytest

import metro_jax
from metro_jax.inference.compilation import Program


@pytest.fixture(scope="session", autouse=True)
def quick_compilation() -> Iterator[None]:
    before, Program.compiler_options = Program.compiler_options, {"xla_backend_optimization_level": 0}
    yield
    Program.compiler_options = before


@pytest.fixture(scope="session")
def model(golden_dir: pathlib.Path) -> metro_jax.MetroT0:
    return metro_jax.MetroT0.from_pretrained(golden_dir / "hub_tiny")


@pytest.fixture(scope="session")
def prompts(golden_dir: pathlib.Path) -> list[str]:
    groups = json.loads((golden_dir / "rank_eval.json").read_text())["groups"]
    texts = [example["prompt"] for group in groups for example in group["examples"]]
    return sorted({text for text in texts if text.strip()}, key=len)[:6]
