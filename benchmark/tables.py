"""Runs one seed of every cell of a table: the RLIF paper's 1 and 3, with fewer environment steps, or our options.

    python benchmark/tables.py --table 1
    python benchmark/tables.py --table 3
    python benchmark/tables.py --table options                    # the default command with one option changed
    python benchmark/tables.py --table 1 --only Hopper-v5-low     # the cells whose name contains this
    python benchmark/tables.py --table 1 --list                   # only print the commands

The files of a cell are benchmark/results/table1/<env_id>-<expert>-<method>/seed_1.csv and .json; a cell whose files
are there is not run again, an interrupted one is resumed. `python benchmark/report.py` prints the tables.
"""

from dataclasses import dataclass
from typing import Literal

import tyro
from run import run_all

# by task: the experts of Table 1, the environment steps, the options that all scripts share, those of rlif_rlpd.py
# alone, and those of dagger.py and hg_dagger.py; with this noise cloning the demonstrations scores about what it does in
# the paper (pen 54, Walker2d 44, Hopper 65); where a task needs more steps or its episodes are short, rounds are longer
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
        "", "--termination reset", "--termination bootstrap", "--termination mask", "--no-standardize-obs",
        "--final-lr-fraction 1", "--intervention-alpha 0.975", "--intervention-alpha 0.998", "--num-qs 10",
        "--target-entropy -4.5", "--demo-episodes 0", "--demo-noise 0", "--utd-ratio 4",
    )
}  # fmt: skip


@dataclass
class Args:
    # 1: methods by tasks and experts; 3: RLIF on Walker2d-v5 by experts and references; options: RLIF on Hopper-v5
    table: Literal["1", "3", "options"] = "1"
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
            for expert in EXPERTS
            for reference in REFERENCES
        }
    commands = {f"{env_id}-bc": command(env_id, "bc") for env_id in TASKS}
    for env_id, (levels, *_) in TASKS.items():
        for level in levels:
            for method in [method for method in METHODS if method != "bc"]:
                commands[f"{env_id}-{level}-{method}"] = command(env_id, method, f"--expert {level}")
    return commands


def main(args):
    chosen = {name: line for name, line in cells(args.table).items() if args.only in name}
    if args.list:
        print("\n".join(f"{name}: python {line}" for name, line in chosen.items()))
    else:
        folder = args.table if args.table == "options" else f"table{args.table}"
        run_all([(f"{folder}/{name}", line, args.seed) for name, line in chosen.items()], args.jobs)


if __name__ == "__main__":
    main(tyro.cli(Args))
