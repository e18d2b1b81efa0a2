"""Makes the tables and pictures of README.md and docs/ from benchmark/results.

    python benchmark/report.py                       # tables, and pictures in benchmark/figures
    python benchmark/report.py --episode runs/<run>  # only the README's first picture, of this run

It prints every table, and puts it where the one with the same first cell is.
"""

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
from files import RESULTS, ROOT, command_line, read_evaluations, read_rows, scores_of, write
from run import suites
from scipy import stats

import rlif_rlpd
from experts import TRAINING_TASKS, load_expert

PAPER = tomllib.loads((ROOT / "benchmark" / "paper.toml").read_text())
METHODS = ["rlif", "rlif-random", "hg-dagger", "hg-dagger-85", "dagger", "dagger-85", "bc"]
LEVELS = [(env_id, level) for env_id, levels in PAPER["table1"].items() for level in levels]
# of MILE's figures, one round on five tasks and twenty on two: suite, task, rounds
CLONERS = ["mile", "bc-intervention", "iwr", "sirius", "hg-dagger", "rlif"]
FIGURE3 = [("figure3", t, 1) for t in ("lander", "lander_continuous", "drawer", "peg", "button")]
FIGURE4 = [("figure4", task, rounds) for task in ("drawer", "peg") for rounds in (10, 20)]
AT_FIRST = {  # what benchmark/person.py has found: how its line is drawn
    "initial_score": (":", "the robot at first, alone"),
    "assisted_score": ("--", "the robot at first, with the person"),
    "expert_score": ("-", "the person alone"),
}
SHOWN = range(20, 80)  # steps of the episode that is drawn


class Cell:
    """The finished runs in some folders of results, in the order of their seeds."""

    def __init__(self, *folders):
        paths = [path for folder in folders for path in (RESULTS / folder).glob("seed_*.json")]
        paths.sort(key=lambda path: int(path.stem.removeprefix("seed_")))
        command = json.loads(paths[0].read_text())["command"] if paths else ""
        self.command = re.sub("^python | --num-threads 1| --cuda", "", command)
        self.seeds = [int(path.stem.removeprefix("seed_")) for path in paths]
        self.runs = [read_evaluations(path.with_suffix(".csv")) for path in paths]
        self.scores = [scores_of(run) for run in self.runs]  # with the mean action
        self.last, self.best = self.at("score", -1), [max(scores) for scores in self.scores]

    def column(self, name):
        """A column of eval.csv, (evaluations,) of each run; nan where it has no such column."""
        if name in ("score", "sampled score"):
            kind = "stochastic_" if name == "sampled score" else ""
            return [scores_of(run, kind) for run in self.runs]
        unknown = [np.full(len(run), np.nan) for run in self.runs]
        return [run[name] if name in run.dtype.names else x for run, x in zip(self.runs, unknown)]

    def at(self, name, which, scale=1):
        """A column at one evaluation, a number of each run; which: one for all, or one of each."""
        which = which if isinstance(which, list) else [which] * len(self.runs)
        return [scale * values[i] for values, i in zip(self.column(name), which)]

    def more_than(self, other):
        """How much more than another cell's runs with the same seeds these reach."""
        others = dict(zip(other.seeds, other.last))
        return [x - others[seed] for seed, x in zip(self.seeds, self.last) if seed in others]


def cell_of(env_id, level, method):
    """The folder of a cell of Table 1."""
    return f"table1/{env_id}-bc" if method == "bc" else f"table1/{env_id}-{level}-{method}"


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
    """Mean ± half the interval of what is known, and of how many, if not as many as planned."""
    values = [value for value in values if not np.isnan(value)]
    text = f"{np.mean(values):.{digits}f}" if values else "-"
    text += f" ± {half_interval(values):.{digits}f}" if len(values) > 1 else ""
    return text if len(values) in (0, planned) else f"{text} (n = {len(values)})"


def listed(values):
    """A number of each seed, in their order."""
    return ", ".join("-" if np.isnan(value) else f"{round(value)}" for value in values)


def costs(cell):
    """Means, as far as they are known: environment steps / labels / steps of the expert."""
    numbers = [cell.at(name, -1) for name in ("global_step", "labels", "expert_steps")]
    means = [np.mean(values or [np.nan]) for values in numbers]
    return " / ".join(f"{mean:.0f}" for mean in means if not np.isnan(mean)) or "-"


