"""Makes the tables and pictures of README.md and docs/ from benchmark/results.

    python benchmark/report.py                       # tables, and pictures in benchmark/figures
    python benchmark/report.py --episode runs/<run>  # only the README's first picture, of this run

It prints every table, and puts it where the one with the same first cell is.
"""

import csv
import json
import re
import tomllib
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import judge
import matplotlib.pyplot as plt
import numpy as np
import torch
from files import RESULTS, ROOT, command_line, read_columns, scores_of, write
from run import suites
from scipy import stats

import rlif_rlpd
from experts import TRAINING_TASKS, load_demonstrations, load_expert, normalized_score

PAPER = tomllib.loads((ROOT / "benchmark" / "paper.toml").read_text())
METHODS = ["rlif", "rlif-random", "hg-dagger", "hg-dagger-85", "dagger", "dagger-85", "bc"]
# on Hopper-v5, with the low expert
COMPARED = ["bc", "dagger", "hg-dagger", "hg-dagger-value", "rlif", "rlif-random"]
# task and number of demonstrations: where a method's cell is, with the low expert
FEW = {"Hopper-v5, 5": "hopper/{}-5-demos", "Hopper-v5, 1": "hopper/{}-1-demos"}
FEW |= {"Walker2d-v5, 2": "controls/Walker2d-v5-2-demos-low-{}"}
FEW |= {"AdroitHandPen-v1, 10": "controls/AdroitHandPen-v1-10-demos-low-{}"}
# what is seen, and how many demonstrations: the same, with the top expert
BUTTON = {"pictures, 10": "eyes/button-pictures-top-{}", "state, 10": "eyes/button-state-top-{}"}
BUTTON |= {"pictures, 1": "eyes/button-pictures-1-demos-top-{}"}
BUTTON |= {"state, 1": "eyes/button-state-1-demos-top-{}"}
PEG = {"pictures, 40": "eyes/peg-pictures-top-{}", "state, 40": "eyes/peg-state-top-{}"}
LEVELS = [(env_id, level) for env_id, levels in PAPER["table1"].items() for level in levels]
# of MILE's figures, one round on five tasks and twenty on two: suite, task, rounds
CLONERS = ["mile", "bc-intervention", "iwr", "sirius", "hg-dagger", "rlif"]
FIGURE3 = [("figure3", t, 1) for t in ("lander", "lander_continuous", "drawer", "peg", "button")]
FIGURE4 = [("figure4", task, rounds) for task in ("drawer", "peg") for rounds in (10, 20)]
# what uses the same takeovers in other ways, and where it is compared: task, expert
RIVALS = ["rlif", "no-labels", "hil-serl", "rlpd", "pvp", "pvp-no-ends", "pvp4real"]
RIVALS += ["pvp-published", "hg-dagger", "mile", "bc"]
PLACES = [("Hopper-v5", "low"), ("Hopper-v5", "middle"), ("Hopper-v5", "top")]
PLACES += [("button-state-1-demos", "top"), ("peg-state", "top"), ("lander", "scripted person")]
PICTURED = ["rlif", "hg-dagger", "mile", "bc"]
SHOWN = range(20, 80)  # steps of the episode that is drawn


class Cell:
    """The finished runs in some folders of results, in the order of their seeds."""

    def __init__(self, *folders):
        paths = [path for folder in folders for path in (RESULTS / folder).glob("seed_*.json")]
        paths.sort(key=lambda path: int(path.stem.removeprefix("seed_")))
        facts = json.loads(paths[0].read_text()) if paths else {}  # of the first
        self.command, self.args = facts.get("command"), facts.get("args", {})
        self.seeds = [int(path.stem.removeprefix("seed_")) for path in paths]
        self.runs = [read_columns(path.with_suffix(".csv")) for path in paths]
        self.scores = [scores_of(run) for run in self.runs]  # with the mean action
        self.last = self.at("score", -1)
        self.three = [np.mean(scores[-3:]) for scores in self.scores]

    def column(self, name):
        """A column of eval.csv, (evaluations,) of each run; nan where it has no such column."""
        if name in ("score", "sampled score"):
            kind = "stochastic_" if name == "sampled score" else ""
            return [scores_of(run, kind) for run in self.runs]
        if name == "updates" and "round_updates" in self.args:  # of scripts that learn in rounds
            first = self.args.get("pretrain_updates", self.args.get("warm_up_updates", 0))
            return [first + self.args["round_updates"] * x for x in self.column("round")]
        unknown = [np.full(len(run), np.nan) for run in self.runs]
        return [run[name] if name in run.dtype.names else x for run, x in zip(self.runs, unknown)]

    def at(self, name, which):
        """A column at one evaluation, a number of each run; which: one for all, or one of each."""
        which = np.broadcast_to(which, len(self.runs))
        return [values[i] for values, i in zip(self.column(name), which)]


