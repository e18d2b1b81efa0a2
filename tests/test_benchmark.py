"""The benchmark: what its scripts refuse, resume and record, and what the report makes of unfinished results."""

import fcntl
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import tyro
from scipy import stats

import bc
from experts import open_run
from tests import tiny
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import aggregate
import report
import report_judge
import report_mile
import report_rlif
import report_speed
import run
import speed
import tables

MAINS = {"run": (run.main, run.Args), "speed": (speed.main, speed.Args)}
CELLS = """
[one]
a = "bc.py --num-threads 1"
[several]
low = "bc.py"
high = "bc.py --batch-size 8 --num-threads 1"
low-rlif = "rlif_rlpd.py"
rounds = "benchmark/rlif_rounds.py"
[wrong]
size = "bc.py --batch-size 0"
nothing = "hg_dagger.py --random-rate 30"
termination = "benchmark/rlif_rounds.py --termination penalty"
[mixed]
good = "bc.py"
size = "bc.py --batch-size 0"
"""


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

    def Popen(self, argv, stdout, **_):
        _, script, *options = argv
        script = Path(script).relative_to(ROOT).as_posix()
        self.calls.append([script, *options])
        if any(part in option for part in self.failing for option in options):
            stdout.write("a line\nwhat is wrong\n")
            return Ended(1)
        folder = Path(options[1]) if options[0] == "--resume" else begin(script, options)
        (folder / "eval.csv").write_text(
            "global_step,return_mean,normalized_score,success_rate,"
            "stochastic_normalized_score,stochastic_success_rate\n0,8,9,,9,\n5,7,6,,6,\n"
        )
        (folder / "summary.json").write_text(json.dumps({"expert_steps": 321}))
        return Ended(0)


class Ended:
    """A process that has ended."""

    def __init__(self, returncode):
        self.returncode = returncode

    def poll(self):
        return self.returncode


def in_turn(runs, args):
    """Stands for run_all: the runs one after the other, without Ray."""
    all_succeeded = True
    for one in runs:
        found = run.execute(*one, ROOT, run.ROOT, lambda line: None)
        succeeded, line = run.keep(*one[:3], found)
        print(line)
        all_succeeded &= succeeded
    return all_succeeded


