"""scripts/tpu.py: what it would do, and what it does with a gcloud whose hosts are folders of this machine."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.launch import BINDINGS, ROOT, stand_in_gin, wait_for
from tests.training.data_folder import make_data_folder

SCRIPT = ROOT / "scripts" / "tpu.py"
WHERE = ["--name", "metro", "--zone", "us-central2-b"]
FAKE = pathlib.Path(__file__).parent / "fake_gcloud.py"
STEPS = 24


def tpu(*words: str, environment: dict[str, str] | None = None, status: int = 0) -> tuple[str, str]:
    """Runs the script; what it said on both streams."""
    command = [sys.executable, str(SCRIPT), words[0], *WHERE, *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


# -- what it would do

TRAIN = ["--env", "METRO_DATA_DIR=gs://b/data", "--", "--gin_file=models/base.gin", "--gin.MODEL_DIR='gs://b/my run'"]
GCLOUD = "gcloud compute tpus"
SSH = f"{GCLOUD} tpu-vm ssh --zone=us-central2-b metro --worker=all"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["create", "--accelerator", "v4-128", "--spot", "--project", "p"],
            f"{GCLOUD} queued-resources create --zone=us-central2-b --project=p metro --accelerator-type=v4-128 "
            "--runtime-version=tpu-ubuntu2204-base --node-id=metro --spot",
        ),
        (
            ["create", "--accelerator", "v5litepod-256", "--slices", "2", "--service-account", "s"],
            f"{GCLOUD} queued-resources create --zone=us-central2-b metro --accelerator-type=v5litepod-256 "
            "--runtime-version=v2-alpha-tpuv5-lite --node-count=2 --node-prefix=metro --service-account=s",
        ),
        (["create", "--accelerator", "v7-8", "--runtime", "new"], "--accelerator-type=v7-8 --runtime-version=new"),
        (["setup"], f"{SSH} '--command=bash metro_setup/host.sh install'"),
        (["status"], f"{SSH} '--command=bash metro_setup/host.sh status'"),
        (["stop"], f"{SSH} '--command=bash metro_setup/host.sh stop'"),
        (["logs"], "--worker=0 '--command=tail -n 50 -F metro_run/log'"),
        (["delete"], f"{GCLOUD} queued-resources delete --zone=us-central2-b metro --force --quiet"),
        (["launch", *TRAIN], "host.sh start METRO_DATA_DIR=gs://b/data -- --gin_file=models/base.gin"),
        (["keep", "--accelerator", "v6e-256", *TRAIN], "--runtime-version=v2-alpha-tpuv6e --node-id=metro"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_dry_run_says_what_would_be_done(words: list[str], expected: str) -> None:
    nowhere = {**os.environ, "PATH": ""}  # a dry run needs no gcloud
    said, _ = tpu(words[0], "--dry_run", *words[1:], environment=nowhere)
    assert expected in said
    assert all(line.startswith(("gcloud compute tpus ", "# ", sys.executable)) for line in said.splitlines())


def test_every_slice_is_told(tmp_path: pathlib.Path) -> None:
    said, _ = tpu("launch", "--dry_run", "--slices", "3", *TRAIN)
    assert re.findall(r"us-central2-b (metro-\d) ", said) == ["metro-0", "metro-1", "metro-2"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["create", "--accelerator", "v9-8"], "--accelerator v9-8: known are v2-N, v3-N, v4-N"),
        (["launch"], "launch needs what metro_jax.train takes after --"),
        (["launch", "--env", "A", "--", "--gin_file=x"], "--env A: give NAME=VALUE"),
        (["delete", "--slices", "0"], "--slices 0 must be at least 1"),
        (["delete"], "gcloud is not installed"),
    ],
)
def test_complaints_say_what_to_mend(words: list[str], complaint: str) -> None:
    _, said = tpu(*words, environment={**os.environ, "PATH": ""}, status=2)
    assert f"error: {complaint}" in said


@pytest.mark.parametrize("file", sorted(SCRIPT.parent.glob("*.sh")), ids=lambda file: file.name)
def test_shell_scripts_parse(file: pathlib.Path) -> None:
    subprocess.run(["bash", "-n", str(file)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(file)], check=True)


# -- what it does


class Cloud:
    """A folder of hosts behind a gcloud on PATH, on which runs of the stand-in model are started."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path) -> None:
        self.folder, self.data, self.run = folder / "cloud", data, folder / "run"
        self.folder.mkdir()
        program = folder / "bin" / "gcloud"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
        program.chmod(0o755)
        self.gin = stand_in_gin(folder)
        self.environment = {
            **os.environ,
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "FAKE_CLOUD": str(self.folder),
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say: build with what is installed here
        }

    def has(self, hosts: int, devices: int, python: str = sys.executable, becomes: str = "ACTIVE") -> None:
        """What slices created from now on are made of, and what becomes of requests."""
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        places = {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        settings = {"hosts": hosts, "job": random.randrange(4096), "environment": places}
        settings |= {"python": python, "becomes": becomes}
        (self.folder / "settings.json").write_text(json.dumps(settings))

    def training(self, **bindings: str) -> list[str]:
        settings = {"MODEL_DIR": f"'{self.run}'", "TRAIN_STEPS": str(STEPS), "SAVE_PERIOD": "2", "STATS_PERIOD": "3"}
        settings |= {"EVAL_PERIOD": "100", "train/utils.DatasetConfig.num_shards": "4"}
        named = [f"--gin.{name}={value}" for name, value in (BINDINGS | settings | bindings).items()]
        return ["--env", f"METRO_DATA_DIR={self.data}", "--", f"--gin_file={self.gin}", *named]

    def tpu(self, *words: str, **options: int) -> tuple[str, str]:
        try:
            return tpu(*words, environment=self.environment, **options)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def wait(self) -> None:
        """Until the run of every host has ended well."""
        while "running" in (said := self.tpu("status")[0]):
            time.sleep(1)
        assert set(re.findall(r"host \d: (.*)", said)) == {"exit 0"}, f"{said}\n{self.said()}"

    def calls(self, verb: str) -> list[str]:
        return [line for line in (self.folder / "calls").read_text().splitlines() if f" {verb} " in line]

    def said(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*/metro_run/log")))

    def pids(self) -> list[int]:
        return [int(path.read_text()) for path in self.folder.glob("*/metro_run/pid")]

    def kill(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    return make_data_folder(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture
def cloud(tmp_path: pathlib.Path, data: pathlib.Path):
    made = Cloud(tmp_path, data)
    yield made
    made.kill()


def losses(run: pathlib.Path) -> dict[int, float]:
    """Loss of every logged step; a step that was done twice must have got the same loss."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


@pytest.mark.slow
def test_a_preempted_run_of_two_hosts_is_brought_to_its_end(cloud: Cloud) -> None:
    """`keep` asks for another slice, sets it up, and the same command continues from the newest checkpoint."""
    cloud.has(hosts=2, devices=2)
    words = ["keep", "--accelerator", "v4-16", "--spot", "--poll", "1", *cloud.training()]
    command = [sys.executable, str(SCRIPT), words[0], *WHERE, "--wheels", str(cloud.folder / "wheels"), *words[1:]]
    keeper = subprocess.Popen(
        command, env=cloud.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        wait_for(cloud.run / "checkpoint_2", [keeper])
        cloud.has(hosts=1, devices=4)
        state = cloud.folder / "metro.state"
        state.write_text("SUSPENDED")
        cloud.kill()
        said = keeper.communicate(timeout=240)[0]
    finally:
        keeper.kill()
    assert keeper.returncode == 0, f"{said}\n{cloud.said()}"
    assert "metro: WAITING_FOR_RESOURCES" in said
    assert "metro: preempted; asking for it again" in said
    assert "metro: the run has ended" in said
    assert [len(cloud.calls(verb)) for verb in ("create", "delete", "scp")] == [2, 1, 2]
    assert all("--spot" in call for call in cloud.calls("create"))
    assert "continuing from" in cloud.said()
    assert (cloud.run / f"checkpoint_{STEPS}").is_dir()
    assert sorted(losses(cloud.run)) == list(range(3, STEPS + 1, 3))
    assert np.isfinite(list(losses(cloud.run).values())).all()
    said, _ = cloud.tpu("status")
    assert said == "metro: ACTIVE\nhost 0: exit 0\n"


def test_a_run_that_fails_is_not_started_again(cloud: Cloud) -> None:
    cloud.has(hosts=2, devices=1, python="/bin/false")
    words = ["--wheels", str(cloud.folder / "wheels"), "--accelerator", "v4-16", "--poll", "0.2", *cloud.training()]
    _, said = cloud.tpu("keep", *words, status=2)
    assert "error: the run ended with exit 1; `logs` shows what it said" in said
    assert len(cloud.calls("create")) == 1


def test_a_request_that_is_not_granted_ends_the_wait(cloud: Cloud) -> None:
    cloud.has(hosts=1, devices=1, becomes="FAILED")
    said, complaint = cloud.tpu("create", "--accelerator", "v4-8", "--poll", "0.1", status=2)
    assert said == "metro: WAITING_FOR_RESOURCES\n"
    assert "error: the request metro is FAILED: delete it and create it again" in complaint


@pytest.mark.slow
def test_a_run_of_four_hosts_moves_to_two_with_another_mesh(cloud: Cloud, data: pathlib.Path, tmp_path) -> None:
    """Stopped by `stop`, continued on a smaller slice with other shardings: the losses of an undisturbed run."""
    mesh, steps = "partitioning.PjitPartitioner", {"TRAIN_STEPS": "99"}  # not over before it is stopped
    cloud.has(hosts=4, devices=2)
    cloud.tpu("create", "--accelerator", "v4-32", "--poll", "0.2")
    cloud.tpu("setup", "--wheels", str(cloud.folder / "wheels"))
    cloud.tpu("launch", *cloud.training(**steps, **{f"{mesh}.fsdp_partitions": "4", f"{mesh}.num_partitions": "1"}))
    _, said = cloud.tpu("launch", *cloud.training(**steps), status=2)
    assert "a run is still going on here: stop it first" in said
    wait_for(cloud.run / "checkpoint_4", [])
    cloud.tpu("stop", "--poll", "0.5")
    assert cloud.tpu("status")[0].count("exit 0") == 4
    assert "stopped after step" in cloud.said()
    cloud.tpu("delete")
    cloud.has(hosts=2, devices=2)
    cloud.tpu("create", "--accelerator", "v4-16", "--poll", "0.2")
    cloud.tpu("setup", "--wheels", str(cloud.folder / "wheels"))
    cloud.tpu("launch", *cloud.training(**steps, **{f"{mesh}.fsdp_partitions": "1", f"{mesh}.num_partitions": "2"}))
    cloud.wait()
    moved = losses(cloud.run)

    cloud.tpu("delete")
    cloud.has(hosts=1, devices=1)
    cloud.run = tmp_path / "through"
    cloud.tpu("create", "--accelerator", "v4-8", "--poll", "0.2")
    cloud.tpu("setup", "--wheels", str(cloud.folder / "wheels"))
    cloud.tpu("launch", *cloud.training(**steps))
    cloud.wait()
    through = losses(cloud.run)
    assert len(through) == 33
    assert moved == pytest.approx(through, rel=1e-5)
