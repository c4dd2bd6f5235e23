"""seqio tasks and mixtures, installed as metro_jax.tasks.

* `metro_jax.tasks.pretraining`: `metro_pretrain`, `t5_pretrain`, and functions that register more of the kind.
* `metro_jax.tasks.prompted`: functions that register prompted and ranked tasks, and mixtures of them.
* `metro_jax.tasks.t0`: the mixtures of T0, T0+, T0++ and T0 Eval.
* `metro_jax.tasks.prepared`: registers everything that lies in the data folder; what MIXTURE_OR_TASK_MODULE usually
  names.

The data folder is `data_dir`: in gin `data_dir.path = "..."`, or the environment variable METRO_DATA_DIR.
"""

from metro_jax.data.folder import data_dir

__all__ = ["data_dir"]
