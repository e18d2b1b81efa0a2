"""Sums up RLIF's Table 1 over its tasks, by rliable, and writes benchmark/results/aggregate/table1.csv.

    python -m pip install rliable==1.2.0 "pandas<3"    # arch 7, which rliable needs, does not go with pandas 3
    python benchmark/aggregate.py                      # a few minutes; then: python benchmark/report.py

For each method: the interquartile mean of the last evaluations over tasks and seeds, and the probability that RLIF, by
value, does better (of two runs of the same task, one of each; equal counts half). Intervals are 95 %, by a stratified
bootstrap: the seeds of every cell are drawn anew, the tasks stay.

A task is an environment with an expert. Tasks count where every method has at least three seeds. All cells of a method
count with as many seeds, the first ones, as its cell with the fewest has. Of cloning there is one cell for each
environment: it stands beside every expert, but its seeds are drawn once.
"""

import numpy as np
import tyro
from report_rlif import EXPERTS, METHODS
from run import ROOT, refuse, results_of
from tables import load, write

LEAST = 3  # seeds
DRAWS = 2_000  # of the bootstrap


def cell_of(env_id, level, method):
    """The name of a cell of Table 1."""
    return f"{env_id}-bc" if method == "bc" else f"{env_id}-{level}-{method}"


def complete(results):
    """The last evaluations where every method has LEAST seeds: {(env_id, level): {method: scores (n,)}}."""
    found = {}
    for task in [(env_id, level) for env_id, levels in EXPERTS.items() for level in levels]:
        scores = {}
        for method in (*METHODS, "bc"):
            runs = load(results / "table1" / cell_of(*task, method)).values()
            scores[method] = [run.scores[-1] for run in runs]
        if min(len(values) for values in scores.values()) >= LEAST:
            found[task] = scores
    return found


def matrix(scores, method):
    """The cells of a method, each once, (n, cells), and for every task the column of its cell."""
    cells = {cell_of(*task, method): scores[task][method] for task in scores}
    n = min(len(values) for values in cells.values())
    columns = [list(cells).index(cell_of(*task, method)) for task in scores]
    return np.array([values[:n] for values in cells.values()]).T, columns


def with_interval(function, *matrices):
    """A number, and the limits of its interval."""
    from rliable import library

    # rliable draws by numpy's global generator, even if it is given another one
    np.random.seed(0)
    point, limits = library.get_interval_estimates(
        {"": list(matrices)}, lambda *drawn: np.array([function(*drawn)]), reps=DRAWS
    )
    return point[""][0], *limits[""][:, 0]


def aggregates(scores):
    """A row for each method, of what complete() returns."""
    from rliable import metrics

    levels = [
        f"{env_id} ({', '.join(level for other, level in scores if other == env_id)})"
        for env_id in dict.fromkeys(env_id for env_id, _ in scores)
    ]
    rlif, of_rlif = matrix(scores, "rlif")
    rows = []
    for method in (*METHODS, "bc"):
        cells, columns = matrix(scores, method)

        def middle(x):
            return metrics.aggregate_iqm(x[:, columns])

        def better(x, y):
            return metrics.probability_of_improvement(x[:, of_rlif], y[:, columns])

        numbers = dict(zip(("iqm", "iqm_low", "iqm_high"), with_interval(middle, cells)))
        names = "better", "better_low", "better_high"
        none = np.nan, np.nan, np.nan
        numbers |= zip(names, none if method == "rlif" else with_interval(better, rlif, cells))
        row = {"method": method} | {name: f"{number:.4f}" for name, number in numbers.items()}
        rows.append(row | {"seeds": len(cells), "tasks": len(scores), "which": "; ".join(levels)})
    return rows


def main():
    try:
        import rliable  # noqa: F401
    except ImportError:
        refuse('this needs other packages: python -m pip install rliable==1.2.0 "pandas<3"')
    scores = complete(results_of(""))
    if not scores:
        refuse(f"there is no task of table1 with {LEAST} seeds of every method yet")
    results_of("aggregate").mkdir(exist_ok=True)
    path = results_of("aggregate") / "table1.csv"
    write(path, aggregates(scores))
    print(f"written: {path.relative_to(ROOT)}; now: python benchmark/report.py")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
