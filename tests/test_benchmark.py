"""The benchmark's scripts: what they refuse, resume and record, and what the report makes of unfinished results."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro

import bc
import mile
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import report
import run
import speed
import tables

MAINS = {"run": (run.main, run.Args), "tables": (tables.main, tables.Args), "speed": (speed.main, speed.Args)}


def start(script, *options):
    """The exit code of a script of the benchmark, in this process."""
    main, args = MAINS[script]
    try:
        main(tyro.cli(args, args=[str(option) for option in options]))
    except SystemExit as exit:
        return exit.code
    return 0


class Scripts:
    """Stands for subprocess: a script's run leaves its files at once; failing: what fails, by a part of --exp-name."""

    def __init__(self):
        self.calls, self.failing = [], ("nothing",)

    def run(self, argv, **_):
        _, script, *options = argv
        self.calls.append([script, *options])
        if any(part in option for part in self.failing for option in options):
            return subprocess.CompletedProcess(argv, 1)
        folder = Path(options[1]) if options[0] == "--resume" else begin(script, options)
        (folder / "eval.csv").write_text("global_step,normalized_score\n0,1\n")
        summary = {"final": {"normalized_score": 1.0}, "best": {"normalized_score": 1.0}}
        summary |= {"before": {"intervention_cost": 6.5}, "expert_steps": 321}
        (folder / "summary.json").write_text(json.dumps(summary))
        return subprocess.CompletedProcess(argv, 0)


