"""The tables and pictures of RLIF's paper, and of what was tried beside it, for benchmark/report.py."""

import re

import matplotlib.pyplot as plt
import numpy as np
from run import suites  # which makes experts importable
from tables import load, markdown, mean_and_interval, read

from experts import load_expert

NOVICE = "#4c78a8"
# of RLIF's Table 1; BC asks no expert
METHODS = "rlif", "rlif-random", "hg-dagger", "hg-dagger-85", "dagger", "dagger-85"
EXPERTS = {  # of RLIF's Table 1
    "AdroitHandPen-v1": ("top", "middle", "low"),
    "Walker2d-v5": ("top", "high", "low"),
    "Hopper-v5": ("top", "middle", "low"),
}
REFERENCES = "poor", "high", "top"  # of its Table 3


def without_device(command):
    """A command but for what does not change what comes out."""
    for option in (" --num-threads 1", " --cuda"):
        command = command.replace(option, "")
    return command.removeprefix("python ")


def mean_of(values):
    """For a table: the mean of those values that are known."""
    known = [value for value in values if not np.isnan(value)]
    return f"{np.mean(known):.0f}" if known else "-"


def curves(runs, levels):
    """Score and intervention rate over environment steps: every seed thin, the mean thick; levels: {name: score}."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    steps = np.array([run.columns["global_step"] for run in runs.values()])  # (seeds, evaluations)
    for axis, name, scale in (
        (axes[0], "normalized_score", 1),
        (axes[1], "intervention_rate", 100),
    ):
        # (seeds, evaluations)
        values = np.array([scale * run.columns[name] for run in runs.values()])
        for x, y in zip(steps, values):
            axis.plot(x, y, color=NOVICE, alpha=0.35, linewidth=1)
        axis.plot(steps.mean(0), values.mean(0), color=NOVICE, linewidth=2.5)
        axis.set(xlabel="environment steps", ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    for name, score in levels.items():
        axes[0].axhline(score, color="0.5", linewidth=1, linestyle="--")
        box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0}
        axes[0].text(
            steps.max(), score + 1, name, ha="right", va="bottom", fontsize=8, color="0.4", bbox=box
        )
    axes[0].set_ylabel("normalised score, mean action")
    axes[1].set_ylabel("steps under expert control (%)")
    figure.tight_layout()
    return figure


def more_critics(results):
    """Score over environment steps of RLIF with its usual critics and with more, by task; each seed alone."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    drawn = {
        ("Walker2d-v5, low expert", "normalised score"): {
            "3 critics": "walker2d-300k",
            "3 critics, pull": "walker2d-300k-pull",
            "10 critics": "walker2d-500k-10-critics",
            "10 critics, fewer steps": "walker2d-300k-10-critics",
        },
        ("AdroitHandPen-v1, middle expert", "success (%)"): {
            "3 critics": "pen",
            "10 critics, 5 critic updates": "pen-200k-10-critics-utd-5",
        },
    }
    for axis, ((title, label), cells) in zip(axes, drawn.items()):
        for name, cell_name in cells.items():
            for seed, run in load(results / "tried" / cell_name).items():
                x = run.columns["global_step"] / 1000
                axis.plot(x, run.scores, linewidth=1.5, label=f"{name} (seed {seed})")
        axis.set(title=title, xlabel="thousand environment steps", ylabel=label, ylim=(0, 165))
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks(range(0, 101, 20))
        if axis.lines:
            axis.legend(loc="upper left", frameon=False, fontsize=8)  # above the curves
    figure.tight_layout()
    return figure


def table(runs):
    """A Markdown table: a line for each seed, and, of several, mean and standard deviation over seeds."""
    header = ["seed", "last", "last, sampled actions", "best", "interventions, first → last"]
    rows, numbers = [], []
    for seed, run in runs.items():
        score, rate = run.columns["normalized_score"], 100 * run.columns["intervention_rate"]
        sampled = run.columns["stochastic_normalized_score"]
        minutes = run.columns["wall_seconds"][-1] / 60
        numbers.append((score[-1], sampled[-1], score.max(), rate[0], rate[-1], minutes))
        scores = [f"{x:.1f}" for x in numbers[-1][:3]]
        rows.append([f"{seed}", *scores, f"{rate[0]:.0f} % → {rate[-1]:.0f} %", f"{minutes:.1f}"])
    if len(runs) > 1:
        mean, std = np.mean(numbers, 0), np.std(numbers, 0, ddof=1)
        scores = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean[:3], std[:3])]
        rates = f"{mean[3]:.0f} % → {mean[4]:.0f} %"
        rows.append([f"mean ± std, n = {len(runs)}", *scores, rates, f"{mean[5]:.1f}"])
    return markdown([*header, "minutes"], rows)


