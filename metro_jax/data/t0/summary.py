"""The figures of T0 Eval from those of its templates: a task is the mean of its templates, the whole that of the tasks
(spec 8.1)."""

import math
from collections.abc import Mapping

from metro_jax.data.t0 import catalogue

Figures = Mapping[str, Mapping[str, float]]


def evaluation_means(results: Figures) -> dict[str, dict[str, float]]:
    """The means that can be taken over the templates in `results` (ranked task -> metric -> value).

    Returns:
      `t0_eval_NAME` -> `accuracy` and the number of `templates` it is the mean of, for each task of T0 Eval of which
      some template is there; and `t0_eval` -> `accuracy` and the number of `tasks`, where there are several tasks.
      Nothing for results of other tasks.
    """
    means: dict[str, dict[str, float]] = {}
    for row in catalogue.evaluations():
        values = [results[task]["accuracy"] for task in row.tasks.values() if "accuracy" in results.get(task, {})]
        if values:
            name = f"{catalogue.EVALUATION}_{row.name}"
            means[name] = {"accuracy": math.fsum(values) / len(values), "templates": float(len(values))}
    if len(means) > 1:
        average = math.fsum(mean["accuracy"] for mean in means.values()) / len(means)
        means[catalogue.EVALUATION] = {"accuracy": average, "tasks": float(len(means))}
    return means
