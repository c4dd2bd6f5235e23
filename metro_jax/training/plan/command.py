"""`metro-jax plan RECIPE --topology v4-128`: what a step needs there, from that machine's compiler."""

import argparse
from typing import Any

DESCRIPTION = """Compile a recipe's step for a TPU slice that is not there, and say what it needs: memory per chip
against the limit, FLOPs, bytes of every collective, a roofline estimate of time. The step is the one that training and
inference run; no data is read, nothing is computed. RECIPE is a gin file, or the name of one in gin_configs/recipes."""

EXAMPLES = """examples:
  metro-jax plan metro_basepp_pretrain --topology v4-128
  metro-jax plan metro_largepp_pretrain --topology v5e:16x16 --mesh data=16,fsdp=16 --set MetroConfig.remat="'full'"
  metro-jax plan metro_basepp_pretrain --topology v4:4x4x8 --search --json plan.json
  metro-jax plan metro_basepp_t0pp --topology v5e:1x1 --step generate
  metro-jax plan --list

Needs libtpu, 213 MB, on any Linux host: pip install -c constraints.txt 'metro_jax[train,tpu-plan]'"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `plan` to the commands of `metro-jax`."""
    parser = subparsers.add_parser(
        "plan",
        help="Compile a recipe's step for a TPU slice without one: memory, traffic, FLOPs, time.",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=run)
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a gin file, or the name of an installed recipe")
    parser.add_argument("--list", action="store_true", help="name the installed recipes and stop")
    parser.add_argument(
        "--topology",
        default="v5e-8",
        help="a Cloud name (v5e-8, v4-128, v5p-64, v6e-256), chips (v4:4x4x8), cpu:N, or gpu for this machine's",
    )
    parser.add_argument("--slices", type=int, default=1, help="slices joined by the data centre's network (default 1)")
    parser.add_argument("--step", default="train", choices=("train", "eval", "generate", "rank"), help="default: train")
    parser.add_argument(
        "--mesh", help="sizes of the mesh's axes, such as data=16,fsdp=8,model=1; default: the recipe's"
    )
    parser.add_argument("--microbatches", type=int, help="pieces of the batch; default: the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="bindings", help="a gin binding; repeatable"
    )
    parser.add_argument("--gin_file", action="append", default=[], help="read after the recipe; repeatable")
    parser.add_argument(
        "--search", action="store_true", help="try meshes, recomputation and microbatches, and rank what fits"
    )
    parser.add_argument(
        "--most", type=int, default=12, help="fitting candidates after which --search ends (default 12)"
    )
    parser.add_argument(
        "--level",
        default="default",
        choices=("default", "O0", "O1", "O2", "O3"),
        help="the compiler's effort; O0 and O1 say sooner whether it compiles and fits, not what it moves",
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="wait for the TPU's machine code too: minutes more, for the same figures",
    )
    parser.add_argument("--rows", type=int, default=32, help="generate, rank: texts per device (default 32)")
    parser.add_argument("--source", type=int, default=512, help="generate, rank: tokens of a text (default 512)")
    parser.add_argument("--target", type=int, default=256, help="generate: new tokens; rank: tokens of all choices")
    parser.add_argument("--json", metavar="FILE", help="write everything there as JSON")
    parser.add_argument("--hlo", metavar="FILE", help="write the compiled program there, as XLA's text")
    parser.add_argument("--picture", metavar="FILE", help="draw memory and traffic there (.png, .svg, .pdf)")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 if it fits, 1 if it does not."""
    from metro_jax.training.plan import topology as topologies

    topologies.prepare_environment(topologies.canonical(arguments.topology))
    import warnings

    # gin files import the data side too; what TensorFlow has to say at import is of no use here.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from metro_jax.training.plan import recipe as recipes

    if arguments.list:
        print("\n".join(recipes.names()))
        return 0
    if arguments.recipe is None:
        raise ValueError(f"name a recipe: {', '.join(recipes.names())}")
    from metro_jax.training.plan import main

    return main.plan(arguments)
