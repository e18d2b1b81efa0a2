"""What the scripts in benchmark/ have in common: files of results, a command line, seeds."""

import shutil
import sys
from pathlib import Path

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmark" / "results"
sys.path.insert(0, str(ROOT))  # so that whoever imports this can import the scripts

from experts import InputError  # noqa: E402


def command_line(main, description, args=None):
    """Run a script's main() by these words, or by those typed; bad input: a line, exit code 2."""
    try:
        tyro.cli(main, args=args, description=description, config=(tyro.conf.OmitArgPrefixes,))
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


def seed_for(*key):
    """A seed for each key, as the scripts make them."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def compiled(function, needed=False):
    """A function of RLPD's gradients as one graph; without a compiler as it is, unless needed."""
    import torch

    torch._dynamo.config.trace_autograd_ops = True
    torch._dynamo.config.suppress_errors = not needed
    return torch.compile(function, dynamic=False) if needed or shutil.which("g++") else function


def write(path, text):
    """Write a file that is there as a whole or not at all, and the folder where it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.tmp").write_text(text)
    Path(f"{path}.tmp").replace(path)


def write_rows(path, rows):
    """Write dicts of the same names, of numbers and words, as a csv file."""
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    write(path, "".join(",".join(map(str, line)) + "\n" for line in lines))


def read_columns(path):
    """The columns of a csv file of numbers by their names, (rows,) each; nan is not known."""
    return np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))


def scores_of(columns, prefix=""):
    """Evaluations by what a run is judged by: success in %, else D4RL's score, else the return."""
    names = "success_rate", "normalized_score", "return_mean"
    return columns[prefix + next(name for name in names if not np.isnan(columns[name]).any())]