def cell_of(env_id, level, method):
    """The folder of a cell of Table 1; what the README shows is not run again."""
    if env_id == "Hopper-v5" and (level == "low" or method == "bc"):
        return f"hopper/{method}"
    return f"table1/{env_id}-bc" if method == "bc" else f"table1/{env_id}-{level}-{method}"


def rival_of(task, level, method):
    """The folder of a cell beside RLIF's; what Table 1 has is not run again."""
    if task == "Hopper-v5" and method in ("rlif", "no-labels", "bc"):
        return cell_of(task, level, method)
    if task == "lander":
        return f"study/{task}-{'demonstrations' if method == 'bc' else method}"
    asks_nobody = method == "bc" or (task == "Hopper-v5" and method == "rlpd")
    return f"rivals/{task}-{method}" if asks_nobody else f"rivals/{task}-{level}-{method}"


def folders_of(suite, start=""):
    """The folders of its cells that begin so, in their order."""
    return [f"{suite}/{name}" for name in suites()[suite] if name.startswith(start)]


# --- what stands in a table -----------------------------------------------------------------------
def markdown(header, rows):
    """A Markdown table; short rows end with empty cells."""
    rows = [[*row, *[""] * (len(header) - len(row))] for row in (header, *rows)]
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + "-|" * len(header), *lines[1:]])


def half_interval(values):
    """Half the width of the 95 % confidence interval of the mean (Student's t)."""
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan


def mean_of(values, digits=0, planned=5):
    """Mean ± half the interval, or one or two values; of how many, if not as many as planned."""
    values = [value for value in values if not np.isnan(value)]
    text = ", ".join(f"{value:.{digits}f}" for value in values) or "-"
    if len(values) > 2:
        text = f"{np.mean(values):.{digits}f} ± {half_interval(values):.{digits}f}"
    return text if len(values) in (0, planned) else f"{text} (n = {len(values)})"


def listed(values):
    """A number of each seed, in their order."""
    return ", ".join("-" if np.isnan(value) else f"{round(value)}" for value in values)


def differences(ones, others):
    """One by one, of the seeds that are in both; ones, others: {seed: value}."""
    return [value - others[seed] for seed, value in ones.items() if seed in others]


def costs(cell, *names):
    """The means of these columns in the end, "-" for what is not known."""
    means = [np.mean(cell.at(name, -1)) for name in names] if cell.seeds else [np.nan]
    return " / ".join("-" if np.isnan(x) else f"{x:.0f}" for x in means)


# --- RLIF's tables --------------------------------------------------------------------------------
def comparison(corner, folders):
    """Commands, without what all have: what they reach, and what the expert is asked for."""
    rows, cells = [], [cell for cell in map(Cell, folders) if cell.seeds]
    unsaid = "^python | --(num-threads 1|cuda|env-id Hopper-v5|expert low)"
    options = [re.split(" (?=--)", re.sub(unsaid, "", cell.command)) for cell in cells]
    for cell, (script, *given) in zip(cells, options):
        own = [x for x in given if len(options) == 1 or not all(x in y for y in options)]
        command = " ".join([script, *own])
        n, scores = len(cell.seeds), [cell.last, cell.at("sampled score", -1), cell.three]
        texts = [mean_of(values, 1, planned=n) for values in scores]
        for name in ("global_step", "labels", "expert_steps"):  # bc.py's steps are of its gradient
            texts.append("-" if script == "bc.py" else mean_of(cell.at(name, -1), planned=n))
        minutes = min(cell.at("wall_seconds", -1)) / 60  # other work only makes it longer
        rows.append([f"`{command}`", ", ".join(map(str, cell.seeds)), *texts, f"{minutes:.1f}"])
    header = [corner, "seeds", "last", "last, sampled actions", "mean of the last three"]
    header += ["environment steps", "labels", "steps of the expert"]
    return markdown([*header, "minutes of the fastest seed"], rows)


