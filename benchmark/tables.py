"""Runs one seed of every cell of the papers' tables: RLIF's 1 and 3, with fewer environment steps, MILE's figures.

    python benchmark/tables.py --table 1
    python benchmark/tables.py --table 3
    python benchmark/tables.py --table options                    # rlif_rlpd.py with one option changed
    python benchmark/tables.py --table figure3                    # MILE: one round of 15 episodes
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
MILE_TASKS = {  # the scale is near what is usual among the gaps that the person sees
    "lander": "LunarLander-v3 --intervention-scale 3",
    "lander_continuous": "LunarLanderContinuous-v3",
    "drawer": "Meta-World/drawer-open-v3 --intervention-scale 20",
    "peg": "Meta-World/peg-insert-side-v3",
    "button": "Meta-World/button-press-v3 --intervention-scale 100",
}
# one person for all: {cost} and {expert_steps} are what MILE's run found c to be, and for how many steps they acted
PERSON = "--expert top --intervention mile --intervention-cost {cost} --takeover-steps 1 --initial-policy initial"
MILE_METHODS = {
    "mile": "mile.py --eval-frequency 5",
    "bc-intervention": "mile.py --eval-frequency 5 --no-mental-model --intervention-cost {cost}",
    "iwr": "iwr.py --eval-frequency 5 --intervention-cost {cost}",
    "sirius": "sirius.py --eval-frequency 5 --intervention-cost {cost}",
    "hg-dagger": f"hg_dagger.py --eval-frequency 1000 {PERSON} --doubt-novices 0 --batch-size 1024 "
    "--learning-rate 1e-4 --demo-noise 0",
    "rlif": f"rlif_rlpd.py --eval-frequency 5000 {PERSON} --utd-ratio 15 --bf16 --demo-noise 0 --total-timesteps 20000 "
    "--max-interventions {expert_steps}",
}


@dataclass
class Args:
    # 1: methods by tasks and experts; 3: RLIF on Walker2d-v5 by experts and references; options: RLIF on Hopper-v5;
    # figures of MILE's paper, 3: methods by tasks; 4: the same on two tasks in 20 rounds; 5: with demonstrations
    table: Literal["1", "3", "options", "figure3", "figure4", "figure5"] = "1"
    only: str = ""  # cells whose name contains this
    list: bool = False  # print the commands, run nothing
    seed: int = 1
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
    once, tasks = name != "figure4", list(MILE_TASKS) if name == "figure3" else ["drawer", "peg"]
    rounds = "--rounds 1 --round-episodes 15 --round-epochs 300" if once else "--rounds 20 --round-episodes 1"
    demonstrations, methods = (0,), list(MILE_METHODS)
    if name == "figure5":
        demonstrations, methods, tasks = (1, 3, 5), ["iwr", "sirius", "hg-dagger", "rlif"], ["drawer"]
    commands = {}
    for task, method, demos in product(tasks, methods, demonstrations):
        if (task, method) == ("lander", "rlif"):
            continue  # it needs continuous actions
        parts = [MILE_METHODS[method], f"--env-id {MILE_TASKS[task]} --eval-episodes 100 --num-threads 1"]
        if method == "hg-dagger" and once:  # its episodes are others: as many interventions, in as many as it takes
            parts.append("--rounds 1 --round-episodes 100 --max-interventions {expert_steps} --round-updates 300")
        elif method == "hg-dagger":
            parts.append("--rounds 20 --round-episodes 1 --round-updates 50")
        elif method != "rlif":
            parts.append(rounds)
        elif task == "lander_continuous":
            parts.append("--termination bootstrap")  # a landing ends an episode as a crash does
        if method in ("hg-dagger", "rlif") or demos:
            parts.append(f"--demo-episodes {demos}")
        commands[f"{task}-{method}" + f"-{demos}-demos" * (demos > 0)] = " ".join(parts)
    return commands


def mile_cell(table, name):
    """The table and the cell of MILE's run of the same task, which finds {cost} and {expert_steps}."""
    return table.replace("5", "3"), f"{name.split('-')[0]}-mile"


def fill_in(table, name, line, seed):
    """The command with what MILE's run of the same seed found instead of {cost} and {expert_steps}, if it is there."""
    path = ROOT.joinpath("benchmark", "results", *mile_cell(table, name), f"seed_{seed}.json")
    if "{" not in line or not path.exists():
        return line
    summary = json.loads(path.read_text())
    return line.format(cost=summary["before"]["intervention_cost"], expert_steps=summary["expert_steps"])


def main(args):
    table, seed = args.table, args.seed
    lines = {name: fill_in(table, name, line, seed) for name, line in cells(table).items() if args.only in name}
    if not lines:
        refuse(f"--only {args.only}: no such cell; to see them: python benchmark/tables.py --table {table} --list")
    waiting = [name for name, line in lines.items() if "{" in line]  # for MILE's run
    if args.list:
        print("\n".join(f"{name}: python {line}" for name, line in lines.items()))
        if waiting:
            print("{cost} and {expert_steps} are found by the cells whose names end in -mile; first: "
                  f"python benchmark/tables.py --table {mile_cell(table, '')[0]} --only -mile --seed {seed}",
                  file=sys.stderr)  # fmt: skip
        return
    for name in waiting:
        where, mile = mile_cell(table, name)
        if mile not in lines:
            refuse(f"{name} is given what MILE's run found; first: "
                   f"python benchmark/tables.py --table {where} --only {mile} --seed {seed}")  # fmt: skip
    all_succeeded, folder = True, f"table{table}" if table in ("1", "3") else table
    for later in (False, True):  # MILE's runs come first, the others are given what they found
        chosen = {name: fill_in(table, name, lines[name], seed) for name in lines if (name in waiting) == later}
        runs = [(f"{folder}/{name}", line, seed) for name, line in chosen.items() if "{" not in line]
        all_succeeded &= run_all(runs, args.jobs)
        for name in [name for name, line in chosen.items() if "{" in line]:
            print(f"{folder}/{name}, seed {seed}: not run, for MILE's run failed")
    if not all_succeeded:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Args))
