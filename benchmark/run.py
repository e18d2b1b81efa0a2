"""Runs the cells of a suite of benchmark/cells.toml, once for each seed, and keeps what came out.

    python -m pip install "ray[default]"
    python benchmark/run.py hopper --seeds 1 2 3 4 5          # on this machine, a run a core
    python benchmark/run.py table1 --only Hopper-v5-low       # the cells whose name contains this
    python benchmark/run.py figure3 --only=-iwr --list        # only print the commands
    python benchmark/run.py table1 --gpus 0.1                 # on a GPU, ten runs at a time
    python benchmark/run.py table1 --address auto             # on the Ray cluster that this machine belongs to
    python benchmark/report.py                                # then: the tables and pictures

Of each run, eval.csv and summary.json stay in benchmark/results/<suite>/<cell>/, as seed_<seed>.csv and .json, with the
command. A seed whose files are there is not run again; a run that was interrupted is resumed where its folder is.
Results of another command are refused. The exit code is 1 if a run failed, whose log is kept beside the results then.

Every run is a Ray task that starts the script as a process of its own, on one core. On a cluster the code is sent
along; the nodes need the packages of requirements.txt, and no shared disk, for results come back through Ray. When a
node dies its unfinished runs begin again on another.
"""

import ctypes
import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experts import InputError, main_metric, parse, write_file  # noqa: E402


@dataclass
class Args:
    suite: tyro.conf.Positional[str]  # of benchmark/cells.toml
    only: str = ""  # cells whose name contains this
    list: bool = False  # print the commands, run nothing
    seeds: tuple[int, ...] = (1,)
    jobs: int | None = None  # runs at a time on this machine; default: one for each core
    address: str | None = None  # of a Ray cluster, or auto; default: only this machine
    gpus: float = 0.0  # of each run, e.g. 0.25: it learns on the GPU, by --cuda
    folder: str | None = (
        None  # where runs/ lies on every node; default: here, and ~/runs-of-interventions on a cluster
    )


def refuse(message):
    """Ends with one line that says what is wrong with the command line, and exit code 2."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(2)


def suites():
    """All cells: {suite: {cell: command}}."""
    return tomllib.loads((ROOT / "benchmark" / "cells.toml").read_text())


def results_of(name):
    """The folder of these results."""
    return ROOT / "benchmark" / "results" / name


def read_evaluations(path):
    """The columns of an eval.csv by their names, arrays of shape (evaluations,); what is not known is nan."""
    return np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))


def scores_of(columns):
    """The evaluations of a run by the column that it is judged by, (evaluations,)."""
    rows = [dict(zip(columns.dtype.names, row)) for row in columns]
    return columns[main_metric(rows)]


def words(name, command, seed):
    """A run's script and all its options; by --exp-name and --seed its folder is found again."""
    script, *options = shlex.split(command)
    exp_name = f"{Path(script).stem}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', name)}"
    return script, *options, "--seed", str(seed), "--exp-name", exp_name


def begun(folder, exp_name, seed):
    """The runs of this name and seed that have begun in folder/runs, the last one last: {folder: its options}."""
    found = sorted((Path(folder) / "runs").glob(f"*__{exp_name}__{seed}__*/args.json"))
    return {path.parent: json.loads(path.read_text()) for path in found}


def understood(name, script, options):
    """What a script makes of its options, as its args.json holds them."""
    module = import_module(Path(script).stem)
    # the GPU has to be where it runs, not here
    elsewhere = [option for option in options if option != "--cuda"]
    try:
        args = parse(module.Args, module.check, elsewhere)
    except InputError as error:
        refuse(f"{name}: {error}")
    args.cuda = "--cuda" in options
    # of rlif_rlpd.py and variants.py, which save what its default stands for
    if hasattr(args, "termination"):
        usual = import_module("rlif_rlpd").usual_termination
        args.termination = args.termination or usual(args)
    return json.loads(json.dumps(vars(args)))  # with lists for tuples


def differences(wanted, saved):
    """The options that have another value in the args.json of a run."""
    return [option for option in wanted if wanted[option] != saved.get(option)]


def is_resumable(run_dir):
    """Was this run interrupted, after its first checkpoint?"""
    return (run_dir / "checkpoint.pt").exists() and not (run_dir / "summary.json").exists()


