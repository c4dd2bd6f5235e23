"""T0, T0+ and T0++ for finetuning, and T0 Eval, out of a data folder that `metro-jax data t0` made (spec 6, 7, 8.1).

    MIXTURE_OR_TASK_MODULE = "metro_jax.tasks.t0"
    MIXTURE_OR_TASK_NAME = "t0pp_train"               # or t0_train, t0p_train, t0_train_eval, t0_eval
    TASK_FEATURE_LENGTHS = {"inputs": 512, "targets": 512}

* `t0_train`, `t0p_train`, `t0pp_train` (313, 392, 464 tasks): seqio mixtures, each example drawn with a rate
  proportional to min(size, cap); `t0_train_epochs` and so on: the same tasks in the reference's epochs, see
  docs/data_t0.md.
* `t0_train_eval` (142 tasks): the other splits of training tasks, prompted; for losses, and for the metrics that
  promptsource names for each task, of generated answers. `t0_train_eval_epochs`: every example once per epoch.
* `t0_eval` (112 tasks): one ranked task for each template of T0 Eval, scored by accuracy; `t0_eval_rte` and so on: the
  templates of one of its eleven tasks.

All that lies in the data folder is registered, as by `metro_jax.tasks.prepared`; what differs is that a mixture of T0
that is not there says how to make it.
"""

import contextlib

import seqio

from metro_jax.data.folder import NoDataFolderError, data_dir, read_mixtures
from metro_jax.data.t0 import catalogue
from metro_jax.tasks import prepared, prompted  # pyright: ignore[reportMissingImports]


def refresh() -> dict[str, str]:
    """Registers what lies in the data folder now; returns the mixtures that cannot be used, with the reason."""
    root = data_dir()
    unusable = prepared.refresh()
    present = read_mixtures(root)
    for name in catalogue.mixtures():
        reason = None
        if name not in present:
            reason = f"{root} has no {name}; make it with `metro-jax data t0 --mixtures {name} ... --output {root}`"
        elif name in unusable:
            reason = f"{unusable[name]}. {root / 't0_report.txt'} says which are missing, and why"
        if reason is not None:
            unusable |= {name: reason, f"{name}_epochs": reason}
    return unusable | _register_evaluations(unusable)


def _register_evaluations(unusable: dict[str, str]) -> dict[str, str]:
    """A mixture of the templates of each task of T0 Eval; returns those that cannot be used, with the reason."""
    names = {row.name: f"{catalogue.EVALUATION}_{row.name}" for row in catalogue.evaluations()}
    if catalogue.EVALUATION in unusable:
        return dict.fromkeys(names.values(), unusable[catalogue.EVALUATION])
    there = {task.name for task in seqio.MixtureRegistry.get(catalogue.EVALUATION).tasks}
    missing = {}
    for row in catalogue.evaluations():
        present = [task for task in row.tasks.values() if task in there]
        if present:
            prompted.register_mixture(names[row.name], present, split="validation")
        else:
            report = data_dir() / "t0_report.txt"
            missing[names[row.name]] = f"none of its {len(row.templates)} templates is there; {report} says why"
    return missing


with contextlib.suppress(NoDataFolderError):  # then refresh() says so, and find_task calls it
    refresh()
