"""Makes the pictures and tables of README.md and docs/ from benchmark/results.

    python benchmark/report.py

Prints every table and puts it into the README, in the place of the one with the same first line; draws the pictures in
benchmark/figures.
"""

import csv
import json
import re
from dataclasses import dataclass, replace

import matplotlib

matplotlib.use("Agg")
import judge
import matplotlib.pyplot as plt
import numpy as np
import tyro

from run import (
    ROOT,
    read_evaluations,
    results_of,
    scores_of,
    suites,
)  # which makes experts importable
from scipy import stats

from experts import load_expert

NOVICE = "#4c78a8"
SEEDS = 5  # of each cell of MILE's figures
# of RLIF's Table 1; BC asks no expert
METHODS = "rlif", "rlif-random", "hg-dagger", "hg-dagger-85", "dagger", "dagger-85"
EXPERTS = {  # of RLIF's Table 1
    "AdroitHandPen-v1": ("top", "middle", "low"),
    "Walker2d-v5": ("top", "high", "low"),
    "Hopper-v5": ("top", "middle", "low"),
}
REFERENCES = "poor", "high", "top"  # of its Table 3
MARKERS = {
    "mile": "o",
    "bc-intervention": "s",
    "iwr": "^",
    "sirius": "v",
    "hg-dagger": "D",
    "rlif": "X",
}
TASKS = "lander", "lander_continuous", "drawer", "peg", "button"  # of MILE's Figure 3
LONG_TASKS = "drawer", "peg"  # of its Figure 4
LEVELS = {  # what is known of a task before the first round: how its line is drawn, and its name
    "initial_score": (":", "the robot at first, alone"),
    "assisted_score": ("--", "the robot at first, with the person"),
    "expert_score": ("-", "the person alone"),
}


@dataclass
class Result:
    """What is kept of a run."""

    summary: dict  # its summary.json, and its command
    columns: np.ndarray  # of its eval.csv by their names, (evaluations,) each

    @property
    def scores(self):
        """Its evaluations with the mean action, (evaluations,)."""
        return scores_of(self.columns)


def load(folder):
    """The finished runs in a folder of results, in the order of their seeds; of any other there is only a log."""
    files = {int(path.stem.removeprefix("seed_")): path for path in folder.glob("seed_*.json")}
    return {
        seed: Result(
            json.loads(files[seed].read_text()), read_evaluations(files[seed].with_suffix(".csv"))
        )
        for seed in sorted(files)
    }