# --- RLIF's tables --------------------------------------------------------------------------------
def seeds_of_rlif():
    """The default command: a line for each seed, and mean and standard deviation over seeds."""
    cell, rates = Cell("hopper/rlif"), []
    for steps, rate in zip(cell.column("global_step"), cell.column("intervention_rate")):
        rates.append(100 * rate[steps > 0])  # before the first step it is of nothing
    columns = [cell.last, cell.at("stochastic_normalized_score", -1), cell.best]
    columns += [[rate[0] for rate in rates], [rate[-1] for rate in rates]]
    numbers = np.array([*columns, cell.at("wall_seconds", -1, 1 / 60)]).T  # (seeds, 6)
    form = "{:.1f}|{:.1f}|{:.1f}|{:.0f} % → {:.0f} %|{:.1f}"
    rows = [[seed, *form.format(*row).split("|")] for seed, row in zip(cell.seeds, numbers)]
    if len(rows) > 1:
        rows.append([f"mean ± std, n = {len(rows)}", *form.format(*numbers.mean(0)).split("|")])
        std = [f" ± {x:.1f}" for x in numbers[:, :3].std(0, ddof=1)]
        rows[-1][1:4] = [mean + plus for mean, plus in zip(rows[-1][1:4], std)]
    header = ["seed", "last", "last, sampled actions", "best", "interventions, first → last"]
    return markdown([*header, "minutes"], rows)


def comparison():
    """Methods on Hopper-v5: what they reach, and what the expert is asked for."""
    names, rows = ["bc", "bc-5-demos", "dagger", "hg-dagger", "hg-dagger-value", "rlif"], []
    for cell in [Cell(f"hopper/{name}") for name in (*names, "rlif-5-demos")]:
        command = re.sub(" --(env-id Hopper-v5|expert low)", "", cell.command)
        columns = [(cell.last, 1), (cell.at("stochastic_normalized_score", -1), 1)]
        for name in ("global_step", "labels", "takeovers"):  # bc.py's steps are of its gradient
            columns.append(([] if "bc.py" in command else cell.at(name, -1), 0))
        columns.append((cell.at("flagged_rate", -1, 100), 1))
        cells = [mean_of(values, digits, len(cell.seeds)) for values, digits in columns]
        minutes = min(cell.at("wall_seconds", -1, 1 / 60), default=0)  # others only make it longer
        rows.append([f"`{command}`", ", ".join(map(str, cell.seeds)), *cells, f"{minutes:.1f}"])
    header = ["command", "seeds", "last", "last, sampled actions", "environment steps", "labels"]
    header += ["takeovers", "flagged at the end (%)", "minutes of the fastest seed"]
    return markdown(header, [row for row in rows if row[1]])


def last_and_best(corner, header, rows):
    """Tables of (cell, the paper's figure): the last evaluation, by both actions, and the best."""
    last, sampled, best = [], [], []
    for label, *pairs in rows:
        for part, name in ((last, "score"), (sampled, "sampled score")):
            part.append([label, *(mean_of(cell.at(name, -1), planned=None) for cell, _ in pairs)])
        means = [listed([np.mean(cell.best or np.nan)]) for cell, _ in pairs]
        best.append([label, *(f"{x} ({paper:.0f})" for x, (_, paper) in zip(means, pairs))])
    tables = zip(("last", "last, sampled actions", "best"), (last, sampled, best))
    return [markdown([f"{name}: {corner}", *header], rows) for name, rows in tables]


def rlif_tables():
    """RLIF's Tables 1 and 3, and what Table 1 cost."""
    rows, header = [], ["cost: environment steps / labels / steps of the expert", *METHODS[:-1]]
    for env_id, level in LEVELS:
        score = load_expert(env_id, level).facts["score_mean"]
        cells = [Cell(cell_of(env_id, level, method)) for method in METHODS]
        pairs = zip(cells, PAPER["table1"][env_id][level])
        rows.append([f"{env_id}, {level} ({score:.0f})", *pairs])
    tables, rows = last_and_best("task, expert", METHODS, rows), []
    for env_id, levels in PAPER["table1"].items():
        cells = [Cell(*(cell_of(env_id, x, method) for x in levels)) for method in METHODS[:-1]]
        rows.append([env_id, *map(costs, cells)])
    tables.append(markdown(header, rows))
    references, papers = ["poor", "high", "top"], PAPER["table3"]
    folders = {expert: [f"table3/{expert}-{x}" for x in references] for expert in papers}
    for expert in ("top", "low"):  # what Table 1 has is not repeated
        folders[expert][-1] = cell_of("Walker2d-v5", expert, "rlif")
    rows = [[expert, *zip(map(Cell, folders[expert]), papers[expert])] for expert in papers]
    cells = [Cell(*column) for column in zip(*folders.values())]
    rows.append(["all", *zip(cells, np.mean(list(papers.values()), axis=0))])
    return tables + last_and_best("expert \\ reference", references, rows)