def begin(script, options):
    """The folder of a run that has written its options and nothing else."""
    module = import_module(Path(script).stem)
    args = tiny.parsed(module, *options)
    if hasattr(args, "termination"):
        args.termination = args.termination or "penalty"  # what the default is worth on Hopper
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__1".replace("/", "-")
    folder = run.ROOT / "runs" / name
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps(vars(args)))
    return folder


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A repository without results, whose scripts do nothing."""
    (tmp_path / "benchmark" / "results").mkdir(parents=True)
    (tmp_path / "benchmark" / "cells.toml").write_text(CELLS)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "subprocess", Scripts())
    monkeypatch.setattr(run, "run_all", in_turn)
    return run.subprocess


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_a_run_that_failed_is_exit_code_1_after_all_others(scripts, capsys):
    options = "one", "--jobs", 1, "--seeds"
    assert start("run", *options, 3) == 0
    scripts.failing = ("bc-one-a",)
    assert start("run", *options, 3, 4, 5) == 1
    assert len(scripts.calls) == 3 and capsys.readouterr().out.count("failed with exit code 1") == 2
    scripts.calls.clear()
    scripts.failing = ("bc-several-low",)
    assert start("run", "several", "--seeds", 1, 2) == 1
    shown = capsys.readouterr().out
    assert shown.count("failed with exit code 1") == 2 and len(scripts.calls) == 8
    assert "several/rounds, seed 2: last 6.0, best 9.0" in shown
    kept = sorted(
        path.relative_to(run.results_of("several"))
        for path in run.results_of("several").rglob("*.json")
    )
    assert [str(path) for path in kept] == [
        f"{cell}/seed_{seed}.json" for cell in ("high", "low-rlif", "rounds") for seed in (1, 2)
    ]


def test_the_cells_of_a_suite_are_run_seed_by_seed_in_their_order(scripts):
    assert start("run", "several", "--only", "low", "--seeds", 2, 1, "--jobs", 1) == 0
    assert scripts.calls == [
        ["bc.py", "--seed", "2", "--exp-name", "bc-several-low"],
        ["rlif_rlpd.py", "--seed", "2", "--exp-name", "rlif_rlpd-several-low-rlif"],
        ["bc.py", "--seed", "1", "--exp-name", "bc-several-low"],
        ["rlif_rlpd.py", "--seed", "1", "--exp-name", "rlif_rlpd-several-low-rlif"],
    ]
    for cell, command in (("low", "bc.py"), ("low-rlif", "rlif_rlpd.py")):
        for seed in (1, 2):
            path = run.results_of(f"several/{cell}") / f"seed_{seed}.json"
            assert json.loads(path.read_text()) == {
                "command": f"python {command}",
                "expert_steps": 321,
            }
            assert run.read_evaluations(path.with_suffix(".csv"))["global_step"].tolist() == [0, 5]


def test_the_list_shows_the_commands_and_runs_nothing(scripts, capsys, tmp_path):
    assert start("run", "several", "--only", "high", "--seeds", 3, 4, "--list") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"several/high, seed {seed}: python bc.py --batch-size 8 --num-threads 1" for seed in (3, 4)
    ]
    assert not scripts.calls and not list((tmp_path / "benchmark" / "results").iterdir())


def test_on_a_gpu_the_commands_say_so_and_results_of_the_cpu_are_not_made_again(
    scripts, capsys, monkeypatch
):
    change("rlif_rlpd.py")
    assert start("run", "one", "--gpus", 0.5) == 2
    assert capsys.readouterr().err.endswith(": --gpus: torch finds no GPU here\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert start("run", "one", "--seeds", 1) == 0
    assert start("run", "one", "--gpus", 0.5, "--seeds", 1, 2) == 0
    assert [call[1:-4] for call in scripts.calls] == [[], ["--cuda"]]  # seeds 1 and 2
    path = run.results_of("one/a") / "seed_2.json"
    assert json.loads(path.read_text())["command"] == "python rlif_rlpd.py --cuda"
    assert start("run", "one", "--seeds", 2) == 0  # nor is one of the GPU made again on the CPU
    assert len(scripts.calls) == 2


@pytest.mark.parametrize(("line", "said"), [
    ("run|hoper", "no suite 'hoper' in benchmark/cells.toml, which has one, several, wrong, mixed"),
    ("run|", "no suite ''"),
    ("run|one|--only|hoper", "python benchmark/run.py one --list"),
    ("run|one|--only|hoper|--list", "python benchmark/run.py one --list"),
    ("run|one|--jobs|0", "--jobs must be positive, not 0"),
    ("run|one|--jobs|-2", "--jobs must be positive, not -2"),
    ("run|one|--address|127.0.0.1:9", "--address 127.0.0.1:9: no Ray there"),
    ("run|one|--address|6379", "--address must be host:port, or auto, not 6379"),
    ("run|one|--seeds", "--seeds"),
    ("run|one|--seeds|-1", "one/a: --seed must be zero or more"),
    ("run|wrong|--only|size", "wrong/size: --batch-size must be positive"),
    ("run|wrong|--only|nothing", "wrong/nothing: --random-rate would do nothing here"),
    ("run|wrong|--only|termination", "wrong/termination: --termination must be mask or bootstrap"),
    ("run|mixed", "mixed/size: --batch-size must be positive"),  # what could be run before it is not
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


def change(command):
    """Let the cell one/a have another command."""
    (run.ROOT / "benchmark" / "cells.toml").write_text(f'[one]\na = "{command}"\n')


def test_files_of_another_command_are_refused(scripts, capsys):
    assert start("run", "one") == 0
    assert start("run", "one") == 0
    assert "there already" in capsys.readouterr().out
    change("bc.py")
    assert start("run", "one", "--seeds", 2, 1) == 2
    error = capsys.readouterr().err
    assert "results/one/a/seed_1.json is of another command, python bc.py --num-threads 1" in error
    assert error.count("\n") == len(scripts.calls) == 1


BEGUN = {  # a command, and others, as whose run it does not count
    "bc.py --num-threads 1 --batch-size 8":
        ["bc.py", "bc.py --num-threads 1 --batch-size 9", "bc.py --batch-size 8",
         "bc.py --num-threads 1 --batch-size 8 --max-episode-steps 9"],
    "rlif_rlpd.py --max-episode-steps 9 --num-threads 1": ["rlif_rlpd.py --num-threads 1"],
    "rlif_rlpd.py --target-entropy -9": ["rlif_rlpd.py"],
    "rlif_rlpd.py --termination mask": ["rlif_rlpd.py", "rlif_rlpd.py --termination bootstrap"],
    "rlif_rlpd.py": ["rlif_rlpd.py --termination mask"],
    "benchmark/variants.py --n-step 3": ["benchmark/variants.py --n-step 5"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "other"), [(command, other) for command in BEGUN for other in BEGUN[command]]
)
def test_an_interrupted_run_is_resumed_by_its_own_command_only(command, other, scripts, capsys):
    script, *options = run.words("one/a", command, 1)
    folder = begin(script, options)
    (folder / "checkpoint.pt").touch()
    change(other)
    assert start("run", "one") == 2
    error = capsys.readouterr().err
    assert (
        f"runs/{folder.name} was begun with another" in error
        and error.count("\n") == 1
        and not scripts.calls
    )
    change(command)
    assert start("run", "one") == 0
    assert scripts.calls == [[script, "--resume", str(folder)]]
    assert (
        json.loads((run.results_of("one/a") / "seed_1.json").read_text())["command"]
        == f"python {command}"
    )


def test_a_run_that_has_finished_is_not_done_again_and_that_is_said(scripts, capsys):
    words = run.words("one/a", "bc.py --num-threads 1", 1)
    assert start("run", "one") == 0
    (folder,) = (run.ROOT / "runs").glob("*1")
    (folder / "checkpoint.pt").touch()
    shutil.rmtree(run.results_of("one/a"))
    assert start("run", "one") == 0 and len(scripts.calls) == 1
    assert (
        f"by {folder}, which had finished; delete both to run it again" in capsys.readouterr().out
    )
    change("bc.py --batch-size 8")  # what has finished is of another command now
    shutil.rmtree(run.results_of("one/a"))
    folder.rename(folder.with_name(f"{folder.name[:-1]}0"))
    assert start("run", "one") == 0 and scripts.calls[1] != list(words)


def test_a_run_that_was_interrupted_before_its_first_checkpoint_is_started_again(scripts):
    words = run.words("one/a", "bc.py --num-threads 1", 1)
    folder = begin(words[0], words[1:])
    folder.rename(folder.with_name(folder.name.removesuffix("1") + "0"))
    assert start("run", "one") == 0
    assert scripts.calls == [list(words)] and folder in run.begun(run.ROOT, words[-1], 1)


def test_a_run_is_found_again_by_the_name_that_the_script_gives_its_folder(scripts):
    words = run.words("a/b:[c]", "bc.py", 1)
    args = tyro.cli(bc.Args, args=words[1:])
    folders = []
    for _ in range(2):  # most likely in the same second, so the second folder's name ends in -2
        folders.append(open_run(args)[0])
        found = run.begun(run.ROOT, words[-1], 1)
        assert [folder.name for folder in found] == [folder.name for folder in folders]
    assert folders[0] != folders[1] and not run.begun(run.ROOT, words[-1], 2)
    for folder in folders:
        (folder / "args.json").unlink()
    # killed before it wrote its options: there is nothing to resume
    assert not run.begun(run.ROOT, words[-1], 1)


def test_a_run_of_another_command_in_the_folder_of_a_node_is_left_alone(scripts, tmp_path):
    script, *options = run.words("one/a", "bc.py --batch-size 8", 1)
    folder = begin(script, options)
    folder = folder.rename(folder.with_name(folder.name + "-later"))  # the last one
    (folder / "checkpoint.pt").touch()
    command = "bc.py --batch-size 9"
    words = run.words("one/a", command, 1)
    wanted = run.understood("one/a", words[0], words[1:])
    found = run.execute("one/a", command, 1, wanted, ROOT, tmp_path, lambda line: None)
    assert scripts.calls == [list(words)] and "eval.csv" in found


def test_two_benchmarks_at_once_are_refused(scripts, capsys):
    with open(run.results_of(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert start("run", "one") == 2
    error = capsys.readouterr().err
    assert "another process runs benchmark/run.py here" in error and error.count("\n") == 1
    assert start("run", "one") == 0 and len(scripts.calls) == 1


def test_a_script_does_not_outlive_the_task_that_started_it(tmp_path):
    code = "import subprocess, sys, run; " + (
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', 'orphan'],"
        " preexec_fn=run.die_with_parent); print('started', flush=True); import time; time.sleep(60)"
    )
    task = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT / "benchmark", stdout=subprocess.PIPE, text=True
    )
    assert task.stdout.readline() == "started\n"
    children = Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text().split()
    task.kill()
    task.wait()
    assert len(children) == 1
    for _ in range(100):
        if not Path(f"/proc/{children[0]}/stat").exists():
            return
        if Path(f"/proc/{children[0]}/stat").read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it lives on")


def test_the_log_of_a_run_that_failed_is_kept_until_it_succeeds(scripts, capsys):
    scripts.failing = ("bc-one-a",)
    assert start("run", "one") == 1
    shown = capsys.readouterr().out
    assert (
        "one/a, seed 1: failed with exit code 1: what is wrong (benchmark/results/one/a/" in shown
    )
    log = run.results_of("one/a") / "seed_1.log"
    assert log.read_text() == "a line\nwhat is wrong\n"
    scripts.failing = ("nothing",)
    assert start("run", "one") == 0 and not log.exists()


def test_without_ray_it_says_what_to_install(scripts, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as caught:
        run.need_ray()
    assert caught.value.code == 2
    assert 'python -m pip install "ray[default]"' in capsys.readouterr().err


# --- the cells -------------------------------------------------------------------------------------------------------

SUITES = run.suites()


NO_SUITES = {".lock", "aggregate", "judge", "persons", "speed", "speed-gpu", "study", "watched"}


@pytest.mark.parametrize(
    "folder",
    sorted({path.name for path in (ROOT / "benchmark" / "results").iterdir()} - NO_SUITES),
)
def test_the_files_that_are_there_are_of_the_commands_of_the_cells(folder):
    paths = sorted((ROOT / "benchmark" / "results" / folder).rglob("seed_*.json"))
    recorded = {
        path: json.loads(path.read_text())["command"].removesuffix(" --cuda") for path in paths
    }
    assert folder in SUITES and recorded == {
        path: f"python {SUITES[folder][path.parent.name]}" for path in paths
    }
    assert {path.parent.parent.name for path in paths} == {folder}
    for path in paths:
        assert len(run.scores_of(run.read_evaluations(path.with_suffix(".csv")))), path
    csvs = sorted((ROOT / "benchmark" / "results" / folder).rglob("seed_*.csv"))
    assert csvs == [path.with_suffix(".csv") for path in paths]


@pytest.mark.parametrize("suite", SUITES)
def test_every_command_is_understood_by_its_script(suite, scripts, capsys):
    runs = [(f"{suite}/{cell}", command, 1) for cell, command in SUITES[suite].items()]
    run.check(runs)  # which ends the process otherwise
    for name, command, _ in runs:
        script, *options = shlex.split(command)
        assert (ROOT / script).is_file(), name
        typed = {
            option.split("=")[0].replace("_", "-") for option in options if option.startswith("--")
        }
        assert not typed & {"--seed", "--exp-name", "--resume"}, name  # run.py says them
        assert len(typed) == sum(option.startswith("--") for option in options), name  # none twice
        # as the files have it
        assert f"python {command}" == f"python {shlex.join([script, *options])}", name
    assert not capsys.readouterr().err


def test_no_two_runs_would_share_a_folder():
    names = [
        run.words(f"{suite}/{cell}", command, 1)[-1]
        for suite in SUITES
        for cell, command in SUITES[suite].items()
    ]
    assert len(set(names)) == len(names) > 100


def test_the_cells_of_miles_figures_have_the_person_that_was_measured():
    for path in (ROOT / "benchmark" / "results" / "persons").glob("*.json"):
        found = json.loads(path.read_text())
        who = found["args"] | {"intervention_cost": found["intervention_cost"]}
        cells = [
            (f"{suite}/{cell}", command) for suite in ("figure3", "figure4", "figure5")
            for cell, command in SUITES[suite].items() if cell.startswith(f"{path.stem}-")
        ]  # fmt: skip
        assert cells, path
        for name, command in cells:
            script, *options = shlex.split(command)
            wanted = run.understood(name, script, options)
            for option in (
                "env_id", "expert", "initial_policy", "human_model", "intervention_cost", "intervention_scale",
                "takeover_steps",
            ):  # fmt: skip
                assert wanted[option] == who[option], (name, option)


@pytest.mark.parametrize("suite", ["figure3", "figure4", "figure5"])
def test_the_methods_of_miles_figures_differ_by_nothing_but_the_method(suite):
    shared = {}
    for cell, command in SUITES[suite].items():
        (task,) = [task for task in report_mile.TASKS if cell.startswith(f"{task}-")]
        (method,) = [
            method
            for method in report_mile.MARKERS
            if re.fullmatch(rf"{method}(-\d-demos)?", cell[len(task) + 1 :])
        ]
        script, *options = shlex.split(command)
        wanted = run.understood(cell, script, options)
        names = (
            "env_id", "expert", "initial_policy", "human_model", "intervention_cost", "intervention_scale",
            "takeover_steps", "rounds", "round_episodes", "eval_frequency", "eval_episodes",
        )  # fmt: skip
        shared.setdefault(task, []).append({name: wanted[name] for name in names})
        demos = re.search(r"-(\d)-demos", cell)
        assert wanted.get("demo_episodes", 0) == (int(demos[1]) if demos else 0)
        scripts = {
            "bc-intervention": "mile.py",
            "hg-dagger": "iwr.py",
            "rlif": "benchmark/rlif_rounds.py",
        }
        assert script == scripts.get(method, f"{method}.py")
        assert wanted.get("interventions_only", False) == (method == "hg-dagger")
        assert wanted.get("mental_model", False) == (method == "mile")
    assert shared and all(settings == [settings[0]] * len(settings) for settings in shared.values())


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_helps_and_refuses_and_writes_nothing(monkeypatch, capsys):
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("it has written"))
    for option, code in (("--help", 0), ("--no-such-option", 2)):
        monkeypatch.setattr(sys, "argv", ["report.py", option])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "benchmark" / "report.py"), run_name="__main__")
        assert caught.value.code == code
    shown = capsys.readouterr()
    assert "puts it where" in shown.out and "--no-such-option" in shown.err


SCORES = "return_mean", "normalized_score", "success_rate"


def write_run(folder, seed, options="mile.py", rows=({},), **summary):
    """The files of a run: rows of its eval.csv, and what its summary holds.

    A score with sampled actions is that with mean actions where it is not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{f"stochastic_{name}": row.get(name, "") for name in SCORES} | row for row in rows]
    names = dict.fromkeys(["global_step", *SCORES, *rows[0]])
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    (folder / f"seed_{seed}.csv").write_text("\n".join(lines) + "\n")
    (folder / f"seed_{seed}.json").write_text(
        json.dumps({"command": f"python {options}"} | summary)
    )


