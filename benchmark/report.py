"""Makes the README's pictures and tables from benchmark/results.

    python benchmark/report.py

Prints every table and puts it into the README, in the place of the one with the same first line; draws the pictures in
benchmark/figures.
"""

import csv
import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import tables
from experts import list_experts, load_expert
from rlif_rlpd import headline

NOVICE, EXPERT, FLAG = "#4c78a8", "#f58518", "#d62728"


def timeline():
    """One episode: who acts, which proposals are flagged, which transition gets -1."""
    figure, axis = plt.subplots(figsize=(9, 2.9))
    control = "NNNNEEEENNNEEEENN"  # N: novice, E: expert
    for t, who in enumerate(control):
        axis.add_patch(plt.Rectangle((t + 0.06, 0), 0.88, 0.8, color=NOVICE if who == "N" else EXPERT))
        starts_next = t + 1 < len(control) and control[t] == "N" and control[t + 1] == "E"
        reward = "−1" if starts_next else "0"
        axis.text(t + 0.5, 0.4, reward, color="white", ha="center", va="center", fontsize=12, weight="bold")
        axis.text(t + 0.5, -0.25, f"{t}", ha="center", va="center", fontsize=8, color="0.4")
    for t in (4, 11):
        axis.annotate(
            "proposal flagged:\nthe expert takes over", (t + 0.5, 0.84), (t + 0.5, 1.6), ha="center", fontsize=9,
            color=FLAG, arrowprops={"arrowstyle": "->", "color": FLAG},
        )  # fmt: skip
        axis.annotate(
            "the transition before gets −1", (t - 0.5, -0.4), (t - 0.5, -1.05), ha="center", fontsize=9,
            arrowprops={"arrowstyle": "->"},
        )  # fmt: skip
    axis.text(8.5, 1.0, "the novice again,\none step unchecked", ha="center", fontsize=8, color="0.3")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in (NOVICE, EXPERT)]
    axis.legend(handles, ["novice acts", "expert acts"], loc="upper left", ncol=2, frameon=False, fontsize=9)
    axis.set(xlim=(-0.5, len(control)), ylim=(-1.3, 3))
    axis.text(-0.1, -0.25, "t", ha="right", va="center", fontsize=8, color="0.4")
    axis.axis("off")
    return figure


def load(folder):
    """The command of a folder of results, and by seed the columns of its eval.csv, arrays of shape (evaluations,)."""
    files = {int(path.stem.split("_")[1]): path for path in folder.glob("seed_*.json")}
    command = json.loads(files[min(files)].read_text())["command"]
    paths = {seed: files[seed].with_suffix(".csv") for seed in sorted(files)}
    return command, {seed: np.genfromtxt(path, delimiter=",", names=True) for seed, path in paths.items()}


def finished(folders):
    """The folders with at least one finished run; of a run that goes on there is only a log."""
    return [folder for folder in folders if any(folder.glob("seed_*.json"))]


def curves(runs, levels, x="global_step", y="normalized_score"):
    """Score y and intervention rate over x: every seed thin, the mean thick; levels: {name: score}."""
    names = {"global_step": "environment steps", "round": "rounds", "normalized_score": "normalised score",
             "success_rate": "success (%)"}  # fmt: skip
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    steps = next(iter(runs.values()))[x]
    for axis, name, scale in ((axes[0], y, 1), (axes[1], "intervention_rate", 100)):
        values = np.array([scale * columns[name] for columns in runs.values()])  # (seeds, evaluations)
        for seed, row in zip(runs, values):
            axis.plot(steps, row, color=NOVICE, alpha=0.35, linewidth=1)
        axis.plot(steps, values.mean(0), color=NOVICE, linewidth=2.5)
        axis.set(xlabel=names[x], ylim=(0, None))
        axis.locator_params(axis="x", integer=True)
        axis.spines[["top", "right"]].set_visible(False)
    for name, score in levels.items():
        axes[0].axhline(score, color="0.5", linewidth=1, linestyle="--")
        box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0}
        axes[0].text(steps[-1], score + 1, name, ha="right", va="bottom", fontsize=8, color="0.4", bbox=box)
    axes[0].set_ylabel(f"{names[y]}, mean action")
    axes[1].set_ylabel("steps under expert control (%)")
    figure.tight_layout()
    return figure