def overview(corner, suite, start=""):
    """rlif_rlpd.py with other options, of which those are left out that all rows have."""
    names = [name for name in suites()[suite] if name.startswith(start)]
    names += sorted({path.name for path in RESULTS.glob(f"{suite}/{start}*")} - set(names))
    cells = [cell for cell in (Cell(f"{suite}/{name}") for name in names) if cell.seeds]
    options = [re.split(" (?=--)", cell.command)[1:] for cell in cells]
    rows = []
    for cell, named in zip(cells, options):
        own = [option for option in named if not all(option in others for others in options)]
        half = [int((steps < steps[-1] / 2).sum()) for steps in cell.column("global_step")]
        columns = [cell.at("score", half), cell.last, cell.best]
        columns += [cell.at(name, -1, 100) for name in ("flagged_rate", "intervention_rate")]
        label = f"`{' '.join(own)}`" if own else "none"
        rows.append([label, ", ".join(map(str, cell.seeds)), *map(listed, columns)])
    header = [corner, "seeds", "half-way", "at the end", "best", "flagged at the end (%)"]
    return markdown([*header, "steps of the expert at the end (%)"], rows)


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
    header, rows = ["interquartile mean", "rlif is better with probability"], {}
    form = "{:.1f} ({:.1f} to {:.1f})|{:.2f} ({:.2f} to {:.2f})"
    for score in ("score", "sampled score"):
        for method, (iqm, better) in aggregated(score).items():
            iqm, better = form.format(*iqm, *better).split("|")
            rows.setdefault(method, [method]).extend([iqm, better * (method != "rlif")])
    header = ["over all tasks: method", *header, *(f"{name}, sampled actions" for name in header)]
    return markdown(header, rows.values())


# --- MILE's figures, the scripted person, speed ---------------------------------------------------
def reached(suite, task, rounds):
    """The cells of a setting of MILE's figures, after so many rounds; what is known at first."""
    cells, path = [Cell(f"{suite}/{task}-{name}") for name in CLONERS], f"persons/{task}.json"
    for cell in cells:
        i = [list(values).index(rounds) for values in cell.column("round")]
        cell.last = cell.at("score", i)
    there = (RESULTS / path).exists()
    return cells, json.loads((RESULTS / path).read_text()) if there else {}


def mile_tables():
    """MILE's Figures 3, 4 and 5: what is reached, differences seed by seed, what it cost."""
    scores, more, cost_rows = [], [], {}
    for suite, task, rounds in FIGURE3 + FIGURE4:
        cells, facts = reached(suite, task, rounds)
        known = [facts.get(name, np.nan) for name in (*AT_FIRST, "intervention_cost")]
        known.append(100 * facts.get("intervention_rate", np.nan))
        start = [suite.removeprefix("figure"), task, rounds]
        scores.append([*start, *map(listed, zip(known)), *(mean_of(cell.last) for cell in cells)])
        more.append([*start, *(mean_of(cell.more_than(cells[0])) for cell in cells[1:])])
        cost_rows[suite, task] = [*start[:2], *map(costs, cells)]
    header = ["figure", "task", "rounds", "alone at first", "with the person", "expert", "c"]
    yield markdown([*header, "interventions at first (%)", *CLONERS], scores)
    header = ["difference: figure", "task", "rounds"]
    yield markdown([*header, *(f"{method} − mile" for method in CLONERS[1:])], more)
    header = ["cost: figure", "task: environment steps / steps of the expert", *CLONERS]
    yield markdown(header, cost_rows.values())
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
        clones, rlif = Cell(f"study/{task}-demonstrations"), None
        for method in ("rlif", "hg-dagger", "mile"):
            cell, columns = Cell(f"study/{task}-{method}"), [clones.last]
            for minutes in (5, 10, 15):  # the nearest evaluation
                away = [np.abs(steps - 1_200 * minutes) for steps in cell.column("global_step")]
                i = [int(steps.argmin()) for steps in away]
                columns.append(cell.at("score", i))
            cell.last = columns[-1]
            columns += [cell.more_than(clones), cell.more_than(rlif) if rlif else []]
            columns += [cell.at(name, i, 1 / 1_200) for name in ("global_step", "expert_steps")]
            rows.append([task, method, *map(mean_of, columns)])
            rlif = rlif or cell
    header = ["a scripted person: task", "method", "cloned at first", "after 5 minutes", "10", "15"]
    header += ["15, more than the clone", "more than rlif", "minutes in all", "minutes of control"]
    return markdown(header, rows)