def end_of(cell, more=""):
    """The last evaluation by mean / by sampled actions, what else is said, of how many seeds."""
    n = len(cell.seeds)
    texts = [mean_of(cell.at(x, -1), planned=n) for x in ("score", "sampled score")]
    return f"{' / '.join(texts)}{more} n = {n}" if n else f"-{more}"


def reached(cell):
    """As end_of, with the mean of the last three evaluations."""
    three = mean_of(cell.three, planned=len(cell.seeds))
    return end_of(cell, f"; {three}" if cell.seeds else "")


def grid(corner, methods, columns):
    """What methods reach; columns: {title: a cell's folder, with {} for the method}."""
    rows = []
    for method in methods:
        names = [folder.format(method) for folder in columns.values()]
        if method == "bc":  # it asks no expert
            names = [re.sub("-(low|top)-bc", "-bc", name) for name in names]
        rows.append([method, *(reached(Cell(name)) for name in names)])
    what = "mean / sampled actions; mean of the last three"
    return markdown([f"{corner}: {what}", *columns], rows)


def rlif_tables():
    """RLIF's Tables 1 and 3, and what Table 1 cost."""
    rows = []
    for env_id, level in LEVELS:
        score = load_expert(env_id, level).facts["score_mean"]
        cells = [Cell(cell_of(env_id, level, method)) for method in METHODS]
        papers = [f" [{x:.0f}]" for x in PAPER["table1"][env_id][level]]  # bc's only once
        rows.append([f"{env_id}, {level} ({score:.0f})", *map(end_of, cells, papers)])
    yield markdown(["task, expert", *METHODS], rows)
    rows, header = [], ["cost: environment steps / labels / steps of the expert", *METHODS[:-1]]
    for env_id, levels in PAPER["table1"].items():
        cells = [Cell(*(cell_of(env_id, x, method) for x in levels)) for method in METHODS[:-1]]
        rows.append([env_id, *(costs(x, "global_step", "labels", "expert_steps") for x in cells)])
    yield markdown(header, rows)
    rows, references, table3 = [], ["poor", "high", "top"], PAPER["table3"]
    groups = {expert: [expert] for expert in table3} | {"all": list(table3)}
    for group, experts in groups.items():
        cells = [Cell(*(f"table3/{x}-{reference}" for x in experts)) for reference in references]
        papers = [f" [{x:.0f}]" for x in np.mean([table3[x] for x in experts], axis=0)]
        rows.append([group, *map(end_of, cells, papers)])
    yield markdown(["expert \\ reference", *references], rows)


def controls():
    """RLIF without its parts, with the low expert, by task."""
    rows = []
    for method in ("rlif", "rlif-random", "no-labels", "no-charge", "rlpd"):
        names = [f"controls/{env_id}-low-{method}" for env_id in PAPER["table1"]]
        if method in METHODS:
            names = [cell_of(env_id, "low", method) for env_id in PAPER["table1"]]
        names = [name.replace("controls/Hopper-v5-low-", "hopper/") for name in names]
        rows.append([method, *(reached(Cell(name)) for name in names)])
    what = "mean / sampled actions; mean of the last three"
    return markdown([f"controls: {what}", *PAPER["table1"]], rows)


def protocol():
    """What RLIF's cells of Table 1 were run with, in the paper and here; the demonstrations."""
    cells, rows = [Cell(cell_of(env_id, "low", "rlif")) for env_id in PAPER["table1"]], []
    for option, theirs in PAPER["protocol"].items():
        ours = [cell.args.get(option, "-") for cell in cells]
        pairs = [f"{x}; {'-A' if y is None else y}" for x, y in zip(theirs, ours)]
        rows.append([f"`--{option.replace('_', '-')}`", *pairs])
    scores = []
    for env_id, cell in zip(PAPER["table1"], cells):
        env, means = rlif_rlpd.make_env(env_id), []
        for seed in cell.seeds if cell.args else ():
            demos = load_demonstrations(env_id, env, cell.args["demo_episodes"], seed)
            returns = demos["rewards"].sum() / demos["ends"].sum()
            means.append(normalized_score(env_id, returns))
        scores.append(listed(means))
    rows.append(["demonstrations' score, by seed", *scores])
    rows.append(["their checksum, by seed", *(listed(cell.at("demo_hash", -1)) for cell in cells)])
    return markdown(["in the paper; here", *PAPER["table1"]], rows)