def markdown(header, rows):
    """A Markdown table of texts."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "-|" * len(header), *lines[1:]])


def interval(values):
    """Half the width of the 95 % confidence interval of the mean (Student's t); nan for a single value."""
    if len(values) < 2:
        return np.nan
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def read(path):
    """The rows of a csv file by their names, as texts."""
    with open(path) as file:
        return list(csv.DictReader(file))


def mean_and_interval(values, planned, digits=0):
    """For a table: mean ± half the width of the 95 % interval, and how many values, unless as many as planned."""
    if not len(values):
        return "-"
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {interval(values):.{digits}f}"
    return text if len(values) == planned else f"{text} (n = {len(values)})"


def without_device(command):
    """A command but for what does not change what comes out."""
    for option in (" --num-threads 1", " --cuda"):
        command = command.replace(option, "")
    return command.removeprefix("python ")


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


def overview(what, folders):
    """A Markdown table of rlif_rlpd.py with other options: the scores of all seeds in their order, mean action."""
    rows = []
    for folder in folders:
        runs, early = load(folder), []
        if not runs:
            continue
        for run in runs.values():
            score = run.scores[run.columns["global_step"] >= 30_000]  # or nothing
            early.append(f"{score[0]:.0f}" if len(score) else "-")
        last = [f"{run.scores[-1]:.0f}" for run in runs.values()]
        best = [f"{run.scores.max():.0f}" for run in runs.values()]
        first = next(iter(runs.values()))
        options = without_device(first.summary["command"]).removeprefix("rlif_rlpd.py").strip()
        label = f"`{options}`" if options else "none"
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
                column.append("-" if np.isnan(number) else f"{number:.0f}")
        changed = command.split(cells["base"].split(" ", 1)[1])[1].strip()
        label = f"`{changed}`" if changed else "nothing"
        rows.append([label, *(", ".join(map(str, column)) for column in columns)])
    return markdown(header, rows)


def watched_table(results):
    """A Markdown table of benchmark/watched.py: what policies reach alone and with their person."""
    header = ["with the person: run", "actions", "score alone", "with the person"]
    header += ["takeovers for a flag in 1,000 steps", "steps of the expert (%)"]
    rows = []
    for path in sorted((results / "watched").glob("*.csv")):
        exp_name, seed = path.stem.rsplit("-", 1)
        for row in read(path):
            names = "actions", "alone", "with_person", "catches_per_1000", "expert_share"
            rows.append([f"{exp_name}, seed {seed}", *(row[name] for name in names)])
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


def cell(folder, paper):
    """Of the seeds of a cell: the last evaluation; the best of all, and the paper's figure in brackets."""
    runs = load(folder).values()
    if not runs:
        return "-", f"- ({paper:.0f})"
    last, best = [run.scores[-1] for run in runs], [run.scores.max() for run in runs]
    seeds = f"n = {len(runs)}" if len(runs) > 1 else "one seed"
    mean = mean_and_interval(last, len(runs))
    return f"{mean} ({seeds})", f"{np.mean(best):.0f} ({paper:.0f})"


def paper_tables(results):
    """Markdown tables of RLIF's Tables 1 and 3, for the experts shipped: of each the last evaluation, and the best."""
    header, rows = [*METHODS, "bc"], []
    for env_id, levels in EXPERTS.items():
        for level in levels:
            score = load_expert(env_id, level).facts["score_mean"]
            cells = [(f"{env_id}, {level} ({score:.0f})",) * 2]
            for method, paper in zip(METHODS, PAPER[f"{env_id}-{level}"]):
                cells.append(cell(results / "table1" / f"{env_id}-{level}-{method}", paper))
            if level == levels[0]:
                cells.append(cell(results / "table1" / f"{env_id}-bc", *PAPER[f"{env_id}-bc"]))
            else:
                cells.append(("", ""))
            rows.append(cells)
    yield from last_and_best("task, expert", header, rows)
    rows = []
    for expert in PAPER_REFERENCES:
        cells = [(expert,) * 2]
        for reference, paper in zip(REFERENCES, PAPER_REFERENCES[expert]):
            folder = f"table3/{expert}-{reference}"
            if folder.removeprefix("table3/") not in suites()["table3"]:
                folder = f"table1/Walker2d-v5-{expert}-rlif"
            cells.append(cell(results / folder, paper))
        rows.append(cells)
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


def mean_of(values):
    """For a table: the mean of those values that are known."""
    known = [value for value in values if not np.isnan(value)]
    return f"{np.mean(known):.0f}" if known else "-"


def aggregate_rows(results):
    """What benchmark/aggregate.py has found, a row for each method; nothing before it was run."""
    path = results / "aggregate" / "table1.csv"
    return read(path) if path.exists() else []


def counted(found):
    """How many seeds and tasks the rows of aggregate_rows() are from, in words."""
    return f"{found[0]['seeds']} seeds of {found[0]['tasks']} tasks"


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


def before(results, task):
    """What benchmark/person.py has found for a task: c, and the scores of LEVELS."""
    path = results / "persons" / f"{task}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def mile_runs(results, name, task, method):
    """The runs of a method in a figure of MILE's paper, one for each seed."""
    return list(load(results / name / f"{task}-{method}").values())


def mile_scores(results, name, task, method, rounds):
    """What a method reaches after so many rounds of a figure's setting, one score for each seed."""
    runs = mile_runs(results, name, task, method)
    return [run.scores[run.columns["round"] == rounds][0] for run in runs]


SETTINGS = [("figure3", task, 1) for task in TASKS]  # of MILE's figures: suite, task, rounds
SETTINGS += [("figure4", task, rounds) for task in LONG_TASKS for rounds in (10, 20)]


def mile_methods(results):
    """A Markdown table: what all methods reach in the settings of MILE's Figures 3 and 4."""
    header = ["figure", "task", "rounds", "alone at first", "with the person", "expert", "c"]
    header += ["interventions at first (%)", *MARKERS]
    rows = []
    for name, task, rounds in SETTINGS:
        facts, cells = before(results, task), ["-"] * 5
        if facts:
            cells = [f"{facts[key]:.0f}" for key in LEVELS]
            cells += [f"{facts['intervention_cost']:g}", f"{100 * facts['intervention_rate']:.0f}"]
        for method in MARKERS:
            cells.append(mean_and_interval(mile_scores(results, name, task, method, rounds), SEEDS))
        rows.append([name[-1], task, f"{rounds}", *cells])
    return markdown(header, rows)


def mile_differences(results):
    """A Markdown table: how much more than MILE the others reach, seed by seed, in Figures 3 and 4."""
    others = [method for method in MARKERS if method != "mile"]
    rows = []
    for name, task, rounds in SETTINGS:
        found, cells = {}, []  # found: {method: {seed: score}}
        for method in MARKERS:
            seeds = load(results / name / f"{task}-{method}")
            found[method] = dict(zip(seeds, mile_scores(results, name, task, method, rounds)))
        for method in others:
            both = found[method].keys() & found["mile"].keys()
            differences = [found[method][seed] - found["mile"][seed] for seed in both]
            cells.append(mean_and_interval(differences, SEEDS))
        rows.append([name[-1], task, f"{rounds}", *cells])
    return markdown(["figure", "task", "rounds", *(f"{name} − mile" for name in others)], rows)


def mile_costs(results):
    """A Markdown table: what all methods cost in the settings of MILE's Figures 3 and 4."""
    what = "task: environment steps / interventions / their share / gradient steps"
    rows = []
    for name, task in dict.fromkeys((name, task) for name, task, _ in SETTINGS):
        cells = [cost(mile_runs(results, name, task, method)) for method in MARKERS]
        rows.append([name[-1], task, *cells])
    return markdown(["figure", what, *MARKERS], rows)


def cost(runs):
    """The mean over runs of environment steps, interventions, their share of all rounds' steps, gradient steps."""
    if not runs:
        return "-"
    rows = []
    for run in runs:
        steps, interventions = run.summary["env_steps"], run.summary["expert_steps"]
        rows.append(
            (steps, interventions, 100 * interventions / steps, gradient_steps(run.summary))
        )
    text = "{:.0f} / {:.0f} / {:.0f} % / {:.0f}".format(*np.mean(rows, axis=0))
    return text if len(runs) == SEEDS else f"{text} (n = {len(runs)})"


def gradient_steps(summary):
    """Of a run of MILE's figures, in all: of the policy, or of RLIF's actor and of its critics."""
    return summary["rounds"] * int(re.search(r"--round-updates (\d+)", summary["command"])[1])


def mile_demonstrations(results):
    """A Markdown table: all methods in the setting of Figure 5 of MILE's paper."""
    rows = []
    for method in MARKERS:
        scores = [mile_scores(results, "figure3", "drawer", method, 1)]
        for demos in (1, 3, 5):
            cell = f"{method}-{demos}-demos"
            scores.append(mile_scores(results, "figure5", "drawer", cell, 1))
        rows.append([method, *(mean_and_interval(values, SEEDS) for values in scores)])
    return markdown(["drawer, one round", "0 demonstrations", "1", "3", "5"], rows)


def mile_predictions(results):
    """A Markdown table: how well interventions were predicted, the mean over the rounds of Figure 4's setting."""
    header = ["task", "predicted by", "accuracy", "balanced accuracy", "log-loss"]
    runs = {task: mile_runs(results, "figure4", task, "mile") for task in LONG_TASKS}
    return markdown(header, prediction_rows(runs))


def prediction_rows(runs):
    """How well mile.py's runs {task: [run, ...]} predicted interventions, by model, network and frequency."""
    rows = []
    for task, of_task in runs.items():
        for source in ("model", "network", "majority") if of_task else ():
            cells = []
            for what in ("accuracy", "balanced_accuracy", "log_loss"):
                # of several evaluations; nan where no step, or every step, was an intervention
                values = [np.nanmean(run.columns[f"{source}_{what}"]) for run in of_task]
                cells.append(mean_and_interval(values, SEEDS, digits=2))
            rows.append([task, source, *cells])
    return rows


STUDIED = "lander", "button"  # tasks of benchmark/study.py
STEPS_A_MINUTE = 1_200


def study_table(results):
    """A Markdown table of benchmark/study.py: what a scripted person's minutes gave."""
    header = ["a scripted person: task", "method", "cloned at first", "after 5 minutes", "10", "15"]
    header += ["15, more than rlif", "minutes in all", "interventions", "minutes of control"]
    rows = []
    for task in STUDIED:
        clones, of_rlif = load(results / "study" / f"{task}-demonstrations").values(), {}
        for method in ("rlif", "hg-dagger", "mile"):
            found = load(results / "study" / f"{task}-{method}")
            runs, columns = found.values(), [[run.scores[-1] for run in clones]]
            for minutes in (5, 10, 15):  # the evaluation that comes nearest
                steps = minutes * STEPS_A_MINUTE
                nearest = [np.abs(run.columns["global_step"] - steps).argmin() for run in runs]
                columns.append([run.scores[i] for run, i in zip(runs, nearest)])
            last = dict(zip(found, columns[-1]))  # by seed
            of_rlif = of_rlif or last
            differences = [last[seed] - of_rlif[seed] for seed in last if seed in of_rlif]
            columns.append([] if method == "rlif" else differences)
            for name in ("minutes", "interventions", "minutes_of_control"):
                columns.append([run.summary[name] for run in runs])
            rows.append([task, method, *(mean_and_interval(values, SEEDS) for values in columns)])
    return markdown(header, rows)


def study_predictions(results):
    """A Markdown table of benchmark/study.py: how well the scripted person's takeovers were predicted."""
    runs = {task: list(load(results / "study" / f"{task}-mile").values()) for task in STUDIED}
    header = ["a scripted person: takeovers", "predicted by", "accuracy", "balanced accuracy"]
    return markdown([*header, "log-loss"], prediction_rows(runs))


def one_round(results):
    """Figure 3 of MILE's paper: what every method reaches in one round, by task; bars: 95 % intervals over seeds."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(11, 3), sharey=True, layout="constrained")
    for axis, task in zip(axes, TASKS):
        for i, (method, marker) in enumerate(MARKERS.items()):
            if scores := mile_scores(results, "figure3", task, method, 1):
                axis.errorbar(
                    np.mean(scores),
                    i,
                    xerr=interval(scores),
                    color=f"C{i}",
                    marker=marker,
                    capsize=3,
                )
        facts = before(results, task)
        for key in [key for key in LEVELS if key in facts]:
            axis.axvline(facts[key], color="0.5", linewidth=1, linestyle=LEVELS[key][0])
        success = not task.startswith("lander")
        axis.set(
            title=task,
            xlabel="success (%)" if success else "return",
            xlim=(-5, 105) if success else None,
        )
        axis.set_yticks(range(len(MARKERS)), MARKERS)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(len(MARKERS) - 0.5, -0.5)  # the first method at the top
    legend(figure, {})
    return figure


def twenty_rounds(results):
    """Figure 4 of MILE's paper: success after 0, 10, 20 rounds, two tasks; bars: 95 % intervals over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    drawn = {}
    for axis, task in zip(axes, LONG_TASKS):
        facts = before(results, task)
        for i, (method, marker) in enumerate(MARKERS.items()):
            # rounds, mean, half an interval
            points = [(0, facts["initial_score"], np.nan)] if facts else []
            for rounds in (10, 20):
                if scores := mile_scores(results, "figure4", task, method, rounds):
                    aside = 0.4 * (i - 2.5)  # so that methods do not hide each other
                    points.append((rounds + aside, np.mean(scores), interval(scores)))
            x, mean, half = np.array(points).reshape(-1, 3).T
            style = {
                "color": f"C{i}",
                "marker": marker,
                "markersize": 5,
                "linewidth": 1.2,
                "capsize": 3,
            }
            drawn[method] = axis.errorbar(x, mean, yerr=half, **style)
        for key in [key for key in LEVELS if key in facts]:
            axis.axhline(facts[key], color="0.5", linewidth=1, linestyle=LEVELS[key][0])
        axis.set(title=task, xlabel="rounds", xticks=(0, 10, 20), ylim=(-3, 108))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("success (%), 95 % intervals over seeds")
    legend(figure, drawn)
    return figure


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


def legend(figure, drawn):
    """Below a picture, the names of what is drawn and of LEVELS."""
    lines = {
        name: plt.Line2D([], [], color="0.5", linestyle=style) for style, name in LEVELS.values()
    }
    shown = drawn | lines
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncol=5, frameon=False, fontsize=8
    )


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
        where = {"cpu1": "one core", "cpu2": "two cores", "cuda1": "GPU"}[device + threads]
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


