"""`metro-jax eval`: T0 Eval and MMLU of a checkpoint, reports, comparisons."""

import argparse
import pathlib
from typing import Any

from metro_jax.evaluation import harness_command

OK, FAILED, USER_ERROR = 0, 1, 2
DTYPES = ("float32", "bfloat16", "float16")

T0_TEXT = """T0 Eval by rank classification: 11 tasks, 112 templates, beside the published values.

The sum of the log-probabilities of every choice's tokens, end mark included; the first of the best choices is the
answer. Results stream to OUT, and the same command continues a run that was stopped."""
MMLU_TEXT = """MMLU, by one of three protocols, which differ in questions, prompt and shots; the report names them.

metro      the original's: validation questions, zero-shot, the letter of the option, T0's prompt for ARC
test       test questions, zero-shot, the usual prompt of MMLU
five-shot  test questions after five of the development questions of the subject, the usual prompt of MMLU"""
COMPARE_TEXT = """Several results side by side, with paired tests on the examples they share.

Every result is compared with the first. p: paired permutation test over examples, adjusted by Holm's method over the
tasks."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `eval` to the commands of `metro-jax`."""
    parser = subparsers.add_parser("eval", help="T0 Eval and MMLU, beside the published numbers")
    commands = parser.add_subparsers(dest="evaluation", metavar="WHAT", required=True)

    def command(name: str, function: Any, brief: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=brief, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(function=function)
        added.add_argument("--debug", action="store_true", help="show where an error came from")
        return added

    _add_t0(command("t0", t0_command, "the 11 tasks and 112 templates of T0 Eval", T0_TEXT))
    _add_mmlu(command("mmlu", mmlu_command, "the 57 subjects of MMLU", MMLU_TEXT))
    compare = command("compare", compare_command, "several results of T0 Eval side by side", COMPARE_TEXT)
    compare.add_argument("results", nargs="+", metavar="OUT", help="result folders of `metro-jax eval t0`")
    compare.add_argument("--names", nargs="+", metavar="NAME", help="what to call them (default: their models' names)")
    compare.add_argument("--out", metavar="FOLDER", help="where comparison.json, .csv, .md and the plots go")
    report = command("report", report_command, "the report of a result folder, anew", "The report of a result folder.")
    report.add_argument("out", metavar="OUT", help="a result folder, finished or not")
    report.add_argument("--published", metavar="NAME", help="a published model to compare with; none for none")
    report.add_argument("--trained-on", metavar="NAME", help="t0, t0p or t0pp: which tasks training has shown")
    harness_command.add_parser(commands)
    return parser


def _add_t0(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="such as rte copa anli (default: all 11)")
    parser.add_argument("--templates", nargs="+", metavar="NAME", help="some of their templates (default: all)")
    parser.add_argument("--check", action="store_true", help="only say what the data folder holds and what is missing")
    parser.add_argument(
        "--render",
        metavar="FOLDER",
        help="first render what is missing from the original datasets there, by promptsource",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random choices in templates, for --render (default 0)")
    parser.add_argument(
        "--published",
        metavar="NAME",
        help="the published model to compare with, such as t0pp_basepp (default: by MODEL's name); none for none",
    )
    parser.add_argument(
        "--trained-on",
        metavar="NAME",
        help="t0, t0p or t0pp: which tasks training has shown (default: by MODEL's name)",
    )


def _add_mmlu(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--protocol", default="metro", metavar="NAME", help="metro, test or five-shot (default: metro)")
    parser.add_argument("--subjects", nargs="+", metavar="NAME", help="some of the 57 (default: all)")
    parser.add_argument("--passages", action="store_true", help="append each question's retrieved passages")


def _add_model(parser: argparse.ArgumentParser) -> None:
    """What both evaluations take."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a folder, or a name of the Hub: owner/name")
    parser.add_argument("--data", metavar="FOLDER", help="the examples (docs/evaluation.md has the layouts)")
    parser.add_argument("--out", metavar="FOLDER", help="where results go and continue")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N examples of every template or subject")
    parser.add_argument("--dtype", default="float32", help=f"{', '.join(DTYPES)} (default: %(default)s)")
    parser.add_argument("--int8", action="store_true", help="weights in eight bits")
    parser.add_argument("--revision", metavar="NAME", help="of a model of the Hub")
    parser.add_argument("--batch-size", type=int, metavar="N", help="at most N inputs at once (default: by memory)")
    parser.add_argument("--strict", action="store_true", help="stop before scoring if an example has to be left out")
    parser.add_argument("--shard", metavar="I/N", help="this process is number I of N, which share OUT")
    group = parser.add_argument_group("several hosts that JAX joins (then each is a shard)")
    group.add_argument("--multihost", action="store_true", help="join the processes that the cluster names")
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="of the first process")
    group.add_argument("--process_count", type=int, metavar="N", help="how many processes there are")
    group.add_argument("--process_index", type=int, metavar="I", help="which of them this one is, from 0")


def t0_command(arguments: argparse.Namespace) -> int:
    """Checks, or scores and reports."""
    from metro_jax.evaluation import command_t0

    return command_t0.check(arguments) if arguments.check else command_t0.run(arguments)


def mmlu_command(arguments: argparse.Namespace) -> int:
    """Scores and reports."""
    from metro_jax.evaluation import command_mmlu

    return command_mmlu.run(arguments)


def compare_command(arguments: argparse.Namespace) -> int:
    """Prints the comparison, and writes it where --out says."""
    from metro_jax.evaluation import compare

    return compare.run([pathlib.Path(path) for path in arguments.results], arguments.names, arguments.out)


def report_command(arguments: argparse.Namespace) -> int:
    """Makes the report of whatever is in a folder."""
    from metro_jax.evaluation import command_mmlu, command_t0
    from metro_jax.evaluation.results import RUN, read_json, write_json

    folder = pathlib.Path(arguments.out)
    if not (folder / RUN).exists():
        raise FileNotFoundError(f"{folder}: no result folder ({RUN} is missing); give the --out of an evaluation")
    run = read_json(folder / RUN)
    if run["identity"]["protocol"]["kind"] == "mmlu":
        return command_mmlu.report(folder)
    if arguments.published or arguments.trained_on:
        command_t0.choose_reference(run, arguments.published, arguments.trained_on, run["model"]["name"])
        write_json(folder / RUN, run)
    return command_t0.report(folder)
