"""`metro-jax`: the whole path on embedded data, a model asked, choices ranked, the installation looked at.

Everything heavy is imported by the command that needs it, so that help and errors come at once.
"""

import argparse
import difflib
import importlib
import os
import pathlib
import platform
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

from metro_jax.convert import command as convert_command
from metro_jax.data import command as data_command
from metro_jax.evaluation import command as evaluation_command
from metro_jax.inference import command as inference_command
from metro_jax.training.plan import command as plan_command
from metro_jax.version import __version__

USER_ERROR, FAILED, INTERRUPTED = 2, 1, 130
# What the user can mend: bad values, missing files and packages. Conversion and vocabulary errors are among them.
MENDABLE = (ValueError, TypeError, OSError, ImportError)

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*(?:;.*extra == [\"'](?P<extra>[\w-]+)[\"'])?")
IMPORTED = ("tensorflow", "seqio")  # whose versions must fit those of other packages


class Parser(argparse.ArgumentParser):
    """A parser whose complaint about an unknown command names the nearest known one."""

    def error(self, message: str) -> NoReturn:
        """Prints usage and the complaint, exit status 2."""
        self.print_usage(sys.stderr)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USER_ERROR)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            what = "command" if isinstance(action, argparse._SubParsersAction) else str(action.option_strings[0])
            raise argparse.ArgumentError(None, f"unknown {what} {value!r}: choose one of {', '.join(known)}{hint}")


def _quickstart(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from metro_jax.quickstart.settings import find_settings

    settings = find_settings(arguments.setting)
    try:
        from metro_jax.quickstart.run import quickstart
        from metro_jax.quickstart.training import check_installed

        check_installed()
        quickstart(settings, pathlib.Path(arguments.out), arguments.seed, Console())
    except KeyboardInterrupt:
        print(f"\nstopped; the same command continues where it stopped: {_as_typed(arguments)}", file=sys.stderr)
        return INTERRUPTED
    except RuntimeError as error:
        if arguments.debug:
            raise
        print(f"error: {error}\nStart again with: {_as_typed(arguments)}", file=sys.stderr)
        return FAILED
    return 0


def _as_typed(arguments: argparse.Namespace) -> str:
    return f"metro-jax quickstart --setting {arguments.setting} --out {arguments.out} --seed {arguments.seed}"


def _doctor(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    from metro_jax import compile_cache
    from metro_jax.convert import download

    print(f"metro_jax {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"memory    {_memory()}")
    devices = jax.devices()
    print(f"devices   {len(devices)} x {devices[0].device_kind} ({jax.default_backend()}), {os.cpu_count()} CPU cores")
    print(f"programs  {compile_cache.describe()}")
    print(f"models    {download.describe_cache()}")
    broken = [name for extra in ("core", "train", "test") for name in _show_packages(extra)]
    for name in broken:
        print(f"trouble   {name}")
    return FAILED if broken else 0


def _memory() -> str:
    """Memory of the machine and what of it is free, where the system says."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return "unknown on this system"
    kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, free = (kibibytes[name] / 2**20 for name in ("MemTotal", "MemAvailable"))
    return f"{total:.1f} GiB, {free:.1f} GiB available"


def _show_packages(extra: str) -> list[str]:
    """One line for the packages of an extra; returns what is installed but cannot be used."""
    found, missing = [], []
    for line in metadata.requires("metro_jax") or []:
        match = REQUIREMENT.match(line)
        if match is None or (match["extra"] or "core") != extra:
            continue
        try:
            found.append(f"{match['name']} {metadata.version(match['name'])}")
        except metadata.PackageNotFoundError:
            missing.append(match["name"])
    print(f"{extra:9} {', '.join(found) if found else 'nothing'}")
    if missing:
        of = "metro_jax" if extra == "core" else f"metro_jax[{extra}]"
        print(f"          not installed: {', '.join(missing)} (pip install '{of}')")
    broken = []
    for name in IMPORTED if extra == "train" and not missing else ():
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it is, it belongs on the list
            broken.append(
                f"{name} cannot be imported ({type(error).__name__}: {error}); reinstall with constraints.txt"
            )
    return broken


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = Parser(prog="metro-jax", description="METRO-T0 in JAX: pretrain, finetune, evaluate, convert, ask.")
    parser.add_argument("--version", action="version", version=f"metro-jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        added.add_argument("--debug", action="store_true", help="show where an error came from")
        return added

    quick = command("quickstart", _quickstart, "METRO-T0's whole life in miniature, on data that comes with Python.")
    quick.add_argument("--setting", default="full", help="full (at most 10 minutes on two cores) or small (a test)")
    quick.add_argument("--out", default="quickstart_run", metavar="FOLDER", help="where everything goes and continues")
    quick.add_argument("--seed", type=int, default=1, help="of data, initialisation and order (default 1)")

    inference_command.add_parsers(command)

    convert_command.add_parser(commands)
    data_command.add_parser(commands)
    evaluation_command.add_parser(commands)
    plan_command.add_parser(commands)
    command("doctor", _doctor, "Versions, devices, memory, and which extras are installed.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0, 1 for a run that failed, 2 for what the user can mend."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.function(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MENDABLE as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