def steadiness():
    """RLIF in Table 1: the end of a run, when it gets there, and how often it falls back."""
    rows = []
    for env_id, level in LEVELS:
        cell, goal = Cell(cell_of(env_id, level, "rlif")), 0.9 * PAPER["table1"][env_id][level][0]
        first, after = [], []  # the steps until there, by seed; all scores from there on
        for steps, scores in zip(cell.column("global_step"), cell.scores):
            good = scores >= goal
            there = np.flatnonzero(good[:-2] & good[1:-1] & good[2:])  # three in a row
            first.append(steps[there[0]] if len(there) else np.nan)
            after.extend(scores[there[0] :] if len(there) else [])
        low = sum(score < goal - 20 for score in after)
        texts = f"{goal:.0f}", listed(first), f"{low} of {len(after)}"
        rows.append([f"{env_id}, {level}", mean_of(cell.three, planned=None), *texts])
    header = ["steadiness: task, expert", "mean of the last three", "goal"]
    return markdown([*header, "steps until there, by seed", "evaluations 20 below it later"], rows)


def by_seed(cells, score):
    """Last scores (cells, seeds), of the seeds that all these cells have."""
    known = [dict(zip(cell.seeds, cell.at(score, -1))) for cell in cells]
    seeds = sorted(set.intersection(*map(set, known)))
    return np.array([[one[seed] for seed in seeds] for one in known])


def difference(ones, others, score):
    """The mean of some cells less that of others, and half its 95 % interval (Welch's over seeds).

    Cells are averaged first: in all of them a seed begins with the same draws.
    """
    one, other = (by_seed(cells, score).mean(0) for cells in (ones, others))  # (seeds,) each
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    same = one.std(ddof=1) == other.std(ddof=1) == 0  # in every seed: Welch's formula is 0 / 0
    return one.mean() - other.mean(), 0.0 if same else (high - low) / 2


def verdicts():
    """What the papers claim, as differences: theirs, ours, and whether ours are above zero."""
    scores, found = ("score", "sampled score"), []
    for env_id, levels in PAPER["table1"].items():
        rlif = [Cell(cell_of(env_id, level, "rlif")) for level in levels]
        for method in ("rlif-random", "hg-dagger", "dagger", "bc"):
            k = METHODS.index(method)
            theirs = [figures[k] for figures in levels.values() if figures[k:]]  # bc's only once
            paper = np.mean([figures[0] for figures in levels.values()]) - np.mean(theirs)
            names = dict.fromkeys(cell_of(env_id, level, method) for level in levels)
            ours = [difference(rlif, [*map(Cell, names)], score) for score in scores]
            found.append([f"rlif ends above {method}", env_id, f"{paper:.0f}", ours])
    top, poor = ([Cell(f"table3/{x}-{who}") for x in PAPER["table3"]] for who in ("top", "poor"))
    paper = np.mean([figures[-1] - figures[0] for figures in PAPER["table3"].values()])
    ours = [difference(top, poor, score) for score in scores]
    found.append(["rlif ends higher with a better judge", "Walker2d-v5", f"{paper:.0f}", ours])
    for task, paper in PAPER["figure3"].items():
        ours, cells = [], [Cell(f"figure3/{task}-{method}") for method in CLONERS[:-1]]
        for score in scores:
            mile, *others = by_seed(cells, score)  # (seeds,) each
            more = mile - np.mean(others, axis=0)
            ours.append((more.mean(), half_interval(more)))
        found.append(["mile ends above the others that clone", task, paper, ours])
    rows = []
    for claim, task, paper, ours in found:
        if not np.isfinite(ours).all():  # some have not been run
            continue
        said = ["holds" if x > half else "does not" if x < -half else "open" for x, half in ours]
        texts = [f"{x:.0f} ± {half:.0f}" for x, half in ours]
        rows.append([claim, task, paper, *texts, " / ".join(dict.fromkeys(said))])
    header = ["claim", "task", "in the paper", "here, mean action", "sampled actions", "verdict"]
    return markdown(header, rows)


