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
from tests.tiny import ROOT, parsed

sys.path.insert(0, str(ROOT / "benchmark"))
import report
import report_rlif
import rlif_rounds
import run

SCRIPTS = {
    f"{script.__name__}.py": script
    for script in (rlif_rlpd, bc, dagger, hg_dagger, mile, iwr, sirius)
}
PARSERS = {name: script.Args for name, script in SCRIPTS.items()} | {
    "-m experts.train": experts.train.Args
}
PAGES = (
    "README.md", "docs/keys.md", "docs/options.md", "docs/results.md", "docs/speed.md", "docs/study.md",
    "experts/README.md",
)  # fmt: skip
COMMAND = re.compile(rf"python ({'|'.join(map(re.escape, PARSERS))})(?!\w)(.*)")


def commands(pages=PAGES):
    """Every command of these scripts in a code block or between backticks: (file, script, options)."""
    found = []
    for file in pages:
        text = (ROOT / file).read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) + re.findall(
            r"^(?: {4}|\t)(.*)$", text, re.M
        )
        inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        for line in [
            line for block in blocks for line in block.replace("\\\n", " ").splitlines()
        ] + inline:
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
    if script in SCRIPTS and args.resume is None and not getattr(args, "replay", None):
        parsed(SCRIPTS[script], *argv)


COUNTS = {
    "table1": 3 * 3 * 6 + 3,
    "table1-full": 3 * 3 * 6 + 3,
    "table3": 7,
    "options": 7,
    "figure3": 5 * 6 - 1,
    "figure4": 2 * 6,
    "figure5": 4 * 3,
}


@pytest.mark.parametrize(("suite", "count"), COUNTS.items())
def test_there_is_a_cell_for_every_field_of_the_tables(suite, count):
    cells = run.suites()[suite]
    assert len(cells) == len(set(cells.values())) == count


HEADER = "return_mean,normalized_score,success_rate"
HEADER += ",stochastic_return_mean,stochastic_normalized_score,stochastic_success_rate"


def test_a_cell_stands_beside_the_papers_figure(tmp_path):
    folder = tmp_path / "table1" / "Hopper-v5-low-hg-dagger"
    folder.mkdir(parents=True)
    (folder / "seed_1.json").write_text("{}")
    (folder / "seed_1.csv").write_text(HEADER + "\n1,64.2,,1,1,\n2,28.04,,1,1,\n")
    last, best, *_ = report_rlif.paper_tables(tmp_path)
    cells = []
    for markdown in (last, best):
        (line,) = [row for row in markdown.splitlines() if row.startswith("| Hopper-v5, low (16)")]
        cells.append(line.split(" | ")[1:4])
    # what has not been run is a dash
    assert cells == [["-", "-", "28 (one seed)"], ["- (108)", "- (75)", "64 (25)"]]


def test_everybody_who_clones_takes_as_many_gradient_steps():
    updates = {"figure3": set(), "figure4": set(), "figure5": set()}
    for suite, found in updates.items():
        for name, line in run.suites()[suite].items():
            script, *argv = shlex.split(line)
            if name.split("-")[1] != "rlif":
                args = parsed(SCRIPTS[script], *argv)
                found.add(args.rounds * args.round_updates)
    assert updates == {"figure3": {1000}, "figure4": {2000}, "figure5": {1000}}


def test_all_methods_of_a_task_have_the_same_person_and_the_same_rounds():
    scripts = SCRIPTS | {"benchmark/rlif_rounds.py": rlif_rounds}
    same = (
        "env_id",
        "expert",
        "human_model",
        "intervention_cost",
        "intervention_scale",
        "takeover_steps",
        "rounds",
    )
    for suite in ("figure3", "figure4", "figure5"):
        found = {}
        for name, line in run.suites()[suite].items():
            script, *argv = shlex.split(line)
            args = parsed(scripts[script], *argv)
            setting = [
                getattr(args, option) for option in (*same, "round_episodes", "initial_policy")
            ]
            assert found.setdefault(name.split("-")[0], setting) == setting, name


def test_every_figure_in_the_tables_comes_from_the_results():
    markdown = report.all_tables(ROOT / "benchmark" / "results")
    made = set("\n".join(markdown).splitlines())
    pages = {page.relative_to(ROOT).as_posix(): page.read_text() for page in report.pages()}
    assert pages.keys() == set(PAGES) - {"experts/README.md"}
    for name, text in pages.items():
        assert report.rewrite(text, markdown) == text, (
            f"{name}: python benchmark/report.py was not run"
        )
        for row in [
            line for line in text.splitlines() if line.startswith("|") and line not in made
        ]:
            assert not re.search(r"\d", re.sub(r"20\d\d|−1", "", row)), (
                f"{name}: where is this from? {row}"
            )
    (row,) = [line for line in pages["README.md"].splitlines() if line.startswith("| 1 | ")]
    assert report.rewrite(pages["README.md"].replace(row, "| 1 |"), markdown) == pages["README.md"]


def test_every_option_that_the_readme_names_exists():
    known = {"help", "logdir", "head"}  # of Python's scripts, tensorboard, ray
    names = (
        "experts/train.py",
        *(
            f"benchmark/{name}.py"
            for name in ("run", "speed", "person", "rlif_rounds", "episode", "variants")
        ),
    )
    for script in (*SCRIPTS, *names):
        known |= set(re.findall(r"^    (\w+): ", (ROOT / script).read_text(), re.M))
    for file in PAGES:
        for option in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", (ROOT / file).read_text()):
            assert option.removeprefix("no-").replace("-", "_") in known, f"{file}: --{option}"
