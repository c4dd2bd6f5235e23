"""gcloud as far as scripts/tpu.py uses it: a request is a file, a host a folder of this machine, in FAKE_CLOUD.

A host runs the shell commands it is sent, in its folder as HOME; installing only links a Python that is here.
Processes find each other as those of a cluster do, by Slurm's variables here, by the metadata server on a TPU.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
ROOT = pathlib.Path(__file__).parent.parent.parent


def hosts(node: str) -> list[pathlib.Path]:
    return sorted(CLOUD.glob(f"{node}.host*"))


def option(words: list[str], name: str) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), None)


def create(name: str, words: list[str]) -> int:
    if (CLOUD / f"{name}.state").exists():
        print("ALREADY_EXISTS", file=sys.stderr)
        return 1
    (CLOUD / f"{name}.state").write_text("WAITING_FOR_RESOURCES")
    count = int(option(words, "node-count") or 1)
    nodes = [option(words, "node-id")] if count == 1 else [f"{option(words, 'node-prefix')}-{n}" for n in range(count)]
    settings = json.loads((CLOUD / "settings.json").read_text())
    for node in nodes:
        for number in range(settings["hosts"]):
            (CLOUD / f"{node}.host{number}").mkdir()
    return 0


def describe(name: str) -> int:
    file = CLOUD / f"{name}.state"
    if not file.exists():
        print("ERROR: NOT_FOUND: Resource was not found", file=sys.stderr)
        return 1
    print(state := file.read_text())
    if state == "WAITING_FOR_RESOURCES":
        file.write_text(json.loads((CLOUD / "settings.json").read_text())["becomes"])
    return 0


def delete(name: str) -> int:
    (CLOUD / f"{name}.state").unlink()
    for folder in [*hosts(name), *hosts(f"{name}-*")]:
        shutil.rmtree(folder)
    return 0


def ssh(node: str, words: list[str]) -> int:
    settings = json.loads((CLOUD / "settings.json").read_text())
    everyone = sorted(CLOUD.glob("*.host*"))
    worker, command = option(words, "worker"), option(words, "command") or ""
    chosen = hosts(node) if worker == "all" else [hosts(node)[int(worker or 0)]]
    statuses = []
    for host in chosen:
        number = str(everyone.index(host))
        cluster = {
            "SLURM_JOB_ID": str(settings["job"]),
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_NTASKS": str(len(everyone)),
            "SLURM_PROCID": number,
            "SLURM_LOCALID": number,
        }
        if command.endswith("host.sh install"):
            statuses.append(install(host, settings["python"]))
        else:
            environment = {**os.environ, **settings["environment"], **cluster, "HOME": str(host)}
            statuses.append(subprocess.run(["bash", "-c", command], cwd=host, env=environment).returncode)
    return max(statuses, default=255)


def install(host: pathlib.Path, program: str) -> int:
    """The environment has this program for its Python; what would be installed has to be there."""
    found = {path.name.partition("-")[0] for path in (host / "metro_setup").iterdir()}
    if found != {"metro_jax", "constraints.txt", "host.sh"}:
        print(f"not what is to be installed: {found}", file=sys.stderr)
        return 1
    python = host / "metro_env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(program)} "$@"\n')
    python.chmod(0o755)
    return 0


def scp(words: list[str]) -> int:
    *files, target = [word for word in words if not word.startswith("--")]
    node, _, folder = target.partition(":")
    for host in hosts(node):
        for file in files:
            shutil.copy(file, host / folder)
    return 0


def main() -> int:
    with open(CLOUD / "calls", "a") as file:
        print(shlex.join(sys.argv[1:]), file=file)
    _, _, kind, verb, *words = sys.argv[1:]
    assert option(words, "zone"), words
    words = [word for word in words if not word.startswith(("--zone=", "--project="))]
    if kind == "queued-resources":
        actions = {"create": lambda: create(words[0], words), "describe": lambda: describe(words[0])}
        return (actions | {"delete": lambda: delete(words[0])})[verb]()
    return {"ssh": lambda: ssh(words[0], words), "scp": lambda: scp(words)}[verb]()


if __name__ == "__main__":
    sys.exit(main())