def check(runs):
    """What is left to be run of these runs, each (name, command, seed); refuses what can't be, before any starts.

    Returns (name, command, seed, options as its args.json will have them) of each.
    """
    missing = []
    for name, command, seed in runs:
        path = results_of(name) / f"seed_{seed}.json"
        if path.exists():
            ran = json.loads(path.read_text())["command"]
            # where it learned, on the CPU or on the GPU, does not make it another command
            if ran.removesuffix(" --cuda") != f"python {command}".removesuffix(" --cuda"):
                where = path.relative_to(ROOT)
                refuse(f"{where} is of another command, {ran}; delete it to run this one")
            print(f"{name}, seed {seed}: there already")
            continue
        script, *options = words(name, command, seed)
        wanted = understood(name, script, options)
        for folder, saved in begun(ROOT, wanted["exp_name"], seed).items():
            if (folder / "summary.json").exists():
                continue  # it has finished, and nothing of it would be resumed
            if others := differences(wanted, saved):
                what = f"{folder.relative_to(ROOT)} was begun with another {', '.join(others)}"
                refuse(f"{what}; delete it")
        missing.append((name, command, seed, wanted))
    return missing


# --- in a Ray task ---------------------------------------------------------------------------------------------------


def die_with_parent():
    """The kernel ends this process when the one that started it dies, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def progress(run_dir):
    """How far a run is, in a few words."""
    if run_dir is None:
        return "begun"
    try:
        columns = read_evaluations(run_dir / "eval.csv")
    except FileNotFoundError:  # not written yet, or just being replaced
        return "begun"
    return f"step {columns['global_step'][-1]:.0f}, score {scores_of(columns)[-1]:.1f}"


def execute(name, command, seed, wanted, source, folder, report):
    """Run a script of source/ in this folder, or go on with it; report() is told what it is at.

    wanted has the options that a run is recognised by. Returns the texts of its eval.csv and summary.json, or its exit
    code and the text of its log. A run that has finished already, say on a node that died before it could return this,
    is not done again; then "there" says where it lies.
    """
    source, folder = Path(source), Path(folder).expanduser()
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    script, *options = words(name, command, seed)

    def this_run():
        found = begun(folder, wanted["exp_name"], seed)
        ours = [run_dir for run_dir, saved in found.items() if not differences(wanted, saved)]
        return ours[-1] if ours else None

    def files():
        return {file: (this_run() / file).read_text() for file in ("eval.csv", "summary.json")}

    run_dir = this_run()
    if run_dir and (run_dir / "summary.json").exists():
        return files() | {"there": str(run_dir)}
    if run_dir and is_resumable(run_dir):
        options = ["--resume", str(run_dir)]
    log_path = folder / "runs" / f"{name.replace('/', '-')}-{seed}.log"
    # one thread a core: several threads of several runs would wait for each other
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log_path, "w") as log:
        argv = [sys.executable, str(source / script), *options]
        process = subprocess.Popen(
            argv, cwd=folder, env=env, stdout=log, stderr=log, preexec_fn=die_with_parent
        )
        try:
            while process.poll() is None:
                report(progress(this_run()))
                time.sleep(1)
        finally:  # Ctrl-C: the script writes a checkpoint and ends
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        return {"code": process.returncode, "log": log_path.read_text()}
    return files()


def execute_on_node(name, command, seed, wanted, source, folder, board):
    """execute() as a Ray task; without a source it is in its own copy of the code. The board is a Ray actor."""
    import ray

    where = ray.util.get_node_ip_address()

    def report(line):
        board.report.remote(name, seed, f"{line} on {where}")

    return execute(name, command, seed, wanted, source or Path.cwd(), folder, report)


class Board:
    """What every run is at: {(name, seed): text}."""

    def __init__(self):
        self.lines = {}

    def report(self, name, seed, line):
        self.lines[name, seed] = line

    def read(self):
        return self.lines


# --- here ------------------------------------------------------------------------------------------------------------


def keep(name, command, seed, found):
    """Write what a task returned: whether the run succeeded, and a line that says what came out."""
    kept, title = results_of(name), f"{name}, seed {seed}"
    kept.mkdir(parents=True, exist_ok=True)
    if "code" in found:
        path = kept / f"seed_{seed}.log"
        path.write_text(found["log"])
        last = (found["log"].strip().splitlines() or ["nothing was said"])[-1]
        return (
            False,
            f"{title}: failed with exit code {found['code']}: {last} ({path.relative_to(ROOT)})",
        )
    (kept / f"seed_{seed}.log").unlink(missing_ok=True)
    write_file(kept / f"seed_{seed}.csv", found["eval.csv"].encode())
    summary = {"command": f"python {command}"} | json.loads(found["summary.json"])
    write_file(kept / f"seed_{seed}.json", (json.dumps(summary, indent=2) + "\n").encode())
    scores = scores_of(read_evaluations(kept / f"seed_{seed}.csv"))
    line = f"{title}: last {scores[-1]:.1f}, best {scores.max():.1f}"
    if "there" in found:
        line += f", by {found['there']}, which had finished; delete both to run it again"
    return True, line


def need_ray():
    try:
        import ray  # noqa: F401
    except ImportError:
        refuse('this needs another package: python -m pip install "ray[default]"')


def need_cluster(address):
    """Refuses an address where nothing answers; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        refuse(f"--address must be host:port, or auto, not {address}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        refuse(f"--address {address}: no Ray there ({error}); to start one: ray start --head")


def run_all(runs, args):
    """All of these as Ray tasks: whether all succeeded. What is done and what runs is on the screen."""
    need_ray()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if args.address:
        excludes = ["/runs", "/benchmark/results", "/.git", "/.venv"]
        environment = {"working_dir": str(ROOT), "excludes": excludes}
        try:
            ray.init(args.address, runtime_env=environment, log_to_driver=False)
        except ConnectionError:
            refuse(f"--address {args.address}: no Ray found; to start one: ray start --head")
        source = None  # a task is in its copy of the code
        folder = args.folder or "~/runs-of-interventions"
    else:
        # where all cores are busy a node answers late, and is not dead
        os.environ.setdefault("RAY_health_check_failure_threshold", "100")
        cores = args.jobs or os.cpu_count()
        # a Ray of its own, also where another one runs
        ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
        source, folder = str(ROOT), args.folder or str(ROOT)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()
    # a task that a dying node takes along is done again; one whose script fails is not
    task = ray.remote(num_cpus=1, num_gpus=args.gpus, max_retries=-1)(execute_on_node)
    tasks = {task.remote(*run, source, folder, board): run for run in runs}
    lines, all_succeeded = [], True
    try:
        while tasks:
            done, _ = ray.wait(list(tasks), timeout=2)
            for ref in done:
                name, command, seed, _ = tasks.pop(ref)
                try:
                    found = ray.get(ref)
                except ray.exceptions.RayError as error:
                    # no node could start it, a disk is full, ...
                    found = {"code": 1, "log": str(error)}
                succeeded, line = keep(name, command, seed, found)
                all_succeeded &= succeeded
                lines.append(line)
                if not sys.stdout.isatty():
                    print(line, flush=True)
            if sys.stdout.isatty():
                waiting = {(name, seed) for name, _, seed, _ in tasks.values()}
                running = {
                    key: text
                    for key, text in ray.get(board.read.remote()).items()
                    if key in waiting
                }
                print("\033[H\033[J" + "\n".join(lines))  # an empty screen
                for (name, seed), text in running.items():
                    print(f"{name}, seed {seed}: {text}")
                print(
                    f"{len(lines)} done, {len(running)} running, {len(tasks) - len(running)} waiting",
                    flush=True,
                )
    except KeyboardInterrupt:
        for ref in tasks:
            ray.cancel(ref)  # the script ends after its episode, with a checkpoint
        ray.wait(list(tasks), num_returns=len(tasks), timeout=60)
        print(f"\n{Path(sys.argv[0]).name}: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    return all_succeeded


def main(args):
    if not args.seeds:
        refuse("--seeds needs at least one, e.g. --seeds 1")
    if args.jobs is not None and args.jobs < 1:
        refuse(f"--jobs must be positive, not {args.jobs}")
    if args.jobs is not None and args.address:
        refuse("--jobs is for this machine; on a cluster every node has its own number of cores")
    if args.address not in (None, "auto"):
        need_cluster(args.address)
    if args.gpus and not args.address and not torch.cuda.is_available():
        refuse("--gpus: torch finds no GPU here")
    if args.suite not in suites():
        refuse(f"no suite {args.suite!r} in benchmark/cells.toml, which has {', '.join(suites())}")
    cells = {cell: command for cell, command in suites()[args.suite].items() if args.only in cell}
    if args.gpus:
        cells = {cell: f"{command} --cuda" for cell, command in cells.items()}
    if not cells:
        refuse(
            f"--only {args.only}: no such cell; to see them: python benchmark/run.py {args.suite} --list"
        )
    runs = [
        (f"{args.suite}/{cell}", cells[cell], seed) for seed, cell in product(args.seeds, cells)
    ]
    if args.list:
        for name, command, seed in runs:
            print(f"{name}, seed {seed}: python {command}")
        return
    missing = check(runs)
    if not missing:
        return
    results_of("").mkdir(exist_ok=True)
    with open(results_of(".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refuse("another process runs benchmark/run.py here; start it when that has ended")
        if not run_all(missing, args):
            sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Args))
