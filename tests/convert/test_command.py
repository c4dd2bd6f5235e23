"""`metro-jax convert` as it is typed: what it prints, its exit status, and everything that it must refuse."""

import json
import zipfile

import numpy as np
import pytest

from metro_jax import cli
from metro_jax.convert.hub import params_to_hub
from metro_jax.convert.hub_config import metro_config_to_hub
from metro_jax.convert.source import open_checkpoint

from . import torch_files
from .test_conversion import assert_same, listing, model  # noqa: F401 - a fixture
from .torch_files import Call, Global, Raw


def run(*arguments):
    return cli.main(["convert", *map(str, arguments)])


def test_a_folder_is_converted_and_said(model, tmp_path, capsys):  # noqa: F811
    assert run(model, tmp_path / "ours", "--to", "jax", "--dtype", "float32") == 0
    out = capsys.readouterr().out
    assert f"read     hub {model}" in out
    assert f"wrote    jax {tmp_path / 'ours'}: " in out
    assert "parameters, float32" in out
    assert run(tmp_path / "ours", tmp_path / "back.pt", "--to", "fairseq") == 0
    assert "note     one .pt file has no room for the vocabulary" in capsys.readouterr().out
    assert open_checkpoint(tmp_path / "back.pt").form == "fairseq"


@pytest.mark.usefixtures("fast_network")
def test_verification_passes_and_reports(model, tmp_path, capsys):  # noqa: F811
    assert run(model, tmp_path / "out", "--to", "hub", "--verify") == 0
    out = capsys.readouterr().out
    assert "verdict  same model" in out
    report = json.loads((tmp_path / "out.verify" / "verify.json").read_text())
    assert report["passed"]
    assert (tmp_path / "out.verify" / "verify.txt").read_text() in out
    assert not (tmp_path / "out" / "verify.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "out", "--to", "hub"], "nowhere: there is no such folder"),
        (["{model}", "out", "--to", "hbu"], "unknown --to 'hbu'.*did you mean 'hub'"),
        (["{model}", "out"], "required: --to"),
        (["{model}", "out", "--to", "jax", "--dtype", "flaot32"], "did you mean 'float32'"),
        (["{model}", "{model}", "--to", "jax"], "overwrite=True"),
        (["{model}", "out", "--to", "jax", "--vocab", "nowhere"], r"nowhere.*sp\.model"),
        (["{model}", "out", "--to", "jax", "--config", "x.gin"], "brings its own settings"),
        (["{model}", "out", "--to", "jax", "--report", "r"], "add --verify"),
        (["{model}", "out", "--to", "jax", "--revision", "v1"], "for models of the Hub"),
        (["empty", "out", "--to", "jax"], r"empty: no checkpoint in it; expected model\.safetensors"),
        (["two", "out", "--to", "jax"], r"two: holds 2 checkpoints \(a\.pt, b\.pt\); name one"),
    ],
)
def test_mistakes_are_explained(model, tmp_path, monkeypatch, capsys, arguments, said):  # noqa: F811
    import re

    monkeypatch.chdir(tmp_path)
    for name in ("empty", "two"):
        (tmp_path / name).mkdir()
    for name in ("a.pt", "b.pt"):
        (tmp_path / "two" / name).write_bytes(b"x")
    before = listing(tmp_path)
    try:
        status = run(*(argument.format(model=model) for argument in arguments))
    except SystemExit as end:
        status = end.code
    assert status == cli.USER_ERROR
    err = capsys.readouterr().err
    assert re.search(said, err), err
    assert "Traceback" not in err
    assert listing(tmp_path) == before


# -- what a checkpoint may try


def nested_reduce(target):
    """A constructor that is allowed, whose argument is a call that is not."""
    inner = Call(Global("os", "system"), (f"touch {target}",))
    return Call(Global("torch._utils", "_rebuild_parameter"), (inner, True, {}))