def table(runs):
    """A Markdown table: a line for each seed, and mean and standard deviation over seeds."""
    names = ("seed", "last", "last, sampled actions", "best", "interventions, first → last", "minutes")
    lines = [f"| {' | '.join(names)} |", "|-|-|-|-|-|-|"]
    numbers = []
    for seed, columns in runs.items():
        score, rate = columns["normalized_score"], 100 * columns["intervention_rate"]
        minutes = columns["wall_seconds"][-1] / 60
        numbers.append((score[-1], columns["stochastic_normalized_score"][-1], score.max(), rate[0], rate[-1], minutes))
        last, sampled, best, first_rate, last_rate, minutes = numbers[-1]
        rates = f"{first_rate:.0f} % → {last_rate:.0f} %"
        lines.append(f"| {seed} | {last:.1f} | {sampled:.1f} | {best:.1f} | {rates} | {minutes:.1f} |")
    mean, std = np.mean(numbers, 0), np.std(numbers, 0)
    cells = " | ".join(f"{m:.1f} ± {s:.1f}" for m, s in zip(mean[:3], std[:3]))
    lines.append(f"| mean ± std | {cells} | {mean[3]:.0f} % → {mean[4]:.0f} % | {mean[5]:.1f} |")
    return "\n".join(lines)


def overview(what, folders):
    """A Markdown table of rlif_rlpd.py with other options: the scores of all seeds in their order, mean action."""
    lines = [f"| {what} | seeds | at 30,000 steps | at the end | best |", "|-|-|-|-|-|"]
    for folder in finished(folders):
        command, runs = load(folder)
        options = command.removeprefix("python rlif_rlpd.py").replace(" --num-threads 1", "").strip()
        first = next(iter(runs.values()))
        key = headline({name: first[name][-1] for name in first.dtype.names})
        reached = [c[key][c["global_step"] == 30_000] for c in runs.values()]  # or nothing
        early = [f"{score[0]:.0f}" if len(score) else "-" for score in reached]
        last, best = ([f"{f(c[key]):.0f}" for c in runs.values()] for f in (lambda scores: scores[-1], np.max))
        label = f"`{options}`" if options else "none"
        lines.append(f"| {label} | {' | '.join(', '.join(map(str, cell)) for cell in (runs, early, last, best))} |")
    return "\n".join(lines)


def comparison(folders):
    """A Markdown table of methods by their default commands: what they reach and what the expert is asked for."""
    names = ("command", "seed", "last", "last, sampled actions", "environment steps", "labels", "takeovers", "minutes")
    lines = [f"| {' | '.join(names)} |", "|-|-|-|-|-|-|-|-|"]
    for path in [path for folder in folders for path in sorted(folder.glob("seed_*.json"))]:
        summary = json.loads(path.read_text())
        scores = [f"{summary['final'][name]:.1f}" for name in ("normalized_score", "stochastic_normalized_score")]
        asked = [str(summary.get(name, "-")) for name in ("env_steps", "labels", "takeovers")]
        cells = [f"`{summary['command']}`", path.stem.split("_")[1], *scores, *asked]
        lines.append(f"| {' | '.join(cells)} | {summary['seconds']['total'] / 60:.1f} |")
    return "\n".join(lines)


# the paper's Tables 1 and 3, in the order of tables.METHODS (but for BC) and of tables.REFERENCES
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
PAPER_REFERENCES = {"top": (78.9, 85.9, 109.0), "middle": (38.8, 71.2, 99.7), "low": (33.6, 66.8, 102.9)}


def cell(path, paper):
    """The last and the best evaluation of a run, mean action, and the paper's figure in brackets."""
    if not path.exists():
        return f"- ({paper:.0f})"
    summary = json.loads(path.read_text())
    key = headline(summary["final"])
    return f"{summary['final'][key]:.0f} / {summary['best'][key]:.0f} ({paper:.0f})"


