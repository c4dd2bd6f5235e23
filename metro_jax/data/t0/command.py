"""`metro-jax data t0`: P3, downloaded or rendered, to prepared records of the T0 mixtures, with a report."""

import argparse
import os
import pathlib
import sys
from typing import Any

from metro_jax.data.t0 import catalogue

USER_ERROR = 2

DESCRIPTION = """Prepare T0, T0+ and T0++ for finetuning, and T0 Eval, from bigscience/P3.

Every task becomes records of METRO's token ids in OUTPUT/TASK. A run that was stopped goes on where it was; what is
done is not done again. OUTPUT/t0_report.txt and .json say, for every mixture, which tasks are there, missing (and why),
empty, or over their cap."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `t0` to the commands of `metro-jax data`."""
    parser = subparsers.add_parser(
        "t0", help="T0, T0+, T0++ and T0 Eval from P3", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--p3", required=True, metavar="FOLDER", help="the P3 folder, in either of its layouts")
    parser.add_argument("--vocab", metavar="FOLDER", help="sp.model and dict.txt of METRO")
    parser.add_argument("--output", metavar="FOLDER", help="the data folder to write (METRO_DATA_DIR when training)")
    parser.add_argument(
        "--mixtures",
        nargs="+",
        default=["t0pp_train", "t0_train_eval", "t0_eval"],
        metavar="NAME",
        help=f"any of {', '.join(catalogue.mixtures())} (default: t0pp_train t0_train_eval t0_eval)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that encode (default: one per core)",
    )
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        help="make mixtures of the tasks that are there even where some are missing or empty",
    )
    parser.add_argument("--download", action="store_true", help="first fetch what is needed from the Hub into --p3")
    parser.add_argument("--revision", metavar="NAME", help="of P3, for --download (default: its main one)")
    parser.add_argument(
        "--render",
        metavar="FOLDER",
        help="render tasks that are not in --p3 from the original datasets in FOLDER, with promptsource, into --p3",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random choices in templates, for --render (default 0)")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(function=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; 2 when a mixture is incomplete and --allow_missing was not given."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    names = _mixtures(arguments.mixtures)
    folder = pathlib.Path(arguments.p3)
    absent: dict[str, str] = {}
    if arguments.download:
        from metro_jax.data.t0.download import download

        absent = download(folder, names, arguments.revision)
    if arguments.render:
        from metro_jax.data.t0.render import render_missing

        absent |= render_missing(folder, pathlib.Path(arguments.render), names, arguments.seed)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; name the P3 folder, or fetch it with --download")
    if arguments.output is None and arguments.vocab is None and (arguments.download or arguments.render):
        return 0
    if arguments.output is None or arguments.vocab is None:
        raise ValueError("--vocab and --output are needed to encode; without both, --download or --render only fetch")
    if arguments.processes < 1:
        raise ValueError(f"--processes {arguments.processes}: at least one process is needed")
    return _encode(arguments, folder, names, absent)


def _encode(arguments: argparse.Namespace, folder: pathlib.Path, names: list[str], absent: dict[str, str]) -> int:
    from metro_jax.data.t0 import prepare, report

    work = prepare.plan(folder, names, absent)
    if not work.units:
        examples = "\n".join(f"  {task}: {reason}" for task, reason in list(work.missing.items())[:3])
        raise ValueError(f"{folder}: none of the wanted tasks is here, in either layout of P3:\n{examples}")
    failed = prepare.prepare(work, arguments.vocab, arguments.output, arguments.processes)
    made = report.report(arguments.output, names, work.missing | failed)
    print(report.save(arguments.output, made, arguments.allow_missing), end="")
    print(f"\nThis report: {pathlib.Path(arguments.output) / report.REPORT}.txt and .json")
    short = report.incomplete(made)
    if short and not arguments.allow_missing:
        print(
            f"error: incomplete mixtures: {', '.join(f'{name} lacks {n} tasks' for name, n in short.items())}. What is "
            "there is prepared. Bring the missing tasks and run this again, or add --allow_missing to train without "
            "them (the caps of the others stay as they are)",
            file=sys.stderr,
        )
        return USER_ERROR
    return 0


def _mixtures(names: list[str]) -> list[str]:
    from metro_jax.data.folder import nearest

    known = catalogue.mixtures()
    for name in names:
        if name not in known:
            raise ValueError(f"--mixtures {name}: no such mixture; {nearest(name, known)}")
    return list(dict.fromkeys(names))
