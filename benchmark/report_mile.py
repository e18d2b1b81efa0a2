"""The tables and pictures of MILE's paper, and of the scripted person, for benchmark/report.py."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
from tables import interval, load, markdown, mean_and_interval

SEEDS = 5  # of each cell of MILE's figures
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
    header += ["15, more than the clone", "more than rlif"]
    header += ["minutes in all", "interventions", "minutes of control"]
    rows = []
    for task in STUDIED:
        clones, of_rlif = load(results / "study" / f"{task}-demonstrations"), {}
        for method in ("rlif", "hg-dagger", "mile"):
            found = load(results / "study" / f"{task}-{method}")
            runs, columns = found.values(), [[run.scores[-1] for run in clones.values()]]
            for minutes in (5, 10, 15):  # the evaluation that comes nearest
                steps = minutes * STEPS_A_MINUTE
                nearest = [np.abs(run.columns["global_step"] - steps).argmin() for run in runs]
                columns.append([run.scores[i] for run, i in zip(runs, nearest)])
            last = dict(zip(found, columns[-1]))  # by seed
            of_clone = {seed: run.scores[-1] for seed, run in clones.items()}
            columns.append([last[seed] - of_clone[seed] for seed in last if seed in of_clone])
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


def legend(figure, drawn):
    """Below a picture, the names of what is drawn and of LEVELS."""
    lines = {
        name: plt.Line2D([], [], color="0.5", linestyle=style) for style, name in LEVELS.values()
    }
    shown = drawn | lines
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncol=5, frameon=False, fontsize=8
    )


def all_tables(results):
    """The Markdown tables made here."""
    return [
        mile_methods(results),
        mile_differences(results),
        mile_costs(results),
        mile_demonstrations(results),
        mile_predictions(results),
        study_table(results),
        study_predictions(results),
    ]


def all_pictures(results):
    """The pictures drawn here by their names."""
    return {"mile": twenty_rounds(results), "mile-one-round": one_round(results)}