def options_of(command):
    """The options of a run of rlif_rlpd.py, each with its value, but for what does not change what comes out."""
    return re.split(r" (?=--)", without_device(command))[1:]


def overview(what, folders):
    """A Markdown table of rlif_rlpd.py with other options: the scores of all seeds in their order, mean action.

    Options that all rows have are left out.
    """
    cells = [runs for runs in map(load, folders) if runs]
    options = [options_of(next(iter(runs.values())).summary["command"]) for runs in cells]
    rows = []
    for runs, named in zip(cells, options):
        early = []
        for run in runs.values():
            score = run.scores[run.columns["global_step"] >= 30_000]  # or nothing
            early.append(f"{score[0]:.0f}" if len(score) else "-")
        last = [f"{run.scores[-1]:.0f}" for run in runs.values()]
        best = [f"{run.scores.max():.0f}" for run in runs.values()]
        own = [option for option in named if not all(option in others for others in options)]
        label = f"`{' '.join(own)}`" if own else "none"
        rows.append([label, *(", ".join(map(str, cell)) for cell in (runs, early, last, best))])
    return markdown([what, "seeds", "at 30,000 steps", "at the end", "best"], rows)


def tries(results):
    """A Markdown table of the suite walker2d, one thing changed at a time; all seeds in their order, mean action."""
    header = ["tried on Walker2d-v5", "seeds", "at 50,000 steps", "at the end", "best"]
    header += ["flagged at the end (%)", "steps of the expert at the end (%)"]
    cells, rows = suites()["walker2d"], []
    for cell, command in cells.items():
        runs = load(results / "walker2d" / cell)
        if not runs:
            continue
        columns = [list(runs), [], [], [], [], []]
        for run in runs.values():
            middle = run.scores[run.columns["global_step"] >= 50_000][0]
            rates = run.columns["flagged_rate"][-1], run.columns["intervention_rate"][-1]
            numbers = middle, run.scores[-1], run.scores.max(), *(100 * rate for rate in rates)
            for column, number in zip(columns[1:], numbers):
                column.append("-" if np.isnan(number) else f"{round(number)}")
        changed = command.split(cells["base"].split(" ", 1)[1])[1].strip()
        label = f"`{changed}`" if changed else "nothing"
        rows.append([label, *(", ".join(map(str, column)) for column in columns)])
    return markdown(header, rows)


def watched_table(results):
    """A Markdown table of benchmark/watched.py: what policies reach alone and with their person."""
    header = ["with the person: task", "run", "seed", "actions", "score alone", "with the person"]
    header += ["takeovers for a flag in 1,000 steps", "steps of the expert (%)"]
    rows = []
    for path in sorted((results / "watched").glob("*.csv")):
        for row in read(path):
            names = "actions", "alone", "with_person", "catches_per_1000", "expert_share"
            rows.append([*path.stem.split("__"), *(row[name] for name in names)])
    return markdown(header, rows)


def comparison(folders):
    """A Markdown table of methods by their default commands: what they reach and what the expert is asked for."""
    header = ["command", "seeds", "last", "last, sampled actions", "environment steps", "labels"]
    header += ["takeovers", "flagged at the end (%)", "minutes of the fastest seed"]
    rows = []
    for folder in folders:
        runs, numbers = load(folder), []  # a row for each seed; nan: unknown, or not of this method
        if not runs:
            continue
        for run in runs.values():
            last = run.columns[-1]
            asked = [run.summary.get(name, np.nan) for name in ("env_steps", "labels", "takeovers")]
            flagged = 100 * last["flagged_rate"] if "flagged_rate" in last.dtype.names else np.nan
            scores = last["normalized_score"], last["stochastic_normalized_score"]
            numbers.append((*scores, *asked, flagged))
        cells = []
        for column, digits in zip(np.array(numbers).T, (1, 1, 0, 0, 0, 1)):  # (seeds,)
            cells.append(mean_and_interval(column[~np.isnan(column)], len(runs), digits))
        # other processes only make a run longer
        seconds = min(run.columns["wall_seconds"][-1] for run in runs.values())
        cells.append(f"{seconds / 60:.1f}")
        first = next(iter(runs.values()))
        command = f"`{without_device(first.summary['command'])}`"
        rows.append([command, ", ".join(map(str, runs)), *cells])
    return markdown(header, rows)