def aggregated(score="score"):
    """RLIF's Table 1 as a whole: {method: (interquartile mean, better)}, each (value, low, high).

    Better: the probability that a run of RLIF does better than one of the method on the same task
    (equal counts half). Intervals: 95 %, by rliable's stratified bootstrap (Agarwal et al. 2021)
    over seeds. Of every cell as many count as the one with the fewest has; bc's for every expert.
    """
    rng, drawn, found = np.random.default_rng(0), {}, {}
    for method in METHODS:
        names = [cell_of(*task, method) for task in LEVELS]
        cells = {name: Cell(name).at(score, -1) for name in names}
        n = min(map(len, cells.values()))
        if n < 3:
            return {}
        scores = np.array([values[:n] for values in cells.values()])  # (cells, n)
        i = rng.integers(n, size=(2_001, *scores.shape))  # of all draws D
        i[0] = np.arange(n)  # the first is what was found
        columns = [list(cells).index(name) for name in names]
        drawn[method] = np.take_along_axis(scores[None], i, 2)[:, columns]  # (D, tasks, n)
    for method, scores in drawn.items():
        one, other = drawn["rlif"][..., None], scores[..., None, :]
        better = ((one > other) + (one == other) / 2).mean((1, 2, 3))  # (D,)
        iqm = stats.trim_mean(scores.reshape(len(scores), -1), 0.25, axis=1)  # (D,)
        found[method] = [(x[0], *np.percentile(x[1:], (2.5, 97.5))) for x in (iqm, better)]
    return found


def aggregate_table():
    """RLIF's Table 1 as a whole, by the mean action and by sampled ones."""
    rows = {}
    for score in ("score", "sampled score"):
        for method, (iqm, better) in aggregated(score).items():
            texts = ["{:.1f} ({:.1f} to {:.1f})".format(*iqm)]
            texts.append("" if method == "rlif" else "{:.2f} ({:.2f} to {:.2f})".format(*better))
            rows.setdefault(method, [method]).extend(texts)
    header = ["over all tasks: method", "interquartile mean", "rlif is better with probability"]
    header += [f"{name}, sampled actions" for name in header[1:]]
    return markdown(header, rows.values())


# --- MILE's figures, the scripted person, speed ---------------------------------------------------
def mile_tables():
    """MILE's Figures 3, 4 and 5: what is reached, differences seed by seed, what it cost."""
    scores, more, prices = [], [], []
    for suite, task, rounds in FIGURE3 + FIGURE4:
        cells = [Cell(f"{suite}/{task}-{method}") for method in CLONERS]
        path, ends = RESULTS / "persons" / f"{task}.json", []  # {seed: score} of each method
        for cell in cells:
            i = [list(values).index(rounds) for values in cell.column("round")]
            ends.append(dict(zip(cell.seeds, cell.at("score", i))))
        facts = json.loads(path.read_text()) if path.exists() else {}
        names = ("initial_score", "assisted_score", "expert_score", "intervention_cost")
        known = [facts.get(name, np.nan) for name in names]
        known.append(100 * facts.get("intervention_rate", np.nan))
        start = [suite.removeprefix("figure"), task, rounds]
        scores.append([*start, *map(listed, zip(known)), *(mean_of(x.values()) for x in ends)])
        more.append([*start, *(mean_of(differences(x, ends[0])) for x in ends[1:])])
        if rounds == 20:  # in one round all have the same episodes
            prices.append([task, *(costs(cell, "global_step", "expert_steps") for cell in cells)])
    header = ["figure", "task", "rounds", "alone at first", "with the person", "expert", "c"]
    yield markdown([*header, "interventions at first (%)", *CLONERS], scores)
    header = ["difference: figure", "task", "rounds"]
    yield markdown([*header, *(f"{method} − mile" for method in CLONERS[1:])], more)
    header = "cost of 20 rounds: environment steps / steps of the expert"
    yield markdown([header, *CLONERS], prices)
    rows = []
    for name in CLONERS:
        demos = [f"figure5/drawer-{name}-{demos}-demos" for demos in (1, 3, 5)]
        rows.append([name, *(mean_of(Cell(x).last) for x in (f"figure3/drawer-{name}", *demos))])
    yield markdown(["drawer, one round", "0 demonstrations", "1", "3", "5"], rows)


def predictions(corner, suite, tasks):
    """How well mile.py's runs predicted interventions: by its model, a network, the frequency."""
    rows = []
    for task, source in [(t, x) for t in tasks for x in ("model", "network", "majority")]:
        cell, row = Cell(f"{suite}/{task}-mile"), [task, source]
        for name in ("accuracy", "balanced_accuracy", "log_loss"):
            # over all rounds; nan where no step was an intervention, or every one
            row.append(mean_of([np.nanmean(x) for x in cell.column(f"{source}_{name}")], 2))
        rows.append(row)
    return markdown([corner, "predicted by", "accuracy", "balanced accuracy", "log-loss"], rows)


