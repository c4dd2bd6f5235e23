"""Command lines and gin files as T5X users write them, with errors that name file, line and the nearest known name."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gin
from absl import flags, logging
from etils import epath
from gin import config as gin_config

from metro_jax.compile_cache import keep_compiled_programs
from metro_jax.training import distributed
from metro_jax.training.errors import UserError, nearest
from metro_jax.training.gin_errors import explain, symbols

TRACEBACK = "METRO_TRACEBACK"
DYNAMIC = "from __gin__ import dynamic_registration"
# What the macros of the run files stand for, with a value to copy.
EXAMPLES = {
    "MIXTURE_OR_TASK_NAME": "'\"name_of_a_seqio_task_or_mixture\"'",
    "TASK_FEATURE_LENGTHS": '\'{"inputs": 512, "targets": 512}\'',
    "TRAIN_STEPS": "10000",
    "MODEL_DIR": "'\"/path/to/write/checkpoints/to\"'",
    "INITIAL_CHECKPOINT_PATH": "'\"/path/to/model_dir/checkpoint_10000\"'",
    "CHECKPOINT_PATH": "'\"/path/to/model_dir/checkpoint_10000\"'",
    "EVAL_OUTPUT_DIR": "'\"/path/to/write/metrics/to\"'",
    "INFER_OUTPUT_DIR": "'\"/path/to/write/predictions/to\"'",
}


def installed_configs() -> str:
    """The folder of the gin files that come with metro_jax: models/, runs/, recipes/, t5x/."""
    import metro_jax.gin_configs  # pyright: ignore[reportMissingImports]

    return next(iter(metro_jax.gin_configs.__path__))


def define_flags() -> flags.FlagValues:
    """T5X's flags, in a set of their own so that two entry points can share one process."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string("gin_file", [], "Gin file; repeatable, later ones win.", flag_values=values)
    flags.DEFINE_multi_string("gin_bindings", [], "One binding, NAME=VALUE; repeatable.", flag_values=values)
    flags.DEFINE_list("gin_search_paths", [], "Folders to look for gin files in.", flag_values=values)
    flags.DEFINE_list("seqio_additional_cache_dirs", [], "Folders with cached seqio tasks.", flag_values=values)
    flags.DEFINE_string("tfds_data_dir", None, "Folder of TFDS datasets.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print the configuration and the parameters, then stop.", flag_values=values)
    distributed.define_flags(values)
    for name in ("alsologtostderr", "logtostderr"):
        flags.DEFINE_bool(name, True, "Accepted: messages always go to stderr.", flag_values=values)
    return values


def rewrite_gin_args(argv: Iterable[str]) -> list[str]:
    """`--gin.NAME=VALUE` as `--gin_bindings=NAME = VALUE`, and quoted values unquoted once, as T5X does."""
    rewritten = []
    for arg in argv:
        match = re.fullmatch(r"--?gin\.([^=]+)=(.*)", arg, re.DOTALL)
        if match:
            arg = f"--gin_bindings={match[1]} = {match[2]}"
        elif re.match(r"--?gin\.", arg):
            raise UserError(f"{arg}: a binding needs a value, for example {arg}=1")
        rewritten.append(arg)
    return rewritten


def parse_flags(argv: Sequence[str], define: Callable[[flags.FlagValues], None] | None = None) -> flags.FlagValues:
    """Flags of a command line (program name first); `define` adds those that only one entry point has.

    Raises:
        UserError: an unknown flag (with the nearest one) or a stray argument.
    """
    values = define_flags()
    if define is not None:
        define(values)
    try:
        rest = values(rewrite_gin_args(argv))
    except flags.Error as error:
        raise UserError(f"{error}. Known flags: {', '.join(f'--{name}' for name in sorted(values))}") from None
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag: give gin files as --gin_file=..., settings as --gin.NAME=VALUE")
    return values


def parse_configuration(files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()) -> None:
    """Reads gin files, then bindings, into gin's configuration, which is cleared first.

    Relative files are looked for in the working folder, in `search_paths`, then among the installed gin_configs.

    Raises:
        UserError: a missing file, an unknown name, a module that cannot be imported, bad syntax: with file and line.
    """
    with gin.unlock_config():
        gin.clear_config()
    gin_config._IMPORTS.clear()  # otherwise names of an earlier configuration stay visible
    places = ["", *search_paths, installed_configs()]
    gin_config._LOCATION_PREFIXES[:] = places
    readers: Any = [(_open, _is_file)]
    gin_config._FILE_READERS[:] = readers
    for file in files:
        _check_exists(file, places)
        _parse(lambda file=file: gin.parse_config_file(file))
    for binding in bindings:
        _parse(lambda binding=binding: gin.parse_config(_in_context(binding)), binding)


def _open(path: str) -> Any:
    return epath.Path(path).open()  # gs:// too


def _is_file(path: str) -> bool:
    return epath.Path(path).is_file()


def _parse(parse: Callable[[], Any], binding: str | None = None) -> None:
    try:
        parse()
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise UserError(explain(error, binding)) from error


