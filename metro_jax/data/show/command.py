"""`metro-jax data show TASK`: decoded examples in colour; with --stats lengths, padding, truncation, examples per
task."""

import argparse
import os
import pathlib
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `show` to the commands of `metro-jax data`."""
    text = "Print examples of a task as the model sees them, or figures on them."
    parser = subparsers.add_parser("show", help=text, description=text)
    parser.add_argument("task", metavar="TASK", help="a task or mixture of the data folder, such as metro_pretrain")
    parser.add_argument("--data", metavar="FOLDER", help="the data folder (default: METRO_DATA_DIR)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--number", type=int, default=3, metavar="N", help="examples to print (default 3)")
    parser.add_argument("--inputs", type=int, default=512, metavar="IDS", help="length of the inputs (default 512)")
    parser.add_argument("--targets", type=int, default=512, metavar="IDS", help="length of the targets (default 512)")
    parser.add_argument("--seed", type=int, default=0, help="of order, crops and masks (default 0)")
    parser.add_argument("--stats", action="store_true", help="figures in place of examples")
    parser.add_argument("--plot", metavar="PNG", help="with --stats: histograms of the lengths (default: TASK.png)")
    parser.add_argument(
        "--most",
        type=int,
        default=20_000,
        metavar="N",
        help="with --stats: examples per task looked at (default 20000)",
    )
    parser.add_argument("--module", default="metro_jax.tasks.prepared", help="the module that registers TASK")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(function=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.data:
        os.environ["METRO_DATA_DIR"] = arguments.data
    for name in ("number", "inputs", "targets", "most"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)}: at least 1")
    from rich.console import Console

    from metro_jax.data.lookup import find_task

    found = find_task(arguments.task, arguments.module)
    lengths = {"inputs": arguments.inputs, "targets": arguments.targets}
    show = _stats if arguments.stats else _examples
    show(found, lengths, arguments, Console())
    return 0


def _examples(found: Any, lengths: dict[str, int], arguments: argparse.Namespace, console: Any) -> None:
    from metro_jax.data.show import colours
    from metro_jax.data.show.stats import tasks_of

    tokenizer = found.output_features["inputs"].vocabulary.tokenizer
    tasks = tasks_of(found, arguments.split)
    ranked = all(getattr(task.source, "kind", None) == "ranked" for task in tasks)
    passed = {} if len(tasks) == 1 else {"passthrough_features": ["idx", "is_correct"] if ranked else None}
    dataset = found.get_dataset(
        lengths, arguments.split, shuffle=not ranked, seed=arguments.seed, num_epochs=1, **passed
    )
    for example in dataset.take(arguments.number).as_numpy_iterator():
        for label, text in colours.example_lines(example, tokenizer):
            console.print(f"[bold]{label}[/bold]", highlight=False)
            console.print(text, soft_wrap=not console.is_terminal)
        console.print()
    console.print(colours.legend())


def _stats(found: Any, lengths: dict[str, int], arguments: argparse.Namespace, console: Any) -> None:
    import rich.progress
    from rich.table import Table

    from metro_jax.data.show import stats

    tasks = stats.tasks_of(found, arguments.split)
    figures = {}
    for task in rich.progress.track(tasks, "counting", console=console, transient=True, disable=len(tasks) == 1):
        figures[task.name] = stats.task_stats(task, arguments.split, lengths, arguments.most, arguments.seed)
    console.print(f"{found.name}, {arguments.split}: lengths {lengths['inputs']} and {lengths['targets']}")
    for name, one in figures.items():
        table = Table(title=f"{name}: {one.available:,} records, {one.examined:,} rows looked at", title_justify="left")
        for heading in ("", "mean ids", "longest", "too long", "padding", "packed"):
            table.add_column(heading, justify="right" if heading else "left")
        for feature in one.lengths:
            table.add_row(feature, *_cells(one, feature))
        console.print(table)
    console.print("too long: share of rows above their length, which are cut or dropped (too_long_examples.choice)")
    console.print("padding: share of pad ids with one example in a row; packed: the same with several")
    path = pathlib.Path(arguments.plot or f"{found.name}.png")
    stats.plot(figures, path, f"{found.name}, {arguments.split}")
    console.print(f"Histograms: {path}")


def _cells(one: Any, feature: str) -> list[str]:
    packed = "never" if one.packed_padding is None else f"{one.packed_padding[feature]:.1%}"
    rows = one.lengths[feature]
    return [
        f"{rows.mean():.1f}",
        str(rows.max()),
        f"{one.too_long[feature]:.1%}",
        f"{one.padding[feature]:.1%}",
        packed,
    ]