ATTACKS = {
    "os.system": lambda target: Call(Global("os", "system"), (f"touch {target}",)),
    "posix.system": lambda target: Call(Global("posix", "system"), (f"touch {target}",)),
    "builtins.eval": lambda target: Call(Global("builtins", "eval"), (f"open({str(target)!r}, 'w')",)),
    "builtins.getattr": lambda target: Call(Global("builtins", "getattr"), (Global("os", "path"), "join")),
    "subprocess.Popen": lambda target: Call(Global("subprocess", "Popen"), (["touch", str(target)],)),
    "os.system  ": nested_reduce,
    "opcode INST": lambda target: Raw(b"(" + torch_files._encode(f"touch {target}") + b"ios\nsystem\n"),
    "torch.load": lambda target: Call(Global("torch", "load"), (str(target),)),
    "leaves its storage": lambda target: torch_files.tensor(
        torch_files.storage("0", np.dtype(np.float32), 4), 0, (4, 4), (1000, 1)
    ),
}


@pytest.mark.parametrize("form", ["bin", "pt", "cfg"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_by_pickle_are_refused_by_name(tmp_path, capsys, attack, form):
    target = tmp_path / "executed"
    value = ATTACKS[attack](target)
    roots = {"bin": {"w": value}, "pt": {"model": {"w": value}, "cfg": {}}, "cfg": {"model": {}, "cfg": {"x": value}}}
    path = tmp_path / ("checkpoint.pt" if form != "bin" else "pytorch_model.bin")
    torch_files.write_zip(path, torch_files.assemble(roots[form]), {"0": bytes(16)})
    (tmp_path / "config.json").write_text("{}")
    for source in (path, tmp_path):
        assert run(source, tmp_path / "out", "--to", "hub") == cli.USER_ERROR
        err = capsys.readouterr().err
        assert attack.strip() in err
        assert str(path) in err
    assert not target.exists()
    assert not (tmp_path / "out").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, capsys):
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", torch_files.assemble({}))
        archive.writestr("archive/data/0", bytes(50 * 2**20))
    assert run(path, tmp_path / "out", "--to", "hub") == cli.USER_ERROR
    assert "zip bomb" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["../secret.bin", "/etc/passwd", "..", "a/b.bin", "C:\\x.bin", "x\0.bin"])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_cannot_lead_elsewhere(tmp_path, capsys, index, shard):
    folder = tmp_path / "model"
    folder.mkdir()
    torch_files.save(tmp_path / "secret.bin", {"shared.weight": np.ones((3, 2), np.float16)})
    (folder / "config.json").write_text("{}")
    (folder / index).write_text(json.dumps({"weight_map": {"shared.weight": shard}}))
    assert run(folder, tmp_path / "out", "--to", "hub") == cli.USER_ERROR
    assert "refused shard names" in capsys.readouterr().err


def test_old_torch_files_are_named(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    assert run(path, tmp_path / "out", "--to", "hub") == cli.USER_ERROR
    assert "torch before 1.6" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_every_layout_of_a_hub_folder(tmp_path, config, params, form):
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(x) for name, x in params_to_hub(config, params).items()}
    write = (lambda path, part: save_file(part, path)) if "safetensors" in form else torch_files.save
    ending = "safetensors" if "safetensors" in form else "bin"
    stem = "model" if ending == "safetensors" else "pytorch_model"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(metro_config_to_hub(config)))
    if "sharded" not in form:
        write(folder / f"{stem}.{ending}", tensors)
    else:
        names = sorted(tensors)
        parts = {f"{stem}-0000{i + 1}-of-00003.{ending}": names[i::3] for i in range(3)}
        for file, part in parts.items():
            write(folder / file, {name: tensors[name] for name in part})
        index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    assert run(folder, tmp_path / "out", "--to", "hub", "--dtype", "float32") == 0
    assert_same(open_checkpoint(tmp_path / "out").params, params)
