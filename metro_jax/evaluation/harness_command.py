"""`metro-jax eval harness`: the lm-evaluation-harness's own command, with METRO-T0 among its models."""

import argparse
from typing import Any

DESCRIPTION = """Run EleutherAI's lm-evaluation-harness on a METRO-T0 model: all that follows is given to its command
lm_eval, which says what there is with --help. The model is metro_jax unless --model names another:

  metro-jax eval harness --model_args pretrained=MODEL --tasks arc_easy

The same as `python -m metro_jax.evaluation.harness ...`; needs pip install 'metro_jax[harness]'."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `harness` to the commands of `metro-jax eval`."""
    # With a prefix that nobody types, options are arguments like others: they are not for this parser.
    parser = subparsers.add_parser(
        "harness", help="EleutherAI's lm-evaluation-harness", description=DESCRIPTION, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, prefix_chars="\0",
    )  # fmt: skip
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="of lm_eval")
    parser.set_defaults(function=run, debug=False)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the harness's command."""
    from metro_jax.evaluation.harness import main

    given = arguments.arguments
    return main(given[1:] if given[:1] == ["--"] else given)
