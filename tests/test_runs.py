"""A run's folder, its tracking, what its options do and what a terminal shows of it."""

import importlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

import dagger
import iwr
import rlif_rlpd
from experts import InputError, demonstrations, human, parse, runs
from tests import tiny

SCRIPTS = [importlib.import_module(name) for name in tiny.SHORT]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(people, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    folders = [tiny.short_run(dagger, "--exp-name", "a", "--total-timesteps", 50) for _ in range(3)]
    first = "runs/Walled-v0__a__1__20260101-000000"
    assert [str(folder) for folder in folders] == [first, f"{first}-2", f"{first}-3"]
    assert all((folder / "summary.json").exists() for folder in folders)


def test_a_name_taken_a_thousand_times(monkeypatch):
    def taken(self, exist_ok=False):
        if not exist_ok:
            raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", taken)
    with pytest.raises(InputError, match="give another --exp-name"):
        runs._new_folder(Path("runs"), "a")


def test_a_folders_name_is_plain(people):
    folder = tiny.short_run(
        dagger, "--exp-name", "a/b #1: läuft?", "--env-id", "tests.tiny:Walled-v0"
    )
    assert folder.name.startswith("tests.tiny-Walled-v0__a-b--1--l-uft-__1__")


def test_the_seconds_of_a_run_go_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(
        runs, "time", SimpleNamespace(perf_counter=lambda: clock[0], strftime=time.strftime)
    )
    monkeypatch.chdir(tmp_path)
    args = tiny.parsed(dagger)
    folder, _ = runs.open_run(args)
    clock[0] += 5
    runs.save_run(folder, args, {}, None)
    clock[0] += 100  # lost, and the time until it is resumed
    runs.open_run(replace(args, resume=str(folder)))
    clock[0] += 2
    assert runs.run_seconds() == 7


# --- Weights & Biases ------------------------------------------------------------------------------------------------

WANDB = """
import json
from pathlib import Path

def init(**options):
    {first}
    Path("wandb.json").write_text(json.dumps(options))
"""


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """A function that installs a wandb whose init begins with a line."""

    def install(first="pass"):
        (tmp_path / "packages" / "wandb").mkdir(parents=True)
        (tmp_path / "packages" / "wandb" / "__init__.py").write_text(WANDB.format(first=first))
        monkeypatch.syspath_prepend(tmp_path / "packages")

    yield install
    sys.modules.pop("wandb", None)


def test_a_tracked_run_has_its_folders_name_and_keeps_it(people, wandb):
    wandb()
    folder = tiny.short_run(dagger, "--track", "--exp-name", "a#b:c d")
    options = json.loads(Path("wandb.json").read_text())
    assert options["id"] == folder.name and set(folder.name) & set("#: ") == set()
    assert (
        options["config"] == json.loads((folder / "args.json").read_text())
        and options["sync_tensorboard"]
    )
    folder.rename("runs/my run #1")
    dagger.main(tiny.parsed(dagger, "--resume", "runs/my run #1/."))
    assert json.loads(Path("wandb.json").read_text())["id"] == "my-run--1"


@pytest.mark.parametrize(("first", "said"), [
    ("raise RuntimeError('api_key not configured (no-tty)\\n  call wandb login')", "api_key not configured (no-tty)"),
    ("raise ConnectionError", "ConnectionError"),
    ("import no_such_package", "No module named 'no_such_package'"),
])  # fmt: skip
def test_tracking_that_does_not_start_is_one_line_and_leaves_nothing(
    people, wandb, ending, first, said
):
    wandb(first)
    code, line = ending(dagger, *tiny.short(dagger, "--track"))
    assert code == 2 and line == f"dagger.py: --track: Weights & Biases does not start: {said}"
    assert not list(Path().glob("runs/*"))


def test_a_stop_while_tracking_starts_leaves_nothing(people, wandb, ending):
    wandb("raise KeyboardInterrupt(2)")
    code, line = ending(dagger, *tiny.short(dagger, "--track"))
    assert code == 130 and line == "dagger.py: stopped; there is no checkpoint yet: start it again"
    assert not list(Path().glob("runs/*"))


def test_a_folder_called_wandb_is_not_the_package(people, ending, monkeypatch):
    if find_spec("wandb"):
        pytest.skip("wandb is installed")
    Path("wandb/run-1").mkdir(parents=True)  # as earlier runs leave it
    monkeypatch.syspath_prepend(Path.cwd())
    code, line = ending(dagger, *tiny.short(dagger, "--track"))
    assert (
        code == 2
        and line == "dagger.py: this run needs another package: python -m pip install wandb"
    )


# --- options that would do nothing -----------------------------------------------------------------------------------

OF_MODEL = "expert human-model intervention-cost intervention-scale takeover-steps"
USELESS = {  # the options beside which these others do nothing
    "rlif_rlpd": {
        "": "random-rate keys",
        "--intervention human": "expert takeover-steps reference intervention-alpha intervention-delta "
        "intervention-beta random-rate",
        "--intervention random": "reference intervention-alpha intervention-delta intervention-beta",
        "--intervention none --reward task": "expert takeover-steps reference intervention-alpha intervention-delta "
        "intervention-beta random-rate",
        "--dataset-id a/b-v0": "demo-noise",
        "--demo-episodes 0": "dataset-id demo-noise standardize-obs no-standardize-obs",
    },
    "hg_dagger": {
        "": "reference intervention-alpha intervention-delta random-rate keys",
        "--intervention human": "expert takeover-steps threshold reference intervention-alpha intervention-delta "
        "intervention-beta random-rate",
        "--intervention value": "threshold random-rate",
        "--intervention random": "threshold reference intervention-alpha intervention-delta intervention-beta",
        "--dataset-id a/b-v0": "demo-noise",
        "--demo-episodes 0 --threshold 1": "dataset-id demo-noise standardize-obs no-standardize-obs pretrain-updates",
        "--initial-policy top": "standardize-obs no-standardize-obs hidden-sizes pretrain-updates",
    },
    "dagger": {
        "": "random-rate",
        "--labels random": "threshold label-beta",
        "--labels all": "threshold label-beta random-rate",
        "--dataset-id a/b-v0": "demo-noise",
        "--demo-episodes 0 --threshold 1": "dataset-id demo-noise standardize-obs no-standardize-obs pretrain-updates",
    },
    "bc": {
        "": "keys",
        "--dataset-id a/b-v0": "demo-noise",
        "--record-demos 1": "dataset-id demo-episodes demo-noise",
    },
    "mile": {
        "": "keys",
        "--intervention human": "expert human-model takeover-steps",
        "--no-mental-model": "intervention-weight warm-up-episodes warm-up-updates",
        "--no-mental-model --intervention human": "intervention-cost intervention-scale",
        "--warm-up-updates 0": "warm-up-episodes",
    },
    "iwr": {
        "": "dataset-id demo-noise keys",
        "--intervention human": OF_MODEL,
        "--dataset-id a/b-v0 --demo-episodes 1": "demo-noise",
    },
    "sirius": {
        "": "dataset-id demo-noise keys",
        "--intervention human": OF_MODEL,
        "--dataset-id a/b-v0 --demo-episodes 1": "demo-noise",
    },
}
VALUES = {"reference": "top", "expert": "low", "dataset-id": "a/b-v0", "hidden-sizes": "8"}
FLAGS = "standardize-obs", "no-standardize-obs"
CASES = [(script, beside, option) for script, table in USELESS.items() for beside, options in table.items()
         for option in options.split()]  # fmt: skip


@pytest.mark.parametrize(("name", "beside", "option"), CASES)
def test_an_option_that_would_do_nothing_is_refused_where_it_is_typed(name, beside, option):
    script, value = importlib.import_module(name), VALUES.get(option, "1")
    said = f"^--{option} would do nothing here: .*; leave it out$"
    if option in FLAGS:
        ways = [[f"--{option}"], [f"--{option.replace('-', '_')}"]]
    else:
        ways = [
            [f"--{option}", value],
            [f"--{option}={value}"],
            [f"--{option.replace('-', '_')}", value],
        ]
    for way in ways:
        with pytest.raises(InputError, match=said):
            tiny.parsed(script, *beside.split(), *way)
        with pytest.raises(InputError, match=said):
            tiny.parsed(script, *way, *beside.split())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_all_options_that_do_nothing_are_in_that_table(script, monkeypatch):
    table, asked = USELESS[script.__name__], set()
    for module in (script, human, demonstrations):
        note = lambda typed, names, why: asked.update(names.split())  # noqa: E731
        monkeypatch.setattr(module, "unused", note, raising=False)
    for beside in table:
        tiny.parsed(script, *beside.split())
    in_table = {option for options in table.values() for option in options.split()}
    assert asked == {option.removeprefix("no-").replace("-", "_") for option in in_table}
    assert asked <= {field.name for field in fields(script.Args)}


def test_it_is_refused_from_the_command_line_as_well(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["iwr.py", "--demo-noise", "0.1"])
    with pytest.raises(
        InputError, match="--demo-noise would do nothing here: there are no demonst"
    ):
        parse(iwr.Args, iwr.check)


def test_with_their_defaults_they_are_not_in_the_way():
    for script in SCRIPTS:
        assert tiny.parsed(script) == script.Args()


# --- the end of an episode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "termination"), [
    ("--env-id Hopper-v5", "penalty"),
    ("--env-id Walker2d-v4", "penalty"),
    ("--env-id AdroitHandPen-v1", "penalty"),
    ("--env-id Hopper-v5 --termination mask", "mask"),
    ("--env-id Meta-World/drawer-open-v3", "mask"),
    ("--env-id LunarLanderContinuous-v3", "bootstrap"),
    ("--env-id Pendulum-v1 --reward task", "mask"),
    ("--env-id Pendulum-v1 --termination bootstrap", "bootstrap"),
])  # fmt: skip
def test_what_the_end_of_an_episode_is_worth_where_that_is_known(options, termination):
    args = tiny.parsed(rlif_rlpd, *options.split())
    assert (args.termination or rlif_rlpd.usual_termination(args)) == termination


