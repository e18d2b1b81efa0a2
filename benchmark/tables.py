"""Runs every cell of the papers' tables: RLIF's 1 and 3, with fewer environment steps, MILE's figures.

    python benchmark/tables.py --table 1
    python benchmark/tables.py --table 3
    python benchmark/tables.py --table options                    # rlif_rlpd.py with one option changed
    python benchmark/tables.py --table figure3 --seeds 1 2 3 4 5  # MILE: one round of 15 episodes
    python benchmark/tables.py --table figure4 --seeds 1 2 3 4 5  # MILE: 20 rounds of one episode
    python benchmark/tables.py --table figure5 --seeds 1 2 3 4 5  # figure3 with 1, 3, 5 demonstrations for the others
    python benchmark/tables.py --table 1 --only Hopper-v5-low     # the cells whose name contains this
    python benchmark/tables.py --table 1 --list                   # only print the commands

The files of a cell are benchmark/results/table1/<env_id>-<expert>-<method>/seed_1.csv and .json; a cell whose files
are there is not run again, an interrupted one is resumed. The exit code is 1 if a run failed. Figures 4 and 5 are given
what the runs of figure 3 have found, so that has to be made first.
`python benchmark/report.py` prints the tables.
"""

import json
import sys
from dataclasses import dataclass
from itertools import product
from typing import Literal

import tyro
from run import refuse, results_of, run_all

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
LONG_TASKS = "drawer", "peg"  # those of figure 4
# everybody learns from the same person: {cost} is what a task's cell "person" found c to be; in one round, and RLIF in
# any case, from as many of their steps as MILE: {expert_steps}; everybody who clones takes as many gradient steps, with
# the same optimiser
PERSON = "--expert top --intervention mile --takeover-steps 1 --initial-policy initial"
MILE_METHODS = {
    "mile": "mile.py",
    "bc-intervention": "mile.py --no-mental-model",
    "iwr": "iwr.py",
    "sirius": "sirius.py",
    "hg-dagger": f"hg_dagger.py {PERSON} --doubt-novices 0 --batch-size 1024 --learning-rate 1e-4 --weight-decay 0 "
    "--min-std 0.1",
    "rlif": f"rlif_rlpd.py {PERSON} --utd-ratio 15 --total-timesteps 20000 --max-interventions {{expert_steps}}",
}


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
    """The command of a cell of Tables 1 and 3."""
    _, steps, common, rlif, dagger = TASKS[env_id]
    parts = [METHODS[method], f"--env-id {env_id}", common, "--num-threads 1", *options]
    if method != "bc":
        parts.append(f"--total-timesteps {steps}")
    if method.startswith("rlif"):
        parts += ["--bf16", rlif]
    if "dagger" in method:
        parts.append(dagger)
    return " ".join(part for part in parts if part)


