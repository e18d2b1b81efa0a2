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
import tables

SCRIPTS = {f"{script.__name__}.py": script for script in (rlif_rlpd, bc, dagger, hg_dagger, mile, iwr, sirius)}
PARSERS = {name: script.Args for name, script in SCRIPTS.items()} | {"-m experts.train": experts.train.Args}
COMMAND = re.compile(rf"python ({'|'.join(map(re.escape, PARSERS))})(?!\w)(.*)")


def commands():
    """Every command of these scripts in a code block or between backticks: (file, script, options)."""
    found = []
    for file in ("README.md", "experts/README.md"):
        text = (ROOT / file).read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) + re.findall(r"^(?: {4}|\t)(.*)$", text, re.M)
        inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        for line in [line for block in blocks for line in block.replace("\\\n", " ").splitlines()] + inline:
            found += [(file, *match.groups()) for match in COMMAND.finditer(line)]
    return found


def test_there_are_commands_in_both():
    assert {file for file, *_ in commands()} == {"README.md", "experts/README.md"}
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
        SCRIPTS[script].check(args)


@pytest.mark.parametrize(("table", "count"), [("1", 3 * 3 * 6 + 3), ("3", 9), ("options", 13)])
def test_the_cells_of_the_tables_are_understood(table, count):
    cells = tables.cells(table)
    assert len(cells) == len(set(cells.values())) == count
    for line in cells.values():
        script, *argv = shlex.split(line)
        SCRIPTS[script].check(tyro.cli(PARSERS[script], args=argv))


def test_a_cell_stands_beside_the_papers_figure(tmp_path):
    path = tmp_path / "table1" / "Hopper-v5-low-hg-dagger" / "seed_1.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"final": {"return_mean": 900.0, "normalized_score": 28.04}}')
    (line,) = [line for line in report.paper_tables(tmp_path).splitlines() if line.startswith("| Hopper-v5, low (16)")]
    assert line.split(" | ")[1:4] == ["- (108.0)", "- (75.1)", "28.0 (25.2)"]  # what has not been run is a dash


def test_every_option_that_the_readme_names_exists():
    known = {"help", "logdir"}
    for script in (*SCRIPTS, "experts/train.py", "benchmark/run.py", "benchmark/tables.py", "benchmark/speed.py"):
        known |= set(re.findall(r"^    (\w+): ", (ROOT / script).read_text(), re.M))
    for file in ("README.md", "experts/README.md"):
        for option in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", (ROOT / file).read_text()):
            assert option.removeprefix("no-").replace("-", "_") in known, f"{file}: --{option}"
