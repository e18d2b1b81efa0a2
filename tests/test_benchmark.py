"""The benchmark: what run.py refuses, resumes and records, the cells, and what the report says."""

import csv
import functools
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from itertools import accumulate, chain, cycle
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tyro
from filelock import FileLock
from scipy import stats

from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import files
import report
import run
import speed
import when

SUITES = run.suites()
CELLS = """
[[one]]
[one.methods]
a = "bc.py --num-threads 1"
[[several]]
tasks = ["hop", "walk"]
all = "--eval-episodes 3"
[several.methods]
bc = "bc.py"
low = "rlif_rlpd.py --n-step 1"
[several.each.walk]
"rlif_rlpd.py" = "--gamma 0.9"
[tasks.hop]
options = "--env-id Hopper-v5"
experts = ["top", "low"]
[tasks.walk]
options = "--env-id Walker2d-v5"
without = ["bc"]
"""


class Scripts:
    """Stands for subprocess: a run leaves its files at once, or fails if its name has this word."""

    def __init__(self):
        self.calls, self.failing = [], "nothing"

    def run(self, argv, stdout, cwd, **_):
        _, script, *options = argv
        script = Path(script).relative_to(run.ROOT).as_posix()
        self.calls.append([script, *options])
        name, seed = options[options.index("--exp-name") + 1], options[options.index("--seed") + 1]
        if self.failing in name:
            stdout.write("a line\nwhat is wrong\n")
            return subprocess.CompletedProcess(argv, 1)
        folder = Path(cwd, "runs", f"Hopper-v5__{name}__{seed}__1")
        if "--resume" in options:
            folder = Path(options[options.index("--resume") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        scores = "normalized_score,success_rate,return_mean\n9,nan,1\n6,nan,1\n"
        (folder / "eval.csv").write_text(scores)
        (folder / "args.json").write_text('{"seed": 1}')
        (folder / "model.safetensors").touch()
        return subprocess.CompletedProcess(argv, 0)


def in_turn(runs, args):
    """Stands for run_all: the runs one after the other, without Ray."""
    kept = [run.keep(*one, run.execute(*one, run.ROOT, run.ROOT)) for one in runs]
    return all(kept)


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A repository without results, whose scripts do nothing."""
    (tmp_path / "benchmark" / "results").mkdir(parents=True)
    (tmp_path / "benchmark" / "cells.toml").write_text(CELLS)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "benchmark" / "results")
    monkeypatch.setattr(run, "subprocess", Scripts())
    monkeypatch.setattr(run, "run_all", in_turn)
    return run.subprocess


def start(monkeypatch, program, *options):
    """The exit code of a program of the benchmark, in this process."""
    monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *map(str, options)])
    try:
        files.command_line(program.main, program.__doc__)
    except SystemExit as exit:
        return exit.code
    return 0


@pytest.fixture
def begin(scripts, monkeypatch):
    """A function that starts run.py with options."""
    return lambda *options: start(monkeypatch, run, *options)


def change(command):
    """Let the cell one/a have another command."""
    text = CELLS.replace("bc.py --num-threads 1", command)
    (run.ROOT / "benchmark" / "cells.toml").write_text(text)


# --- run.py ---------------------------------------------------------------------------------------
def test_cells_are_products_of_tasks_experts_and_methods(scripts):
    assert run.suites()["several"] == {
        "hop-bc": "bc.py --env-id Hopper-v5 --eval-episodes 3",  # cloning asks no expert
        "hop-top-low": "rlif_rlpd.py --n-step 1 --env-id Hopper-v5 --expert top --eval-episodes 3",
        "hop-low-low": "rlif_rlpd.py --n-step 1 --env-id Hopper-v5 --expert low --eval-episodes 3",
        "walk-low": "rlif_rlpd.py --n-step 1 --env-id Walker2d-v5 --eval-episodes 3 --gamma 0.9",
    }


def test_nothing_is_imported_that_not_all_platforms_have():
    text = "".join(path.read_text() for path in (ROOT / "benchmark").glob("*.py"))
    assert not re.findall(r"(?:import|from) (?:fcntl|resource|termios|pwd|grp)\b", text)


def test_a_suite_is_run_seed_by_seed_and_not_twice(begin, scripts, capsys):
    assert begin("several", "--only", "hop", "--seeds", 2, 1, "--list") == 0 and not scripts.calls
    line = "several/hop-low-low, seed 1: python rlif_rlpd.py --n"
    assert capsys.readouterr().out.count(line) == 1
    assert begin("several", "--only", "hop", "--seeds", 2, 1) == 0
    assert len(scripts.calls) == 6 and scripts.calls[0][:3] == ["bc.py", "--env-id", "Hopper-v5"]
    assert [call[call.index("--seed") + 1] for call in scripts.calls] == [*"222111"]
    assert "several/hop-bc, seed 2: last 6.0, best 9.0\n" in capsys.readouterr().out
    kept = run.RESULTS / "several" / "hop-bc" / "seed_1.json"
    command = "python bc.py --env-id Hopper-v5 --eval-episodes 3"
    assert json.loads(kept.read_text()) == {"command": command, "args": {"seed": 1}}
    assert files.scores_of(files.read_columns(kept.with_suffix(".csv"))).tolist() == [9, 6]
    assert begin("several", "--only", "hop", "--seeds", 1, 2) == 0 and len(scripts.calls) == 6
    assert capsys.readouterr().out.count("there already") == 6


def test_a_failed_run_is_exit_code_1_after_all_others_and_its_log_is_kept(begin, scripts, capsys):
    scripts.failing = "hop-top-low"
    assert begin("several", "--seeds", 1) == 1 and len(scripts.calls) == 4
    log = run.RESULTS / "several" / "hop-top-low" / "seed_1.log"
    assert log.read_text() == "a line\nwhat is wrong\n"
    said = f"several/hop-top-low, seed 1: failed with exit code 1: what is wrong ({log})"
    assert said in capsys.readouterr().out.splitlines()
    scripts.failing = "nothing"
    assert begin("several", "--seeds", 1) == 0 and len(scripts.calls) == 5 and not log.exists()


def test_results_of_another_command_are_refused_but_not_for_the_device(begin, scripts, capsys):
    assert begin("one") == 0 and begin("one", "--gpus", 0.5, "--seeds", 1, 2) == 0
    assert [call[1:3] for call in scripts.calls] == [["--num-threads", "1"]] * 2
    kept = run.RESULTS / "one" / "a" / "seed_2.json"
    assert json.loads(kept.read_text())["command"] == "python bc.py --num-threads 1 --cuda"
    change("bc.py")
    capsys.readouterr()
    assert begin("one") == 2 and len(scripts.calls) == 2
    error = capsys.readouterr().err
    assert "seed_1.json is of another command, python bc.py --num-threads 1; delete" in error
    assert error.count("\n") == 1


def test_an_interrupted_run_is_resumed_by_its_own_command_only(begin, scripts, capsys):
    assert begin("one") == 0
    (folder,) = (run.ROOT / "runs").glob("*__1__1")
    shutil.rmtree(run.RESULTS / "one")
    assert begin("one") == 0 and len(scripts.calls) == 1  # it is there
    assert f"it had finished in {folder}" in capsys.readouterr().out
    shutil.rmtree(run.RESULTS / "one")
    (folder / "model.safetensors").unlink()
    (folder / "checkpoint.pt").touch()
    change("bc.py --batch-size 8")
    assert begin("one") == 0 and "--resume" not in scripts.calls[1]
    shutil.rmtree(run.RESULTS / "one")
    change("bc.py --num-threads 1")
    assert begin("one") == 0
    assert scripts.calls[2] == [*scripts.calls[0], "--resume", str(folder)]
    (folder / "model.safetensors").unlink()
    (folder / "checkpoint.pt").unlink()  # killed before its first: there is nothing to resume
    shutil.rmtree(run.RESULTS / "one")
    assert begin("one") == 0 and scripts.calls[3] == scripts.calls[0]


@pytest.mark.parametrize(("line", "said"), [
    ("hoper", "cells.toml has no suite 'hoper', but one, several"),
    ("one --only b", "--only b: one has a"),
    ("one --jobs 0", "--jobs must be positive"),
    ("one --jobs 2 --address auto", "--jobs must be positive, and is for this machine"),
    ("one --gpus 1.5", "--gpus must be a share from 0 to 1, or a whole number"),
    ("one --gpus -1", "--gpus must be a share"),
    ("one --seeds", "--seeds"),
    ("one --seeds -1", "--seeds needs one or several of zero or more"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_starts(line, said, begin, scripts, capsys):
    assert begin(*line.split()) == 2 and not scripts.calls
    error = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert said in error and not list(run.RESULTS.rglob("seed*"))


def test_two_benchmarks_at_once_are_refused(begin, scripts, capsys):
    with FileLock(run.RESULTS / ".lock"):
        assert begin("one") == 2 and not scripts.calls
    assert "another run.py is at work here" in capsys.readouterr().err
    assert begin("one") == 0 and len(scripts.calls) == 1


def test_ray_that_is_missing_or_not_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(run.InputError, match=r'python -m pip install "ray\[default\]"'):
        run.connect(run.Args("one"))
    monkeypatch.setitem(sys.modules, "ray", sys)
    errors = {"127.0.0.1:9": "Conn", "6379": "", "host:port": "Val", "auto": ".* attribute 'init'"}
    for address, said in errors.items():
        with pytest.raises(run.InputError, match=f"--address {address}, {said}"):
            run.connect(run.Args("one", address=address))


def test_what_ray_is_told_and_says(results, monkeypatch, capsys):
    told, errors = [], SimpleNamespace(RayError=ValueError, OutOfMemoryError=ValueError)
    task = SimpleNamespace(remote=lambda *words: told.append(words) or "task")
    ray = SimpleNamespace(exceptions=errors, wait=lambda tasks: (tasks, []))
    ray.get = [].index  # raises ValueError
    ray.init = lambda *_, **options: told.append(options)
    ray.nodes = lambda: [{"Resources": one} for one in ({"GPU": 1.0}, {}, {"GPU": 1.0})]
    ray.remote = lambda **options: told.append(options) or (lambda function: task)
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert not run.run_all([("a/b", "bc.py", 1)], run.Args("a", gpus=1.0, folder="there", jobs=2))
    assert told[0]["num_cpus"] == 2 and told[1]["max_retries"] == 3 and told[1]["num_gpus"] == 1
    assert told[2] == ("a/b", "bc.py", 1, str(run.ROOT), f"{os.getcwd()}/there")
    assert "a/b, seed 1: failed with exit code 1: memory ran out 4 times" in capsys.readouterr().out
    with pytest.raises(run.InputError, match="finds no machine with so many GPUs"):
        run.connect(run.Args("a", gpus=2.0))


def test_a_script_does_not_outlive_the_task_that_started_it(tmp_path):
    (tmp_path / "sleep.py").write_text("import time; print('on', flush=True); time.sleep(60)")
    code = "import run; run.execute('a/b', 'sleep.py', 1, {0!r}, {0!r})".format(str(tmp_path))
    task = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT / "benchmark")
    while not any(log.read_text() for log in tmp_path.glob("runs/*.log")):
        assert task.poll() is None
        time.sleep(0.1)
    (child,) = Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text().split()
    task.kill()
    task.wait()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(int(child), 9)
    pytest.fail("it lives on")


# --- the cells ------------------------------------------------------------------------------------
COMMANDS = [(f"{suite}/{cell}", line) for suite in SUITES for cell, line in SUITES[suite].items()]


def options_of(command):
    """A command's options as its script understands them."""
    script, *words = shlex.split(command)
    if script == "benchmark/when.py":
        return when.parsed(words)[2]
    module = importlib.import_module(Path(script).stem)
    return tyro.cli(module.Args, args=words)


def test_every_command_is_understood_by_its_script():
    for name, command in COMMANDS:
        options_of(command)
        typed = re.findall(r" (--[\w-]+)", command)
        assert len(set(typed)) == len(typed), name  # none twice
        assert not {"--seed", "--exp-name", "--resume", "--cuda"} & set(typed), name


def test_there_is_a_cell_for_every_field_of_the_tables():
    counts = {suite: len(set(cells.values())) for suite, cells in SUITES.items()}
    assert counts["table1-full"] == 3 * 3 * 6 + 3 and counts["table3"] == 3 * 3
    assert counts["table1"] == 3 * 3 * 7 + 3 - 8  # Hopper's low expert and clone are in hopper
    assert [counts[f"figure{i}"] for i in (3, 4, 5)] == [5 * 6 - 1, 2 * 6, 4 * 3]
    methods = *report.METHODS, "rlif-progress"
    cells = {report.cell_of(*task, method) for task in report.LEVELS for method in methods}
    there = {name for name, _ in COMMANDS}
    assert {name for name in there if name.startswith("table1/")} < cells < there
    compared = [set(folders) for _, folders in report.compared()]
    assert set().union(*compared) < there and all(compared)
    assert len({corner for corner, _ in report.compared()}) == len(compared) > 10
    assert {f"table3/{x}-{y}" for x in report.PAPER["table3"] for y in ("poor", "top")} < there
    for suite, task, _ in report.FIGURE3 + report.FIGURE4:
        there = {name for name in SUITES[suite] if name.startswith(f"{task}-")}
        assert there <= {f"{task}-{method}" for method in report.CLONERS} and len(there) >= 5


def test_the_methods_of_miles_figures_differ_by_nothing_but_the_method():
    same = "env_id expert human_model initial_policy intervention_cost intervention_scale rounds"
    same = (same + " takeover_steps round_episodes eval_frequency eval_episodes").split()
    for suite in ("figure3", "figure4", "figure5"):
        for task in ("lander", "lander_continuous", "drawer", "peg", "button"):
            cells = {x: y for x, y in SUITES[suite].items() if x.startswith(f"{task}-")}
            found = [[getattr(options_of(line), x) for x in same] for line in cells.values()]
            assert all(values == found[0] for values in found)
            who = json.loads((files.RESULTS / "persons" / f"{task}.json").read_text())
            cost = [who["intervention_cost"], who["args"]["intervention_scale"]]
            same_person = [who["args"]["env_id"], *cost]
            assert all([values[0], *values[4:6]] == same_person for values in found)
            cloners = [options_of(line) for name, line in cells.items() if "rlif" not in name]
            assert len({args.rounds * args.round_updates for args in cloners}) <= 1


# --- the report -----------------------------------------------------------------------------------
@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results."""
    for module in (files, run, report, report.judge):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def write_runs(results, cell, scores, command="x.py", metric="normalized_score", **columns):
    """Runs of seeds 1, 2, ... which end with these scores, one higher before; and other columns."""
    for seed, score in enumerate(scores, start=1):
        names = ["return_mean", "normalized_score", "success_rate"]
        names = {f"{prefix}{name}": ["nan"] * 2 for prefix in ("", "stochastic_") for name in names}
        rows = {"global_step": [0, 100], "return_mean": [1, 1]} | columns
        rows = names | rows | {metric: [score + 1, score]}
        lines = zip(*([x, *y] for x, y in rows.items()))
        text = "\n".join(",".join(map(str, line)) for line in lines)
        files.write(results / cell / f"seed_{seed}.csv", text)
        facts = {"command": f"python {command} --num-threads 1"}
        files.write(results / cell / f"seed_{seed}.json", json.dumps(facts))


def lines_of(table, start):
    """The cells of those lines of a table that begin with these cells."""
    lines = [line for line in table.splitlines() if line.startswith(f"| {start} |")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_the_interval_is_students():
    half = report.half_interval([2.0, 4.0, 9.0])
    assert half == pytest.approx(4.302653 * np.sqrt(13) / np.sqrt(3))
    assert report.mean_of([90, 92, 94, 96, 98]) == "94 ± 4"  # 2.776 * sqrt(10 / 5)
    assert report.mean_of([90, 98, np.nan], 1) == "90.0, 98.0 (n = 2)"
    assert (report.mean_of([94]), report.mean_of([])) == ("94 (n = 1)", "-")


def test_a_run_is_judged_by_what_every_evaluation_knows(results):
    write_runs(results, "a", [5], metric="success_rate", return_mean=[3, 4])
    write_runs(results, "b", [5], return_mean=[3, 4], success_rate=[7, "nan"])
    write_runs(results, "c", [5], metric="return_mean")
    assert [report.Cell(name).last for name in "abc"] == [[5]] * 3
    assert report.Cell("a", "b").seeds == [1, 1] and report.Cell("nowhere").last == []
    assert np.isnan(report.Cell("a").at("labels", -1)).all()


def test_a_cell_of_table_1_stands_beside_the_papers_figure(results):
    columns = {"labels": [0, 7], "stochastic_normalized_score": [1, 7]}
    write_runs(results, "hopper/hg-dagger", [20, 22, 24], **columns)
    scores, cost, _ = report.rlif_tables()
    rlif, _, hg_dagger, *_ = lines_of(scores, "Hopper-v5, low (16)")[0][1:]
    assert (rlif, hg_dagger) == ("- [108]", "22 ± 5 / 7 ± 0 [25] n = 3")
    assert lines_of(cost, "Hopper-v5")[0][1:4] == ["-", "-", "100 / 7 / -"]


def test_a_rivals_cells_are_found_where_they_lie(results):
    write_runs(results, "rivals/peg-state-bc", [50, 60, 70])
    counts = {"global_step": [0, 25], "updates": [0, 20], "expert_steps": [0, 5]}
    write_runs(results, "rivals/Hopper-v5-rlpd", [90, 90, 90], **counts)
    write_runs(results, "study/lander-demonstrations", [1, 2, 3])
    scores, cost = report.rival_tables()
    assert lines_of(scores, "bc")[0][5:] == [f"{x} / -; {x} n = 3" for x in ("60 ± 25", "2 ± 2")]
    assert lines_of(scores, "rlpd")[0][1:] == ["90 ± 0 / -; 90 ± 0 n = 3"] * 3 + ["-"] * 3
    assert lines_of(cost, "rlpd")[0][1:5] == ["25 / 20 / - / 5"] * 3 + ["-"]
    assert not lines_of(cost, "bc")


def test_a_persons_gain_is_what_is_learned_beyond_what_is_without_them_by_the_minute(results):
    task, columns = "Hopper-v5-1-demos-low", {"expert_steps": [0, 2_400], "takeovers": [0, 600]}
    write_runs(results, f"when/{task}-nobody", [20, 30, 40], expert_steps=[0, 0])
    write_runs(results, f"when/{task}-default", [88, 90, 92], **columns)
    write_runs(results, f"when/{task}-random", [98, 80, 82], **columns)
    for name, scores in (("hg-dagger", [40, 50, 60]), ("hg-dagger-nobody", [10, 20, 30])):
        counts = {"expert_steps": [0, 1_200], "metric": "success_rate"}
        write_runs(results, f"when/button-state-1-demos-top-{name}", scores, **counts)
    table, _, button = report.person_tables()
    cells = lines_of(table, "default")[0]  # two minutes; the evaluation before is one higher
    assert cells[2:7] == ["90 ± 5", "0 ± 0", "90 ± 5", "-", "-, 0, 0"]
    assert cells[7:] == ["600 ± 0", "2400 ± 0", "30.0 ± 9.9"]
    assert lines_of(table, "random")[0][3] == "-3 ± 29"  # 10, -10 and -10 more, seed by seed
    assert lines_of(table, "nobody")[0][-1] == "-"
    assert lines_of(button, "hg-dagger")[0][-1] == "30.0 ± 0.0"  # more than its own with nobody


def test_a_mean_over_a_run_is_by_its_steps_and_rounds_have_their_gradient_steps(results):
    write_runs(results, "a", [20], global_step=[0, 30], round=[0, 3])
    file = results / "a" / "seed_1.csv"  # 20 until step 30, 60 until step 40
    header, *lines = file.read_text().splitlines()
    last = dict(zip(header.split(","), lines[1].split(","))) | {"global_step": 40}
    last["normalized_score"] = 60
    files.write(file, "\n".join([header, *lines, ",".join(map(str, last.values()))]))
    assert report.over_run("a") == {1: 30}
    for first in ("pretrain_updates", "warm_up_updates"):
        facts = {"command": "python x.py", "args": {"round_updates": 50, first: 7}}
        files.write(file.with_suffix(".json"), json.dumps(facts))
        assert report.Cell("a").at("updates", -1) == [157]


def write_table1(results, seeds=3):
    """Table 1 whole: the k-th method ends with 100 - 10 k, the first seed with 3 more."""
    for env_id, level in report.LEVELS:
        for k, method in enumerate(report.METHODS):
            scores = [100 - 10 * k + 3 * (seed == 0) for seed in range(seeds)]
            name, other = report.cell_of(env_id, level, method), [0, 10 * k]
            write_runs(results, name, scores, stochastic_normalized_score=other)


def test_a_claim_holds_if_its_interval_lies_above_zero(results):
    write_table1(results)
    for k, method in enumerate(report.CLONERS[:-1]):
        more = {"metric": "success_rate", "stochastic_success_rate": [0, 5 + k]}
        write_runs(results, f"figure3/peg-{method}", [90 - k, 80 - k], **more)
    found = report.verdicts()
    row = lines_of(found, "rlif ends above hg-dagger | Hopper-v5")[0]
    assert row[2:] == ["60", "20 ± 4", "-20 ± 0", "holds / does not"]
    row = lines_of(found, "mile ends above the others that clone | peg")[0]
    assert row[2:] == ["first", "2 ± 0", "-2 ± 0", "holds / does not"]
    write_runs(results, "a", [3.0, 5.0, 9.0, 1.0])
    write_runs(results, "b", [1.0, 7.0])
    write_runs(results, "c", [5.0, 1.0, 4.0])  # of its fourth seed nothing is known
    a, b, c = map(report.Cell, "abc")
    for ones, scores in (([a], [3.0, 5, 9, 1]), ([a, c], [4.0, 3, 6.5])):
        value, half = report.difference(ones, [b], "score")
        welch = stats.ttest_ind(scores, [1.0, 7.0], equal_var=False).confidence_interval(0.95)
        assert (value - half, value + half) == pytest.approx(welch)


def test_steadiness_counts_from_the_first_three_good_evaluations(results):
    for seed, scores in enumerate(([0, 99, 99, 10, 98, 98, 98, 70], [0] * 8)):
        lines = [f"{100 * i},nan,{score}" for i, score in enumerate(scores)]
        text = "\n".join(["global_step,success_rate,normalized_score", *lines])
        files.write(results / "hopper" / "rlif" / f"seed_{seed}.csv", text)
        files.write(results / "hopper" / "rlif" / f"seed_{seed}.json", '{"command": "x.py"}')
    cells = lines_of(report.steadiness(), "Hopper-v5, low")[0]
    assert cells[2:] == ["97", "400, -", "1 of 4"]


def test_aggregates_of_known_scores(results):
    assert report.aggregated() == {}
    write_table1(results)
    for level in ("top", "high", "low"):  # the same as RLIF
        for path in (results / "table1" / f"Walker2d-v5-{level}-rlif").iterdir():
            shutil.copy(path, results / "table1" / f"Walker2d-v5-{level}-rlif-random")
    found = report.aggregated()
    # of 18 times 100 and 9 times 103 six on each side do not count
    assert found["rlif"][0][0] == pytest.approx(np.mean([100] * 12 + [103] * 3))
    assert found["dagger"][1] == (1, 1, 1)  # RLIF is above, in all tasks
    value, low, high = found["rlif-random"][1]
    assert value == pytest.approx((6 + 3 / 2) / 9) and low < value < high
    dagger, rlif = (lines_of(report.aggregate_table(), name)[0] for name in ("dagger", "rlif"))
    assert dagger[2:] == ["1.00 (1.00 to 1.00)", "40.0 (40.0 to 40.0)", "0.00 (0.00 to 0.00)"]
    assert rlif[2:] == ["", "0.0 (0.0 to 0.0)", ""]


def test_the_aggregates_are_rliables(results):
    library = pytest.importorskip("rliable.library")
    metrics, rng = importlib.import_module("rliable.metrics"), np.random.default_rng(0)
    write_table1(results, 4)
    rlif, dagger = rng.normal(50, 30, (2, 4, len(report.LEVELS)))  # (seeds, tasks) each
    for i, task in enumerate(report.LEVELS):
        for method, scores in (("rlif", rlif), ("dagger", dagger)):
            write_runs(results, report.cell_of(*task, method), scores[:, i].tolist())
    iqm, better = report.aggregated()["dagger"]
    for own, function, matrices in (
        (iqm, lambda x: np.array([metrics.aggregate_iqm(x)]), [dagger]),
        (better, lambda *x: np.array([metrics.probability_of_improvement(*x)]), [rlif, dagger]),
    ):
        np.random.seed(0)
        point, limits = library.get_interval_estimates({"": matrices}, function, reps=500)
        width = np.ptp(limits[""])
        assert own == pytest.approx([point[""][0], *limits[""][:, 0]], abs=0.15 * width)


def test_methods_are_compared_by_what_they_ask_for(results):
    more = {"wall_seconds": [0, 90], "stochastic_normalized_score": [5, 5], "labels": [0, 150]}
    command = "hg_dagger.py --env-id Hopper-v5 --expert low --doubt-novices 0"
    write_runs(results, "hopper/hg-dagger", [10, 20], command, **more)
    write_runs(results, "hopper/bc", [67.2], "bc.py", **more)
    write_runs(results, "hopper/dagger", [1], "dagger.py --doubt-novices 0 --old 1", **more)
    folders = [f"hopper/{name}" for name in ("none", "bc", "hg-dagger", "dagger")]
    *_, bc, several, old = report.comparison("x", folders).splitlines()
    assert several.startswith("| `hg_dagger.py --doubt-novices 0` | 1, 2 | 10.0, 20.0 | 5.0, 5.0 |")
    assert several.endswith("| 10.5, 20.5 | 100, 100 | 150, 150 | - | 1.5 |")
    assert bc == "| `bc.py` | 1 | 67.2 | 5.0 | 67.7 | - | - | - | 1.5 |"
    # what all have is left out
    *_, several, _ = report.comparison("x", folders[2:]).splitlines()
    assert several.startswith("| `hg_dagger.py` |") and old.startswith("| `dagger.py --doubt")


def test_miles_figures_are_given_by_task_and_rounds(results):
    facts = {"initial_score": 31.6, "assisted_score": 80, "expert_score": 90}
    facts |= {"intervention_cost": 22.0, "intervention_rate": 0.246}
    files.write(results / "persons" / "peg.json", json.dumps(facts))
    more = {"metric": "success_rate", "expert_steps": [0, 25]}
    for method, scores in (("mile", [90, 92, 94, 96, 98]), ("iwr", [91, 93, 95, 97, 99])):
        write_runs(results, f"figure3/peg-{method}", scores, round=[0, 1], **more)
        write_runs(results, f"figure4/peg-{method}", scores, round=[10, 20], **more)
    reached, difference, cost, _ = report.mile_tables()
    known = ["32", "80", "90", "22", "25"]
    cells = lines_of(reached, "3 | peg")[0]
    assert cells == ["3", "peg", "1", *known, "94 ± 4", "-", "95 ± 4", "-", "-", "-"]
    assert [row[8] for row in lines_of(reached, "4 | peg")] == ["95 ± 4", "94 ± 4"]  # 10, 20
    assert lines_of(difference, "3 | peg")[0][4] == "1 ± 0"
    assert lines_of(cost, "peg")[0][1] == "100 / 25"


def test_a_study_is_read_at_the_evaluation_nearest_to_the_minute(results):
    steps = {"global_step": [6_100, 17_000], "expert_steps": [0, 1_200], "metric": "return_mean"}
    write_runs(results, "study/lander-demonstrations", [10, 20, 30], metric="return_mean")
    write_runs(results, "study/lander-rlif", [300, 301, 302], **steps)
    write_runs(results, "study/lander-mile", [5, 6, 7], **steps)
    table = report.study_table()
    cells = [cell.split(" ")[0] for cell in lines_of(table, "lander | rlif")[0]]
    assert cells[2:] == ["20", "302", "301", "301", "281", "-", "14", "1"]
    assert lines_of(table, "lander | mile")[0][7].startswith("-295 ± 0")


def test_tables_of_a_page_are_replaced_by_their_first_cell_and_nothing_else_is():
    page = "a\n\n| x | y |\n|-|-|\n| 1 | 2 |\n\nb | c\n| z |\n|-|\n| 3 |\n"
    new = "| x | new |\n|-|-|\n| \\1 | 5 |\n| 6 | 7 |"
    expected = page.replace("| x | y |\n|-|-|\n| 1 | 2 |", new)
    assert report.rewrite(page, [new, "| w |\n|-|"]) == expected


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_an_empty_benchmark_can_be_reported(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    for folder in ("docs", "benchmark/figures"):
        (tmp_path / folder).mkdir(parents=True)
    page = "| command | none |\n|-|-|\n| 1 | 2 |\n\nkept\n"
    (tmp_path / "README.md").write_text(page)
    report.main()
    assert (tmp_path / "README.md").read_text().endswith(" seed |\n|-|-|-|-|-|-|-|-|-|\n\nkept\n")
    assert len(list((tmp_path / "benchmark" / "figures").iterdir())) == 1
    plt.close("all")


def test_the_tables_on_the_pages_are_those_of_the_results():
    tables = report.all_tables()
    firsts = [table[: table.index("|", 1)] for table in tables]
    assert len(set(firsts)) == len(firsts)
    made = set("\n".join(tables).splitlines())
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        text = page.read_text()
        assert report.rewrite(text, tables) == text, f"{page}: run benchmark/report.py"
        for row in re.findall(r"^\|.*$", text, re.M):
            number = re.search(r"\d", re.sub(r"\(http.*?\)|20\d\d|−1", "", row))
            assert row in made or not number, f"{page}: where is this from? {row}"


# --- speed.py -------------------------------------------------------------------------------------
def test_the_speed_of_an_update_is_measured(results, monkeypatch):
    small = functools.partial(speed.rlif_rlpd.Args, hidden_sizes=(4, 4))
    monkeypatch.setattr(speed.rlif_rlpd, "Args", small)
    # the clock is looked at once at the first of five calls, then before and after; slow at first
    looks = accumulate(chain([1] * 14 * 9, cycle([0, 1, 2e-7, 0, 2e-7, 0, 4e-7, 0, 9e-7])))
    facts = {"RESULTS": results, "ROUNDS": 1, "BATCH": 4, "HIDDEN": 4}
    facts |= {"time": SimpleNamespace(perf_counter=looks.__next__), "compiled": lambda f, needed: f}
    for name, value in facts.items():
        monkeypatch.setattr(speed, name, value)
    speed.main()
    rows = list(csv.DictReader((results / "speed" / "cpu-1.csv").read_text().splitlines()))
    assert len(rows) == 12 and len(report.speed_table().splitlines()) == 14
    for row in rows:  # the median is 3e-7
        assert (row["ms"], row["product_gflops"]) == ("0.00", f"{20 * 4**3 / 300:.0f}")
        # 2 * B * H * (O + H + 2 A) and so on; a product with one column does not count
        actor, critic, inputs = 17 + 4 + 12, 17 + 6 + 4, 17 + 6
        num_qs, utd = int(row["num_qs"]), int(row["utd_ratio"])
        products = utd * (actor + 2 * critic + num_qs * (3 * critic - inputs))
        products += 3 * actor - 17 + num_qs * 2 * critic
        share = 2 * 4 * 4 * products / (20 * 4**3)
        assert float(row["share_of_product"]) == pytest.approx(share, abs=0.01)
