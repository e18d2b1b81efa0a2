"""The benchmark's scripts: what they refuse, resume and record, and what the report makes of unfinished results."""

import fcntl
import json
import re
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tyro

import bc
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
        self.lock = threading.Lock()  # tyro, which the scripts' options are read with, is not for several threads

    def run(self, argv, **_):
        _, script, *options = argv
        self.calls.append([script, *options])
        if any(part in option for part in self.failing for option in options):
            return subprocess.CompletedProcess(argv, 1)
        with self.lock:
            folder = Path(options[1]) if options[0] == "--resume" else begin(script, options)
        (folder / "eval.csv").write_text("global_step,return_mean,normalized_score,success_rate\n0,8,9,\n5,7,6,\n")
        summary = {"before": {"intervention_cost": 6.5}, "expert_steps": 321}
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


def test_the_cells_of_a_figure_are_run_in_the_order_in_which_they_find_what_others_need(scripts, capsys):
    assert start("tables", "--table", "figure3", "--only", "peg-", "--seeds", 2, "--jobs", 1) == 0
    names = ["person", "mile", "bc-intervention", "iwr", "sirius", "hg-dagger", "rlif"]
    runs = [(call[-1].split("peg-")[1], call[call.index("--seed") + 1]) for call in scripts.calls]
    assert runs == list(zip(names, "1222222"))  # one person for all seeds
    assert "figure3/peg-mile, seed 2: last 6.0, best 9.0" in capsys.readouterr().out
    for call in scripts.calls[1:]:
        assert call[call.index("--intervention-cost") + 1] == "6.5"
        if call[-1].endswith(("hg-dagger", "rlif")):
            assert call[call.index("--max-interventions") + 1] == "321"


def test_when_a_run_fails_those_that_do_not_need_it_are_run(scripts, capsys):
    scripts.failing = ("drawer-mile",)
    assert start("tables", "--table", "figure3", "--only", "person") == 0
    scripts.calls.clear()
    assert start("tables", "--table", "figure4") == 1
    shown = capsys.readouterr().out
    assert "figure4/drawer-mile, seed 1: failed" in shown and shown.count("not run") == 1
    assert "figure4/drawer-rlif, seed 1: not run, for what another run should have found is not there" in shown
    assert len(scripts.calls) == 2 * 7 - 1 and "iwr-figure4-drawer-iwr" in [call[-1] for call in scripts.calls]