def foretold(value):
    """What a row of mile.py says of its predictions, all the same."""
    return {f"{source}_{what}": value for source in ("model", "network", "majority")
            for what in ("accuracy", "balanced_accuracy", "log_loss")}  # fmt: skip


def lines_of(markdown, start):
    """The cells of those lines of a Markdown table that begin with these cells."""
    return [
        line.strip("| ").split(" | ")
        for line in markdown.splitlines()
        if line.startswith(f"| {start} |")
    ]


BEFORE = {"initial_score": 31.6, "assisted_score": 80, "expert_score": 90, "intervention_cost": 22.0,
          "intervention_rate": 0.246}  # fmt: skip


def nothing(results):
    return []


def test_an_unfinished_benchmark_can_be_reported(tmp_path, monkeypatch):
    results = tmp_path / "results"
    shutil.copytree(
        ROOT / "benchmark" / "results", results, ignore=shutil.ignore_patterns("figure*", "persons")
    )
    # bootstraps take long, and the judge's files do not change here
    monkeypatch.setattr(report_judge, "all_tables", nothing)
    without = report.all_tables(results)
    for folder in (
        "options/reward-none",
        "tried/pen-lax",
        "hopper/hg-dagger-value",
        "figure4/drawer-mile",
    ):
        (results / folder).mkdir(parents=True, exist_ok=True)
        (results / folder / "seed_9.log").touch()
    assert report.all_tables(results) == without
    assert [axis.get_title() for axis in report_mile.one_round(results).axes] == list(
        report_mile.TASKS
    )
    report_mile.twenty_rounds(results)
    rows = [{"success_rate": 2 * rounds, "round": rounds} | foretold(0.5) for rounds in (10, 20)]
    write_run(results / "figure4" / "drawer-mile", 1, "mile.py --round-updates 100", rows, env_steps=1000,
              expert_steps=250, rounds=20)  # fmt: skip
    after = report.all_tables(results)
    changed = [markdown for markdown, old in zip(after, without, strict=True) if markdown != old]
    assert len(changed) == 3
    assert "| 4 | drawer | 10 | - | - | - | - | - | 20 (n = 1) | - | - | - | - | - |" in changed[0]
    assert "| 4 | drawer | 1000 / 250 / 25 % / 2000 (n = 1) | - | - | - | - | - |" in changed[1]
    assert "| drawer | network | 0.50 (n = 1) | 0.50 (n = 1) | 0.50 (n = 1) |" in changed[2]
    plt.close("all")


