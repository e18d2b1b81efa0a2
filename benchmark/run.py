"""Runs the cells of a suite of benchmark/cells.toml, once for each seed, and keeps what came out.

    python -m pip install "ray[default]"
    python benchmark/run.py hopper --seeds 1 2 3 4 5          # on this machine, a run a core
    python benchmark/run.py table1 --only Hopper-v5-top       # the cells whose name contains this
    python benchmark/run.py figure3 --only=-iwr --list        # only print the commands
    python benchmark/report.py                                # then: the tables and pictures

eval.csv and args.json of a run become benchmark/results/<suite>/<cell>/seed_<seed>.csv and .json,
the latter with the command. What is there is not run again, what was interrupted is resumed (but
rlif_rounds.py begins anew, oracle.py goes on with other noise), results of another command are
refused; of a run that failed the log is kept, and the exit code is 1. A run is a Ray task that
starts the script as a process of its own, on one core. On a cluster (--address) the code is sent
along; nodes need requirements.txt, but no shared disk.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import tyro
from filelock import FileLock, Timeout
from files import RESULTS, ROOT, InputError, command_line, read_columns, scores_of, write

RETRIES = 3  # of a run that a dying node takes along, or that is ended for want of memory


@dataclass
class Args:
    suite: tyro.conf.Positional[str]  # of benchmark/cells.toml
    only: str = ""  # cells whose name contains this
    list: bool = False  # print the commands, run nothing
    seeds: tuple[int, ...] = (1,)
    jobs: int | None = None  # runs at a time on this machine; default: one for each core
    gpus: float = 0.0  # of each run, e.g. 0.25: it learns on the GPU, by --cuda
    address: str | None = None  # of a Ray cluster, host:port or auto; default: only this machine
    folder: str | None = None  # where runs/ lies; default: here, ~/interventions on a cluster

    def __post_init__(self):
        if min(self.seeds, default=-1) < 0:
            raise ValueError("--seeds needs one or several of zero or more, e.g. --seeds 1 2 3")
        if self.jobs is not None and (self.jobs < 1 or self.address):
            raise ValueError("--jobs must be positive, and is for this machine, not for --address")
        if not (0 <= self.gpus <= 1 or (self.gpus > 1 and self.gpus % 1 == 0)):
            raise ValueError("--gpus must be a share from 0 to 1, or a whole number: Ray's rule")


def suites():
    """All cells: {suite: {cell: command}}."""
    table = tomllib.loads((ROOT / "benchmark" / "cells.toml").read_text())
    tasks, found = table.pop("tasks"), {suite: {} for suite in table}
    for suite, part in [(suite, part) for suite, parts in table.items() for part in parts]:
        for task, (method, command) in product(part.get("tasks", [""]), part["methods"].items()):
            own = tasks.get(task, {}) | part.get("each", {}).get(task, {})
            script = command.split()[0]
            experts = [""] if script == "bc.py" else own.get("experts", [""])
            for expert in experts if method not in own.get("without", []) else ():
                options = own.get("options", ""), expert and f"--expert {expert}"
                words = command, *options, part.get("all", ""), own.get(script, "")
                name = "-".join(filter(None, (task, expert, method)))
                found[suite][name] = " ".join(filter(None, words))
    return found


# --- in a Ray task --------------------------------------------------------------------------------
def execute(name, command, seed, source, folder):
    """Run a script of source in this folder, unless it has finished there; go on with it if begun.

    Returns the texts of eval.csv and args.json, the run's folder, and whether it had finished
    before; or its exit code and log.
    """
    source, folder = Path(source or Path.cwd()), Path(folder).expanduser()
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    # with the command's checksum, for a run of another command is another run
    exp_name = f"{name.replace('/', '-')}-{zlib.crc32(command.encode()):08x}"

    def last(file):
        """The last of these runs that has a file, or None."""
        found = sorted(folder.glob(f"runs/*__{exp_name}__{seed}__*/{file}"))
        return found[-1].parent if found else None

    before = last("model.safetensors")  # which a run writes when it has finished
    if not before:
        script, *options = [*command.split(), "--seed", str(seed), "--exp-name", exp_name]
        if begun := last("checkpoint.pt"):
            options += ["--resume", str(begun)]
        log_path = folder / "runs" / f"{exp_name}__{seed}.log"
        # one thread a core: several threads of several runs would wait for each other; and by
        # PR_SET_PDEATHSIG Linux ends a script when the task that started it dies, however
        how = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "cwd": folder}
        if sys.platform == "linux":
            how["preexec_fn"] = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        with open(log_path, "w") as log:
            argv = [sys.executable, str(source / script), *options]
            ran = subprocess.run(argv, stdout=log, stderr=log, check=False, **how)
        if ran.returncode:
            return {"code": ran.returncode, "log": log_path.read_text()}
    run = last("model.safetensors")
    files = {file: (run / file).read_text() for file in ("eval.csv", "args.json")}
    return files | {"run": str(run), "before": before is not None}


# --- here -----------------------------------------------------------------------------------------
def is_kept(name, command, seed):
    """Is this run's result there? Raises InputError if it is of another command."""
    path = RESULTS / name / f"seed_{seed}.json"
    if path.exists():
        ran = json.loads(path.read_text())["command"]
        # where it learned, on the CPU or on the GPU, does not make it another command
        if ran.removesuffix(" --cuda") != f"python {command}".removesuffix(" --cuda"):
            raise InputError(f"{path} is of another command, {ran}; delete it to run this one")
        print(f"{name}, seed {seed}: there already")
    return path.exists()


