"""Runs every cell of the papers' tables: RLIF's 1 and 3, with fewer environment steps, MILE's figures.

    python benchmark/tables.py --table 1
    python benchmark/tables.py --table 3
    python benchmark/tables.py --table options                    # rlif_rlpd.py with one option changed
    python benchmark/tables.py --table figure3 --seeds 1 2 3 4 5  # MILE: one round of 15 episodes
    python benchmark/tables.py --table figure4                    # MILE: 20 rounds of one episode
    python benchmark/tables.py --table figure5                    # figure3 with 1, 3, 5 demonstrations for the others
    python benchmark/tables.py --table 1 --only Hopper-v5-low     # the cells whose name contains this
    python benchmark/tables.py --table 1 --list                   # only print the commands

The files of a cell are benchmark/results/table1/<env_id>-<expert>-<method>/seed_1.csv and .json; a cell whose files
are there is not run again, an interrupted one is resumed. The exit code is 1 if a run failed.
`python benchmark/report.py` prints the tables.
"""

import json
import sys
from dataclasses import dataclass
from itertools import product
from typing import Literal

import tyro
from run import ROOT, refuse, run_all

# by task: the experts of Table 1, the environment steps, the options that all scripts share, those of rlif_rlpd.py
# alone, and those of dagger.py and hg_dagger.py; with this noise cloning the demonstrations scores about what it does
# in the paper (pen 54, Walker2d 44, Hopper 65); where a task needs more steps or its episodes are short, rounds are
# longer
TASKS = {
    "AdroitHandPen-v1": (
        ("top", "middle", "low"), 50_000, "--demo-episodes 50 --demo-noise 0.35",
        "--gamma 0.9 --target-entropy -36 --offline-ratio 0.25 --bc-weight 1", "--round-episodes 25",
    ),
    "Walker2d-v5": (
        ("top", "high", "low"), 100_000, "--demo-episodes 10 --demo-noise 0.3", "--target-entropy -9",
        "--round-episodes 10",
    ),
    "Hopper-v5": (("top", "middle", "low"), 50_000, "--demo-episodes 50 --demo-noise 0.09", "", ""),
}  # fmt: skip
METHODS = {
    "rlif": "rlif_rlpd.py",
    "rlif-random": "rlif_rlpd.py --intervention random",
    "hg-dagger": "hg_dagger.py --doubt-novices 0",
    "hg-dagger-85": "hg_dagger.py --doubt-novices 0 --intervention random --random-rate 85",
    "dagger": "dagger.py",
    "dagger-85": "dagger.py --labels random --random-rate 85",
    "bc": "bc.py",
}
EXPERTS, REFERENCES = ("top", "middle", "low"), ("poor", "high", "top")  # of Table 3
OPTIONS = {
    name.removeprefix("--").replace(" ", "-") or "default": name
    for name in (
        "", "--no-standardize-obs", "--termination bootstrap", "--termination mask", "--final-lr-fraction 1",
        "--intervention-alpha 0.975",
    )
}  # fmt: skip
MILE_TASKS = {  # the scale is near what is usual among the advantages that the person sees
    "lander": "LunarLander-v3 --intervention-scale 3",
    "lander_continuous": "LunarLanderContinuous-v3",
    "drawer": "Meta-World/drawer-open-v3 --intervention-scale 20",
    "peg": "Meta-World/peg-insert-side-v3",
    "button": "Meta-World/button-press-v3 --intervention-scale 100",
}
# one person and one budget for all: {cost} is what a task's cell "person" found c to be, {expert_steps} for how many
# steps they acted in MILE's run; everybody who clones takes as many gradient steps, with the same optimiser
PERSON = "--expert top --intervention mile --takeover-steps 1 --initial-policy initial"
MILE_METHODS = {
    "mile": "mile.py",
    "bc-intervention": "mile.py --no-mental-model",
    "iwr": "iwr.py",
    "sirius": "sirius.py",
    "hg-dagger": f"hg_dagger.py {PERSON} --doubt-novices 0 --batch-size 1024 --learning-rate 1e-4 --weight-decay 0 "
    "--min-std 0.1",
    "rlif": f"rlif_rlpd.py {PERSON} --utd-ratio 15 --total-timesteps 20000 "
    "--max-interventions {expert_steps}",
}
ONE_ROUND, UPDATES = "--rounds 1 --round-episodes 15", 1_000  # 300 passes, as in the official code
ROUNDS, ROUND_UPDATES = "--rounds 20 --round-episodes 1", 100


@dataclass
class Args:
    # 1: methods by tasks and experts; 3: RLIF on Walker2d-v5 by experts and references; options: RLIF on Hopper-v5;
    # figures of MILE's paper, 3: methods by tasks; 4: the same on two tasks in 20 rounds; 5: with demonstrations
    table: Literal["1", "3", "options", "figure3", "figure4", "figure5"] = "1"
    only: str = ""  # cells whose name contains this
    list: bool = False  # print the commands, run nothing
    seeds: tuple[int, ...] = (1,)
    jobs: int = 2  # runs at a time


def command(env_id, method, *options):
    """The command of a cell."""
    _, steps, common, rlif, dagger = TASKS[env_id]
    parts = [METHODS[method], f"--env-id {env_id}", common, "--num-threads 1", *options]
    parts += [f"--total-timesteps {steps}"] * (method != "bc") + ["--bf16", rlif] * method.startswith("rlif")
    parts += [dagger] * ("dagger" in method)
    return " ".join(part for part in parts if part)