@pytest.mark.parametrize("missing", [("hopper",), (*SUITES, "persons")])
def test_the_report_goes_without_suites_that_have_not_begun(missing, tmp_path, monkeypatch):
    results = tmp_path / "benchmark" / "results"
    shutil.copytree(
        ROOT / "benchmark" / "results", results, ignore=shutil.ignore_patterns(*missing)
    )
    page = "| seed | none |\n|-|-|\nkept\n"
    (tmp_path / "README.md").write_text(page)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(report_judge, "all_tables", nothing)
    shutil.copy(ROOT / "benchmark" / "cells.toml", tmp_path / "benchmark" / "cells.toml")
    report.main()
    drawn = {path.stem for path in (tmp_path / "benchmark" / "figures").iterdir()}
    assert drawn == {"critics", "mile", "mile-one-round", "table1", "table1-better"}  # not hopper
    assert (tmp_path / "README.md").read_text() == page
    plt.close("all")


def test_the_tables_of_a_page_are_replaced_by_their_first_line_and_nothing_else_is():
    page = "a\n\n| x | y |\n|-|-|\n| 1 | 2 |\n\nb | c\n| z |\n|-|\n| 3 |\n"
    new = "| x | y |\n|-|-|\n| \\1 | 5 |\n| 6 | 7 |"
    assert report.rewrite(page, [new, "| w |\n|-|"]) == page.replace(
        "| 1 | 2 |", "| \\1 | 5 |\n| 6 | 7 |"
    )


