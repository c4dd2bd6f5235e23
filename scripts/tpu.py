"""From nothing to a training run on a Cloud TPU slice, by gcloud: docs/tpu.md has the whole way.

python scripts/tpu.py create --name metro --zone us-central2-b --accelerator v4-128 --spot
python scripts/tpu.py setup  --name metro --zone us-central2-b
python scripts/tpu.py launch --name metro --zone us-central2-b --env METRO_DATA_DIR=gs://BUCKET/data -- --gin_file=...
python scripts/tpu.py status|logs|stop|delete --name metro --zone us-central2-b

`keep` does the first three, and again whenever the slice was preempted, until the run is done. With --dry_run every
command prints what it would do. Needs gcloud and Python 3.11 on the machine it is called on, nothing else.
"""

import argparse
import dataclasses
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The images that Google's documentation names for each kind of chip.
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
GONE = ("SUSPENDED", "SUSPENDING", "FAILED")  # states of a request that never becomes active again
# On every host, below the home folder: what `setup` copies; host.sh there knows the rest.
SETUP, LOG = "metro_setup", "metro_run/log"
HOST = f"bash {SETUP}/host.sh"
DONE, RUNNING = "exit 0", "running"


class Failed(Exception):
    """Something that the user can mend."""


@dataclasses.dataclass(frozen=True)
class Slices:
    """The slices of one request, and how to reach them.

    Args:
        count: slices; their names are NAME, or NAME-0, NAME-1, ...
        dry_run: print commands instead of running them.
    """

    name: str
    zone: str
    project: str | None
    count: int
    dry_run: bool

    @property
    def nodes(self) -> list[str]:
        """Names of the slices."""
        return [self.name] if self.count == 1 else [f"{self.name}-{index}" for index in range(self.count)]

    def gcloud(self, *words: str, check: bool = True, capture: bool = False) -> subprocess.CompletedProcess[str]:
        """Runs or prints one command of `gcloud compute tpus`."""
        where = [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])]
        command = ["gcloud", "compute", "tpus", *words[:2], *where, *words[2:]]
        if self.dry_run:
            print(shlex.join(command), flush=True)
            return subprocess.CompletedProcess(command, 0, "", "")
        try:
            pipe = subprocess.PIPE if capture else None
            done = subprocess.run(command, text=True, stdout=pipe, stderr=pipe)
        except FileNotFoundError:
            raise Failed("gcloud is not installed: https://cloud.google.com/sdk/docs/install") from None
        if check and done.returncode:
            raise Failed(f"status {done.returncode} of: {shlex.join(command)}")
        return done

    def on_hosts(
        self, node: str, command: str, worker: str = "all", **options: bool
    ) -> subprocess.CompletedProcess[str]:
        """Runs a shell command on the hosts of a slice."""
        return self.gcloud("tpu-vm", "ssh", node, f"--worker={worker}", f"--command={command}", **options)

    def state(self) -> str | None:
        """State of the request, such as ACTIVE or WAITING_FOR_RESOURCES; None when there is none."""
        done = self.gcloud(
            "queued-resources", "describe", self.name, "--format=value(state.state)", check=False, capture=True
        )
        if done.returncode and "NOT_FOUND" not in done.stderr:
            raise Failed(f"gcloud cannot say how {self.name} is: {done.stderr.strip()}")
        return done.stdout.strip() or None

    def jobs(self) -> list[str]:
        """What the run of every host does: "running", "exit STATUS", or "none"; empty when a host cannot be reached."""
        found: list[str] = []
        for node in self.nodes:
            done = self.on_hosts(node, f"{HOST} status", check=False, capture=True)
            if done.returncode:
                return []
            found += [line for line in done.stdout.splitlines() if re.fullmatch(r"running|none|exit \d+", line)]
        return found


