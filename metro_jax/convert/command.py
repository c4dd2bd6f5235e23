"""`metro-jax convert SRC DST --to hub|jax|fairseq`; what it needs is imported when it runs."""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

DESCRIPTION = """Convert a checkpoint into another format, and prove that it is the same model.

SRC is recognised by its content: a Hub folder (safetensors or pytorch_model.bin, whole or in shards), a fairseq .pt
file, a metro_jax checkpoint (MODEL_DIR, or one checkpoint_<step> of it), or a name of the Hub, which is downloaded.
DST appears when it is complete. Whatever does not fit is listed, and then nothing is written. Code and pickles that a
checkpoint brings are never executed."""

EXAMPLES = """examples:
  metro-jax convert gonglinyuan/metro_t0pp_basepp t0pp --to jax --verify
  metro-jax convert runs/finetune my_model --to hub --vocab data/vocab --dtype float16
  metro-jax convert checkpoint_best.pt my_model --to hub --vocab vocab_64k
  metro-jax convert my_model my_model.pt --to fairseq"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `convert` to the commands of `metro-jax`."""
    parser = subparsers.add_parser(
        "convert",
        help="Convert a checkpoint between the Hub's format, fairseq's and metro_jax's.",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=run)
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.add_argument("source", metavar="SRC", help="a folder, a file, or a name of the Hub")
    parser.add_argument("destination", metavar="DST", help="a new folder; for fairseq also a file NAME.pt")
    parser.add_argument("--to", required=True, choices=("hub", "jax", "fairseq"), help="the format of DST")
    parser.add_argument(
        "--dtype",
        default="stored",
        help="float32, float16 (what the published checkpoints hold) or bfloat16; default: as stored, without loss",
    )
    parser.add_argument("--vocab", metavar="FOLDER", help="sp.model and dict.txt, where SRC brings none")
    parser.add_argument(
        "--config", metavar="FILE", help="settings of a metro_jax checkpoint: a gin file or a config.json"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is at DST")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read DST back, compare hashes of all tensors, run both on fixed prompts, and write a report",
    )
    parser.add_argument(
        "--report", metavar="FOLDER", help="where verify.json and verify.txt go; default: DST.verify, beside DST"
    )
    parser.add_argument(
        "--pytorch-code",
        metavar="FOLDER",
        help="with --verify: also run the PyTorch original, from this copy of its code, which is imported "
        "(model_release/src/fairseq_t5 of github.com/gonglinyuan/metro_t0; needs torch and transformers)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Converts, and verifies if asked; exit status 1 when the two are not the same model."""
    from metro_jax.convert.conversion import convert, total_bytes
    from metro_jax.convert.download import find_model
    from metro_jax.convert.source import open_checkpoint

    if not arguments.verify and (arguments.report or arguments.pytorch_code):
        raise ValueError("--report and --pytorch-code say how to verify: add --verify")
    begin = time.monotonic()
    source = open_checkpoint(find_model(arguments.source, revision=arguments.revision), arguments.config)
    with _progress(total_bytes(source), f"{source.form} -> {arguments.to}") as tick:
        written = convert(
            source,
            arguments.destination,
            arguments.to,
            dtype=arguments.dtype,
            vocabulary=arguments.vocab,
            overwrite=arguments.overwrite,
            tick=tick,
        )
    print(f"read     {source.form} {source.path}")
    print(
        f"wrote    {arguments.to} {written.path}: {written.parameters:,} parameters, {_dtypes(source, arguments.dtype)}"
    )
    for note in written.notes:
        print(f"note     {note}")
    print(f"took     {time.monotonic() - begin:.1f} s")
    return _verify(arguments, source) if arguments.verify else 0


def _verify(arguments: argparse.Namespace, source: Any) -> int:
    from metro_jax.convert.source import open_checkpoint
    from metro_jax.convert.verify import render, verify, write_report

    print("verify   reading back, hashing, and running both sides; compiling takes a while", file=sys.stderr)
    destination = pathlib.Path(arguments.destination)
    code = None if arguments.pytorch_code is None else pathlib.Path(arguments.pytorch_code)
    report = verify(source, open_checkpoint(destination), code)
    folder = pathlib.Path(arguments.report or f"{destination}.verify")
    data, text = write_report(report, folder)
    print(f"\n{render(report)}")
    print(f"report   {data}, {text}")
    return 0 if report["passed"] else 1


def _dtypes(source: Any, dtype: str) -> str:
    from metro_jax.convert.rules import flatten

    stored = sorted({str(leaf.dtype) for leaf in flatten(source.params).values()})
    return dtype if dtype != "stored" else ", ".join(stored)


@contextlib.contextmanager
def _progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal, nothing elsewhere; it goes when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda size: progress.advance(task, size)