def test_the_interval_is_students():
    # t(0.975, 2), std
    assert tables.interval([2.0, 4.0, 9.0]) == pytest.approx(4.302653 * np.sqrt(13) / np.sqrt(3))
    # 2.776 * sqrt(10 / 5)
    assert tables.mean_and_interval([90, 92, 94, 96, 98], planned=5) == "94 ± 4"
    assert tables.mean_and_interval([90, 98], planned=5, digits=1) == "94.0 ± 50.8 (n = 2)"
    assert tables.mean_and_interval([94], planned=5) == "94 (n = 1)"
    assert tables.mean_and_interval([], planned=5) == "-"


def test_a_run_is_judged_by_what_every_evaluation_knows(tmp_path):
    write_run(tmp_path, 10, rows=[{"return_mean": 1, "normalized_score": 5, "success_rate": 50},
                                  {"return_mean": 2, "normalized_score": 4}])  # fmt: skip
    write_run(tmp_path, 9, rows=[{"return_mean": 3}])
    write_run(tmp_path, 1, rows=[{"return_mean": 3, "normalized_score": 5, "success_rate": 50}])
    assert {seed: list(run.scores) for seed, run in tables.load(tmp_path).items()} == {
        1: [50],
        9: [3],
        10: [5, 4],
    }


def test_five_seeds_have_a_mean_and_the_deviation_of_a_sample():
    runs = {}
    for seed, last in ((1, 100.0), (2, 104.0)):
        rows = [(50.0, 0.0, 0.5, 60.0), (last, 70.0, 0.2, 120.0)]
        names = (
            "normalized_score",
            "stochastic_normalized_score",
            "intervention_rate",
            "wall_seconds",
        )
        runs[seed] = tables.Result({}, np.array(rows, dtype=[(name, float) for name in names]))
    *_, first, _, mean = report_rlif.table(runs).splitlines()
    assert first == "| 1 | 100.0 | 70.0 | 100.0 | 50 % → 20 % | 2.0 |"
    assert (
        mean == "| mean ± std, n = 2 | 102.0 ± 2.8 | 70.0 ± 0.0 | 102.0 ± 2.8 | 50 % → 20 % | 2.0 |"
    )


def test_options_that_all_runs_of_a_table_have_are_left_out(tmp_path):
    shared = "rlif_rlpd.py --num-threads 1 --gamma 0.9"
    commands = {"a": shared, "b": f"{shared} --offline-ratio 0.25 --bf16", "c": f"{shared} --bf16"}
    for name, command in commands.items():
        before = {"return_mean": 7, "global_step": 30_005}
        write_run(tmp_path / name, 1, command, [before, {"return_mean": 5, "global_step": 50_000}])
    write_run(tmp_path / "a", 2, f"{shared} --cuda", [{"return_mean": 9, "global_step": 20_000}])
    folders = [tmp_path / name for name in ("a", "nowhere", "b", "c")]
    assert report_rlif.overview("options", folders).splitlines()[2:] == [
        "| none | 1, 2 | 7, - | 5, 9 | 7, 9 |",
        "| `--offline-ratio 0.25 --bf16` | 1 | 7 | 5 | 7 |",
        "| `--bf16` | 1 | 7 | 5 | 7 |",
    ]


def test_methods_are_compared_by_what_they_ask_for(tmp_path):
    for seed, score in ((1, 10.0), (2, 20.0)):
        row = {
            "normalized_score": score,
            "stochastic_normalized_score": 5,
            "flagged_rate": 0.125,
            "wall_seconds": 60 + 30 * seed,
        }
        write_run(tmp_path / "a", seed, "hg_dagger.py --num-threads 1 --intervention value", [row], env_steps=1000,
                  labels=100 * seed, takeovers=7)  # fmt: skip
    row = {"normalized_score": 67.2, "stochastic_normalized_score": 48.1, "wall_seconds": 42}
    write_run(tmp_path / "b", 1, "bc.py --num-threads 1", [row])
    _, _, several, one = report_rlif.comparison(
        [tmp_path / name for name in ("a", "b", "nowhere")]
    ).splitlines()
    assert several == ("| `hg_dagger.py --intervention value` | 1, 2 | 15.0 ± 63.5 | 5.0 ± 0.0 | 1000 ± 0 | 150 ± 635 "
                       "| 7 ± 0 | 12.5 ± 0.0 | 1.5 |")  # fmt: skip
    assert one == "| `bc.py` | 1 | 67.2 | 48.1 | - | - | - | - | 0.7 |"


