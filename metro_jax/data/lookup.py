"""Finding tasks and mixtures by name, with errors that help."""

import importlib

import seqio

from metro_jax.data.folder import nearest


def find_task(name: str, module: str | None = None) -> seqio.Task | seqio.Mixture:
    """The registered task or mixture `name`.

    Args:
      module: what MIXTURE_OR_TASK_MODULE says; it is imported, and its function `refresh`, if it has one (as
        `metro_jax.tasks.prepared`), is called to register what lies in the data folder now.

    Raises:
      ValueError: unknown name (the nearest known ones are listed), or no such module.
    """
    reasons: dict[str, str] = {}
    if module:
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"MIXTURE_OR_TASK_MODULE = {module!r} cannot be imported ({error}); metro_jax.tasks.prepared registers "
                "whatever lies in the data folder, metro_jax.tasks.pretraining the pretraining tasks"
            ) from error
        refresh = getattr(imported, "refresh", None)
        if callable(refresh):
            reasons = dict(refresh() or {})  # type: ignore[call-overload]
    if name in reasons:
        raise ValueError(f"MIXTURE_OR_TASK_NAME = {name!r} cannot be used: {reasons[name]}")
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name not in known:
        raise ValueError(f"MIXTURE_OR_TASK_NAME = {name!r} is not registered; {nearest(name, known)}")
    return seqio.get_mixture_or_task(name)
