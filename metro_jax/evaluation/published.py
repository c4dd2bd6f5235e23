"""The published results of the nine models, and which tasks each of them was trained on (spec 8.1)."""

import functools
import importlib.resources
import json
import re
from typing import Any

from metro_jax.evaluation.t0_data import nearest

NONE = "none"
#: Tasks that the training mixture of a family shows; Story Cloze of T0+ is as the paper marks it.
SEEN = {
    "t0": (),
    "t0p": ("hellaswag", "story_cloze"),
    "t0pp": ("hellaswag", "story_cloze", "wsc", "copa", "wic"),
}
_NAME = re.compile(r"(?:^|[/_-])(?:metro_)?(t0(?:p|pp)?)_(base|basepp|largepp)/?$")


@functools.cache
def tables() -> dict[str, Any]:
    """published.json: model -> values per task, their sources, the average, and the paper's row where it differs."""
    text = importlib.resources.files("metro_jax.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    return json.loads(text)


def find(name: str | None, model: str) -> str | None:
    """The published model to compare with: `name`, or what the name of the evaluated model says; None for none.

    Raises:
        ValueError: `name` is none of the nine.
    """
    known = tables()["models"]
    if name is None:
        match = _NAME.search(str(model))
        return f"{match[1]}_{match[2]}" if match else None
    if name == NONE:
        return None
    name = name.rpartition("/")[2].removeprefix("metro_")
    if name not in known:
        raise ValueError(f"--published {name}: {nearest(name, [*known, NONE])}")
    return name


def seen(trained_on: str | None, published: str | None) -> tuple[str, ...] | None:
    """Tasks that the model saw in training; None where nothing says what it was trained on.

    Raises:
        ValueError: `trained_on` is no family.
    """
    family = trained_on or (published.partition("_")[0] if published else None)
    if family is None:
        return None
    if family not in SEEN:
        raise ValueError(f"--trained-on {family}: {nearest(family, SEEN)}")
    return SEEN[family]
