"""Result folders as a run leaves them, of a model whose share of right answers is chosen."""

import pathlib
import random

from metro_jax.data.t0 import catalogue
from metro_jax.evaluation import t0
from metro_jax.evaluation.results import Folder, Shard


def write(
    path: pathlib.Path,
    shares: dict[str, float],
    number: int | None = None,
    name: str = "a/model",
    published: str | None = None,
    spread: float = 0.06,
) -> None:
    """Task -> share of right answers; every template has its own, around it.

    Args:
        number: examples of each template; None takes the true number.
    """
    from metro_jax.evaluation.examples import Example

    manifest = {
        "model": {"name": name, "dtype": "float32", "quantize": None, "revision": None},
        "data": "simulated",
        "templates": {},
        "missing": {row.name: dict.fromkeys(row.templates, "not there") for row in catalogue.evaluations()},
        "strangers": {},
        "published": published,
        "trained_on": None,
    }
    found = []
    for row in catalogue.evaluations():
        if row.name not in shares:
            continue
        count = row.examples if number is None else number
        manifest["missing"].pop(row.name)
        entry = {"examples": count, "source": "simulated", "left_out": {}, "noted": {}}
        manifest["templates"][row.name] = dict.fromkeys(row.templates, entry)
        hard = [random.Random(f"{row.name} {index}").random() for index in range(count)]
        for template in row.templates:
            rng = random.Random(f"{name} {row.name} {template}")
            share = shares[row.name] + rng.gauss(0, spread)
            choices = tuple(map(str, range(row.choices)))
            for index in range(count):
                target = int(hard[index] * 1e6) % row.choices
                example = Example(row.name, template, index, f"{row.name} {index}", choices, target)
                right = 0.7 * hard[index] + 0.3 * rng.random() < share
                best = target if right else (target + 1) % row.choices
                found.append((example, [0.0 if n == best else -1.0 for n in range(row.choices)], best))
    folder = Folder(path, {"protocol": {**t0.PROTOCOL}, "model": {"fingerprint": name}})
    folder.open(manifest, [])
    with folder.writer(Shard()) as writer:
        writer.write(found)


def published_shares(model: str) -> dict[str, float]:
    """Shares of right answers as the published model has them."""
    from metro_jax.evaluation.published import tables

    values = tables()["models"][model]["values"]
    return {task: value / 100 for task, value in values.items() if value is not None}


if __name__ == "__main__":  # pictures to look at
    import sys

    for model in ("t0_basepp", "t0pp_basepp"):
        out = pathlib.Path(sys.argv[1]) / model
        write(out, published_shares(model), 200, f"gonglinyuan/metro_{model}", model)
