"""What the READMEs say to run can be run: the scripts' own parsers take it."""

import re
import shlex
import sys

import pytest
import tyro

import bc
import dagger
import experts.train
import hg_dagger
import iwr
import mile
import rlif_rlpd
import sirius
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import report
import run
import tables

SCRIPTS = {f"{script.__name__}.py": script for script in (rlif_rlpd, bc, dagger, hg_dagger, mile, iwr, sirius)}
PARSERS = {name: script.Args for name, script in SCRIPTS.items()} | {"-m experts.train": experts.train.Args}
PAGES = "README.md", "docs/options.md", "docs/results.md", "docs/speed.md", "experts/README.md"
COMMAND = re.compile(rf"python ({'|'.join(map(re.escape, PARSERS))})(?!\w)(.*)")


def commands():
    """Every command of these scripts in a code block or between backticks: (file, script, options)."""
    found = []
    for file in PAGES:
        text = (ROOT / file).read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) + re.findall(r"^(?: {4}|\t)(.*)$", text, re.M)
        inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        for line in [line for block in blocks for line in block.replace("\\\n", " ").splitlines()] + inline:
            found += [(file, *match.groups()) for match in COMMAND.finditer(line)]
    return found


def test_there_are_commands_in_every_page():
    assert {file for file, *_ in commands()} == set(PAGES)
    assert {script for _, script, _ in commands()} == set(PARSERS)


@pytest.mark.parametrize(("file", "script", "options"), commands())
def test_command_is_understood(file, script, options):
    # `cmd && other`, `cmd; other` and `cmd | other` end at the sign
    argv = shlex.split(re.split(r"&&|;|\|", options)[0], comments=True)
    if "--help" in argv:
        with pytest.raises(SystemExit) as caught:
            tyro.cli(PARSERS[script], args=argv)
        assert caught.value.code == 0
        return
    args = tyro.cli(PARSERS[script], args=argv)
    if script in SCRIPTS and args.resume is None:
        SCRIPTS[script].check(SCRIPTS[script].parse_args(argv))


@pytest.mark.parametrize(("table", "count"), [("1", 3 * 3 * 6 + 3), ("3", 7), ("options", 6)])
def test_the_cells_of_the_tables_are_understood(table, count):
    cells = tables.cells(table)
    assert len(cells) == len(set(cells.values())) == count
    for line in cells.values():
        script, *argv = shlex.split(line)
        SCRIPTS[script].check(SCRIPTS[script].parse_args(argv))


def test_a_cell_stands_beside_the_papers_figure(tmp_path):
    folder = tmp_path / "table1" / "Hopper-v5-low-hg-dagger"
    folder.mkdir(parents=True)
    (folder / "seed_1.json").write_text("{}")
    (folder / "seed_1.csv").write_text("return_mean,normalized_score,success_rate\n1,64.2,\n2,28.04,\n")
    (line,) = [line for line in report.paper_tables(tmp_path).splitlines() if line.startswith("| Hopper-v5, low (16)")]
    assert line.split(" | ")[1:4] == ["- (108)", "- (75)", "28 / 64 (25)"]  # what has not been run is a dash


@pytest.mark.parametrize(("table", "count"), [("figure3", 5 * 7 - 1), ("figure4", 2 * 7), ("figure5", 4 * 3)])
def test_the_cells_of_the_figures_are_understood(table, count, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    cells = tables.cells(table)
    assert len(cells) == len(set(cells.values())) == count
    for task in tables.MILE_TASKS:
        for cell in (f"figure3/{task}-person", f"figure3/{task}-mile", f"figure4/{task}-mile"):
            path = run.results_of(cell) / "seed_1.json"
            path.parent.mkdir(parents=True)
            path.write_text('{"before": {"intervention_cost": 6.5}, "expert_steps": 321}')
    for name, line in cells.items():
        script, *argv = shlex.split(tables.fill_in(table, name, line, 1))
        args = SCRIPTS[script].check(SCRIPTS[script].parse_args(argv))
        assert args.intervention_cost == (None if name.endswith("-person") else 6.5)
        if name.endswith("-rlif"):
            assert args.max_interventions == 321


def test_everybody_who_clones_takes_as_many_gradient_steps():
    updates = {"figure3": set(), "figure4": set(), "figure5": set()}
    for table, found in updates.items():
        for name, line in tables.cells(table).items():
            script, *argv = shlex.split(line.replace("{cost}", "1").replace("{expert_steps}", "1"))
            if script != "rlif_rlpd.py" and not name.endswith(("-person", "-10-rounds")):
                args = SCRIPTS[script].parse_args(argv)
                found.add(args.rounds * args.round_updates)
    assert updates == {"figure3": {1000}, "figure4": {2000}, "figure5": {1000}}


def test_every_figure_in_the_tables_comes_from_the_results():
    markdown = report.all_tables(ROOT / "benchmark" / "results")
    made = set("\n".join(markdown).splitlines())
    pages = {page.relative_to(ROOT).as_posix(): page.read_text() for page in report.pages()}
    assert pages.keys() == set(PAGES) - {"experts/README.md"}
    for name, text in pages.items():
        assert report.rewrite(text, markdown) == text, f"{name}: python benchmark/report.py was not run"
        for row in [line for line in text.splitlines() if line.startswith("|") and line not in made]:
            assert not re.search(r"\d", re.sub(r"20\d\d|−1", "", row)), f"{name}: where is this from? {row}"
    (row,) = [line for line in pages["README.md"].splitlines() if line.startswith("| 1 | ")]
    assert report.rewrite(pages["README.md"].replace(row, "| 1 |"), markdown) == pages["README.md"]


def test_every_option_that_the_readme_names_exists():
    known = {"help", "logdir"}
    for script in (
        *SCRIPTS,
        "experts/train.py",
        "benchmark/run.py",
        "benchmark/tables.py",
        "benchmark/speed.py",
        "benchmark/replay.py",
    ):
        known |= set(re.findall(r"^    (\w+): ", (ROOT / script).read_text(), re.M))
    for file in PAGES:
        for option in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", (ROOT / file).read_text()):
            assert option.removeprefix("no-").replace("-", "_") in known, f"{file}: --{option}"