def create(slices: Slices, options: argparse.Namespace) -> None:
    """Asks for the slices and waits until they are there."""
    kind = options.accelerator.partition("-")[0]
    if kind not in RUNTIMES and options.runtime is None:
        known = ", ".join(f"{name}-N" for name in RUNTIMES)
        raise Failed(
            f"--accelerator {options.accelerator}: known are {known}; for others name the image with --runtime"
        )
    slices.gcloud(
        "queued-resources",
        "create",
        slices.name,
        f"--accelerator-type={options.accelerator}",
        f"--runtime-version={options.runtime or RUNTIMES[kind]}",
        *([f"--node-id={slices.name}"] if slices.count == 1 else []),
        *([f"--node-count={slices.count}", f"--node-prefix={slices.name}"] if slices.count > 1 else []),
        *(["--spot"] if options.spot else []),
        *([f"--service-account={options.service_account}"] if options.service_account else []),
    )
    wait(slices, options.poll)


def wait(slices: Slices, seconds: float) -> None:
    """Returns when the request is active; a dry run says so only."""
    if slices.dry_run:
        print(f"# then, every {seconds:g} s until it says ACTIVE:")
    last = None
    while (state := slices.state()) != "ACTIVE" and not slices.dry_run:
        if state is None or state in GONE:
            raise Failed(f"the request {slices.name} is {state or 'not there'}: delete it and create it again")
        if state != last:
            print(f"{slices.name}: {state}", flush=True)
        last = state
        time.sleep(seconds)