def keep(name, command, seed, found):
    """Write what execute() returned, and say it in a line; did the run succeed?"""
    path, title = RESULTS / name / f"seed_{seed}", f"{name}, seed {seed}"
    if "log" in found:
        write(path.with_suffix(".log"), found["log"])
        said = (found["log"].strip().splitlines() or ["nothing was said"])[-1]
        print(f"{title}: failed with exit code {found['code']}: {said} ({path}.log)", flush=True)
        return False
    path.with_suffix(".log").unlink(missing_ok=True)
    write(path.with_suffix(".csv"), found["eval.csv"])
    facts = {"command": f"python {command}", "args": json.loads(found["args.json"])}
    write(path.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
    scores = scores_of(read_columns(path.with_suffix(".csv")))
    again = f"; it had finished in {found['run']}, delete both to run it again" * found["before"]
    print(f"{title}: last {scores[-1]:.1f}, best {scores.max():.1f}{again}", flush=True)
    return True


def connect(args):
    """Ray on this machine, or of a cluster. Raises InputError."""
    try:
        import ray
    except ImportError:
        raise InputError('Ray is missing: python -m pip install "ray[default]"') from None
    options = {"log_to_driver": False}
    if args.address:
        excludes = ["/runs", "/benchmark/results", "/.git", "/.venv"]
        options["runtime_env"] = {"working_dir": str(ROOT), "excludes": excludes}
    else:
        # where all cores are busy a node answers late, and is not dead
        os.environ.setdefault("RAY_health_check_failure_threshold", "100")
        mine = os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count())
        options |= {"num_cpus": args.jobs or len(mine), "include_dashboard": False}
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # Ray's own is for ever
    try:
        if args.address not in (None, "auto"):  # Ray itself would wait for minutes
            host, _, port = args.address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(args.address or "local", **options)
    except Exception as error:  # of many kinds: nobody answers, a token is wrong, ...
        said = f"--address {args.address or 'local'}, {type(error).__name__}: {error}"
        raise InputError(f"{said.splitlines()[0]}; Ray's lines above may say more") from None
    if args.gpus > max(node["Resources"].get("GPU", 0) for node in ray.nodes()):
        raise InputError(f"--gpus {args.gpus}: Ray finds no machine with so many GPUs")
    return ray


def run_all(runs, args):
    """All of these as Ray tasks; did they all succeed?"""
    ray, succeeded = connect(args), True
    source, folder = (None, "~/interventions") if args.address else (str(ROOT), str(ROOT))
    folder = str(Path(args.folder).expanduser().absolute()) if args.folder else folder
    # a run whose script fails is not done again
    task = ray.remote(num_cpus=1, num_gpus=args.gpus, max_retries=RETRIES)(execute)
    tasks = {task.remote(*run, source, folder): run for run in runs}
    print(f"{len(runs)} runs begin; what they say: {folder}/runs/*.log", flush=True)
    while tasks:
        (done,), _ = ray.wait(list(tasks))
        try:
            found = ray.get(done)
        except ray.exceptions.RayError as error:  # memory ran out, a disk is full, ...
            found = {"code": 1, "log": str(error)}
            if isinstance(error, ray.exceptions.OutOfMemoryError):
                found["log"] += f"\nmemory ran out {1 + RETRIES} times: start fewer at a time"
        succeeded &= keep(*tasks.pop(done), found)
    return succeeded


def main(args: Args):
    found = suites()
    if args.suite not in found:
        raise InputError(f"cells.toml has no suite {args.suite!r}, but {', '.join(found)}")
    cells = {name: line for name, line in found[args.suite].items() if args.only in name}
    if not cells:
        raise InputError(f"--only {args.only}: {args.suite} has {', '.join(found[args.suite])}")
    cuda = " --cuda" * bool(args.gpus)
    pairs = product(args.seeds, cells.items())
    runs = [(f"{args.suite}/{cell}", command + cuda, seed) for seed, (cell, command) in pairs]
    if args.list:
        return print("\n".join(f"{name}, seed {seed}: python {line}" for name, line, seed in runs))
    missing = [run for run in runs if not is_kept(*run)]
    RESULTS.mkdir(exist_ok=True)
    try:
        with FileLock(RESULTS / ".lock", timeout=0):
            succeeded = not missing or run_all(missing, args)
    except Timeout:
        raise InputError("another run.py is at work here; start this one after it") from None
    if not succeeded:
        sys.exit(1)


if __name__ == "__main__":
    try:
        command_line(main, __doc__)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on")
