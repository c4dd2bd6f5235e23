"""Command lines and gin files: what T5X users type works, what they mistype is explained."""

import gin
import pytest

from metro_jax.training import gin_utils
from metro_jax.training.errors import UserError, nearest

RUN = ["models/tiny.gin", "runs/pretrain.gin"]


@pytest.fixture(autouse=True)
def clean():
    yield
    with gin.unlock_config():
        gin.clear_config()


def explained(files, bindings=()):
    with pytest.raises(UserError) as error:
        gin_utils.parse_configuration(files, bindings)
    return str(error.value)


def query(name):
    return gin.query_parameter(name)


def test_flags_in_the_forms_of_t5x():
    flags = gin_utils.parse_flags(
        ["train", "--gin_file=a.gin", "--gin_file=b.gin", "--gin.MODEL_DIR='x=y'",
         "--gin.train/utils.DatasetConfig.pack=True",
         "--gin_bindings=A = 1", "--gin_search_paths=p,q", "--alsologtostderr", "--dry_run"]
    )  # fmt: skip
    assert flags.gin_file == ["a.gin", "b.gin"]
    assert flags.gin_bindings == ["MODEL_DIR = 'x=y'", "train/utils.DatasetConfig.pack = True", "A = 1"]
    assert flags.gin_search_paths == ["p", "q"]
    assert flags.dry_run


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--gin_fil=a", "gin_file"), ("stray", "'stray' is not a flag"), ("--gin.MODEL_DIR", "needs a value")],
)
def test_bad_flags(argument, message):
    with pytest.raises(UserError, match=message):
        gin_utils.parse_flags(["train", argument])


@pytest.mark.parametrize(
    ("binding", "name", "value"),
    [
        ("train.eval_steps = 3", "train_script.train.eval_steps", 3),
        ("train_script.train.eval_steps = 3", "train_script.train.eval_steps", 3),
        ("train/utils.DatasetConfig.pack = True", "train/utils.DatasetConfig.pack", True),
        ("train/DatasetConfig.batch_size = 4", "train/utils.DatasetConfig.batch_size", 4),
        ("PjitPartitioner.num_partitions = 2", "partitioning.PjitPartitioner.num_partitions", 2),
        ("optimizers.OptaxWrapper.scale_by_learning_rate = True", "OptaxWrapper.scale_by_learning_rate", True),
        ("MetroConfig.d_model = 64", "config.MetroConfig.d_model", 64),
        ("BATCH_SIZE = 5", "BATCH_SIZE/macro.value", 5),
    ],
)
def test_bindings_of_the_command_line(binding, name, value):
    gin_utils.parse_configuration(RUN, [binding])
    assert query(name) == value


def test_an_unknown_parameter():
    message = explained(RUN, ["train.eval_perod = 3"])
    assert "the command line (train.eval_perod = 3)" in message
    assert "did you mean 'eval_period'" in message


def test_an_unknown_configurable():
    assert "did you mean 'train_script.train'" in explained(RUN, ["tran.eval_period = 3"])
    assert "did you mean 'EncoderDecoderModel'" in explained(RUN, ["MODEL = @models.EncoderDecoderMdel()"])


def test_a_value_that_is_no_literal():
    assert "text needs quotes" in explained(RUN, ["MODEL_DIR = somewhere"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("utils.DatasetConfg.split = 'x'", "did you mean 'DatasetConfig'"),
        ("utils.DatasetConfig.splitt = 'x'", "did you mean 'split'"),
        ("utls.DatasetConfig.split = 'x'", "'utls' was not provided by an import statement"),
        ("from metro_jax.training import utilz", "No module named 'metro_jax.training.utilz'"),
        ("A = [1,, 2]", "bad.gin line 4"),
    ],
)
def test_mistakes_in_files_are_placed(tmp_path, line, expected):
    file = tmp_path / "bad.gin"
    file.write_text(f"from __gin__ import dynamic_registration\nfrom metro_jax.training import utils\n\n{line}\n")
    message = explained([str(file)])
    assert "bad.gin line 4" in message
    assert expected in message


