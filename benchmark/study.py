"""Fifteen minutes with a scripted person: what do RLIF, HG-DAgger and MILE make of them?

    python benchmark/study.py lander --seeds 1 2 3 4 5
    python benchmark/study.py button --seeds 1 2 3 4 5
    python benchmark/report.py

For each seed the person of benchmark/scripted_person.py first drives a few demonstrations, which all methods begin with
(MILE with their clone); then each method has that person for fifteen minutes, 18,000 steps at 20 a second. Of a method
that learns in rounds, what counts ends with the evaluation that is nearest to that. What has finished in runs/ is not
done again, what was interrupted there is resumed; results lie in benchmark/results/study.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro
from run import ROOT, begun, differences, is_resumable, read_evaluations, results_of, understood

from experts import exit_codes, write_file
from experts.record import read_record

STEPS_A_MINUTE = 1_200  # at 20 a second, as in experts/keys.toml
STEPS = 15 * STEPS_A_MINUTE
TASKS = {
    # MILE's rounds are enough for about 15 minutes
    "lander": {"env": "LunarLanderContinuous-v3", "demos": 10, "rounds": 14, "eval_rounds": 4},
    "button": {"env": "Meta-World/button-press-v3", "demos": 1, "rounds": 40, "eval_rounds": 2},
}


@dataclass
class Args:
    task: tyro.conf.Positional[Literal["lander", "button"]]
    seeds: tuple[int, ...] = (1,)


def commands(task, demos):
    """What each method is started with; demos: the folder of the run that recorded and cloned the demonstrations."""
    facts = TASKS[task]
    dataset = json.loads((demos / "args.json").read_text())["dataset_id"]
    data = f"--dataset-id {dataset} --demo-episodes {facts['demos']}"
    clone = demos.relative_to(ROOT) / "model.safetensors"
    return {
        "rlif": f"rlif_rlpd {data} --offline-ratio 0.5 --bc-weight 1 --gamma 0.95 --utd-ratio 2 "
        f"--total-timesteps {STEPS} --eval-frequency 6000",
        "hg-dagger": f"hg_dagger {data} --doubt-novices 0 --total-timesteps {STEPS} --eval-frequency 6000",
        "mile": f"mile --initial-policy {clone} --rounds {facts['rounds']} --round-episodes 5 "
        f"--eval-frequency {facts['eval_rounds']}",
    }


def last_begun(wanted):
    """The last run that has begun with these options, or None."""
    found = begun(ROOT, wanted["exp_name"], wanted["seed"])
    ours = [folder for folder, saved in found.items() if not differences(wanted, saved)]
    return ours[-1] if ours else None


def run_once(task, name, command, seed):
    """The folder of this run, finished; exits as the script does, if that fails."""
    script, *options = command.split()
    options += ["--env-id", TASKS[task]["env"], "--seed", str(seed), "--num-threads", "1"]
    options += ["--exp-name", f"study-{task}-{name}"]
    person = [] if script == "bc" else ["--intervention", "human"]  # which scripted_person.py adds
    wanted = understood(f"{task}-{name}", f"{script}.py", options + person)
    if script == "bc":  # which sets these when the demonstrations are recorded
        del wanted["dataset_id"], wanted["demo_episodes"]
    folder = last_begun(wanted)
    if folder and (folder / "summary.json").exists():
        return folder
    if folder and is_resumable(folder):
        options = ["--resume", str(folder)]
    argv = [sys.executable, ROOT / "benchmark" / "scripted_person.py", script, *options]
    code = subprocess.run(argv, check=False).returncode
    if code:
        sys.exit(code)  # the script has said why
    return last_begun(wanted)


def keep(task, name, command, seed, folder):
    """Copy what a run has measured, of a method until the evaluation that is nearest to fifteen minutes."""
    place = results_of("study") / f"{task}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    evaluations = (folder / "eval.csv").read_text().splitlines(keepends=True)
    steps = [line for episode in read_record(folder).values() for line in episode]
    if name != "demonstrations":
        after = read_evaluations(folder / "eval.csv")["global_step"]
        nearest = np.abs(after - STEPS).argmin()
        evaluations, steps = evaluations[: nearest + 2], steps[: int(after[nearest])]
    write_file(place / f"seed_{seed}.csv", "".join(evaluations).encode())
    summary = {
        "command": f"python benchmark/scripted_person.py {command}",
        "interventions": sum(step["started"] for step in steps),
        "minutes": len(steps) / STEPS_A_MINUTE,
        "minutes_of_control": sum(step["control"] for step in steps) / STEPS_A_MINUTE,
    }
    write_file(place / f"seed_{seed}.json", (json.dumps(summary, indent=2) + "\n").encode())


def main(args):
    os.chdir(ROOT)  # the commands name files from here
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nobody looks, as in scripted_person.py
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
