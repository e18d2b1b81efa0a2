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

# which makes experts importable
from run import (
    ROOT,
    read_evaluations,
    results_of,
    scores_of,
    suites,
)
from scipy import stats

from experts import load_expert

NOVICE = "#4c78a8"
SEEDS = 5  # of each cell of MILE's figures
# of RLIF's Table 1, but for BC
METHODS = (
    "rlif",
    "rlif-random",
    "hg-dagger",
    "hg-dagger-85",
    "dagger",
    "dagger-85",
)
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


def interval(values):
    """Half the width of the 95 % confidence interval of the mean (Student's t); nan for a single value."""
    if len(values) < 2:
        return np.nan
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def mean_and_interval(values, planned, digits=0):
    """For a table: mean ± half the width of the 95 % interval, and how many values, unless as many as planned."""
    if not len(values):
        return "-"
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {interval(values):.{digits}f}"
    return text if len(values) == planned else f"{text} (n = {len(values)})"


def without_threads(command):
    """A command but for what does not change what comes out."""
    return command.removeprefix("python ").replace(" --num-threads 1", "")


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


def table(runs):
    """A Markdown table: a line for each seed, and, of several, mean and standard deviation over seeds."""
    names = (
        "seed",
        "last",
        "last, sampled actions",
        "best",
        "interventions, first → last",
        "minutes",
    )
    lines = [f"| {' | '.join(names)} |", "|-|-|-|-|-|-|"]
    numbers = []
    for seed, run in runs.items():
        score, rate = run.columns["normalized_score"], 100 * run.columns["intervention_rate"]
        sampled, minutes = (
            run.columns["stochastic_normalized_score"][-1],
            run.columns["wall_seconds"][-1] / 60,
        )
        numbers.append((score[-1], sampled, score.max(), rate[0], rate[-1], minutes))
        scores = f"{score[-1]:.1f} | {sampled:.1f} | {score.max():.1f}"
        lines.append(f"| {seed} | {scores} | {rate[0]:.0f} % → {rate[-1]:.0f} % | {minutes:.1f} |")
    if len(runs) < 2:
        return "\n".join(lines)
    mean, std = np.mean(numbers, 0), np.std(numbers, 0, ddof=1)
    scores = " | ".join(f"{m:.1f} ± {s:.1f}" for m, s in zip(mean[:3], std[:3]))
    lines.append(
        f"| mean ± std, n = {len(runs)} | {scores} | {mean[3]:.0f} % → {mean[4]:.0f} % | {mean[5]:.1f} |"
    )
    return "\n".join(lines)


def overview(what, folders):
    """A Markdown table of rlif_rlpd.py with other options: the scores of all seeds in their order, mean action."""
    lines = [f"| {what} | seeds | at 30,000 steps | at the end | best |", "|-|-|-|-|-|"]
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
        options = without_threads(first.summary["command"]).removeprefix("rlif_rlpd.py").strip()
        label = f"`{options}`" if options else "none"
        lines.append(
            f"| {label} | {' | '.join(', '.join(map(str, cell)) for cell in (runs, early, last, best))} |"
        )
    return "\n".join(lines)


def comparison(folders):
    """A Markdown table of methods by their default commands: what they reach and what the expert is asked for."""
    names = [
        "command",
        "seeds",
        "last",
        "last, sampled actions",
        "environment steps",
        "labels",
        "takeovers",
    ]
    names += ["flagged at the end (%)", "minutes"]
    lines = [f"| {' | '.join(names)} |", "|" + "-|" * len(names)]
    for folder in folders:
        runs, rows = load(folder), []  # a row for each seed; nan: unknown, or not of this method
        if not runs:
            continue
        for run in runs.values():
            last = run.columns[-1]
            asked = [run.summary.get(name, np.nan) for name in ("env_steps", "labels", "takeovers")]
            flagged = 100 * last["flagged_rate"] if "flagged_rate" in last.dtype.names else np.nan
            minutes = last["wall_seconds"] / 60
            scores = last["normalized_score"], last["stochastic_normalized_score"]
            rows.append((*scores, *asked, flagged, minutes))
        cells = []
        for column, digits in zip(np.array(rows).T, (1, 1, 0, 0, 0, 1, 1)):  # (seeds,)
            cells.append(mean_and_interval(column[~np.isnan(column)], len(runs), digits))
        first = next(iter(runs.values()))
        label = f"`{without_threads(first.summary['command'])}` | {', '.join(map(str, runs))}"
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    """The mean of the last and of the best evaluations over seeds, mean action, and the paper's figure in brackets."""
    runs = load(folder).values()
    if not runs:
        return f"- ({paper:.0f})"
    last, best = [run.scores[-1] for run in runs], [run.scores.max() for run in runs]
    return f"{mean_and_interval(last, len(runs))} / {np.mean(best):.0f} ({paper:.0f})"