@pytest.mark.parametrize(("line", "said"), [
    ("run|--name|a|--command|foo.py", "begins with a script, e.g. rlif_rlpd.py, not with 'foo.py'"),
    ("run|--name|a|--command|README.md", "begins with a script"),
    ("run|--name|a|--command|", "begins with a script"),
    ("run|--name|a|--command|bc.py --env-id 'a", "No closing quotation"),
    ("run|--name|a|--command|bc.py --seed 3", "--seeds"),
    ("run|--name|a|--command|bc.py --exp_name=b", "--name"),
    ("run|--name|a|--command|bc.py --batch-size 0", "--batch-size must be positive"),
    ("run|--name|a|--command|hg_dagger.py --random-rate 30", "--random-rate would do nothing here"),
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
    args = tyro.cli(bc.Args, args=run.words("a/b:[c]", "bc.py", 1)[1:])
    folders = []
    for _ in range(2):  # most likely in the same second, so the second folder's name ends in -2
        begun = bc.Run(args, None, 0, total=1)
        begun.bar.close()
        begun.writer.close()
        folders.append(begun.folder)
        assert run.begun("a/b:[c]", "bc.py", 1).name == begun.folder.name
    assert run.begun("a/b:[c]", "bc.py", 2) is None
    for folder in folders:
        (folder / "args.json").unlink()
    assert run.begun("a/b:[c]", "bc.py", 1) is None  # killed before it wrote its options: there is nothing to resume


def test_a_run_of_another_process_is_left_alone(scripts, tmp_path, capsys):
    options = "--name", "a", "--command", "bc.py", "--seeds", 1, 2
    kept = tmp_path / "benchmark" / "results" / "a"
    kept.mkdir()
    with open(kept / "seed_1.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert start("run", *options) == 1
    assert "a, seed 1: not run, for another process runs it" in capsys.readouterr().out
    assert not (kept / "seed_1.json").exists() and (kept / "seed_2.json").exists()
    assert start("run", *options) == 0
    assert len(scripts.calls) == 2 and not list(kept.glob("*.log"))


def test_a_script_that_outlives_the_benchmark_is_not_joined_by_another(scripts, tmp_path, capsys):
    def outlive(argv, **kwargs):  # the script's own process, as if the benchmark had been killed meanwhile
        scripts.calls.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **kwargs))
        return subprocess.CompletedProcess(argv, 1)

    scripts.run = outlive
    assert start("run", "--name", "a", "--command", "bc.py", "--seeds", 1) == 1
    (process,) = scripts.calls
    assert start("run", "--name", "a", "--command", "bc.py", "--seeds", 1) == 1
    assert "another process runs it" in capsys.readouterr().out and len(scripts.calls) == 1
    process.communicate(b"\n")
    assert start("run", "--name", "a", "--command", "bc.py", "--seeds", 1) == 1
    assert len(scripts.calls) == 2
    scripts.calls[1].communicate(b"\n")


FOLDERS = {"1": "table1", "3": "table3"} | {name: name for name in ("options", "figure3", "figure4", "figure5")}


@pytest.mark.parametrize(("table", "folder"), FOLDERS.items())
def test_the_files_that_are_there_are_of_the_commands_of_the_tables(table, folder):
    cells = tables.cells(table)
    for path in sorted(run.results_of(folder).glob("*/seed_*.json")):
        name, seed = path.parent.name, int(path.stem.removeprefix("seed_"))
        line = tables.fill_in(table, name, cells[name], seed)
        assert json.loads(path.read_text())["command"] == f"python {line}", path


def test_the_list_shows_what_other_runs_found_and_which_have_to_be_first(scripts, capsys):
    assert start("tables", "--table", "figure4", "--only", "peg-rlif", "--seeds", 3, "--list") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("figure4/peg-rlif, seed 3: python rlif_rlpd.py --expert top --intervention mile")
    assert "--max-interventions {expert_steps}" in shown.out and "--intervention-cost {cost}" in shown.out
    first = [f"figure3 --only peg-person --seeds {1}", f"figure4 --only peg-mile --seeds {3}"]
    assert shown.err.splitlines() == [f"first: python benchmark/tables.py --table {which}" for which in first]
    for line in shown.err.splitlines():
        assert start(*line.removeprefix("first: python benchmark/").replace(".py", "").split()) == 0
    capsys.readouterr()
    assert start("tables", "--table", "figure4", "--only", "peg-rlif", "--seeds", 3, "--list") == 0
    shown = capsys.readouterr()
    assert "--max-interventions 321" in shown.out and "--intervention-cost 6.5" in shown.out and not shown.err


def test_cells_that_need_what_nobody_will_find_are_refused(scripts, capsys):
    assert start("tables", "--table", "figure5", "--only", "drawer-iwr-1-demos") == 2
    error = capsys.readouterr().err
    assert "first: python benchmark/tables.py --table figure3 --only drawer-person --seeds 1" in error
    assert error.count("\n") == 1 and not scripts.calls


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


def write_run(folder, seed, options="mile.py", rows=({},), **summary):
    """The files of a run: rows of its eval.csv, and what its summary holds."""
    folder.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(["global_step", "return_mean", "normalized_score", "success_rate", *rows[0]])
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    (folder / f"seed_{seed}.csv").write_text("\n".join(lines) + "\n")
    (folder / f"seed_{seed}.json").write_text(json.dumps({"command": f"python {options}"} | summary))


def foretold(value):
    """What a row of mile.py says of its predictions, all the same."""
    return {f"{source}_{what}": value for source in ("model", "network", "majority")
            for what in ("accuracy", "balanced_accuracy", "log_loss")}  # fmt: skip


def lines_of(markdown, start):
    """The cells of those lines of a Markdown table that begin with these cells."""
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith(f"| {start} |")]


BEFORE = {"initial_score": 31.6, "assisted_score": 80, "expert_score": 90, "intervention_cost": 22.0,
          "intervention_rate": 0.246}  # fmt: skip