def paper_tables(results, seed=1):
    """Two Markdown tables: the paper's Tables 1 and 3 with one seed of ours beside them, for the experts shipped."""
    methods = [method for method in tables.METHODS if method != "bc"]
    lines = [f"| task, expert | {' | '.join(methods)} | bc |", "|-|" + "-|" * (len(methods) + 1)]
    for env_id, (levels, *_) in tables.TASKS.items():
        for level in [level for level in levels if level in list_experts().get(env_id, [])]:
            row = [f"{env_id}-{level}-{method}" for method in methods]
            cells = [
                cell(results / "table1" / name / f"seed_{seed}.json", paper)
                for name, paper in zip(row, PAPER[f"{env_id}-{level}"])
            ]
            bc = f"{env_id}-bc"
            cells.append(cell(results / "table1" / bc / f"seed_{seed}.json", *PAPER[bc]) if level == levels[0] else "")
            score = load_expert(env_id, level).facts["score_mean"]
            lines.append(f"| {env_id}, {level} ({score:.0f}) | {' | '.join(cells)} |")
    lines += ["", f"| expert \\ reference | {' | '.join(tables.REFERENCES)} |", "|-|-|-|-|"]
    for expert in tables.EXPERTS:
        folders = [f"table3/{expert}-{name}" for name in tables.REFERENCES]
        if folders[-1].removeprefix("table3/") not in tables.cells("3"):
            folders[-1] = f"table1/Walker2d-v5-{expert}-rlif"
        row = zip(folders, PAPER_REFERENCES[expert])
        cells = [cell(results / folder / f"seed_{seed}.json", paper) for folder, paper in row]
        lines.append(f"| {expert} | {' | '.join(cells)} |")
    return "\n".join(lines)


def over_seeds(values):
    """Mean and standard deviation of a value of each seed; of a single one itself; - if there is none."""
    return f"{np.mean(values):.0f}" + f" ± {np.std(values):.0f}" * (len(values) > 1) if values else "-"


def score_of(folder):
    """The last evaluation of the runs in a folder, mean action."""
    finals = [json.loads(path.read_text())["final"] for path in folder.glob("seed_*.json")]
    return over_seeds([final[headline(final)] for final in finals])