def paper_tables(results):
    """Two Markdown tables: RLIF's Tables 1 and 3, for the experts shipped."""
    lines = [f"| task, expert | {' | '.join(METHODS)} | bc |", "|-|" + "-|" * (len(METHODS) + 1)]
    for env_id, levels in EXPERTS.items():
        for level in levels:
            folders = [results / "table1" / f"{env_id}-{level}-{method}" for method in METHODS]
            cells = [
                cell(folder, paper) for folder, paper in zip(folders, PAPER[f"{env_id}-{level}"])
            ]
            bc = f"{env_id}-bc"
            cells.append(cell(results / "table1" / bc, *PAPER[bc]) if level == levels[0] else "")
            score = load_expert(env_id, level).facts["score_mean"]
            lines.append(f"| {env_id}, {level} ({score:.0f}) | {' | '.join(cells)} |")
    lines += ["", f"| expert \\ reference | {' | '.join(REFERENCES)} |", "|-|-|-|-|"]
    for expert in PAPER_REFERENCES:
        cells = []
        for reference, paper in zip(REFERENCES, PAPER_REFERENCES[expert]):
            folder = f"table3/{expert}-{reference}"
            if folder.removeprefix("table3/") not in suites()["table3"]:
                folder = f"table1/Walker2d-v5-{expert}-rlif"
            cells.append(cell(results / folder, paper))
        lines.append(f"| {expert} | {' | '.join(cells)} |")
    return "\n".join(lines)


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