def speed_table():
    """benchmark/speed.py: milliseconds of an update, and its share of a plain product's speed."""
    names = ["device", "threads", "num_qs", "utd_ratio", "path", "precision", "ms"]
    names += ["product_gflops", "share_of_product"]
    rows = [row for file in sorted(RESULTS.glob("speed*/*.csv")) for row in read_rows(file)]
    header = [name.replace("_", " ") for name in names]
    return markdown(header, [[row[name] for name in names] for row in rows])


def all_tables():
    """Every table of README.md and docs/, as Markdown."""
    return [
        *(seeds_of_rlif(), comparison(), *rlif_tables(), aggregate_table()),
        overview("options on Hopper-v5", "options"),
        overview("options on Walker2d-v5", "tried", "walker2d"),
        overview("options on AdroitHandPen-v1", "tried", "pen"),
        overview("tried on Walker2d-v5", "walker2d"),
        overview("tuning on Walker2d-v5", "tuning", "walker2d"),
        *(markdown(judge.HEADER, judge.table()), *mile_tables(), study_table(), speed_table()),
        predictions("task", "figure4", ("drawer", "peg")),
        predictions("a scripted person: takeovers", "study", ("lander", "button")),
    ]


# --- pictures -------------------------------------------------------------------------------------
def dots(axis, values, lines, **labels):
    """Values with their intervals, {method: (value, low, high)}, the first at the top."""
    for i, (value, low, high) in enumerate(values.values()):
        axis.errorbar(value, i, xerr=[[value - low], [high - value]], fmt="oC0", capsize=3)
    for x, style in lines:
        axis.axvline(x, color="0.5", linewidth=1, linestyle=style)
    axis.set_yticks(range(len(values)), values)
    axis.set(ylim=(len(values) - 0.5, -0.5), **labels)
    axis.spines[["top", "right"]].set_visible(False)


def mile_picture(settings):
    """What every method reaches in some settings of MILE's figures."""
    size = (2.2 * len(settings) + 1, 2.9)
    figure, axes = plt.subplots(1, len(settings), figsize=size, sharey=True, layout="constrained")
    for axis, (suite, task, rounds) in zip(axes, settings):
        cells, facts = reached(suite, task, rounds)
        means = [(np.mean(cell.last or np.nan), half_interval(cell.last)) for cell in cells]
        values = {name: (x, x - half, x + half) for name, (x, half) in zip(CLONERS, means)}
        lines = [(facts[name], style) for name, (style, _) in AT_FIRST.items() if facts]
        title = task if rounds == 1 else f"{task}, {rounds} rounds"
        unit = "return" if task.startswith("lander") else "success (%)"
        dots(axis, values, lines, title=title, xlabel=unit)
    lines = [plt.Line2D([], [], color="0.5", linestyle=style) for style, _ in AT_FIRST.values()]
    names = [name for _, name in AT_FIRST.values()]
    figure.legend(lines, names, loc="outside lower center", ncol=3, frameon=False, fontsize=8)
    return figure


def table1_picture():
    """The two numbers of aggregated(), with their intervals."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
    values = aggregated()
    iqm, better = ({method: pair[i] for method, pair in values.items()} for i in (0, 1))
    better |= {"rlif": [np.nan] * 3}
    dots(axes[0], iqm, [], xlabel="interquartile mean of the last evaluations (%)")
    dots(axes[1], better, [(0.5, "--")], xlabel="probability that rlif does better")
    return figure


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
    levels = [(np.mean(Cell("hopper/bc").last), "--", "cloning the demonstrations")]
    score = load_expert("Hopper-v5", "low").facts["score_mean"]
    for y, style, label in [*levels, (score, ":", "the expert who takes over")]:
        axes[0].axhline(y, color="0.5", linestyle=style, label=label)
    figure.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=9)
    return figure


# --- an episode -----------------------------------------------------------------------------------
def play(run):
    """The steps SHOWN of an episode of a run's policy with its person; of eight with a frame.

    Of each: does the expert act, is the proposal flagged, does a takeover start, the state's value.
    """
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
            flagged, started, length = human.check(obs, actions)
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
    if episode:
        pictures, tables = {"episode": episode_picture(play(episode))}, []
    else:
        pictures, tables = {"hopper": hopper_picture(), "table1": table1_picture()}, all_tables()
        pictures |= {"mile-one-round": mile_picture(FIGURE3), "mile": mile_picture(FIGURE4)}
    for name, picture in pictures.items():
        picture.savefig(ROOT / "benchmark" / "figures" / f"{name}.png", dpi=130)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        write(page, rewrite(page.read_text(), tables))
    print("\n\n".join(tables))


if __name__ == "__main__":
    command_line(main, __doc__)