def study_table():
    """The study of scripted_person.py: what their minutes gave, with 1,200 steps a minute."""
    rows = []
    for task in ("lander", "button"):
        clones = Cell(f"study/{task}-demonstrations")
        cloned, rlif = dict(zip(clones.seeds, clones.last)), {}  # last scores, by seed
        for method in RIVALS[:-1]:
            cell, columns = Cell(f"study/{task}-{method}"), [clones.last]
            if not cell.seeds:
                continue
            for minutes in (5, 10, 15):  # the nearest evaluation
                i = [np.abs(x - 1_200 * minutes).argmin() for x in cell.column("global_step")]
                columns.append(cell.at("score", i))
            ends = dict(zip(cell.seeds, columns[-1]))
            columns += [differences(ends, cloned), differences(ends, rlif)]
            columns += [np.divide(cell.at(x, i), 1_200) for x in ("global_step", "expert_steps")]
            rows.append([task, method, *map(mean_of, columns)])
            rlif = ends if method == "rlif" else rlif
    header = ["a scripted person: task", "method", "cloned at first", "after 5 minutes", "10", "15"]
    header += ["15, more than the clone", "more than rlif", "minutes in all", "minutes of control"]
    return markdown(header, rows)


def progress_table():
    """RLIF in Table 1 with a person who goes by Eq. 1, and with one who looks for progress."""
    rows = []
    for env_id, level in LEVELS:
        value, progress = (Cell(cell_of(env_id, level, x)) for x in ("rlif", "rlif-progress"))
        row = [f"{env_id}, {level}"]
        if not progress.seeds:
            continue
        for cell in (value, progress):
            row += [end_of(cell), mean_of(cell.at("takeovers", -1), planned=len(cell.seeds))]
        if min(len(value.seeds), len(progress.seeds)) > 2:
            pairs = [difference([progress], [value], x) for x in ("score", "sampled score")]
            row.append(" / ".join(f"{x:.0f} ± {half:.0f}" for x, half in pairs))
        rows.append(row)
    header = ["Eq. 1 or progress: task, expert", "by value", "takeovers"]
    return markdown([*header, "by progress", "takeovers", "difference"], rows)


def rival_tables():
    """Other ways to use the same person: what is reached, and what it cost."""
    rows, prices = [], []
    for method in RIVALS:
        cells = [Cell(rival_of(*place, method)) for place in PLACES]
        rows.append([method, *map(reached, cells)])
        names = "global_step", "updates", "takeovers", "expert_steps"
        if method != "bc":  # its steps are of its gradient
            prices.append([method, *(costs(cell, *names) for cell in cells)])
    places = [f"{task}, {level}" for task, level in PLACES]
    yield markdown(["rivals: mean / sampled actions; mean of the last three", *places], rows)
    header = "rivals: environment steps / gradient steps / takeovers / steps of the expert"
    yield markdown([header, *places], prices)


def over_run(folder):
    """The mean score over each run, of all steps but the first evaluation's: {seed: score}."""
    cell = Cell(folder)
    parts = zip(cell.seeds, cell.scores, cell.column("global_step"))
    return {seed: np.average(x[1:], weights=np.diff(steps)) for seed, x, steps in parts}