def test_an_unfinished_benchmark_can_be_reported(tmp_path):
    results = tmp_path / "results"
    shutil.copytree(ROOT / "benchmark" / "results", results, ignore=shutil.ignore_patterns("figure*"))
    without = report.all_tables(results)
    for folder in ("options/0", "walker-0", "pen-0", "figure3/peg-person", "figure4/drawer-mile"):
        (results / folder).mkdir(parents=True)
        (results / folder / "seed_1.log").touch()
    assert report.all_tables(results) == without
    assert [axis.get_title() for axis in report.one_round(results).axes] == list(tables.MILE_TASKS)
    report.twenty_rounds(results)
    rows = [{"success_rate": 2 * rounds, "round": rounds} | foretold(0.5) for rounds in (10, 20)]
    write_run(results / "figure4" / "drawer-mile", 1, "mile.py --round-updates 100", rows, env_steps=1000,
              expert_steps=250, rounds=20)  # fmt: skip
    after = report.all_tables(results)
    changed = [markdown for markdown, old in zip(after, without, strict=True) if markdown != old]
    assert len(changed) == 3
    assert "| 4 | drawer | 10 | - | - | - | - | - | 20 (n = 1) | - | - | - | - | - |" in changed[0]
    assert "| 4 | drawer | 1000 / 250 / 25 % / 2000 (n = 1) | - | - | - | - | - |" in changed[1]
    assert "| drawer | network | 0.50 (n = 1) | 0.50 (n = 1) | 0.50 (n = 1) |" in changed[2]
    report.plt.close("all")


def test_the_interval_is_students():
    assert report.interval([2.0, 4.0, 9.0]) == pytest.approx(4.302653 * np.sqrt(13) / np.sqrt(3))  # t(0.975, 2), std
    assert report.mean_and_interval([90, 92, 94, 96, 98], planned=5) == "94 ± 4"  # 2.776 * sqrt(10 / 5)
    assert report.mean_and_interval([90, 98], planned=5, digits=1) == "94.0 ± 50.8 (n = 2)"
    assert report.mean_and_interval([94], planned=5) == "94 (n = 1)"
    assert report.mean_and_interval([], planned=5) == "-"


def test_a_run_is_judged_by_what_every_evaluation_knows(tmp_path):
    write_run(tmp_path, 10, rows=[{"return_mean": 1, "normalized_score": 5, "success_rate": 50},
                                  {"return_mean": 2, "normalized_score": 4}])  # fmt: skip
    write_run(tmp_path, 9, rows=[{"return_mean": 3}])
    write_run(tmp_path, 1, rows=[{"return_mean": 3, "normalized_score": 5, "success_rate": 50}])
    assert {seed: list(run.scores) for seed, run in report.load(tmp_path).items()} == {1: [50], 9: [3], 10: [5, 4]}


def test_five_seeds_have_a_mean_and_the_deviation_of_a_sample():
    runs = {}
    for seed, last in ((1, 100.0), (2, 104.0)):
        rows = [(50.0, 0.0, 0.5, 60.0), (last, 70.0, 0.2, 120.0)]
        names = "normalized_score", "stochastic_normalized_score", "intervention_rate", "wall_seconds"
        runs[seed] = report.Result({}, np.array(rows, dtype=[(name, float) for name in names]))
    *_, first, _, mean = report.table(runs).splitlines()
    assert first == "| 1 | 100.0 | 70.0 | 100.0 | 50 % → 20 % | 2.0 |"
    assert mean == "| mean ± std, n = 2 | 102.0 ± 2.8 | 70.0 ± 0.0 | 102.0 ± 2.8 | 50 % → 20 % | 2.0 |"


def test_methods_are_compared_by_what_they_ask_for(tmp_path):
    for seed, score in ((1, 10.0), (2, 20.0)):
        row = {"normalized_score": score, "stochastic_normalized_score": 5, "flagged_rate": 0.125}
        write_run(tmp_path / "a", seed, "hg_dagger.py --num-threads 1 --intervention value", [row], env_steps=1000,
                  labels=100 * seed, takeovers=7, seconds={"total": 90})  # fmt: skip
    row = {"normalized_score": 67.2, "stochastic_normalized_score": 48.1}
    write_run(tmp_path / "b", 1, "bc.py --num-threads 1", [row], seconds={"total": 42})
    _, _, several, one = report.comparison([tmp_path / name for name in ("a", "b", "nowhere")]).splitlines()
    assert several == ("| `hg_dagger.py --intervention value` | 1, 2 | 15.0 ± 63.5 | 5.0 ± 0.0 | 1000 ± 0 | 150 ± 635 "
                       "| 7 ± 0 | 12.5 ± 0.0 | 1.5 ± 0.0 |")  # fmt: skip
    assert one == "| `bc.py` | 1 | 67.2 | 48.1 | - | - | - | - | 0.7 |"