def begin(script, options):
    """The folder of a run that has written its options and nothing else."""
    wanted = run.understood(script, options)
    folder = run.ROOT / "runs" / f"{wanted['env_id']}__{wanted['exp_name']}__{wanted['seed']}__1".replace("/", "-")
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps(wanted))
    return folder


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A repository without results, whose scripts do nothing."""
    for path in ROOT.glob("*.py"):
        (tmp_path / path.name).touch()
    (tmp_path / "benchmark" / "results").mkdir(parents=True)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(run, "subprocess", Scripts())
    return run.subprocess


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_a_run_that_failed_is_exit_code_1_after_all_others(scripts, capsys):
    options = "--name", "a", "--command", "bc.py", "--jobs", 1, "--seeds"
    assert start("run", *options, 3) == 0
    scripts.failing = ("bc-a",)
    assert start("run", *options, 3, 4, 5) == 1
    assert len(scripts.calls) == 3 and capsys.readouterr().out.count("failed with exit code 1") == 2
    assert start("tables", "--table", "3", "--only", "low-poor") == 0
    scripts.failing = ("low-high",)
    assert start("tables", "--table", "3", "--only", "low") == 1


def test_when_miles_run_fails_the_other_tasks_are_run(scripts, capsys):
    scripts.failing = ("drawer-mile",)
    assert start("tables", "--table", "figure4") == 1
    assert "figure4/drawer-iwr, seed 1: not run" in capsys.readouterr().out
    names = [options[-1] for options in scripts.calls]
    assert len(names) == 1 + 6 and "iwr-figure4-peg-iwr" in names and not any("drawer-iwr" in name for name in names)
    assert {"6.5", "--intervention-cost"} <= set(next(call for call in scripts.calls if call[0] == "iwr.py"))


@pytest.mark.parametrize(("line", "said"), [
    ("run|--name|a|--command|foo.py", "begins with a script, e.g. rlif_rlpd.py, not with 'foo.py'"),
    ("run|--name|a|--command|README.md", "begins with a script"),
    ("run|--name|a|--command|", "begins with a script"),
    ("run|--name|a|--command|bc.py --env-id 'a", "No closing quotation"),
    ("run|--name|a|--command|bc.py --seed 3", "--seeds"),
    ("run|--name|a|--command|bc.py --exp_name=b", "--name"),
    ("run|--name|a|--command|bc.py --batch-size 0", "--batch-size must be positive"),
    ("run|--name|a|--command|bc.py|--jobs|0", "--jobs must be positive"),
    ("run|--name|a|--command|bc.py|--seeds", "--seeds"),
    ("run|--name|../../../escape", "inside benchmark/results"),
    ("run|--name|", "inside benchmark/results"),
    ("tables|--table|3|--jobs|0", "--jobs must be positive"),
    ("tables|--only|hoper-low", "tables.py --table 1 --list"),
    ("tables|--only|hoper-low|--list", "tables.py --table 1 --list"),
    ("speed|--worker|foo", "e.g. cpu:2, not 'foo'"),
    ("speed|--worker|cpu:0", "e.g. cpu:2"),
    ("speed|--worker|", "e.g. cpu:2"),
    ("speed|--rounds|-1", "--rounds must be positive"),
    ("speed|--steps|0", "--steps must be positive"),
])  # fmt: skip
def test_refused_in_one_line_before_anything_starts(line, said, scripts, tmp_path, capsys):
    assert start(*line.split("|")) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not scripts.calls and not list((tmp_path / "benchmark" / "results").iterdir())


# --- what is recorded is what ran ------------------------------------------------------------------------------------


def test_files_of_another_command_are_refused(scripts, capsys):
    options = "--name", "a", "--seeds", 1, "--command"
    assert start("run", *options, "bc.py --num-threads 1") == 0
    assert start("run", *options, "bc.py --num-threads 1") == 0
    assert "there already" in capsys.readouterr().out
    assert start("run", *options, "bc.py") == 2
    error = capsys.readouterr().err
    assert "results/a/seed_1.json is of another command, python bc.py --num-threads 1" in error
    assert error.count("\n") == len(scripts.calls) == 1


@pytest.mark.parametrize("other", ["bc.py", "bc.py --num-threads 1 --batch-size 9", "bc.py --batch-size 8"])
def test_an_interrupted_run_is_resumed_by_its_own_command_only(other, scripts, capsys):
    command = "bc.py --num-threads 1 --batch-size 8"
    script, *options = run.words("a", command, 1)
    folder = begin(script, options)
    assert start("run", "--name", "a", "--seeds", 1, "--command", other) == 2
    error = capsys.readouterr().err
    assert f"runs/{folder.name} was begun with another" in error and error.count("\n") == 1 and not scripts.calls
    assert start("run", "--name", "a", "--seeds", 1, "--command", command) == 0
    assert scripts.calls == [["bc.py", "--resume", str(folder)]]


def test_a_run_is_found_again_by_the_name_that_the_script_gives_its_folder(scripts):
    folder, _ = bc.open_run(tyro.cli(bc.Args, args=run.words("a/b:[c]", "bc.py", 1)[1:]))
    folder.mkdir()
    assert run.begun("a/b:[c]", "bc.py", 1) is None  # killed before it wrote its options: there is nothing to resume
    (folder / "args.json").touch()
    assert run.begun("a/b:[c]", "bc.py", 1).name == folder.name


@pytest.mark.parametrize(("table", "folder"), [("1", "table1"), ("3", "table3"), ("options", "options")])
def test_the_files_that_are_there_are_of_the_commands_of_the_tables(table, folder):
    run.check([(f"{folder}/{name}", line, 1) for name, line in tables.cells(table).items()], 1)


def test_the_list_shows_what_miles_run_found(scripts, capsys):
    assert start("tables", "--table", "figure3", "--only", "peg", "--list") == 0
    shown = capsys.readouterr()
    assert "--intervention-cost {cost}" in shown.out and shown.err.count("\n") == 1
    assert "python benchmark/tables.py --table figure3 --only -mile --seed 1" in shown.err
    assert start("tables", "--table", "figure3", "--only", "peg-mile") == 0
    capsys.readouterr()
    assert start("tables", "--table", "figure3", "--only", "peg", "--list") == 0
    shown = capsys.readouterr()
    assert "--intervention-cost 6.5" in shown.out and "{" not in shown.out and not shown.err


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_helps_and_refuses_and_writes_nothing(monkeypatch, capsys):
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("it has written"))
    for option, code in (("--help", 0), ("--no-such-option", 2)):
        monkeypatch.setattr(sys, "argv", ["report.py", option])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "benchmark" / "report.py"), run_name="__main__")
        assert caught.value.code == code
    shown = capsys.readouterr()
    assert "puts it into the README" in shown.out and "--no-such-option" in shown.err


def write_mile(folder, seed, options, rounds, scores):
    """The files of a run of mile.py; scores: success after these rounds."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions = [f"{source}_{what}" for source in ("model", "network", "majority")
                   for what in ("accuracy", "balanced_accuracy", "log_loss")]  # fmt: skip
    lines = [",".join(["global_step", "success_rate", "round", *predictions])]
    lines += [",".join(map(str, [100 * n, score, n] + [0.5] * 9)) for n, score in zip(rounds, scores)]
    (folder / f"seed_{seed}.csv").write_text("\n".join(lines) + "\n")
    summary = {"command": f"python mile.py{options}", "final": {"success_rate": scores[-1]}, "env_steps": 1000}
    summary |= {"before": {"assisted_score": 60.0, "expert_score": 90.0}, "expert_steps": 200}
    (folder / f"seed_{seed}.json").write_text(json.dumps(summary))