def person_tables():
    """What a person does, one thing changed: what is learned, how soon, and what it takes of them.

    Differences are taken seed by seed: to the same script's usual person, and to nobody.
    """
    header = ["seeds", "mean over the run", "more than usual", "last", "last, sampled actions"]
    header += ["first step at 90", "takeovers", "steps of the expert", "gain per minute of control"]
    for task in ("Hopper-v5-1-demos-low", "Hopper-v5-1-demos-top", "button-state-1-demos-top"):
        rows = []
        for folder in folders_of("when", task):
            cell, name, first = Cell(folder), folder.removeprefix(f"when/{task}-"), []
            if not cell.seeds:
                continue
            own = re.match("(hg-dagger|pvp|hil-serl)?", name)[0]  # the script; "": rlif_rlpd.py
            usual = over_run(f"when/{task}-{own or 'default'}")
            nobody = over_run(f"when/{task}-{own}-nobody".replace("--", "-"))
            means = over_run(folder)
            for steps, scores in zip(cell.column("global_step"), cell.scores):
                first.append(steps[scores >= 90][0] if (scores >= 90).any() else np.nan)
            # 20 steps a second
            minutes = dict(zip(cell.seeds, np.divide(cell.at("expert_steps", -1), 1_200)))
            helped = [seed for seed in means if seed in nobody and minutes[seed]]
            gains = [(means[seed] - nobody[seed]) / minutes[seed] for seed in helped]
            n, scores = len(cell.seeds), [means.values(), differences(means, usual), cell.last]
            scores.append(cell.at("sampled score", -1))
            row = [name, listed(cell.seeds), *(mean_of(values, planned=n) for values in scores)]
            row.append(listed(first))
            row += [mean_of(cell.at(x, -1), planned=n) for x in ("takeovers", "expert_steps")]
            rows.append([*row, mean_of(gains, 1, planned=n)])
        yield markdown([f"the person, {task}", *header], rows)


def speed_table(folders="speed*", first="device"):
    """What benchmark/speed.py has measured of updates, or of pictures."""
    texts = [file.read_text() for file in sorted(RESULTS.glob(f"{folders}/*.csv"))]
    rows = [row for text in texts for row in csv.DictReader(text.splitlines())]
    names = list((rows or [{first: ""}])[0])
    cells = [[row[name] for name in names] for row in rows]  # files may have more columns
    return markdown([name.replace("_", " ") for name in names], cells)


def compared():
    """The tables of commands: (first cell, folders of results) of each."""
    yield "command", [f"hopper/{method}" for method in COMPARED]
    for task, name in (("Walker2d-v5", "walker2d"), ("AdroitHandPen-v1", "pen")):
        yield f"tuning on {task}: command", folders_of("tuning", name)
        yield f"on {task}: command", folders_of("tried", name)
    yield "tuning on the peg: command", folders_of("tuning", "peg")
    for name in ("hil-serl", "pvp"):
        yield f"tuning of {name}: command", folders_of("tuning", name)
    for task in PAPER["table1"]:
        yield f"imitators on {task}: command", folders_of("tuning", task)
    yield "options: command", folders_of("options")
    yield "one thing at a time: command", folders_of("walker2d")
    pairs = []
    for folder in folders_of("critics-first"):
        pairs += [folder.replace("critics-first", "figure3"), folder]
    yield "critics first: command", pairs


def all_tables():
    """Every table of README.md and docs/, as Markdown."""
    return [
        *(verdicts(), protocol(), *rlif_tables(), aggregate_table(), steadiness()),
        *(controls(), grid("fewer demonstrations", reversed(COMPARED), FEW)),
        *(grid("button", PICTURED, BUTTON), grid("peg", PICTURED, PEG)),
        *(comparison(*given) for given in compared()),
        *(markdown(*table) for table in judge.tables()),
        *(*mile_tables(), progress_table(), *person_tables(), *rival_tables(), study_table()),
        *(speed_table(), speed_table("pictures", "pictures of")),
        predictions("task", "figure4", ("drawer", "peg")),
        predictions("a scripted person: takeovers", "study", ("lander", "button")),
    ]