# the paper's Tables 1 and 3, in the order of METHODS and of REFERENCES
PAPER = {
    "AdroitHandPen-v1-top": (88.5, 42.9, 73.5, 74.3, 78.1, 79.1),
    "AdroitHandPen-v1-middle": (80.9, 34.1, 60.0, 29.3, 35.7, 38.7),
    "AdroitHandPen-v1-low": (64.0, 28.3, 28.5, 9.5, 8.9, 12.8),
    "AdroitHandPen-v1-bc": (54.1,),
    "Walker2d-v5-top": (109.0, 106.5, 53.6, 112.7, 57.9, 76.1),
    "Walker2d-v5-high": (99.7, 75.6, 44.8, 69.7, 20.5, 43.6),
    "Walker2d-v5-low": (102.9, 19.1, 11.9, 19.7, 12.4, 20.1),
    "Walker2d-v5-bc": (44.5,),
    "Hopper-v5-top": (109.2, 93.8, 80.3, 86.9, 70.6, 61.6),
    "Hopper-v5-middle": (108.4, 103.9, 40.7, 42.7, 38.7, 19.6),
    "Hopper-v5-low": (108.0, 75.1, 25.2, 24.4, 19.5, 10.3),
    "Hopper-v5-bc": (64.8,),
}
PAPER_REFERENCES = {
    "top": (78.9, 85.9, 109.0),
    "middle": (38.8, 71.2, 99.7),
    "low": (33.6, 66.8, 102.9),
}


def cell(runs, paper):
    """Of the runs of a cell: the last evaluation; the best of all, and the paper's figure in brackets."""
    if not runs:
        return "-", f"- ({paper:.0f})"
    last, best = [run.scores[-1] for run in runs], [run.scores.max() for run in runs]
    number = f"n = {len(runs)}" if len(runs) > 1 else "one seed"
    mean = mean_and_interval(last, len(runs))
    return f"{mean} ({number})", f"{np.mean(best):.0f} ({paper:.0f})"


def runs_of(folder):
    """The finished runs in a folder of results, a list."""
    return list(load(folder).values())


def paper_tables(results):
    """Markdown tables of RLIF's Tables 1 and 3, for the experts shipped: of each the last evaluation, and the best."""
    header, rows = [*METHODS, "bc"], []
    for env_id, levels in EXPERTS.items():
        for level in levels:
            score = load_expert(env_id, level).facts["score_mean"]
            cells = [(f"{env_id}, {level} ({score:.0f})",) * 2]
            for method, paper in zip(METHODS, PAPER[f"{env_id}-{level}"]):
                runs = runs_of(results / "table1" / f"{env_id}-{level}-{method}")
                cells.append(cell(runs, paper))
            if level == levels[0]:
                runs = runs_of(results / "table1" / f"{env_id}-bc")
                cells.append(cell(runs, *PAPER[f"{env_id}-bc"]))
            else:
                cells.append(("", ""))
            rows.append(cells)
    yield from last_and_best("task, expert", header, rows)
    rows, of_references = [], [[] for _ in REFERENCES]
    for expert in PAPER_REFERENCES:
        cells = [(expert,) * 2]
        for i, reference in enumerate(REFERENCES):
            folder = f"table3/{expert}-{reference}"
            if folder.removeprefix("table3/") not in suites()["table3"]:
                folder = f"table1/Walker2d-v5-{expert}-rlif"
            runs = runs_of(results / folder)
            of_references[i] += runs
            cells.append(cell(runs, PAPER_REFERENCES[expert][i]))
        rows.append(cells)
    papers = np.mean(list(PAPER_REFERENCES.values()), axis=0)  # (references,)
    rows.append([("all",) * 2, *map(cell, of_references, papers)])
    yield from last_and_best("expert \\ reference", REFERENCES, rows)


def gradient_steps_of(summary):
    """Of a run of Table 1: those of the policy; RLIF's critics have as many."""
    if "rlif_rlpd.py" in summary["command"]:
        return summary["env_steps"]  # one a step
    # an imitator's rounds have as many as the script's default
    return summary.get("gradient_steps") or 10_000 + 2_500 * summary["rounds"]


def paper_costs(results):
    """A Markdown table: what the methods of RLIF's Table 1 cost, means over experts and seeds."""
    what = "task: environment steps / labels / steps of the expert / gradient steps"
    rows = []
    for env_id, levels in EXPERTS.items():
        cells = []
        for method in METHODS:
            numbers = []
            for level in levels:
                for run in load(results / "table1" / f"{env_id}-{level}-{method}").values():
                    asked = [run.summary.get(name, np.nan) for name in ("labels", "expert_steps")]
                    numbers.append(
                        (run.summary["env_steps"], *asked, gradient_steps_of(run.summary))
                    )
            cells.append(" / ".join(mean_of(column) for column in zip(*numbers)) or "-")
        rows.append([env_id, *cells])
    return markdown([what, *METHODS], rows)