@pytest.mark.parametrize(
    "env_id",
    ["MountainCarContinuous-v0", "HumanoidStandup-v5", "Walled-v0"],
)
def test_elsewhere_it_has_to_be_said(ending, env_id):
    code, line = ending(rlif_rlpd, "--env-id", env_id, "--eval-episodes", 1)
    assert code == 2 and not list(Path().glob("runs/*"))
    assert line.startswith(
        f"rlif_rlpd.py: --env-id {env_id}: is it good or bad if an episode ends before its time? --term"
    )


# --- terminals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_can_be_read_where_there_are_only_ascii_characters(script, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as caught:
        tiny.parsed(script, "--help")
    sys.stdout.flush()
    assert caught.value.code == 0 and b"--env-id" in written.getvalue()


def test_runs_where_there_are_only_ascii_characters_and_both_begin_at_once(people):
    environ = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONPATH": str(tiny.ROOT)}
    options = tiny.short(iwr, "--env-id", "tests.tiny:Walled-v0")
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ | environ}
    processes = [tiny.start(*options, script="iwr.py", **output) for _ in range(2)]
    for process in processes:
        printed, error = process.communicate()
        assert process.returncode == 0
        assert printed.isascii() and "return_mean: first, last, best" in printed
        lines = error.splitlines()  # at a carriage return as well
        assert [
            line for line in lines if line and "round/s" not in line and "s/round" not in line
        ] == []
    tiny.assert_same_run(*Path("runs").iterdir())


QUIET = """
import bc, dagger, hg_dagger, iwr, mile, rlif_rlpd, sirius
from experts import TRAINING_TASKS, list_experts, load_expert

for env_id in list_experts():
    for env in (rlif_rlpd.make_env(env_id), rlif_rlpd.make_env(TRAINING_TASKS.get(env_id, env_id))):
        obs, _ = env.reset(seed=0)
        env.step(load_expert(env_id, "top", env).act(obs[None])[0].numpy())
"""


def test_the_shipped_tasks_say_nothing_on_a_terminal():
    """Other packages warn of much that nobody who runs a script can do anything about."""
    process = subprocess.run(
        [sys.executable, "-c", QUIET], cwd=tiny.ROOT, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