# --- pictures -------------------------------------------------------------------------------------
def hopper_picture():
    """Score and expert's share over steps: every seed thin, the mean thick."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    cell = Cell("hopper/rlif")
    steps = np.array(cell.column("global_step"))  # (seeds, evaluations)
    score, rate = np.array(cell.scores), 100 * np.array(cell.column("intervention_rate"))
    rate[steps == 0] = np.nan  # before the first step it is of nothing
    labels = "normalized score, mean action", "steps of the expert (%)"
    for axis, values, label in zip(axes, (score, rate), labels):
        axis.plot(steps.T, values.T, color="C0", alpha=0.35, linewidth=1)
        axis.plot(steps.mean(0), values.mean(0), color="C0", linewidth=2.5)
        axis.set(ylim=(0, None), xlabel="environment steps", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    score = load_expert("Hopper-v5", "low").facts["score_mean"]
    cloned = np.mean(Cell("hopper/bc").last)
    axes[0].axhline(cloned, color="0.5", linestyle="--", label="cloning the demonstrations")
    axes[0].axhline(score, color="0.5", linestyle=":", label="the expert who takes over")
    figure.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=9)
    return figure


# --- an episode -----------------------------------------------------------------------------------
def play(run):
    """Of the steps SHOWN of an episode: expert acts, flagged, takeover starts, value, frames."""
    options = rlif_rlpd.Args(**json.loads(Path(run, "args.json").read_text()))
    env_id = TRAINING_TASKS.get(options.env_id, options.env_id)
    env = rlif_rlpd.make_env(env_id, options.max_episode_steps, render_mode="rgb_array")
    names = f"{run}/model.safetensors", options.expert, options.reference
    policy, expert, reference = (load_expert(options.env_id, name, env) for name in names)
    human = rlif_rlpd.ValueHuman(options, reference, np.random.default_rng(1))
    filmed = np.linspace(SHOWN[0], SHOWN[-1], 8).round()
    torch.manual_seed(1)
    (obs, _), rows, ended, expert_until, next_check = env.reset(seed=1), [], False, 0, 0
    while not ended and len(rows) <= SHOWN[-1]:
        t, flagged, started = len(rows), False, False
        frame = env.render() if t in filmed else None
        value = policy.q(obs[None], policy.act(obs[None], deterministic=True)).item()
        actions = policy.act(obs[None])[0].numpy()
        if t >= next_check:
            flagged, started, length = human.check(obs, actions, t)
            if length:
                expert_until, next_check = t + length, t + length + human.grace_steps
        if t < expert_until:
            actions = expert.act(obs[None])[0].numpy()
        rows.append((t < expert_until, flagged, started, value, frame))
        obs, _, terminated, truncated, _ = env.step(actions)
        ended = terminated or truncated
    return rows[SHOWN[0] :]


def episode_picture(rows):
    """Of what play() returns: film strip, value, who acts, what is flagged, which steps get -1."""
    by_expert, flagged, started, values, frames = map(list, zip(*rows))
    steps, colours = np.array(SHOWN[: len(rows)]), [f"C{int(acts)}" for acts in by_expert]
    filmed = [i for i, frame in enumerate(frames) if frame is not None]
    figure = plt.figure(figsize=(10, 4.2), layout="constrained")
    grid = figure.add_gridspec(3, len(filmed), height_ratios=(1.6, 1.6, 1))
    for column, i in enumerate(filmed):
        axis = figure.add_subplot(grid[0, column], xticks=[], yticks=[])
        axis.imshow(frames[i])
        axis.set_title(f"step {steps[i]}", fontsize=8, color=colours[i])
    above = figure.add_subplot(grid[1, :], xlim=(steps[0] - 0.5, steps[-1] + 0.5), xticklabels=[])
    above.plot(steps, values, color="0.3")
    above.set(ylabel="value of the state,\nby the critics")
    bar = figure.add_subplot(grid[2, :], xlim=above.get_xlim(), ylim=(0, 1.6), yticks=[])
    bar.bar(steps, 1, width=0.9, color=colours)
    bar.plot(steps[flagged], np.full(sum(flagged), 1.3), "vC3")
    labelled = steps[:-1][started[1:]]
    bar.plot(labelled, np.full(len(labelled), 1.3), "k", marker="$-1$", markersize=11, linestyle="")
    bar.set(xlabel="step")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ("C0", "C1")] + bar.lines
    names = "the policy acts", "the expert acts", "flagged", "reward of the step before a takeover"
    figure.legend(handles, names, loc="outside lower center", ncol=4, frameon=False, fontsize=9)
    return figure


# --- main -----------------------------------------------------------------------------------------
def rewrite(text, tables):
    """A page's text with these tables in the place of those with the same first cell."""
    for table in tables:
        first = re.escape(table[: table.index("|", 1) + 1])
        text = re.sub(rf"^{first}.*\n(\|.*\n)*", lambda _: f"{table}\n", text, flags=re.M)
    return text


def main(
    episode: str | None = None,  # a finished run of rlif_rlpd.py: draw an episode, nothing else
):
    name = "episode" if episode else "hopper"
    picture = episode_picture(play(episode)) if episode else hopper_picture()
    picture.savefig(ROOT / "benchmark" / "figures" / f"{name}.png", dpi=130)
    tables = [] if episode else all_tables()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        write(page, rewrite(page.read_text(), tables))
    print("\n\n".join(tables))


if __name__ == "__main__":
    command_line(main, __doc__)