ALPHAS = 0.9, 0.95, 0.975, 0.99, 0.995  # of rlif_rlpd.py's person; the last is its default


def resampled(judged, statistic, draws=2000):
    """A statistic of rows (n,), and the limits of its 95 % bootstrap interval over the novices' episodes."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(judged.episode == episode) for episode in np.unique(judged.episode)]
    values = []
    for _ in range(draws):
        chosen = rng.integers(len(rows), size=len(rows))
        values.append(statistic(np.concatenate([rows[i] for i in chosen])))
    return (statistic(np.arange(len(judged.episode))), *np.nanpercentile(values, (2.5, 97.5)))


def rank_correlation(judged):
    """Spearman's, of the gap by Q and the true gap, and the limits of its 95 % interval."""
    q_gap, gap = judged.q_gap, judged.gaps.mean(1)

    def spearman(rows):
        ranks = stats.rankdata(q_gap[rows]), stats.rankdata(gap[rows])
        # nan where all rows are of one state
        return np.corrcoef(*ranks)[0, 1] if min(np.ptp(rank) for rank in ranks) else np.nan

    return resampled(judged, spearman)


def attainable(judged):
    """The rank correlation that a judge who knows the truth would have with these noisy returns.

    The square root of their reliability, by Spearman and Brown's formula from that of two halves of the rollouts.
    """
    parts = judged.gaps[:, ::2].mean(1), judged.gaps[:, 1::2].mean(1)
    half = max(0.0, stats.spearmanr(*parts).statistic)
    return np.sqrt(2 * half / (1 + half))


