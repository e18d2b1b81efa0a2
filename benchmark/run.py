"""Runs the cells of a suite of benchmark/cells.toml, once for each seed, and keeps what came out.

    python benchmark/run.py hopper --seeds 1 2 3 4 5
    python benchmark/run.py table1 --only Hopper-v5-low       # the cells whose name contains this
    python benchmark/run.py figure3 --only=-iwr --list        # only print the commands
    python benchmark/report.py                                # then: the tables and pictures

Of each run, eval.csv and summary.json stay in benchmark/results/<suite>/<cell>/, as seed_<seed>.csv and .json, with the
command. A seed whose files are there is not run again; a run that was interrupted is resumed. Files or a run of another
command are refused, and no run is made by two processes at once. The exit code is 1 if a run failed.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experts import InputError, main_metric, parse  # noqa: E402


@dataclass
class Args:
    suite: tyro.conf.Positional[str]  # of benchmark/cells.toml
    only: str = ""  # cells whose name contains this
    list: bool = False  # print the commands, run nothing
    seeds: tuple[int, ...] = (1,)
    jobs: int = 2  # runs at a time


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


def begun(name, command, seed):
    """The folder of a run that has begun, or None."""
    exp_name = words(name, command, seed)[-1]
    found = sorted((ROOT / "runs").glob(f"*__{exp_name}__{seed}__*/args.json"))
    return found[-1].parent if found else None


def understood(name, script, options):
    """What a script makes of its options, as its args.json holds them."""
    module = import_module(Path(script).stem)
    try:
        args = parse(module.Args, module.check, options)
    except InputError as error:
        refuse(f"{name}: {error}")
    if script == "rlif_rlpd.py":  # which saves what its default stands for
        args.termination = args.termination or module.usual_termination(args)
    return json.loads(json.dumps(vars(args)))  # with lists for tuples


def check(runs, jobs):
    """Everything that can be wrong with these runs, each (name, command, seed), before the first of them starts."""
    if jobs < 1:
        refuse(f"--jobs must be positive, not {jobs}")
    for name, command, seed in runs:
        path = results_of(name) / f"seed_{seed}.json"
        if path.exists():
            ran = json.loads(path.read_text())["command"]
            if ran != f"python {command}":
                refuse(
                    f"{path.relative_to(ROOT)} is of another command, {ran}; delete it to run this one"
                )
            continue
        script, *options = words(name, command, seed)
        wanted = understood(name, script, options)
        if folder := begun(name, command, seed):
            saved = json.loads((folder / "args.json").read_text())
            if others := [option for option in wanted if wanted[option] != saved.get(option)]:
                what = f"{folder.relative_to(ROOT)} was begun with another {', '.join(others)}"
                refuse(f"{what}; delete it")


def run(name, command, seed, jobs):
    """One run, unless its files are there already: whether it succeeded, and a line that says what came out."""
    kept = results_of(name)
    kept.mkdir(parents=True, exist_ok=True)
    title, log_path = f"{name}, seed {seed}", kept / f"seed_{seed}.log"
    with open(log_path, "a") as log:
        # the script inherits the open file, and with it the lock: the lock holds until this process and the script,
        # whichever lives longer, have ended
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False, f"{title}: not run, for another process runs it"
        if (kept / f"seed_{seed}.json").exists():
            log_path.unlink(missing_ok=True)
            return True, f"{title}: there already"
        script, *options = words(name, command, seed)
        folder = begun(name, command, seed)
        if folder and (folder / "checkpoint.pt").exists():
            options = ["--resume", str(folder)]
        # one thread a core: several threads of several runs would wait for each other
        env = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
        argv = [sys.executable, script, *options]
        code = subprocess.run(argv, cwd=ROOT, env=env, stdout=log, stderr=log).returncode
        if code:
            return False, f"{title}: failed with exit code {code}, see {log_path}"
        run_dir = begun(name, command, seed)
        summary = {"command": f"python {command}"} | json.loads(
            (run_dir / "summary.json").read_text()
        )
        shutil.copy(run_dir / "eval.csv", kept / f"seed_{seed}.csv")
        (kept / f"seed_{seed}.json").write_text(json.dumps(summary, indent=2) + "\n")
        log_path.unlink()
    scores = scores_of(read_evaluations(kept / f"seed_{seed}.csv"))
    return True, f"{title}: last {scores[-1]:.1f}, best {scores.max():.1f}"


def main(args):
    if not args.seeds:
        refuse("--seeds needs at least one, e.g. --seeds 1")
    if args.suite not in suites():
        refuse(f"no suite {args.suite!r} in benchmark/cells.toml, which has {', '.join(suites())}")
    cells = {cell: command for cell, command in suites()[args.suite].items() if args.only in cell}
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
    check(runs, args.jobs)
    all_succeeded = True
    with ThreadPoolExecutor(args.jobs) as pool:
        for succeeded, line in pool.map(lambda what: run(*what, args.jobs), runs):
            print(line, flush=True)
            all_succeeded &= succeeded
    if not all_succeeded:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Args))