def test_miles_figures_are_given_by_task_and_rounds(tmp_path):
    (tmp_path / "persons").mkdir()
    (tmp_path / "persons" / "peg.json").write_text(json.dumps(BEFORE))
    for seed, score in enumerate((90, 92, 94, 96, 98), start=1):
        facts = {"env_steps": 1000, "expert_steps": 200 + 10 * seed}
        options = "--round-updates 1000"
        write_run(tmp_path / "figure3" / "peg-iwr", seed, f"iwr.py {options}", [{"success_rate": score, "round": 1}],
                  rounds=1, **facts)  # fmt: skip
        rows = [{"success_rate": score / 2, "round": 10}, {"success_rate": score, "round": 20}]
        write_run(
            tmp_path / "figure4" / "peg-mile", seed, f"mile.py {options}", rows, rounds=20, **facts
        )
        rows = [{"success_rate": 30 + seed, "round": 10}, {"success_rate": 70 + seed, "round": 20}]
        options = "iwr.py --interventions-only --round-updates 1000"
        write_run(tmp_path / "figure4" / "peg-hg-dagger", seed, options, rows, rounds=20, **facts)
    rows = [{"success_rate": 1, "round": 10}, {"success_rate": 3, "round": 20}]
    write_run(tmp_path / "figure4" / "peg-rlif", 1, "benchmark/rlif_rounds.py --round-updates 15", rows, env_steps=100,
              expert_steps=50, rounds=20)  # fmt: skip
    known = ["32", "80", "90", "22", "25"]
    reached = report_mile.mile_methods(tmp_path)
    assert lines_of(reached, "3 | peg") == [
        ["3", "peg", "1", *known, "-", "-", "94 ± 4", "-", "-", "-"]
    ]
    assert lines_of(reached, "4 | peg") == [
        ["4", "peg", "10", *known, "47 ± 2", "-", "-", "-", "33 ± 2", "1 (n = 1)"],
        ["4", "peg", "20", *known, "94 ± 4", "-", "-", "-", "73 ± 2", "3 (n = 1)"],
    ]
    assert lines_of(reached, "4 | drawer | 20") == [["4", "drawer", "20"] + ["-"] * 11]
    costs = report_mile.mile_costs(tmp_path)
    assert lines_of(costs, "3 | peg") == [
        ["3", "peg", "-", "-", "1000 / 230 / 23 % / 1000", "-", "-", "-"]
    ]
    long = "1000 / 230 / 23 % / 20000"
    assert lines_of(costs, "4 | peg") == [
        ["4", "peg", long, "-", "-", "-", long, "100 / 50 / 50 % / 300 (n = 1)"],
    ]
    left, right = report_mile.twenty_rounds(tmp_path).axes
    drawn = {
        bars.lines[0].get_color(): bars.lines[0].get_xydata().round(2).tolist()
        for bars in right.containers
    }
    assert drawn["C0"] == [[0, 31.6], [9, 47], [19, 94]] and drawn["C5"] == [
        [0, 31.6],
        [11, 1],
        [21, 3],
    ]
    (upper, lower) = (
        right.containers[0].lines[1][0].get_ydata()[1:],
        right.containers[0].lines[1][1].get_ydata()[1:],
    )
    assert np.allclose(np.abs(upper - lower) / 2, [1.963, 3.926], atol=1e-3)
    # nothing of the other task
    assert not any(len(bars.lines[0].get_xdata()) for bars in left.containers)
    plt.close("all")


def test_demonstrations_stand_beside_the_run_without_them(tmp_path):
    write_run(tmp_path / "figure3" / "drawer-rlif", 1, rows=[{"success_rate": 2, "round": 1}])
    write_run(
        tmp_path / "figure5" / "drawer-rlif-3-demos", 1, rows=[{"success_rate": 8, "round": 1}]
    )
    assert lines_of(report_mile.mile_demonstrations(tmp_path), "rlif") == [
        ["rlif", "2 (n = 1)", "-", "8 (n = 1)", "-"]
    ]


def test_predictions_are_averaged_over_rounds_and_seeds(tmp_path):
    for seed, offset in ((1, 0.0), (2, 0.1)):
        rows = []
        for accuracy in (0.5, 0.7):  # after 10 and after 20 rounds
            rows.append({"success_rate": 1} | foretold(accuracy + offset) | {"model_log_loss": 2})
        rows[0]["network_balanced_accuracy"] = ""  # no interventions in the first ten rounds
        write_run(tmp_path / "figure4" / "peg-mile", seed, rows=rows)
    predictions = report_mile.mile_predictions(tmp_path)
    usual = "0.65 ± 0.64 (n = 2)"
    assert lines_of(predictions, "peg | model") == [
        ["peg", "model", usual, usual, "2.00 ± 0.00 (n = 2)"]
    ]
    assert lines_of(predictions, "peg | network") == [
        ["peg", "network", usual, "0.75 ± 0.64 (n = 2)", usual]
    ]


def write_cell(results, cell, scores, first=1):
    """Runs of a cell of Table 1 from this seed on, which end with these scores."""
    for seed, score in enumerate(scores, start=first):
        rows = [{"normalized_score": score + 1}, {"normalized_score": score}]
        write_run(results / "table1" / cell, seed, "x.py", rows)


