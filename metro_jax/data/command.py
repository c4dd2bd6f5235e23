"""`metro-jax data ...`: preparing data and looking at it; each command lives in the room it belongs to."""

from typing import Any

from metro_jax.data.prepare import command as prepare
from metro_jax.data.show import command as show
from metro_jax.data.t0 import command as t0

MODULES = (prepare, t0, show)


def add_parser(subparsers: Any) -> None:
    """Adds `data` and its commands to those of `metro-jax`; what a command needs is imported when it runs."""
    text = "Prepare data for training and evaluation, and look at it."
    parser = subparsers.add_parser("data", help=text, description=text)
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True, parser_class=type(parser))
    for module in MODULES:
        module.add_parser(commands)