def build_wheel(slices: Slices, folder: pathlib.Path) -> pathlib.Path:
    """The repository as it is now, as a wheel; a dry run prints how it would be built."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(ROOT)]
    if slices.dry_run:
        print(shlex.join(build))
        return folder / "metro_jax-VERSION-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("metro_jax-*.whl"):
        old.unlink()
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would add what lies there
    if subprocess.run(build).returncode:
        raise Failed(f"no wheel could be built: {shlex.join(build)}")
    (wheel,) = folder.glob("metro_jax-*.whl")
    return wheel


def setup(slices: Slices, options: argparse.Namespace, wheel: pathlib.Path | None = None) -> None:
    """Builds a wheel here, copies it with constraints.txt to every host, and installs it there."""
    wheel = wheel or build_wheel(slices, options.wheels)
    files = [str(wheel), str(ROOT / "constraints.txt"), str(ROOT / "scripts" / "host.sh")]
    for node in slices.nodes:
        slices.on_hosts(node, f"rm -rf {SETUP} && mkdir {SETUP}")
        slices.gcloud("tpu-vm", "scp", *files, f"{node}:{SETUP}/", "--worker=all")
        slices.on_hosts(node, f"{HOST} install")


def launch(slices: Slices, options: argparse.Namespace) -> None:
    """Starts the same training command on every host of every slice."""
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if not arguments:
        raise Failed("launch needs what metro_jax.train takes after --, such as -- --gin_file=models/base.gin ...")
    strange = [variable for variable in options.env if "=" not in variable]
    if strange:
        raise Failed(f"--env {strange[0]}: give NAME=VALUE")
    for node in slices.nodes:
        slices.on_hosts(node, f"{HOST} start {shlex.join([*options.env, '--', *arguments])}")


def status(slices: Slices, options: argparse.Namespace) -> None:
    """Prints the state of the request and what the run of every host does."""
    state = slices.state()
    if not slices.dry_run:
        print(f"{slices.name}: {state or 'there is no such request'}", flush=True)
    if state == "ACTIVE" or slices.dry_run:
        for number, job in enumerate(slices.jobs()):
            print(f"host {number}: {job}", flush=True)


def logs(slices: Slices, options: argparse.Namespace) -> None:
    """Follows what the first host says."""
    slices.on_hosts(slices.nodes[0], f"tail -n 50 -F {LOG}", worker="0")


def stop(slices: Slices, options: argparse.Namespace) -> None:
    """SIGTERM to every host: the run saves a checkpoint after its step and ends. Returns when it has."""
    for node in slices.nodes:
        slices.on_hosts(node, f"{HOST} stop")
    while not slices.dry_run and RUNNING in slices.jobs():
        time.sleep(options.poll)


def delete(slices: Slices, options: argparse.Namespace) -> None:
    """Gives the slices back; what is on their disks is lost."""
    slices.gcloud("queued-resources", "delete", slices.name, "--force", "--quiet")


def keep(slices: Slices, options: argparse.Namespace) -> None:
    """Creates, sets up and launches, and again after every preemption, until the run has ended."""
    wheel = build_wheel(slices, options.wheels)  # once: what is edited here meanwhile is not part of the run
    while True:
        state = slices.state()
        if state in GONE:
            delete(slices, options)
        try:
            if state is None or state in GONE:
                create(slices, options)
            else:
                wait(slices, options.poll)
            if RUNNING not in slices.jobs():
                setup(slices, options, wheel)
                launch(slices, options)
        except Failed as error:
            if slices.state() not in GONE:
                raise
            print(f"{error}; asking for it again", file=sys.stderr, flush=True)
            continue
        if slices.dry_run:
            print(f"# then, every {options.poll:g} s until the run has ended; all of it again after a preemption:")
            status(slices, options)
            return
        jobs = watch(slices, options.poll)
        if jobs:
            bad = sorted({job for job in jobs if job != DONE})
            if bad:
                raise Failed(f"the run ended with {', '.join(bad)}; `logs` shows what it said")
            print(f"{slices.name}: the run has ended; give the slice back with `delete`", flush=True)
            return
        print(f"{slices.name}: preempted; asking for it again", flush=True)


def watch(slices: Slices, seconds: float) -> list[str]:
    """How the run of every host ended; empty when the slices went away before that."""
    while True:
        try:
            if slices.state() != "ACTIVE":
                return []
            jobs = slices.jobs()
            if jobs and RUNNING not in jobs:
                return jobs
        except Failed as error:  # the network here, perhaps
            print(f"{error}; looking again in {seconds:g} s", file=sys.stderr, flush=True)
        time.sleep(seconds)


COMMANDS = {f.__name__: f for f in (create, setup, launch, status, logs, stop, delete, keep)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        text = (function.__doc__ or "").partition(".")[0]
        one = commands.add_parser(name, help=text, description=function.__doc__)
        one.add_argument("--name", required=True, help="of the request and its slice")
        one.add_argument("--zone", required=True, help="such as us-central2-b")
        one.add_argument("--project", help="default: gcloud's own")
        one.add_argument("--slices", type=int, default=1, metavar="N", help="slices in one run (default 1)")
        one.add_argument("--dry_run", action="store_true", help="print what would be done")
        one.add_argument("--poll", type=float, default=30, metavar="SECONDS", help="between looks (default 30)")
        if name in ("create", "keep"):
            one.add_argument("--accelerator", required=True, help="such as v4-128, v5litepod-8, v5p-64, v6e-256")
            one.add_argument("--runtime", help="image; default: the one for this kind of chip")
            one.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
            one.add_argument("--service-account", help="whose rights the hosts have, for the bucket")
        if name in ("setup", "keep"):
            wheels = ROOT / "build" / "wheels"
            one.add_argument("--wheels", type=pathlib.Path, default=wheels, help="where the wheel is built")
        if name in ("launch", "keep"):
            one.add_argument(
                "--env", action="append", default=[], metavar="NAME=VALUE", help="of every host; again for more"
            )
            one.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and what metro_jax.train takes")
    return made


def main() -> int:
    """Runs a command; exit status 2 for what the user can mend."""
    options = parser().parse_args()
    if options.slices < 1:
        print(f"error: --slices {options.slices} must be at least 1", file=sys.stderr)
        return 2
    try:
        COMMANDS[options.command](
            Slices(options.name, options.zone, options.project, options.slices, options.dry_run), options
        )
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
