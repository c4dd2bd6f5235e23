"""Putting tasks and mixtures into seqio's registries, so that doing it twice is no error."""

from typing import Any

import seqio
import tensorflow as tf

_OWN: dict[str, int] = {}  # names registered here -> id of what is registered, so that nobody else's is replaced


class PreparedTask(seqio.Task):
    """A task that keeps no copy of small data in memory: the copy would be part of every saved iterator state."""

    def get_dataset(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """As `seqio.Task.get_dataset`, always read from disk."""
        return super().get_dataset(*args, **(kwargs | {"try_in_mem_cache": False}))


def add_task(name: str, task_cls: type[seqio.Task] = PreparedTask, **kwargs: Any) -> seqio.Task:
    """Registers a task; one of the same name that was registered here is replaced.

    Raises:
      ValueError: the name belongs to a task or mixture from somewhere else.
    """
    _make_room(name)
    task = seqio.TaskRegistry.add(name, task_cls=task_cls, **kwargs)
    _OWN[name] = id(task)
    return task


def add_mixture(name: str, tasks: list, **kwargs: Any) -> seqio.Mixture:
    """Registers a mixture under the rules of `add_task`."""
    _make_room(name)
    mixture = seqio.MixtureRegistry.add(name, tasks, **kwargs)
    mixture = seqio.MixtureRegistry.get(name) if mixture is None else mixture
    _OWN[name] = id(mixture)
    return mixture


def _make_room(name: str) -> None:
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        if name in registry.names():
            if id(registry.get(name)) != _OWN.get(name):
                raise ValueError(
                    f"the name {name!r} is already taken by a task or mixture from another module; rename one"
                )
            registry.remove(name)