def test_an_unfinished_benchmark_can_be_reported(tmp_path):
    results = tmp_path / "results"
    shutil.copytree(ROOT / "benchmark" / "results", results, ignore=shutil.ignore_patterns("figure*", "mile*"))
    before = report.all_tables(results)
    for folder in ("options/0", "walker-0", "pen-0", "mile-0"):
        (results / folder).mkdir()
        (results / folder / "seed_1.log").touch()
    assert report.all_tables(results) == before
    write_mile(results / "figure4" / "drawer-mile", 1, " --env-id Meta-World/drawer-open-v3", [0, 20], [10, 50])
    after = report.all_tables(results)
    assert len(after) == len(before) + 2
    assert any("| drawer | network | 0.50 |" in table for table in after)
    lines = [len(axis.lines) for axis in report.mile_curves(results).axes]
    assert lines == [3, 0]  # the method, the expert and the first policy with the person; nothing yet of the other task
    report.plt.close("all")


def test_miles_rounds_are_given_by_task_and_by_what_differs(tmp_path):
    common = " --num-threads 1 --eval-frequency 5 --eval-episodes 100 --rounds 20 --round-episodes 1"
    assert mile.Args.env_id == "Meta-World/peg-insert-side-v3"
    for seed in (1, 2):
        scores = np.array([10, 20, 30, 40, 50]) * seed
        write_mile(tmp_path / "drawer", seed, f"{common} --env-id Meta-World/drawer-open-v3 --rounds 200",
                   range(0, 21, 5), scores.tolist())  # fmt: skip
    write_mile(tmp_path / "one", 3, f" --eval-episodes 100{common} --env-id LunarLander-v3", range(21), [7.0] * 21)
    write_mile(tmp_path / "short", 1, " --human-model robot", range(6), [5.0] * 6)
    folders = [tmp_path / name for name in ("drawer", "one", "short", "nowhere")]
    header, _, drawer, one, short = [line.strip("| ").split(" | ") for line in report.mile_rounds(folders).splitlines()]
    assert header[:9] == ["task", "options of mile.py", "seeds", "alone at first", "with the person", "after 5 rounds",
                          "10", "15", "20"]  # fmt: skip
    assert drawer == ["drawer-open-v3", "`--rounds 200`", "1, 2", "15 ± 5", "60 ± 0", "30 ± 10", "45 ± 15", "60 ± 20",
                      "75 ± 25", "20 ± 0", "90 ± 0"]  # fmt: skip
    assert one[:4] == ["LunarLander-v3", "none", "3", "7"] and one[8] == "7"
    assert short[:3] == ["peg-insert-side-v3", "`--human-model robot`", "1"] and short[5:9] == ["5", "-", "-", "-"]


def test_how_long_the_measurement_takes_is_said_alike():
    readme = (ROOT / "README.md").read_text()
    (time,) = re.findall(r"`python benchmark/speed.py` measures all this in (.*?);", readme)
    assert time in speed.__doc__
