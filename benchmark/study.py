"""Fifteen minutes with a scripted person: what do RLIF, HG-DAgger and MILE make of them?

    python benchmark/study.py lander --seeds 1 2 3 4 5
    python benchmark/study.py button --seeds 1 2 3 4 5
    python benchmark/report.py

For each seed the person of benchmark/scripted_person.py first drives a few demonstrations, which all methods begin with
(MILE with their clone); then each method has that person for fifteen minutes, 18,000 steps at 20 a second, or, where it
learns in rounds, for the rounds that come nearest to that. What is there is not done again; results lie in
benchmark/results/study.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import tyro
from run import ROOT, results_of

from experts import exit_codes, write_file
from experts.record import read_record

STEPS_A_MINUTE = 1_200  # at 20 a second, as in experts/keys.toml
STEPS = 15 * STEPS_A_MINUTE
TASKS = {
    "lander": {"env": "LunarLanderContinuous-v3", "demos": 10, "rounds": 14},
    "button": {"env": "Meta-World/button-press-v3", "demos": 1, "rounds": 20},
}


@dataclass
class Args:
    task: tyro.conf.Positional[Literal["lander", "button"]]
    seeds: tuple[int, ...] = (1,)


def commands(task, demos):
    """What each method is started with; demos: the folder of the run that recorded and cloned the demonstrations."""
    number, rounds = TASKS[task]["demos"], TASKS[task]["rounds"]
    dataset = json.loads((demos / "args.json").read_text())["dataset_id"]
    data = f"--dataset-id {dataset} --demo-episodes {number}"
    clone = demos.relative_to(ROOT) / "model.safetensors"
    return {
        "rlif": f"rlif_rlpd {data} --offline-ratio 0.5 --bc-weight 1 --gamma 0.95 --utd-ratio 2 "
        f"--total-timesteps {STEPS} --eval-frequency 6000",
        "hg-dagger": f"hg_dagger {data} --doubt-novices 0 --total-timesteps {STEPS} --eval-frequency 6000",
        "mile": f"mile --initial-policy {clone} --rounds {rounds} --round-episodes 5 "
        f"--eval-frequency {rounds // 3}",
    }


def run_once(task, name, command, seed):
    """The folder of this run, which is made unless it is there and finished."""
    exp_name, env = f"study-{task}-{name}", TASKS[task]["env"]
    pattern = f"*__{exp_name}__{seed}__*/summary.json"
    found = sorted((ROOT / "runs").glob(pattern))
    if not found:
        words = f"{command} --env-id {env} --seed {seed} --exp-name {exp_name} --num-threads 1"
        script = ROOT / "benchmark" / "scripted_person.py"
        subprocess.run([sys.executable, script, *words.split()], check=True, cwd=ROOT)
        found = sorted((ROOT / "runs").glob(pattern))
    return found[-1].parent


def keep(task, name, command, seed, folder):
    """Copy what a run has measured."""
    place = results_of("study") / f"{task}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    write_file(place / f"seed_{seed}.csv", (folder / "eval.csv").read_bytes())
    summary = json.loads((folder / "summary.json").read_text())
    summary["command"] = f"python benchmark/scripted_person.py {command}"
    lines = [line for episode in read_record(folder).values() for line in episode]
    summary["interventions"] = sum(line["started"] for line in lines)
    summary["minutes"] = len(lines) / STEPS_A_MINUTE
    summary["minutes_of_control"] = sum(line["control"] for line in lines) / STEPS_A_MINUTE
    write_file(place / f"seed_{seed}.json", json.dumps(summary, indent=2).encode())


def main(args):
    for seed in args.seeds:
        record = f"bc --record-demos {TASKS[args.task]['demos']} --total-timesteps 2000 --eval-frequency 500"
        demos = run_once(args.task, "demonstrations", record, seed)
        keep(args.task, "demonstrations", record, seed, demos)
        for name, command in commands(args.task, demos).items():
            folder = run_once(args.task, name, command, seed)
            keep(args.task, name, command, seed, folder)


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Args))
