"""The group `metro-jax data`: each module adds its own commands."""

from typing import Any

from metro_jax.data.prepare import command as prepare

MODULES = (prepare,)


def add_parser(commands: Any) -> None:
    """Adds the group to the commands of `metro-jax`."""
    text = "Prepare data, and look at them."
    group = commands.add_parser("data", help=text, description=text)
    subcommands = group.add_subparsers(
        dest="data_command", metavar="COMMAND", required=True, parser_class=commands._parser_class
    )
    for module in MODULES:
        module.add_parser(subcommands)