def judge_rates(judged, alpha):
    """Of a threshold: flagged / bad / flagged if bad / bad if flagged / better if flagged, in %."""
    flagged, bad, bad_if_flagged, flagged_if_bad = judge.rates(
        judged.flagged(alpha), judged.bad(alpha)
    )
    better_if_flagged = judge.rates(judged.flagged(alpha), judged.better(alpha))[2]
    shares = flagged, bad, flagged_if_bad, bad_if_flagged, better_if_flagged
    return " / ".join("-" if np.isnan(share) else f"{share:.0f}" for share in shares)


def gap_cells(judged):
    """What is known of the two gaps, and of Q itself, for a table."""
    gaps = judged.gaps.mean(1)  # (S,)
    errors = stats.sem(judged.gaps, axis=1)  # (S,)
    values = judged.reference.mean(1)  # (S,), G(s, a_ref)
    yield f"{len(gaps)}"
    yield "{:.2f} ({:.2f} to {:.2f})".format(*rank_correlation(judged))
    yield f"{attainable(judged):.2f}"
    yield f"{np.median(np.abs(gaps)):.1f} ± {np.median(errors):.1f}"
    flagged = judged.flagged(ALPHAS[-1])
    for chosen in (flagged, ~flagged):
        if not chosen.any():
            yield "-"
            continue
        shown = resampled(judged.part(chosen), lambda rows: gaps[chosen][rows].mean())
        yield "{:.1f} ({:.1f} to {:.1f})".format(*shown)
    yield f"{np.mean(values):.0f}"
    yield f"{np.mean(judged.q_reference - values):+.0f}"
    yield f"{np.corrcoef(judged.q_reference, values)[0, 1]:.2f}"