def mile_methods(results):
    """A Markdown table: what all methods reach in the settings of MILE's Figures 3 and 4."""
    settings = [("figure3", task, 1) for task in TASKS]
    settings += [("figure4", task, rounds) for task in LONG_TASKS for rounds in (10, 20)]
    header = ["figure", "task", "rounds", "alone at first", "with the person", "expert", "c"]
    header += ["interventions at first (%)", *MARKERS]
    lines = [f"| {' | '.join(header)} |", "|" + "-|" * len(header)]
    for name, task, rounds in settings:
        facts, cells = before(results, task), ["-"] * 5
        if facts:
            cells = [f"{facts[key]:.0f}" for key in LEVELS]
            cells += [f"{facts['intervention_cost']:g}", f"{100 * facts['intervention_rate']:.0f}"]
        for method in MARKERS:
            cells.append(mean_and_interval(mile_scores(results, name, task, method, rounds), SEEDS))
        lines.append(f"| {name[-1]} | {task} | {rounds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mile_differences(results):
    """A Markdown table: how much more than MILE the others reach, seed by seed, in Figures 3 and 4."""
    settings = [("figure3", task, 1) for task in TASKS]
    settings += [("figure4", task, rounds) for task in LONG_TASKS for rounds in (10, 20)]
    others = [method for method in MARKERS if method != "mile"]
    header = ["figure", "task", "rounds", *(f"{method} − mile" for method in others)]
    lines = [f"| {' | '.join(header)} |", "|" + "-|" * len(header)]
    for name, task, rounds in settings:
        found, cells = {}, []  # found: {method: {seed: score}}
        for method in MARKERS:
            seeds = load(results / name / f"{task}-{method}")
            found[method] = dict(zip(seeds, mile_scores(results, name, task, method, rounds)))
        for method in others:
            both = found[method].keys() & found["mile"].keys()
            differences = [found[method][seed] - found["mile"][seed] for seed in both]
            cells.append(mean_and_interval(differences, SEEDS))
        lines.append(f"| {name[-1]} | {task} | {rounds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mile_costs(results):
    """A Markdown table: what all methods cost in the settings of MILE's Figures 3 and 4."""
    settings = [("figure3", task) for task in TASKS] + [("figure4", task) for task in LONG_TASKS]
    header = [
        "figure",
        "task: environment steps / interventions / their share / gradient steps",
        *MARKERS,
    ]
    lines = [f"| {' | '.join(header)} |", "|" + "-|" * len(header)]
    for name, task in settings:
        cells = [cost(mile_runs(results, name, task, method)) for method in MARKERS]
        lines.append(f"| {name[-1]} | {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    lines = ["| drawer, one round | 0 demonstrations | 1 | 3 | 5 |", "|-|-|-|-|-|"]
    for method in MARKERS:
        scores = [mile_scores(results, "figure3", "drawer", method, 1)]
        scores += [
            mile_scores(results, "figure5", "drawer", f"{method}-{demos}-demos", 1)
            for demos in (1, 3, 5)
        ]
        lines.append(
            f"| {method} | {' | '.join(mean_and_interval(values, SEEDS) for values in scores)} |"
        )
    return "\n".join(lines)


def mile_predictions(results):
    """A Markdown table: how well interventions were predicted, the mean over the rounds of Figure 4's setting."""
    lines = ["| task | predicted by | accuracy | balanced accuracy | log-loss |", "|-|-|-|-|-|"]
    for task in LONG_TASKS:
        runs = mile_runs(results, "figure4", task, "mile")
        for source in ("model", "network", "majority"):
            cells = []
            for what in ("accuracy", "balanced_accuracy", "log_loss"):
                # two evaluations of each run, of ten rounds each; nan where no step, or every step, was an intervention
                values = [np.nanmean(run.columns[f"{source}_{what}"]) for run in runs]
                cells.append(mean_and_interval(values, SEEDS, digits=2))
            lines.append(f"| {task} | {source} | {' | '.join(cells)} |")
    return "\n".join(lines)


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


def speed_tables(folder):
    """Two Markdown tables: milliseconds of an update by number of critics and UTD ratio; the default run's speed."""
    with open(folder / "updates.csv") as updates, open(folder / "runs.csv") as runs:
        rows, runs = list(csv.DictReader(updates)), list(csv.DictReader(runs))
    by_key = {
        tuple(r[k] for k in ("device", "threads", "num_qs", "utd_ratio", "path", "precision")): r
        for r in rows
    }
    forms = [("eager", "float32"), ("compiled", "float32"), ("compiled", "bfloat16")]
    lines = [
        "| | critics | critic updates | plain | `--compile` | `--compile --bf16` |",
        "|-|-|-|-|-|-|",
    ]
    for device, threads, num_qs, utd in dict.fromkeys(key[:4] for key in by_key):
        cells = []
        for form in forms:
            row = by_key[device, threads, num_qs, utd, *form]
            times_jax = f", {row['times_jax']} × JAX" if row["times_jax"] else ""
            share = f" ({100 * float(row['share_of_product']):.0f} %{times_jax})"
            cells.append(f"{float(row['ms']):.1f} ms{share}")
        where = {"cpu1": "one core", "cpu2": "two cores", "cuda1": "GPU"}[device + threads]
        lines.append(f"| {where} | {num_qs} | {utd} | {' | '.join(cells)} |")
    lines += ["", "| command | steps/s | start-up | peak memory |", "|-|-|-|-|"]
    for run in runs:
        rest = f"{run['start_up_seconds']} s | {run['peak_mib']} MiB"
        lines.append(f"| `{run['command']}` | {run['steps_per_second']} | {rest} |")
    return "\n".join(lines)


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
    header = ["gaps: task, judge", "novice", "states", "rank correlation", "attainable"]
    header += ["true gap, median", "mean if flagged", "mean if not", "G", "Q − G"]
    header += ["correlation of Q and G"]
    gaps = [f"| {' | '.join(header)} |", "|" + "-|" * len(header)]
    header = ["flags: task, judge", "novice", *(f"α = {alpha}" for alpha in ALPHAS)]
    flags = [f"| {' | '.join(header)} |", "|" + "-|" * len(header)]
    for env_id in judge.TASKS:
        for level in judge.references(env_id):
            paths = [results / "judge" / f"{env_id}-{level}-{name}.csv" for name in judge.NOVICES]
            parts = {
                name: judge.read(path) for name, path in zip(judge.NOVICES, paths) if path.exists()
            }
            if parts:
                parts = {"all": judge.together(list(parts.values()))} | parts
            for name, judged in parts.items():
                label = f"| {env_id}, {level} | {name}"
                gaps.append(f"{label} | {' | '.join(gap_cells(judged))} |")
                cells = [judge_rates(judged, alpha) for alpha in ALPHAS]
                flags.append(f"{label} | {' | '.join(cells)} |")
    return "\n".join(gaps), "\n".join(flags)


def blur_table(results):
    """A Markdown table: is the true gap another one a little beside the state?"""
    header = ["beside the state: task, judge", "novice"]
    for blur in judge.BLURS:
        header += [f"blur {blur:g}: with the gap", "attainable", "with Q's gap"]
    lines = [f"| {' | '.join(header)} |", "|" + "-|" * len(header)]
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
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sharpen_table(results):
    """A Markdown table: what critics that were fitted to comparisons know."""
    header = ["critics of Walker2d-v5, top", "states", "learned", "held out"]
    lines = [f"| {' | '.join([*header, *judge.NOVICES, 'all'])} |", "|" + "-|" * 8]
    with open(results / "judge" / "sharpened.csv") as file:
        for row in csv.DictReader(file):
            cells = [row["attempt"], row["states"], row["learned"] or "-", row["held_out"]]
            cells[2:] = [cell if cell == "-" else f"{float(cell):.2f}" for cell in cells[2:]]
            for name in (*judge.NOVICES, "all"):
                shown = [float(row[name + end]) for end in ("", "_low", "_high")]
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(*shown))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def all_tables(results):
    """Every table of README.md and docs/, as Markdown."""
    options = [
        results / "hopper" / "rlif",
        *(results / "options" / cell for cell in suites()["options"]),
    ]
    tried = [results / "tried" / cell for cell in suites()["tried"]]
    methods = [
        results / "hopper" / cell
        for cell in ("bc", "dagger", "hg-dagger", "hg-dagger-value", "rlif")
    ]
    parts = [table(load(results / "hopper" / "rlif")), comparison(methods)]
    parts += paper_tables(results).split("\n\n")
    parts += [overview("options on Hopper-v5", options), overview("options on other tasks", tried)]
    parts += [
        make(results)
        for make in (
            mile_methods,
            mile_differences,
            mile_costs,
            mile_demonstrations,
            mile_predictions,
        )
    ]
    parts += [*judge_tables(results), blur_table(results), sharpen_table(results)]
    return parts + speed_tables(results / "speed").split("\n\n")


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
    }
    if runs := load(results / "hopper" / "rlif"):
        levels = {"the expert who takes over": load_expert("Hopper-v5", "low").facts["score_mean"]}
        if clones := load(results / "hopper" / "bc").values():
            levels["cloning the demonstrations"] = np.mean([run.scores[-1] for run in clones])
        pictures["hopper"] = curves(runs, levels)
    for name, picture in pictures.items():
        picture.savefig(figures / f"{name}.png", dpi=130, bbox_inches="tight")
    markdown = all_tables(results)
    for page in pages():
        page.write_text(rewrite(page.read_text(), markdown))
    print("\n\n".join(markdown))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