def test_miles_figures_are_given_by_task_and_rounds(tmp_path):
    write_run(tmp_path / "figure3" / "peg-person", 1, before=BEFORE)
    for seed, score in enumerate((90, 92, 94, 96, 98), start=1):
        facts = {"env_steps": 1000, "expert_steps": 200 + 10 * seed}
        options = "--round-updates 1000"
        write_run(tmp_path / "figure3" / "peg-iwr", seed, f"iwr.py {options}", [{"success_rate": score, "round": 1}],
                  rounds=1, **facts)  # fmt: skip
        rows = [{"success_rate": score / 2, "round": 10}, {"success_rate": score, "round": 20}]
        write_run(tmp_path / "figure4" / "peg-mile", seed, f"mile.py {options}", rows, rounds=20, **facts)
        rows = [{"success_rate": 0}, {"success_rate": 70 + seed}]  # HG-DAgger's rows do not tell the round
        write_run(tmp_path / "figure4" / "peg-hg-dagger", seed, f"hg_dagger.py {options}", rows, rounds=20, **facts)
        rows = [{"success_rate": 1}, {"success_rate": 30 + seed}]
        write_run(tmp_path / "figure4" / "peg-hg-dagger-10-rounds", seed, "hg_dagger.py", rows)
    write_run(tmp_path / "figure4" / "peg-rlif", 1, "rlif_rlpd.py", [{"success_rate": 3}], env_steps=100,
              expert_steps=50, critic_updates=15)  # fmt: skip
    known = ["32", "80", "90", "22", "25"]
    reached = report.mile_methods(tmp_path)
    assert lines_of(reached, "3 | peg") == [["3", "peg", "1", *known, "-", "-", "94 ± 4", "-", "-", "-"]]
    assert lines_of(reached, "4 | peg") == [
        ["4", "peg", "10", *known, "47 ± 2", "-", "-", "-", "33 ± 2", "-"],
        ["4", "peg", "20", *known, "94 ± 4", "-", "-", "-", "73 ± 2", "3 (n = 1)"],
    ]
    assert lines_of(reached, "4 | drawer | 20") == [["4", "drawer", "20"] + ["-"] * 11]
    costs = report.mile_costs(tmp_path)
    assert lines_of(costs, "3 | peg") == [["3", "peg", "-", "-", "1000 / 230 / 23 % / 1000", "-", "-", "-"]]
    long = "1000 / 230 / 23 % / 20000"
    assert lines_of(costs, "4 | peg") == [
        ["4", "peg", long, "-", "-", "-", long, "100 / 50 / 50 % / 15 (n = 1)"],
    ]
    left, right = report.twenty_rounds(tmp_path).axes
    drawn = {bars.lines[0].get_color(): bars.lines[0].get_xydata().round(2).tolist() for bars in right.containers}
    assert drawn["C0"] == [[0, 31.6], [9, 47], [19, 94]] and drawn["C5"] == [[0, 31.6], [21, 3]]
    (upper, lower) = right.containers[0].lines[1][0].get_ydata()[1:], right.containers[0].lines[1][1].get_ydata()[1:]
    assert np.allclose(np.abs(upper - lower) / 2, [1.963, 3.926], atol=1e-3)
    assert not any(len(bars.lines[0].get_xdata()) for bars in left.containers)  # nothing of the other task
    report.plt.close("all")


def test_demonstrations_stand_beside_the_run_without_them(tmp_path):
    write_run(tmp_path / "figure3" / "drawer-rlif", 1, rows=[{"success_rate": 2}])
    write_run(tmp_path / "figure5" / "drawer-rlif-3-demos", 1, rows=[{"success_rate": 8}])
    assert lines_of(report.mile_demonstrations(tmp_path), "rlif") == [["rlif", "2 (n = 1)", "-", "8 (n = 1)", "-"]]


def test_predictions_are_averaged_over_rounds_and_seeds(tmp_path):
    for seed, offset in ((1, 0.0), (2, 0.1)):
        rows = []
        for accuracy in (0.5, 0.7):  # after 10 and after 20 rounds
            rows.append({"success_rate": 1} | foretold(accuracy + offset) | {"model_log_loss": 2})
        rows[0]["network_balanced_accuracy"] = ""  # no interventions in the first ten rounds
        write_run(tmp_path / "figure4" / "peg-mile", seed, rows=rows)
    predictions = report.mile_predictions(tmp_path)
    usual = "0.65 ± 0.64 (n = 2)"
    assert lines_of(predictions, "peg | model") == [["peg", "model", usual, usual, "2.00 ± 0.00 (n = 2)"]]
    assert lines_of(predictions, "peg | network") == [["peg", "network", usual, "0.75 ± 0.64 (n = 2)", usual]]


def test_how_long_the_measurement_takes_is_said_alike():
    page = (ROOT / "docs" / "speed.md").read_text()
    (time,) = re.findall(r"`python benchmark/speed.py` measures all this in (.*?);", page)
    assert time in speed.__doc__