def judge_tables(results):
    """Two Markdown tables: the gap of a reference's Q and the true gap; what is flagged, and what is bad."""
    gaps, flags = [], []
    for env_id in judge.TASKS:
        for level in judge.references(env_id):
            paths = [results / "judge" / f"{env_id}-{level}-{name}.csv" for name in judge.NOVICES]
            parts = {
                name: judge.read(path) for name, path in zip(judge.NOVICES, paths) if path.exists()
            }
            if parts:
                parts = {"all": judge.together(list(parts.values()))} | parts
            for name, judged in parts.items():
                gaps.append([f"{env_id}, {level}", name, *gap_cells(judged)])
                rates = [judge_rates(judged, alpha) for alpha in ALPHAS]
                flags.append([f"{env_id}, {level}", name, *rates])
    header = ["gaps: task, judge", "novice", "states", "rank correlation", "attainable"]
    header += ["true gap, median", "mean if flagged", "mean if not", "G", "Q − G"]
    header += ["correlation of Q and G"]
    names = ["flags: task, judge", "novice", *(f"α = {alpha}" for alpha in ALPHAS)]
    return markdown(header, gaps), markdown(names, flags)


def blur_table(results):
    """A Markdown table: is the true gap another one a little beside the state?"""
    header = ["beside the state: task, judge", "novice"]
    for blur in judge.BLURS:
        header += [f"blur {blur:g}: with the gap", "attainable", "with Q's gap"]
    rows = []
    for env_id in judge.BLURRED:
        stages = {name: results / "judge" / f"{env_id}-top-{name}" for name in judge.NOVICES}
        for name, chosen in ({"all": list(judge.NOVICES)} | {n: [n] for n in stages}).items():
            exact = judge.together([judge.read(f"{stages[n]}.csv") for n in chosen])
            cells = [f"{env_id}, top", name]
            for blur in judge.BLURS:
                files = [f"{stages[n]}-blur-{blur}.csv" for n in chosen]
                blurred = judge.together([judge.read(path) for path in files])
                # the gap beside the state by that in it, as if the latter were what a judge says
                pair = replace(blurred, q_novice=-exact.gaps.mean(1), q_reference=0 * exact.episode)
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(*rank_correlation(pair)))
                cells.append(f"{attainable(blurred):.2f}")
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(*rank_correlation(blurred)))
            rows.append(cells)
    return markdown(header, rows)