def test_a_missing_file_names_its_neighbours(tmp_path):
    message = explained(["runs/pretrian.gin"])
    assert "did you mean 'runs/pretrain.gin'" in message
    assert gin_utils.installed_configs() in message
    assert str(tmp_path / "no.gin") in explained([str(tmp_path / "no.gin")])


def test_search_paths_come_before_the_installed_files(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gin").write_text("MARK = 7\n")
    gin_utils.parse_configuration(["models/tiny.gin"], search_paths=[str(tmp_path)])
    assert query("MARK/macro.value") == 7


def test_macros_left_out_are_listed_with_what_to_type():
    gin_utils.parse_configuration(RUN, ["TRAIN_STEPS = 3"])
    with pytest.raises(UserError, match=r"MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS, MODEL_DIR") as error:
        gin_utils.check_macros()
    assert """--gin.MODEL_DIR='"/path""" in str(error.value)
    assert "TRAIN_STEPS" not in str(error.value)


def test_macros_bound_nowhere_are_listed():
    gin_utils.parse_configuration(["models/tiny.gin"], ["DROPOUT_RATE = %NOWHERE"])
    with pytest.raises(UserError, match="%NOWHERE"):
        gin_utils.check_macros()


@pytest.mark.parametrize("size", ["tiny", "base", "base_pp", "large_pp"])
@pytest.mark.parametrize("run", ["pretrain", "finetune", "eval"])
def test_every_size_with_every_run_file_gives_a_model(size, run):
    needed = [
        "MIXTURE_OR_TASK_NAME = 'a'",
        "TASK_FEATURE_LENGTHS = {'inputs': 8}",
        "TRAIN_STEPS = 20000",
        "MODEL_DIR = 'b'",
    ]
    more = {
        "pretrain": [],
        "finetune": ["INITIAL_CHECKPOINT_PATH = 'c'"],
        "eval": ["CHECKPOINT_PATH = 'c'", "EVAL_OUTPUT_DIR = 'd'"],
    }
    gin_utils.parse_configuration([f"models/{size}.gin", f"runs/{run}.gin"], [*needed, *more[run]])
    gin_utils.check_macros()
    from metro_jax.model.config import MetroConfig, PretrainingConfig

    model = gin.get_configurable("MODEL/macro")()
    assert model.config.dropout_rate == model.config.attention_dropout_rate == 0.1
    if size != "tiny":
        assert model.config == getattr(MetroConfig, size)()
    if run == "pretrain" and size != "tiny":
        assert model.pretraining == getattr(PretrainingConfig, size)()


def test_the_run_files_use_the_published_optimiser_and_schedule():
    gin_utils.parse_configuration(
        RUN, ["TRAIN_STEPS = 125000", "MIXTURE_OR_TASK_NAME = 'a'", "TASK_FEATURE_LENGTHS = {}", "MODEL_DIR = 'b'"]
    )
    rate = gin.get_configurable("utils.create_learning_rate_scheduler")()
    assert float(rate(10_000)) == pytest.approx(4e-4)
    assert float(rate(67_500)) == pytest.approx(2e-4)


def test_errors_have_a_status_and_no_traceback(capsys):
    def fail(_):
        raise UserError("value, reason, next step")

    assert gin_utils.run(fail, ["x"]) == 1
    assert gin_utils.run(lambda _: None, ["x"]) == 0
    assert gin_utils.run(lambda _: None, ["x", "--nonsense"]) == 1
    err = capsys.readouterr().err
    assert "error: value, reason, next step" in err
    assert "Traceback" not in err


def test_the_operative_configuration_is_written(tmp_path):
    gin_utils.parse_configuration(RUN, ["MetroConfig.d_model = 64"])
    gin.get_configurable("config.MetroConfig")()
    gin_utils.summarize_gin_config(str(tmp_path))
    assert "d_model = 64" in (tmp_path / "config.gin").read_text()


def test_nearest_compares_last_parts_too():
    assert nearest("metro_pretain", ["metro_pretrain", "other"]) == "; did you mean 'metro_pretrain'?"
    assert nearest("zzz", ["a", "b"]) == ""
    assert "utils.DatasetConfig" in nearest("Datasetconfig", ["utils.DatasetConfig"])