def _check_exists(file: str, places: Sequence[str]) -> None:
    fixed = os.path.isabs(file) or "://" in file
    candidates = [file] if fixed else [os.path.join(place, file) for place in places]
    if any(_is_file(candidate) for candidate in candidates):
        return
    root = installed_configs()
    known = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(".gin")
    ]
    looked = os.path.dirname(file) if fixed else ", ".join(os.path.abspath(place) for place in places)
    raise UserError(
        f"{file}: no such gin file; looked in {looked}{nearest(file, known)}. Known: {', '.join(sorted(known))}"
    )


def _in_context(binding: str) -> str:
    """A binding of the command line under the imports of the files where that is enough to know all its names.

    T5X resolves such bindings among registered names only: `train.x` works there but `train_script.train.x` does not.
    """
    key, _, value = binding.partition("=")
    selector = key.strip().rsplit("/", 1)[-1]
    names = re.findall(r"@(?:[\w.]+/)*([A-Za-z_][\w.]*)", _without_strings(value))
    if "." in selector:
        names.append(selector)
    known = symbols()
    if names and all(name.split(".")[0] in known for name in names):
        imports = [statement.format() for statement in known.values()]
        return "\n".join([DYNAMIC, *imports, binding])
    return binding


def _without_strings(text: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)


def check_macros() -> None:
    """Every macro that a run file calls required, or that something uses, has a value.

    Raises:
        UserError: the ones left out, with what to type.
    """
    bound = {scope: values.get("value") for (scope, name), values in gin_config._CONFIG.items() if name == "gin.macro"}
    left_out = [name for name, value in bound.items() if value is gin.REQUIRED or _refers_to_required(value)]
    used = {
        reference.scoped_selector.rsplit("/", 1)[0]
        for reference in gin_config.iterate_references(gin_config._CONFIG)
        if reference.scoped_selector.endswith("/gin.macro")
    }
    undefined = sorted(used - set(bound))
    if left_out:
        lines = [f"  --gin.{name}={EXAMPLES.get(name, 'VALUE')}" for name in left_out]
        raise UserError(f"required macros were left out: {', '.join(left_out)}. Add\n" + "\n".join(lines))
    if undefined:
        raise UserError(
            f"macros are used but bound nowhere: {', '.join('%' + name for name in undefined)}. Bind them with "
            "--gin.NAME=VALUE, or add the gin file that does (sizes are in models/*.gin: --gin_file=models/tiny.gin)"
        )


def _refers_to_required(value: Any) -> bool:
    return getattr(value, "scoped_selector", "") == "gin.REQUIRED/gin.constant"


def describe_error(error: BaseException) -> str:
    """The message of an error raised while gin was calling something, without gin's trail."""
    lines = str(error).strip().split("\n")
    return "\n".join(line for line in lines if not line.startswith("  In call to configurable")).strip()


def run(
    main: Callable[[flags.FlagValues], None],
    argv: Sequence[str] | None = None,
    define: Callable[[flags.FlagValues], None] | None = None,
) -> int:
    """Runs an entry point; what the user can mend is a message on stderr, not a traceback. Returns the exit status."""
    flags.FLAGS.mark_as_parsed()  # absl would otherwise say that it logs before its own flags are read
    logging.use_absl_handler()
    try:
        values = parse_flags(list(sys.argv if argv is None else argv), define)
        distributed.initialize(values)
        keep_compiled_programs()  # a restart then starts where compiling would only begin
        main(values)
    except KeyboardInterrupt:
        print("stopped by the user; start the same command again to continue from the last checkpoint", file=sys.stderr)
        return 130
    except (UserError, ValueError, OSError, ImportError) as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print(f"error: {describe_error(error)}", file=sys.stderr)
        if not isinstance(error, UserError):
            print(f"(set {TRACEBACK}=1 to see where it came from)", file=sys.stderr)
        return 1
    return 0


def configure(values: flags.FlagValues) -> None:
    """Everything the flags ask for before a run: data folders, gin files, bindings, macros."""
    if not values.gin_file:
        raise UserError(
            "no gin file: give --gin_file=models/tiny.gin --gin_file=runs/pretrain.gin, or files of your own"
        )
    import seqio

    if values.seqio_additional_cache_dirs:
        seqio.add_global_cache_dirs(values.seqio_additional_cache_dirs)
    if values.tfds_data_dir:
        seqio.set_tfds_data_dir_override(values.tfds_data_dir)
    parse_configuration(values.gin_file, values.gin_bindings, values.gin_search_paths)
    check_macros()


def configurable(function: Callable[..., Any], name: str, files: str) -> Callable[..., Any]:
    """`function` with the arguments that the gin files bind.

    Raises:
        UserError: no file binds any: says which file would.
    """
    found = gin_config._inverse_lookup(function)
    if found is None or not any(selector == found.selector for _, selector in gin_config._CONFIG):
        raise UserError(f"the gin files bind nothing of {name}: add a run file, --gin_file={files}")
    return found.wrapper


def summarize_gin_config(model_dir: str, summary_writer: Any = None, step: int = 0) -> None:
    """Writes the operative configuration to the model folder, and to TensorBoard where there is a writer."""
    text = gin.operative_config_str()
    path = epath.Path(model_dir) / "config.gin"
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
    if summary_writer is not None:
        summary_writer.write_texts(step, {"config": gin.markdown(text)})


__all__ = [
    "UserError",
    "check_macros",
    "configure",
    "explain",
    "parse_configuration",
    "parse_flags",
    "rewrite_gin_args",
    "run",
    "summarize_gin_config",
]