def sharpen_table(results):
    """A Markdown table: what critics that were fitted to comparisons know."""
    rows = []
    for row in read(results / "judge" / "sharpened.csv"):
        cells = [row["attempt"], row["states"], row["learned"] or "-", row["held_out"]]
        cells[2:] = [cell if cell == "-" else f"{float(cell):.2f}" for cell in cells[2:]]
        for name in (*judge.NOVICES, "all"):
            shown = [float(row[name + end]) for end in ("", "_low", "_high")]
            cells.append("{:.2f} ({:.2f} to {:.2f})".format(*shown))
        rows.append(cells)
    header = ["critics of Walker2d-v5, top", "states", "learned", "held out"]
    return markdown([*header, *judge.NOVICES, "all"], rows)


def all_tables(results):
    """Every table of README.md and docs/, as Markdown."""
    hopper, table1 = results / "hopper", results / "table1"
    methods = [table1 / "Hopper-v5-bc", table1 / "Hopper-v5-low-dagger"]
    methods += [table1 / "Hopper-v5-low-hg-dagger", hopper / "hg-dagger-value", hopper / "rlif"]
    options = [hopper / "rlif", *(results / "options" / cell for cell in suites()["options"])]
    tried = [results / "tried" / cell for cell in suites()["tried"]]
    return [
        table(load(hopper / "rlif")),
        comparison(methods),
        *paper_tables(results),
        paper_costs(results),
        aggregate_table(results),
        overview("options on Hopper-v5", options),
        overview("options on other tasks", tried),
        tries(results),
        watched_table(results),
        mile_methods(results),
        mile_differences(results),
        mile_costs(results),
        mile_demonstrations(results),
        mile_predictions(results),
        *judge_tables(results),
        blur_table(results),
        sharpen_table(results),
        study_table(results),
        study_predictions(results),
        *speed_tables(results),
        full_budget(results),
    ]


def pages():
    """The files whose tables are made here."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewrite(text, markdown):
    """A page's text with these tables in the place of those with the same first line."""
    for block in markdown:
        first = re.escape(block.splitlines()[0])
        text = re.sub(rf"^{first}\n(\|.*\n)*", lambda _: f"{block}\n", text, flags=re.M)
    return text


def main():
    results, figures = results_of(""), ROOT / "benchmark" / "figures"
    figures.mkdir(exist_ok=True)
    pictures = {
        "mile": twenty_rounds(results),
        "mile-one-round": one_round(results),
        "critics": more_critics(results),
    }
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
    for name, picture in pictures.items():
        picture.savefig(figures / f"{name}.png", dpi=130, bbox_inches="tight")
    markdown = all_tables(results)
    for page in pages():
        page.write_text(rewrite(page.read_text(), markdown))
    print("\n\n".join(markdown))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
