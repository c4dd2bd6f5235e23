"""What both evaluations do on their way from the command line to scores: processes, model, folder, waiting."""

import argparse
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from metro_jax.evaluation import results, run
from metro_jax.evaluation.examples import Account, Example
from metro_jax.evaluation.results import RUN, Folder, Shard

PATIENCE = 2.0  # seconds between looks at what the other processes have written


def needed(arguments: argparse.Namespace, *names: str) -> None:
    """Raises ValueError for arguments that are missing."""
    missing = [name.upper() if name == "model" else f"--{name}" for name in names if getattr(arguments, name) is None]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} must be given; metro-jax eval {arguments.evaluation} --help says more"
        )
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit {arguments.limit}: at least one example is needed")


def join(arguments: argparse.Namespace) -> Shard:
    """This process's share; joins JAX's other processes where there are any.

    Raises:
        ValueError: --shard together with several hosts, or only a part of what says where the others are.
    """
    names = ("coordinator_address", "process_count", "process_index")
    given = [name for name in names if getattr(arguments, name) is not None]
    if not given and not arguments.multihost:
        return Shard.parse(arguments.shard) if arguments.shard else Shard()
    if arguments.shard:
        raise ValueError("--shard is for processes that know nothing of each other; with several hosts leave it out")
    if given and len(given) < len(names):
        missing = ", ".join(f"--{name}" for name in names if name not in given)
        raise ValueError(f"{missing}: several processes need all of {', '.join(f'--{name}' for name in names)}")
    import jax

    jax.distributed.initialize(
        coordinator_address=arguments.coordinator_address,
        num_processes=arguments.process_count,
        process_id=arguments.process_index,
    )
    return Shard(jax.process_index(), jax.process_count())


def load(arguments: argparse.Namespace) -> Any:
    """The model, its batches spread over all devices of this process."""
    import jax
    import numpy as np

    from metro_jax.inference import MetroT0

    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.asarray(devices), ("data",)) if len(devices) > 1 else None
    quantize = "int8" if arguments.int8 else None
    return MetroT0.from_pretrained(
        arguments.model, dtype=arguments.dtype, quantize=quantize, revision=arguments.revision, mesh=mesh
    )


def identity(model: Any, arguments: argparse.Namespace, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What results in one folder have in common. The model is known by its weights, not by its name."""
    settings = {"dtype": arguments.dtype, "quantize": model.quantize, "fingerprint": model.fingerprint()}
    return {"protocol": dict(protocol), "model": settings}


def described(arguments: argparse.Namespace) -> dict[str, Any]:
    """The model in the words of the command."""
    quantize = "int8" if arguments.int8 else None
    return {"name": arguments.model, "dtype": arguments.dtype, "quantize": quantize, "revision": arguments.revision}


def check_strict(arguments: argparse.Namespace, accounts: Mapping[str, Account]) -> None:
    """With --strict, raises ValueError where an example has to be left out."""
    bad = {name: account.left_out for name, account in accounts.items() if account.left_out}
    if arguments.strict and bad:
        name, reasons = next(iter(bad.items()))
        reason, places = next(iter(reasons.items()))
        total = sum(len(places) for own in bad.values() for places in own.values())
        raise ValueError(f"--strict: {total} examples would be left out; the first: {name}, {reason}, {places[0]}")


def merged(folder: pathlib.Path, name: str, now: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A table of run.json, task -> template -> entry, with what an earlier run in the same folder put there."""
    file = folder / RUN
    before = results.read_json(file).get(name, {}) if file.exists() else {}
    made = {task: dict(row) for task, row in before.items()}
    for task, row in now.items():
        made.setdefault(task, {}).update(row)
    return made


def score(
    arguments: argparse.Namespace,
    folder: Folder,
    model: Any,
    examples: Sequence[Example],
    shard: Shard,
    limits: Mapping[str, int],
) -> bool:
    """Scores this process's share; True when, then, the results of all processes are there."""
    start, before = time.monotonic(), len(folder.scores)
    size = arguments.batch_size
    done = run.score(
        model,
        folder,
        examples,
        shard,
        batch_size=size,
        max_source=limits["max_source"],
        max_choice=limits["max_choice"],
    )
    if done:
        seconds = time.monotonic() - start
        print(f"{done} examples in {seconds:.1f} s, {done / seconds:.1f} per second", file=sys.stderr)
    elif before:
        print("all examples of this share are scored already", file=sys.stderr)
    together = arguments.multihost or arguments.process_count is not None
    left = _left(folder.path, examples)
    said = 0.0
    while together and left:  # JAX's processes have to end together
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"waiting for the other processes: {left} of {len(examples)} examples are left", file=sys.stderr)
        time.sleep(PATIENCE)
        left = _left(folder.path, examples)
    if left:
        print(
            f"process {shard.index + 1} of {shard.count} is done; {left} of {len(examples)} examples are left to the "
            "others. The last one writes the report",
            file=sys.stderr,
        )
    return not left


def _left(path: pathlib.Path, examples: Sequence[Example]) -> int:
    scores = results.read_scores(path)
    return sum(example.key not in scores for example in examples)


def leave(arguments: argparse.Namespace) -> None:
    """Parts from JAX's other processes."""
    if arguments.multihost or arguments.process_count is not None:
        import jax

        jax.distributed.shutdown()
