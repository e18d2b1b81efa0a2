"""The tables of benchmark/speed.py, and the core-hours of Table 1 at the paper's length, for benchmark/report.py."""

import re

import numpy as np
from report_rlif import EXPERTS, METHODS, gradient_steps_of
from run import suites
from tables import load, markdown, read


def speed_tables(results):
    """Two Markdown tables: milliseconds of an update by number of critics and UTD ratio; the default run's speed."""
    names = "device", "threads", "num_qs", "utd_ratio", "path", "precision"
    measured = read(results / "speed" / "updates.csv") + read(results / "speed-gpu" / "updates.csv")
    by_key = {tuple(row[k] for k in names): row for row in measured}
    forms = [("eager", "float32"), ("compiled", "float32"), ("compiled", "bfloat16")]
    rows = []
    for device, threads, num_qs, utd in dict.fromkeys(key[:4] for key in by_key):
        cells = []
        for form in forms:
            row = by_key[device, threads, num_qs, utd, *form]
            times_jax = f", {row['times_jax']} × JAX" if row["times_jax"] else ""
            share = f" ({100 * float(row['share_of_product']):.0f} %{times_jax})"
            digits = 2 if device == "cuda" else 1
            cells.append(f"{float(row['ms']):.{digits}f} ms{share}")
        where = {"cpu1": "one core", "cpu2": "two cores", "cuda1": "GPU"}.get(device + threads)
        where = where or f"{device}, {threads} threads"
        rows.append([where, num_qs, utd, *cells])
    header = ["device", "critics", "critic updates", "plain", "`--compile`", "`--compile --bf16`"]
    updates = markdown(header, rows)
    rows = [
        [f"`{run['command']}`", run["steps_per_second"]]
        + [f"{run['start_up_seconds']} s", f"{run['peak_mib']} MiB"]
        for run in read(results / "speed" / "runs.csv")
    ]
    return updates, markdown(["command", "steps/s", "start-up", "peak memory"], rows)


def option(command, name, default=None):
    """The number that a command gives an option."""
    found = re.search(rf"--{name} (\d+)", command)
    return int(found[1]) if found else default


def on_a_line(x, first, second):
    """The value at x of the line through two points (x, y)."""
    (x1, y1), (x2, y2) = first, second
    return y1 + (x - x1) * (y2 - y1) / (x2 - x1)


def update_ms(results, num_qs, utd):
    """Milliseconds of an update on one core, bfloat16; on a line between 2 and 10 critics, and 1 and 10 updates."""
    measured = {}
    for row in read(results / "speed" / "updates.csv"):
        fast = row["path"] == "compiled" and row["precision"] == "bfloat16"
        if fast and row["device"] == "cpu" and row["threads"] == "1":
            measured[int(row["num_qs"]), int(row["utd_ratio"])] = float(row["ms"])
    one, ten = (
        on_a_line(num_qs, (2, measured[2, count]), (10, measured[10, count])) for count in (1, 10)
    )
    return on_a_line(utd, (1, one), (10, ten))


def on_the_cpu(folder):
    """The runs in a folder of results that did not learn on a GPU."""
    return [run for run in load(folder).values() if "--cuda" not in run.summary["command"]]


def hours(results, cell):
    """Core-hours of a run of this cell of table1-full, by what Table 1's runs of the same cell took; nan: not run."""
    command, found = suites()["table1-full"][cell], []
    steps = option(command, "total-timesteps")
    # a run by random takeovers takes as long as one by value
    runs = on_the_cpu(results / "table1" / cell)
    for run in runs or on_the_cpu(results / "table1" / cell.removesuffix("-random")):
        seconds = run.summary["seconds"]
        if isinstance(seconds, dict):  # older runs also say how long their parts took
            seconds = seconds["total"]
        if command.startswith("rlif"):
            # all but the update, which has 3 critics there and happens once a step
            rest = seconds / run.summary["env_steps"] - update_ms(results, 3, 1) / 1e3
            update = update_ms(results, 10, option(command, "utd-ratio", 1)) / 1e3
            found.append(steps * (rest + update))
        else:
            taken = gradient_steps_of(run.summary)
            pretrain = option(command, "pretrain-updates")
            found.append(seconds / taken * (pretrain + 100 * 2_500 if pretrain else steps))
    # other processes only make a run longer
    return min(found) / 3600 if found else np.nan


def full_budget(results):
    """A Markdown table: the core-hours of Table 1 at the paper's budget."""
    header = ["core-hours of a run: task", "critic updates", "update", *METHODS, "bc"]
    rows, total = [], 0
    for env_id, levels in EXPERTS.items():
        utd = option(suites()["table1-full"][f"{env_id}-low-rlif"], "utd-ratio", 1)
        by_method = [
            [hours(results, f"{env_id}-{level}-{method}") for level in levels] for method in METHODS
        ]
        by_method.append([hours(results, f"{env_id}-bc")])
        cells = [f"{np.median(values):.1f}" for values in by_method]
        three = 3 * sum(map(sum, by_method))
        total += three
        rows.append(
            [env_id, f"{utd}", f"{update_ms(results, 10, utd):.1f} ms", *cells, f"{three:.0f}"]
        )
    rows.append(["all", *[""] * (len(header) - 1), f"{total:.0f}"])
    return markdown([*header, "all runs, three seeds"], rows)


def all_tables(results):
    """The Markdown tables made here."""
    return [*speed_tables(results), full_budget(results)]