def cells(table):
    """The commands of a table's cells by their names; cloning has no expert, and one cell for each task."""
    if table == "options":
        return {name: f"rlif_rlpd.py --num-threads 1 --bf16 {option}".strip() for name, option in OPTIONS.items()}
    if table == "3":
        return {
            f"{expert}-{reference}": command("Walker2d-v5", "rlif", f"--expert {expert}", f"--reference {reference}")
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
    tasks, methods, demonstrations = MILE_TASKS, MILE_METHODS, (0,)
    if name == "figure4":
        tasks = LONG_TASKS
    elif name == "figure5":
        tasks, methods, demonstrations = ("drawer",), ("iwr", "sirius", "hg-dagger", "rlif"), (1, 3, 5)
    commands = {}
    if name == "figure3":  # only for c, and what robot, both together and person alone do in 100 episodes each
        options = "--num-threads 1 --rounds 1 --round-updates 1 --eval-episodes 100"
        commands |= {f"{task}-person": f"mile.py --env-id {MILE_TASKS[task]} {options}" for task in tasks}
    for task, method, demos in product(tasks, methods, demonstrations):
        if (task, method) == ("lander", "rlif"):
            continue  # it needs continuous actions
        cell = f"{task}-{method}" + (f"-{demos}-demos" if demos else "")
        commands[cell] = line = mile_command(name, task, method, demos)
        if name == "figure4" and method == "hg-dagger":
            # it is evaluated by environment steps, not by rounds: what it can do after 10 is a run of its own
            commands[f"{cell}-10-rounds"] = line.replace("--rounds 20", "--rounds 10")
    return commands


def mile_command(name, task, method, demos):
    """The command of a method in a figure of MILE's paper."""
    parts = [MILE_METHODS[method], f"--env-id {MILE_TASKS[task]} --num-threads 1"]
    parts.append("--intervention-cost {cost} --eval-episodes 50")
    if method == "rlif":
        parts.append("--eval-frequency 5000")
        if task == "lander_continuous":
            parts.append("--termination bootstrap")  # a landing is an end too
    elif name == "figure4":
        parts.append("--rounds 20 --round-episodes 1 --round-updates 100")
        parts.append("--eval-frequency 1000" if method == "hg-dagger" else "--eval-frequency 10")
    elif method == "hg-dagger":  # its episodes are others: as many of the person's steps, in as many as that takes
        parts.append("--rounds 1 --round-episodes 100 --max-interventions {expert_steps} --round-updates 1000")
    else:
        parts.append("--rounds 1 --round-episodes 15 --round-updates 1000")  # about 300 passes, as in the official code
    if demos or method in ("hg-dagger", "rlif"):  # which have demonstrations by default
        parts.append(f"--demo-episodes {demos}")
    if demos and method in ("hg-dagger", "rlif"):  # and noise on them
        parts.append("--demo-noise 0")
    return " ".join(parts)


def lacks(table, name, line, seed):
    """What a cell's command still has placeholders for: by placeholder, the run (table, cell, seed) that finds it."""
    task, mile = name.split("-")[0], "figure4" if table == "figure4" else "figure3"
    # one person for all seeds
    found_by = {"cost": ("figure3", f"{task}-person", 1), "expert_steps": (mile, f"{task}-mile", seed)}
    return {placeholder: run for placeholder, run in found_by.items() if f"{{{placeholder}}}" in line}


def fill_in(table, name, line, seed):
    """A cell's command with what other runs have found in the place of its placeholders."""
    for placeholder, (where, cell, other) in lacks(table, name, line, seed).items():
        path = results_of(f"{where}/{cell}") / f"seed_{other}.json"
        if path.exists():
            summary = json.loads(path.read_text())
            found = summary["before"]["intervention_cost"] if placeholder == "cost" else summary["expert_steps"]
            line = line.replace(f"{{{placeholder}}}", str(found))
    return line


def first_of_all(table, pending):
    """The commands of other runs that have to be made before these, each (cell, seed): command."""
    commands = []
    for (name, seed), line in pending.items():
        for where, cell, other in lacks(table, name, fill_in(table, name, line, seed), seed).values():
            if where != table or (cell, other) not in pending:
                commands.append(f"python benchmark/tables.py --table {where} --only {cell} --seeds {other}")
    return list(dict.fromkeys(commands))  # each once


def main(args):
    table, folder = args.table, f"table{args.table}" if args.table in ("1", "3") else args.table
    if not args.seeds:
        refuse("--seeds needs at least one, e.g. --seeds 1")
    chosen = {name: line for name, line in cells(table).items() if args.only in name}
    if not chosen:
        refuse(f"--only {args.only}: no such cell; to see them: python benchmark/tables.py --table {table} --list")
    pending = {}
    for seed, (name, line) in product(args.seeds, chosen.items()):
        pending[name, 1 if name.endswith("-person") else seed] = line
    others = first_of_all(table, pending)
    if args.list:
        for (name, seed), line in pending.items():
            print(f"{folder}/{name}, seed {seed}: python {fill_in(table, name, line, seed)}")
        for line in others:
            print(f"first: {line}", file=sys.stderr)
        return
    if others:
        refuse(f"these cells need what another run finds; first: {others[0]}")
    all_succeeded = True
    while pending:  # the persons first, then MILE's runs, then the others, which are given what these found
        filled = {(name, seed): fill_in(table, name, line, seed) for (name, seed), line in pending.items()}
        ready = [(name, seed) for (name, seed), line in filled.items() if not lacks(table, name, line, seed)]
        if not ready:
            for name, seed in pending:
                print(f"{folder}/{name}, seed {seed}: not run, for what another run should have found is not there")
            sys.exit(1)
        all_succeeded &= run_all([(f"{folder}/{name}", filled[name, seed], seed) for name, seed in ready], args.jobs)
        pending = {key: line for key, line in pending.items() if key not in ready}
    if not all_succeeded:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Args))