def mile_methods(results):
    """A Markdown table: all methods in the settings of Figures 3 and 4 of MILE's paper."""
    methods = list(tables.MILE_METHODS)
    header = ["figure", "task", "alone at first", "with the person", "expert", "their steps", *methods]
    lines = [f"| {' | '.join(header)} |", "|" + "-|" * len(header)]
    for name in ("figure3", "figure4"):
        for task in dict.fromkeys(cell.split("-")[0] for cell in tables.figure(name)):
            facts = []  # one row for each seed of MILE's run
            for path in (results / name / f"{task}-mile").glob("seed_*.json"):
                mile = json.loads(path.read_text())
                first = np.genfromtxt(path.with_suffix(".csv"), delimiter=",", names=True)[0][headline(mile["final"])]
                before = mile["before"]["assisted_score"], mile["before"]["expert_score"]
                facts.append((first, *before, mile["expert_steps"], mile["env_steps"]))
            if facts:
                alone, assisted, expert, expert_steps, env_steps = (f"{x:.0f}" for x in np.mean(facts, axis=0))
                cells = [alone, assisted, expert, f"{expert_steps} of {env_steps}"]
                cells += [score_of(results / name / f"{task}-{method}") for method in methods]
                lines.append(f"| {name[-1]} | {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mile_demonstrations(results):
    """A Markdown table: all methods in the setting of Figure 5 of MILE's paper."""
    lines = ["| drawer, one round | 0 demonstrations | 1 | 3 | 5 |", "|-|-|-|-|-|"]
    for method in tables.MILE_METHODS:
        folders = [results / "figure3" / f"drawer-{method}"]
        folders += [results / "figure5" / f"drawer-{method}-{demos}-demos" for demos in (1, 3, 5)]
        lines.append(f"| {method} | {' | '.join(map(score_of, folders))} |")
    return "\n".join(lines)


def mile_predictions(results, seed=1):
    """A Markdown table: how well interventions were foretold, the mean over the rounds of Figure 4's setting."""
    lines = ["| task | foretold by | accuracy | balanced accuracy | log-loss |", "|-|-|-|-|-|"]
    for task in ("drawer", "peg"):
        path = results / "figure4" / f"{task}-mile" / f"seed_{seed}.csv"
        if not path.exists():
            continue
        columns = np.genfromtxt(path, delimiter=",", names=True)
        for source in ("model", "network", "majority"):
            names = [f"{source}_{what}" for what in ("accuracy", "balanced_accuracy", "log_loss")]
            cells = [f"{np.nanmean(columns[name]):.2f}" for name in names]
            lines.append(f"| {task} | {source} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mile_rounds(folders):
    """A Markdown table of mile.py in 20 rounds: success on the way, mean and deviation over seeds."""
    names = ["task", "options of mile.py", "seeds", "alone at first", "with the person"]
    names += ["after 5 rounds", "10", "15", "20", "interventions (%)", "expert"]
    lines = [f"| {' | '.join(names)} |", "|" + "-|" * len(names)]
    common = "--num-threads 1|--eval-frequency 5|--eval-episodes 100|--rounds 20|--round-episodes 1"
    for folder in finished(folders):
        command, runs = load(folder)
        summaries = [json.loads((folder / f"seed_{seed}.json").read_text()) for seed in runs]
        rates = [(c["round"], c["success_rate"]) for c in runs.values()]
        after = [[rate[x == n][0] for x, rate in rates if n in x] for n in (0, 5, 10, 15, 20)]  # empty: not evaluated
        assisted, expert = ([s["before"][key] for s in summaries] for key in ("assisted_score", "expert_score"))
        share = [100 * s["expert_steps"] / s["env_steps"] for s in summaries]  # over all rounds
        columns = [after[0], assisted, *after[1:], share, expert]
        cells = [over_seeds(column) for column in columns]
        named = re.search(r" --env-id (\S+)", command)
        task = named[1].removeprefix("Meta-World/") if named else "peg-insert-side-v3"  # which is mile.py's default
        options = re.sub(rf" (--env-id \S+|{common})(?!\S)", "", command).removeprefix("python mile.py").strip()
        label = f"`{options}`" if options else "none"
        lines.append(f"| {task} | {label} | {', '.join(map(str, runs))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mile_curves(results, seed=1):
    """Success over environment steps of all methods in the setting of Figure 4 of MILE's paper."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    drawn = {}  # by method, a line of either task for the legend
    for axis, task in zip(axes, ("drawer", "peg")):
        for i, method in enumerate(tables.MILE_METHODS):
            path = results / "figure4" / f"{task}-{method}" / f"seed_{seed}.csv"
            if path.exists():
                columns = np.genfromtxt(path, delimiter=",", names=True)
                scores = columns["global_step"], columns["success_rate"]
                (drawn[method],) = axis.plot(*scores, color=f"C{i}", marker="o", markersize=3)
        path = results / "figure4" / f"{task}-mile" / f"seed_{seed}.json"
        before = json.loads(path.read_text())["before"] if path.exists() else {}
        for what, key in (("expert", "expert_score"), ("first policy, with the person", "assisted_score")):
            if key in before:
                axis.axhline(before[key], color="0.6", linewidth=1, linestyle="--")
                axis.text(0, before[key] + 1, what, va="bottom", fontsize=7, color="0.4")
        axis.set(title=tables.MILE_TASKS[task].split()[0], xlabel="environment steps", ylim=(0, 105))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("success, mean action (%)")
    axes[1].legend(drawn.values(), drawn, fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def speed_tables(folder):
    """Two Markdown tables: milliseconds of an update by number of critics and UTD ratio; the default run's speed."""
    with open(folder / "updates.csv") as updates, open(folder / "runs.csv") as runs:
        rows, runs = list(csv.DictReader(updates)), list(csv.DictReader(runs))
    by_key = {tuple(r[k] for k in ("device", "threads", "num_qs", "utd_ratio", "path", "precision")): r for r in rows}
    forms = [("eager", "float32"), ("compiled", "float32"), ("compiled", "bfloat16")]
    lines = ["| | critics | critic updates | plain | `--compile` | `--compile --bf16` |", "|-|-|-|-|-|-|"]
    for device, threads, num_qs, utd in dict.fromkeys(key[:4] for key in by_key):
        cells = []
        for form in forms:
            row = by_key[device, threads, num_qs, utd, *form]
            times_jax = f", {row['times_jax']} × JAX" if row["times_jax"] else ""
            share = f" ({100 * float(row['share_of_product']):.0f} %{times_jax})"
            cells.append(f"{float(row['ms']):.1f} ms{share}")
        where = {"cpu1": "one core", "cpu2": "two cores", "cuda1": "GPU"}[device + threads]
        lines.append(f"| {where} | {num_qs} | {utd} | {' | '.join(cells)} |")
    lines += ["", "| command | steps/s | environment | update | start-up | peak memory |", "|-|-|-|-|-|-|"]
    for run in runs:
        times = f"{run['environment_ms']} ms | {run['update_ms']} ms | {run['start_up_seconds']} s"
        lines.append(f"| `{run['command']}` | {run['steps_per_second']} | {times} | {run['peak_mib']} MiB |")
    return "\n".join(lines)


def all_tables(results):
    """Every table of the README, as Markdown."""
    hopper = [results / name for name in ("hopper", "hopper-reset", "hopper-clean-reset", "hopper-clean-reset-bf16")]
    hopper += [results / "rlpd-task-reward", *sorted(results.glob("options/*"))]
    other = [*sorted(results.glob("walker*")), *sorted(results.glob("pen*"))]
    parts = [table(load(results / "hopper")[1])]
    parts.append(comparison([results / f"hopper-{method}" for method in ("bc", "dagger", "hg-dagger")]))
    parts += paper_tables(results).split("\n\n")
    parts += [overview("options on Hopper-v5", hopper), overview("options on other tasks", other)]
    mile = [results / "mile", *sorted(results.glob("mile-*")), results / "figure4" / "drawer-mile"]
    parts += [mile_rounds(mile)] if finished(mile) else []
    for name, make in (("figure3", mile_methods), ("figure4", mile_predictions), ("figure5", mile_demonstrations)):
        parts += [make(results)] if (results / name).exists() else []
    return parts + speed_tables(results / "speed").split("\n\n")


def rewrite(readme, markdown):
    """The README's text with these tables in the place of those with the same first line."""
    for block in markdown:
        first = re.escape(block.splitlines()[0])
        readme = re.sub(rf"^{first}\n(\|.*\n)*", lambda _: f"{block}\n", readme, flags=re.M)
    return readme


def main():
    results, figures = FOLDER / "results", FOLDER / "figures"
    figures.mkdir(exist_ok=True)
    timeline().savefig(figures / "timeline.png", dpi=130, bbox_inches="tight")
    cloning = json.loads((results / "hopper-bc" / "seed_1.json").read_text())["final"]
    levels = {
        "cloning the demonstrations": cloning["normalized_score"],
        "the expert who takes over": load_expert("Hopper-v5", "low").facts["score_mean"],
    }
    curves(load(results / "hopper")[1], levels).savefig(figures / "hopper.png", dpi=130)
    if finished([results / "mile"]):
        befores = [json.loads(path.read_text())["before"] for path in (results / "mile").glob("seed_*.json")]
        facts = {"the expert": "expert_score", "the first policy, with the person": "assisted_score"}
        levels = {name: np.mean([before[key] for before in befores]) for name, key in facts.items()}
        rounds = curves(load(results / "mile")[1], levels, "round", "success_rate")
        rounds.savefig(figures / "mile-rounds.png", dpi=130)
    if (results / "figure4").exists():
        mile_curves(results).savefig(figures / "mile.png", dpi=130)
    markdown, readme = all_tables(results), FOLDER.parent / "README.md"
    readme.write_text(rewrite(readme.read_text(), markdown))
    print("\n\n".join(markdown))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