def cells(table):
    """The commands of a table's cells by their names; cloning has no expert, and one cell for each task."""
    if table == "options":
        return {name: f"rlif_rlpd.py --num-threads 1 --bf16 {option}".strip() for name, option in OPTIONS.items()}
    if table == "3":
        return {
            f"{expert}-{reference}": command(
                "Walker2d-v5", "rlif", f"--expert {expert}", f"--reference {reference}"
            )
            for expert, reference in product(EXPERTS, REFERENCES)
            if not (reference == "top" and expert in TASKS["Walker2d-v5"][0])  # which Table 1 has
        }
    if table.startswith("figure"):
        return figure(table)
    commands = {f"{env_id}-bc": command(env_id, "bc") for env_id in TASKS}
    for env_id, (levels, *_) in TASKS.items():
        for level in levels:
            for method in [method for method in METHODS if method != "bc"]:
                commands[f"{env_id}-{level}-{method}"] = command(env_id, method, f"--expert {level}")
    return commands


def figure(name):
    """The commands of a figure of MILE's paper; {cost} and {expert_steps} are to be filled in."""
    once = name != "figure4"
    demonstrations, methods, tasks = (0,), ["person", *MILE_METHODS], list(MILE_TASKS) if once else ["drawer", "peg"]
    if name == "figure5":
        demonstrations, methods, tasks = (1, 3, 5), ["iwr", "sirius", "hg-dagger", "rlif"], ["drawer"]
    elif name == "figure4":
        methods.remove("person")
    commands = {}
    for task, method, demos in product(tasks, methods, demonstrations):
        where = f"--env-id {MILE_TASKS[task]} --num-threads 1"
        if method == "person":  # only finds c, with 100 episodes of the robot alone, with the person, and of the expert
            commands[f"{task}-person"] = f"mile.py {where} --rounds 1 --round-updates 1 --eval-episodes 100"
            continue
        if (task, method) == ("lander", "rlif"):
            continue  # it needs continuous actions
        parts = [MILE_METHODS[method], where, "--intervention-cost {cost} --eval-episodes 50"]
        if method == "rlif":
            parts.append("--eval-frequency 5000" + " --termination bootstrap" * (task == "lander_continuous"))
        elif method == "hg-dagger" and once:  # its episodes are others: as many interventions, in as many as it takes
            parts.append(f"--rounds 1 --round-episodes 100 --max-interventions {{expert_steps}} --round-updates {UPDATES}")
        else:
            parts.append(f"{ONE_ROUND} --round-updates {UPDATES}" if once else f"{ROUNDS} --round-updates {ROUND_UPDATES}")
            parts.append("--eval-frequency 1000" if method == "hg-dagger" else "" if once else "--eval-frequency 10")
        if method in ("hg-dagger", "rlif") or demos:
            parts.append(f"--demo-episodes {demos}")
        if method in ("hg-dagger", "rlif") and demos:
            parts.append("--demo-noise 0")  # which is the others' default
        commands[f"{task}-{method}" + f"-{demos}-demos" * (demos > 0)] = " ".join(part for part in parts if part)
    return commands


def sources(table, name, seed):
    """Where the placeholders of a cell's command come from: the folder and the seed of a run, by placeholder."""
    task = name.split("-")[0]
    return {
        "cost": (f"figure3/{task}-person", 1),  # one person for all seeds
        "expert_steps": (f"{table.replace('5', '3')}/{task}-mile", seed),
    }


def fill_in(table, name, line, seed):
    """The command of a cell with what other runs found in the place of its placeholders, where these runs are there."""
    for placeholder, (folder, other) in sources(table, name, seed).items():
        path = ROOT / "benchmark" / "results" / folder / f"seed_{other}.json"
        if f"{{{placeholder}}}" in line and path.exists():
            summary = json.loads(path.read_text())
            found = {"cost": summary["before"]["intervention_cost"], "expert_steps": summary["expert_steps"]}
            line = line.replace(f"{{{placeholder}}}", str(found[placeholder]))
    return line


def missing(table, name, line, seed):
    """The commands that find what a cell's command still lacks."""
    return [
        f"python benchmark/tables.py --table {folder.split('/')[0]} --only {folder.split('/')[1]} --seeds {other}"
        for placeholder, (folder, other) in sources(table, name, seed).items()
        if f"{{{placeholder}}}" in line
    ]


def main(args):
    table, folder = args.table, f"table{args.table}" if args.table in ("1", "3") else args.table
    if not args.seeds:
        refuse("--seeds needs at least one, e.g. --seeds 1")
    chosen = {name: line for name, line in cells(table).items() if args.only in name}
    if not chosen:
        refuse(f"--only {args.only}: no such cell; to see them: python benchmark/tables.py --table {table} --list")
    todo = {(name, seed): line for seed in args.seeds for name, line in chosen.items() if seed == 1 or "person" not in name}
    if args.list:
        for (name, seed), line in todo.items():
            print(f"{name}, seed {seed}: python {fill_in(table, name, line, seed)}")
        return
    all_succeeded = True
    while todo:  # the persons first, then MILE's runs, then the others, which are given what these found
        filled = {(name, seed): fill_in(table, name, line, seed) for (name, seed), line in todo.items()}
        ready = [key for key, line in filled.items() if "{" not in line]
        if not ready:
            (name, seed), line = next(iter(filled.items()))
            refuse(f"{name}, seed {seed} lacks what another run finds; first: {missing(table, name, line, seed)[0]}")
        all_succeeded &= run_all([(f"{folder}/{name}", filled[name, seed], seed) for name, seed in ready], args.jobs)
        todo = {key: line for key, line in todo.items() if key not in ready}
    if not all_succeeded:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Args))
