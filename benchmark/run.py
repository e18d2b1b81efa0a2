"""Runs a script once for each seed and keeps what came out in benchmark/results/<name>/.

    python benchmark/run.py --name hopper --seeds 1 2 3 4 5 --command "rlif_rlpd.py --num-threads 1"

Of each run, eval.csv and summary.json stay, as seed_<seed>.csv and seed_<seed>.json; the command line is in each
summary. A seed whose files are there is not run again; a run that was interrupted is resumed.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rlif_rlpd import headline


@dataclass
class Args:
    name: str  # of the folder in benchmark/results
    command: str = "rlif_rlpd.py"  # a script and its options, without --seed and --exp-name
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    jobs: int = 2  # runs at a time


def run(name, command, seed, jobs):
    """One run, unless its files are there already; returns a line that says what came out."""
    kept = ROOT / "benchmark" / "results" / name
    title = f"{name}, seed {seed}"
    if (kept / f"seed_{seed}.json").exists():
        return f"{title}: there already"
    kept.mkdir(parents=True, exist_ok=True)
    script, *options = shlex.split(command)
    exp_name = f"{Path(script).stem}-{name.replace('/', '-')}"
    started = sorted((ROOT / "runs").glob(f"*__{exp_name}__{seed}__*"))
    options = ["--resume", str(started[-1])] if started else [*options, "--seed", str(seed), "--exp-name", exp_name]
    # one thread a core: several threads of several runs would wait for each other
    env = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
    with open(kept / f"seed_{seed}.log", "w") as log:
        code = subprocess.run([sys.executable, script, *options], cwd=ROOT, env=env, stdout=log, stderr=log).returncode
    if code:
        return f"{title}: failed with exit code {code}, see {kept / f'seed_{seed}.log'}"
    run_dir = sorted((ROOT / "runs").glob(f"*__{exp_name}__{seed}__*"))[-1]
    summary = json.loads((run_dir / "summary.json").read_text())
    shutil.copy(run_dir / "eval.csv", kept / f"seed_{seed}.csv")
    summary = {"command": f"python {command}"} | summary
    (kept / f"seed_{seed}.json").write_text(json.dumps(summary, indent=2) + "\n")
    (kept / f"seed_{seed}.log").unlink()
    key = headline(summary["final"])
    return f"{title}: last {summary['final'][key]:.1f}, best {summary['best'][key]:.1f}"


def run_all(runs, jobs):
    """So many runs at a time, each (name, command, seed); prints a line for each."""
    with ThreadPoolExecutor(jobs) as pool:
        for line in pool.map(lambda what: run(*what, jobs), runs):
            print(line, flush=True)


def main(args):
    run_all([(args.name, args.command, seed) for seed in args.seeds], args.jobs)


if __name__ == "__main__":
    main(tyro.cli(Args))
