"""Runs a script once for each seed and keeps what came out in benchmark/results/<name>/.

    python benchmark/run.py --name hopper --seeds 1 2 3 4 --command "rlif_rlpd.py --num-threads 1"

Of each run, eval.csv and summary.json stay, as seed_<seed>.csv and seed_<seed>.json; the command line is in each
summary. A seed whose files are there is not run again; a run that was interrupted is resumed. Files or a run of another
command under this name are refused, and no run is made by two processes at once. The exit code is 1 if a run failed.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experts import InputError


@dataclass
class Args:
    name: str  # of the folder in benchmark/results
    command: str = "rlif_rlpd.py"  # a script and its options, without --seed and --exp-name
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    jobs: int = 2  # runs at a time


def refuse(message):
    """Ends with one line that says what is wrong with the command line, and exit code 2."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(2)


def results_of(name):
    """The folder of this name."""
    return ROOT / "benchmark" / "results" / name


def read_evaluations(path):
    """The columns of an eval.csv by their names, arrays of shape (evaluations,); what is not known is nan."""
    return np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))


def main_metric(columns):
    """The column to judge a run by, as in the scripts: the first of these that is known in every evaluation."""
    names = "success_rate", "normalized_score", "return_mean"
    return next(name for name in names if not np.isnan(columns[name]).any())


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


def understood(script, options):
    """What a script makes of its options, as its args.json holds them."""
    module = import_module(Path(script).stem)
    tyro.cli(module.Args, prog=script, args=options)  # what is wrong with the command line is said in the script's name
    try:
        args = module.check(module.parse_args(options))
    except InputError as error:
        refuse(f"{script}: {error}")
    return json.loads(json.dumps(vars(args)))  # with lists for tuples


def check(runs, jobs):
    """Everything that can be wrong with these runs, each (name, command, seed), before the first of them starts."""
    results = results_of("")
    if jobs < 1:
        refuse(f"--jobs must be positive, not {jobs}")
    for name, command, seed in runs:
        if results.resolve() not in (results / name).resolve().parents:
            refuse(f"--name must be of a folder inside benchmark/results, e.g. hopper, not {name!r}")
        try:
            script, *options = shlex.split(command) or [""]
        except ValueError as error:  # an unclosed quote
            refuse(f"--command {command}: {error}")
        if script not in {path.name for path in ROOT.glob("*.py")}:
            refuse(f"--command begins with a script, e.g. rlif_rlpd.py, not with {script!r}")
        if {option.split("=")[0].replace("_", "-") for option in options} & {"--seed", "--exp-name", "--resume"}:
            refuse("--command goes without --seed, --exp-name and --resume; use --seeds and --name of this script")
        path = results_of(name) / f"seed_{seed}.json"
        if path.exists():
            ran = json.loads(path.read_text())["command"]
            if ran != f"python {command}":
                refuse(f"{path.relative_to(ROOT)} is of another command, {ran}; delete it, or give another --name")
            continue
        wanted = understood(script, words(name, command, seed)[1:])
        if folder := begun(name, command, seed):
            saved = json.loads((folder / "args.json").read_text())
            if others := [option for option in wanted if saved.get(option) != wanted[option]]:
                what = f"{folder.relative_to(ROOT)} was begun with another {', '.join(others)}"
                refuse(f"{what}; delete it, or give another --name")


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
        if folder := begun(name, command, seed):
            options = ["--resume", str(folder)]
        # one thread a core: several threads of several runs would wait for each other
        env = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
        argv = [sys.executable, script, *options]
        code = subprocess.run(argv, cwd=ROOT, env=env, stdout=log, stderr=log).returncode
        if code:
            return False, f"{title}: failed with exit code {code}, see {log_path}"
        run_dir = begun(name, command, seed)
        summary = {"command": f"python {command}"} | json.loads((run_dir / "summary.json").read_text())
        shutil.copy(run_dir / "eval.csv", kept / f"seed_{seed}.csv")
        (kept / f"seed_{seed}.json").write_text(json.dumps(summary, indent=2) + "\n")
        log_path.unlink()
    columns = read_evaluations(kept / f"seed_{seed}.csv")
    scores = columns[main_metric(columns)]
    return True, f"{title}: last {scores[-1]:.1f}, best {scores.max():.1f}"


def run_all(runs, jobs):
    """So many runs at a time, each (name, command, seed); prints a line for each; whether all succeeded."""
    check(runs, jobs)
    all_succeeded = True
    with ThreadPoolExecutor(jobs) as pool:
        for succeeded, line in pool.map(lambda what: run(*what, jobs), runs):
            print(line, flush=True)
            all_succeeded &= succeeded
    return all_succeeded


def main(args):
    if not args.seeds:
        refuse("--seeds needs at least one, e.g. --seeds 1")
    if not run_all([(args.name, args.command, seed) for seed in args.seeds], args.jobs):
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Args))