def test_a_cell_says_its_seeds(tmp_path):
    name = "Hopper-v5-low-hg-dagger"

    def shown():
        return report_rlif.cell(report_rlif.runs_of(tmp_path / "table1" / name), 25.2)

    assert shown() == ("-", "- (25)")
    write_cell(tmp_path, name, [20])
    assert shown() == ("20 (one seed)", "21 (25)")
    write_cell(tmp_path, name, [22, 24], first=2)
    assert shown() == ("22 ± 5 (n = 3)", "23 (25)")  # t(0.975, 2) = 4.303; 4.303 * 2 / sqrt(3)


def write_table(results, env_id, seeds):
    """All cells of an environment: the k-th method and k-th level end with 100 - 10 k, the first seed with 3 more."""
    for i, level in enumerate(report_rlif.EXPERTS[env_id]):
        for j, method in enumerate((*report_rlif.METHODS, "bc")):
            scores = np.full(seeds, 100.0 - 10 * j - i * (method != "bc"))
            scores[0] += 3
            cell = aggregate.cell_of(env_id, level, method)
            write_cell(results, cell, scores)


def test_only_tasks_with_three_seeds_of_every_method_are_summed_up(tmp_path):
    assert aggregate.complete(tmp_path) == {}
    write_table(tmp_path, "Hopper-v5", 4)
    write_table(tmp_path, "Walker2d-v5", 2)
    write_cell(tmp_path, "Walker2d-v5-low-rlif", [1, 2, 3])
    levels = [("Hopper-v5", level) for level in ("top", "middle", "low")]
    scores = aggregate.complete(tmp_path)
    assert list(scores) == levels
    assert {len(values) for task in scores.values() for values in task.values()} == {4}
    # of a method: as many of every cell as the one with the fewest has, its first ones
    (tmp_path / "table1" / "Hopper-v5-low-dagger" / "seed_2.json").unlink()
    scores = aggregate.complete(tmp_path)
    assert list(scores) == levels and scores["Hopper-v5", "low"]["dagger"] == [61, 58, 58]
    cells, _ = aggregate.matrix(scores, "dagger")
    assert cells.tolist() == [[63, 62, 61], [60, 59, 58], [60, 59, 58]]
    assert aggregate.matrix(scores, "rlif")[0].shape == (4, 3)
    shutil.rmtree(tmp_path / "table1" / "Hopper-v5-bc")
    assert aggregate.complete(tmp_path) == {}


def test_the_one_cell_of_cloning_stands_beside_every_expert(tmp_path):
    write_table(tmp_path, "Hopper-v5", 3)
    write_table(tmp_path, "Walker2d-v5", 3)
    scores = aggregate.complete(tmp_path)
    cells, columns = aggregate.matrix(scores, "bc")
    assert cells.shape == (3, 2) and columns == [0, 0, 0, 1, 1, 1]
    cells, columns = aggregate.matrix(scores, "dagger")
    assert cells.tolist() == [[63, 62, 61] * 2, [60, 59, 58] * 2, [60, 59, 58] * 2]
    assert columns == [0, 1, 2, 3, 4, 5]


def test_aggregates_of_known_scores(tmp_path, monkeypatch):
    pytest.importorskip("rliable")
    monkeypatch.setattr(aggregate, "DRAWS", 50)
    write_table(tmp_path, "Hopper-v5", 3)
    for level in report_rlif.EXPERTS["Hopper-v5"]:  # the same as RLIF
        for file in (tmp_path / "table1" / f"Hopper-v5-{level}-rlif").iterdir():
            shutil.copy(file, tmp_path / "table1" / f"Hopper-v5-{level}-rlif-random")
    write_cell(tmp_path, "Hopper-v5-bc", [90, 200, 10])
    rows = aggregate.aggregates(aggregate.complete(tmp_path))
    assert rows == aggregate.aggregates(aggregate.complete(tmp_path))  # the draws are fixed
    rlif, same, worse, *_, bc = rows
    # 98 98 99 99 100 100 101 102 103, without the first and the last two
    assert rlif["iqm"] == "99.8000" and rlif["better"] == "nan"
    assert same["better"] == "0.5000" and worse["better"] == "1.0000"
    assert worse["better_low"] == worse["better_high"] == "1.0000"
    # each of the three thrice: 10 90 90 90 200 are the middle; RLIF is above two of three
    assert bc["iqm"] == "96.0000" and bc["better"] == "0.6667"
    assert float(bc["better_low"]) < 0.5 < float(bc["better_high"])
    assert (bc["seeds"], bc["tasks"], bc["which"]) == (3, 3, "Hopper-v5 (top, middle, low)")
    folder = tmp_path / "aggregate"
    folder.mkdir()
    assert report_rlif.aggregate_table(tmp_path).splitlines()[2:] == [
        "| no task has three seeds of every method yet | - | - |"
    ]
    aggregate.write(folder / "table1.csv", rows)
    *_, worst, counted = report_rlif.aggregate_table(tmp_path).splitlines()
    assert worst.startswith("| bc | 96.0 (") and " | 0.67 (" in worst
    assert counted == "| 3 seeds of 3 tasks | Hopper-v5 (top, middle, low) |  |"
    assert (
        report_rlif.counted([{"seeds": n, "tasks": "9"} for n in "535"])
        == "3 to 5 seeds of 9 tasks"
    )
    axis = report_rlif.intervals(rows[1:], "better", "", (0, 1), 0.5).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == [*report_rlif.METHODS[1:], "bc"]
    plt.close("all")