def aggregate_rows(results):
    """What benchmark/aggregate.py has found, a row for each method; nothing before it was run."""
    path = results / "aggregate" / "table1.csv"
    return read(path) if path.exists() else []


def counted(found):
    """How many seeds and tasks the rows of aggregate_rows() are from, in words."""
    seeds = [int(row["seeds"]) for row in found]
    few, many = min(seeds), max(seeds)
    number = f"{few}" if few == many else f"{few} to {many}"
    return f"{number} seeds of {found[0]['tasks']} tasks"


def aggregate_table(results):
    """A Markdown table: RLIF's Table 1 over all tasks, and which ones they are."""
    header = ["over all tasks: method", "interquartile mean", "rlif is better with probability"]
    found = aggregate_rows(results)
    if not found:
        return markdown(header, [["no task has three seeds of every method yet", "-", "-"]])
    rows = []
    for row in found:
        mean = "{iqm:.1f} ({iqm_low:.1f} to {iqm_high:.1f})"
        better = "{better:.2f} ({better_low:.2f} to {better_high:.2f})"
        numbers = {name: float(row[name]) for name in re.findall(r"\w+(?=:)", mean + better)}
        rows.append([row["method"], mean.format(**numbers), better.format(**numbers)])
    rows[0][2] = ""  # rlif itself
    rows.append([counted(found), found[0]["which"], ""])
    return markdown(header, rows)


def last_and_best(corner, header, rows):
    """Two Markdown tables of cells that are pairs of texts."""
    for i, what in enumerate(("last", "best")):
        yield markdown([f"{what}: {corner}", *header], [[pair[i] for pair in row] for row in rows])


def intervals(rows, name, label, limits, level=None):
    """A number of benchmark/aggregate.py with its 95 % interval, by method; level: where to draw a line."""
    figure, axis = plt.subplots(figsize=(7, 0.4 + 0.32 * len(rows)), layout="constrained")
    for i, row in enumerate(rows):
        value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
        style = {"color": f"C{(*METHODS, 'bc').index(row['method'])}", "marker": "o", "capsize": 3}
        axis.errorbar(value, i, xerr=[[value - low], [high - value]], **style)
    if level is not None:
        axis.axvline(level, color="0.5", linewidth=1, linestyle="--")
    axis.set(xlabel=label, xlim=limits)
    axis.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)  # the first method at the top
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def all_tables(results):
    """The Markdown tables made here."""
    hopper, table1 = results / "hopper", results / "table1"
    methods = [table1 / "Hopper-v5-bc", hopper / "bc-5-demos", table1 / "Hopper-v5-low-dagger"]
    methods += [table1 / "Hopper-v5-low-hg-dagger", hopper / "hg-dagger-value"]
    methods += [hopper / "rlif", hopper / "rlif-5-demos"]
    options = [hopper / "rlif", *(results / "options" / cell for cell in suites()["options"])]
    tried = [results / "tried" / cell for cell in suites()["tried"]]
    walker = [folder for folder in tried if folder.name.startswith("walker2d")]
    pen = [folder for folder in tried if folder.name.startswith("pen")]
    return [
        table(load(hopper / "rlif")),
        comparison(methods),
        *paper_tables(results),
        paper_costs(results),
        aggregate_table(results),
        overview("options on Hopper-v5", options),
        overview("options on Walker2d-v5", walker),
        overview("options on AdroitHandPen-v1", pen),
        tries(results),
        watched_table(results),
    ]


def all_pictures(results):
    """The pictures drawn here by their names, those whose results are there."""
    pictures = {"critics": more_critics(results)}
    if runs := load(results / "hopper" / "rlif"):
        levels = {"the expert who takes over": load_expert("Hopper-v5", "low").facts["score_mean"]}
        if clones := load(results / "table1" / "Hopper-v5-bc").values():
            levels["cloning the demonstrations"] = np.mean([run.scores[-1] for run in clones])
        pictures["hopper"] = curves(runs, levels)
    if rows := aggregate_rows(results):
        label = f"interquartile mean of the last evaluations (%), {counted(rows)}"
        pictures["table1"] = intervals(rows, "iqm", label, (0, None))
        label = f"probability that rlif does better, {counted(rows)}"
        pictures["table1-better"] = intervals(rows[1:], "better", label, (-0.02, 1.02), 0.5)
    return pictures
