"""The kept results of runs, and Markdown tables of them: what the scripts in benchmark/ have in common."""

import csv
import io
import json
from dataclasses import dataclass

import numpy as np
from run import read_evaluations, scores_of  # which makes experts importable
from scipy import stats

from experts import write_file


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


def write(path, rows):
    """Write a csv file of rows, each a dict, that is there as a whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


def mean_and_interval(values, planned, digits=0):
    """For a table: mean ± half the width of the 95 % interval, and how many values, unless as many as planned."""
    if not len(values):
        return "-"
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {interval(values):.{digits}f}"
    return text if len(values) == planned else f"{text} (n = {len(values)})"