def test_all_methods_of_a_task_begin_with_the_same_demonstrations():
    found = {}  # {(environment, episodes): {transitions, ...}}
    for suite in ("hopper", "table1", "table3"):
        for path in (ROOT / "benchmark" / "results" / suite).glob("*/seed_*.json"):
            summary = json.loads(path.read_text())
            env_id = re.search(r"--env-id (\S+)|$", summary["command"])[1] or "Hopper-v5"
            if "demo_transitions" in summary:
                task = env_id, summary["demo_episodes"]
                found.setdefault(task, set()).add(summary["demo_transitions"])
    assert found and all(len(transitions) == 1 for transitions in found.values()), found


def test_the_aggregates_are_of_the_runs_that_are_there():
    results = ROOT / "benchmark" / "results"
    scores = aggregate.complete(results)
    rows = {row["method"]: row for row in report_rlif.aggregate_rows(results)}
    assert rows.keys() == ({*report_rlif.METHODS, "bc"} if scores else set())
    for method, row in rows.items():
        cells, columns = aggregate.matrix(scores, method)
        # the interquartile mean, by hand
        middle = stats.trim_mean(cells[:, columns], 0.25, axis=None)
        assert float(row["iqm"]) == pytest.approx(middle, abs=1e-4), "run benchmark/aggregate.py"
        assert (int(row["seeds"]), int(row["tasks"])) == (len(cells), len(scores))


def test_without_rliable_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rliable", None)
    with pytest.raises(SystemExit) as caught:
        aggregate.main()
    assert caught.value.code == 2
    assert 'python -m pip install rliable==1.2.0 "pandas<3"' in capsys.readouterr().err


def write_updates(results):
    """An updates.csv: what compiled updates in bfloat16 take on a core, and rows that do not count."""
    (results / "speed").mkdir()
    measured = {(2, 1): 4, (2, 10): 22, (10, 1): 12, (10, 10): 66}  # by critics and UTD ratio
    names = "device", "threads", "path", "precision"
    counts, *others = [
        dict(zip(names, values))
        for values in (
            ("cpu", 1, "compiled", "bfloat16"),
            ("cpu", 2, "compiled", "bfloat16"),
            ("cpu", 1, "eager", "bfloat16"),
            ("cpu", 1, "compiled", "float32"),
            ("cuda", 1, "compiled", "bfloat16"),
        )
    ]
    rows = [
        counts | {"num_qs": num_qs, "utd_ratio": utd, "ms": ms}
        for (num_qs, utd), ms in measured.items()
    ]
    rows += [row | {"num_qs": 2, "utd_ratio": 1, "ms": 1_000} for row in others]
    tables.write(results / "speed" / "updates.csv", rows)


def test_the_paper_budget_is_measured_on_a_line(tmp_path):
    write_updates(tmp_path)
    assert [report_speed.update_ms(tmp_path, 10, utd) for utd in (1, 10, 19)] == [12, 66, 120]
    assert report_speed.update_ms(tmp_path, 6, 1) == 8
    report_speed.update_ms(ROOT / "benchmark" / "results", 10, 1)  # what was measured has all rows


def test_core_hours_of_the_paper_budget(tmp_path):
    write_updates(tmp_path)
    rows = [{"normalized_score": 1}] * 10
    walker, dagger, bc = (
        tmp_path / "table1" / cell
        for cell in ("Walker2d-v5-low-rlif", "Hopper-v5-low-dagger", "Hopper-v5-bc")
    )
    write_run(walker, 1, "x.py", rows, env_steps=50_000, seconds=400)
    # a million steps of 8 ms, but with an update of 12 ms in the place of one with 3 critics, 5 ms
    expected = 1e6 * (8 - 5 + 12) * 1e-3 / 3600
    assert report_speed.hours(tmp_path, "Walker2d-v5-low-rlif") == pytest.approx(expected)
    write_run(dagger, 1, "x.py", rows, rounds=36, seconds={"total": 100})
    # a millisecond a gradient step, 100,000 at first and 100 times 2,500
    assert report_speed.hours(tmp_path, "Hopper-v5-low-dagger") == pytest.approx(350 / 3600)
    write_run(dagger, 2, "x.py", rows, rounds=36, seconds=500)  # on a busy machine
    assert report_speed.hours(tmp_path, "Hopper-v5-low-dagger") == pytest.approx(350 / 3600)
    write_run(bc, 1, "x.py", rows, gradient_steps=20_000, seconds=20)
    assert report_speed.hours(tmp_path, "Hopper-v5-bc") == pytest.approx(100 / 3600)
    assert np.isnan(report_speed.hours(tmp_path, "Hopper-v5-low-rlif"))


def test_what_table_1_cost_is_a_mean_over_experts_and_seeds(tmp_path):
    table1 = tmp_path / "table1"
    asked = {"labels": 50, "expert_steps": 300}
    write_run(table1 / "Walker2d-v5-top-rlif", 1, "rlif_rlpd.py", env_steps=100, **asked)
    write_run(table1 / "Walker2d-v5-low-rlif", 1, "rlif_rlpd.py", env_steps=400)  # not recorded
    folder = table1 / "Walker2d-v5-low-dagger"
    asked = {"labels": 6, "expert_steps": 0}
    write_run(folder, 1, "dagger.py", env_steps=10, rounds=2, **asked)
    write_run(folder, 2, "dagger.py", env_steps=30, rounds=4, **asked)
    cells = lines_of(report_rlif.paper_costs(tmp_path), "Walker2d-v5")[0]
    assert cells[1:] == ["250 / 50 / 300 / 250", "-", "-", "-", "20 / 6 / 0 / 17500", "-"]


def test_how_long_the_measurement_takes_is_said_alike():
    page = (ROOT / "docs" / "speed.md").read_text()
    (time,) = re.findall(r"`python benchmark/speed.py` measures all this in (.*?);", page)
    assert time in speed.__doc__
