"""Makes the pictures and tables of README.md and docs/ from benchmark/results.

    python benchmark/report.py

Prints every table and puts it where the one with the same first line is; draws the pictures in benchmark/figures. What
is in them is in report_rlif.py, report_mile.py, report_judge.py and report_speed.py.
"""

import re

import matplotlib

matplotlib.use("Agg")
import report_judge
import report_mile
import report_rlif
import report_speed
import tyro
from run import ROOT, results_of


def all_tables(results):
    """Every table of README.md and docs/, as Markdown."""
    parts = report_rlif, report_mile, report_judge, report_speed
    return [table for part in parts for table in part.all_tables(results)]


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
    pictures = report_rlif.all_pictures(results) | report_mile.all_pictures(results)
    for name, picture in pictures.items():
        picture.savefig(figures / f"{name}.png", dpi=130, bbox_inches="tight")
    markdown = all_tables(results)
    for page in pages():
        page.write_text(rewrite(page.read_text(), markdown))
    print("\n\n".join(markdown))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
