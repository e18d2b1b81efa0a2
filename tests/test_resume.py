"""A run that was killed and resumed is, to the bit, the run that was not; so is a run with the same seed."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlif_rlpd
from experts import Expert, load_checkpoint
from tests import tiny
from tests.tiny import assert_same, assert_same_run, evaluations

OPTIONS = (
    "--env-id", tiny.POINT, "--total-timesteps", 600, "--eval-frequency", 100, "--eval-episodes", 2,
    "--batch-size", 16, "--hidden-sizes", 16, "--num-qs", 2, "--num-threads", 1, "--demo-episodes", 0,
    "--expert", "../expert.safetensors", "--termination", "penalty",
)  # fmt: skip
VALUE = "--reference", "../expert.safetensors", "--intervention-beta", 0.9
MODES = {
    "value": VALUE,
    "random": ("--intervention", "random", "--utd-ratio", 2),
    "task": (*VALUE, "--reward", "task", "--termination", "mask", "--takeover-steps", 3),
}  # fmt: skip
COMPILED = *VALUE, "--compile", "--bf16", "--utd-ratio", 2, "--num-threads", 2


def write_expert(folder):
    """The expert of OPTIONS in that folder, always the same."""
    torch.manual_seed(0)
    tiny.write_expert(
        folder / "expert.safetensors", [[-1.0, 0.0]], noise=0.5, qf=tiny.critics(2, 1)
    )


def assert_logged_once(run_dir, steps=600, frequency=100):
    """TensorBoard shows every step of the regular scalars, in order and once.

    But for an evaluation that a kill came after: it is done again, and the same value may be there twice.
    """
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    if steps >= 500:
        logged = [event.step for event in events.Scalars("losses/qf_loss")]
        assert logged == list(range(500, steps + 1, 500))
    returns = [event.step for event in events.Scalars("charts/episodic_return")]
    _, episodes, *_ = load_checkpoint(run_dir / "checkpoint.pt")["progress"]
    assert returns == sorted(set(returns)) and len(returns) == episodes and returns[-1] == steps
    means = [(event.step, event.value) for event in events.Scalars("eval/return_mean")]
    assert [step for step, _ in means] == sorted(step for step, _ in means)
    rows = evaluations(run_dir)
    written = [(int(row["global_step"]), float(row["return_mean"])) for row in rows]
    # after the first episode that reaches a multiple of the frequency, and at the end
    due = [next(s for s in returns if s >= n) for n in range(frequency, steps + 1, frequency)]
    assert [step for step, _ in written] == sorted({*due, steps})
    assert set(means) == {(step, float(np.float32(value))) for step, value in written}


@pytest.fixture
def expert(tmp_path, monkeypatch):
    """../expert.safetensors"""
    write_expert(tmp_path)
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")


class Killed(BaseException):
    """What nothing catches: on the disk there is afterwards what there is after a SIGKILL."""


@pytest.mark.parametrize("mode", MODES)
def test_killed_at_several_moments_and_resumed_is_the_uninterrupted_run_to_the_bit(
    mode, expert, monkeypatch
):
    begun = tiny.Point.total_steps
    whole = tiny.run("whole", *OPTIONS, *MODES[mode])
    steps, step = tiny.Point.total_steps - begun, tiny.Point.step  # of training and evaluation

    def step_and_die(self, action):
        if tiny.Point.total_steps == dies_at:
            raise Killed
        return step(self, action)

    monkeypatch.setattr(tiny.Point, "step", step_and_die)
    command = [*OPTIONS, *MODES[mode], "--exp-name", "killed"]
    # from where it goes on to the end
    for moment in np.random.default_rng().uniform(0.1, 0.5, size=3):
        dies_at = tiny.Point.total_steps + int(moment * steps)
        with pytest.raises(Killed):
            tiny.run("killed", *command)
        (killed,) = Path("runs").glob("*__killed__*")
        command = ["--resume", killed]
        steps -= int(moment * steps)
    assert not (killed / "model.safetensors").exists()  # it was not over
    dies_at = None
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", killed))
    assert_same_run(killed, whole)
    assert_logged_once(killed)


# --- as processes ----------------------------------------------------------------------------------------------------


def the_run():
    (run_dir,) = Path("runs").iterdir()
    return run_dir


def interrupt(process, signum, after):
    """Send the signal a moment after the run has written so many evaluations; how it ended, and stderr's last line."""
    while not any(len(evaluations(run)) >= after for run in Path().glob("runs/*")):
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 0.1))
    process.send_signal(signum)
    error = process.communicate()[1]
    return process.returncode, error.splitlines()[-1]


def test_compiled_killed_and_resumed_is_the_uninterrupted_run_to_the_bit(
    expert, tmp_path, monkeypatch
):
    # or two threads wait for each other at the cost of all others
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = tiny.start(*OPTIONS, *COMPILED, **output)
    assert interrupt(process, signal.SIGKILL, after=2)[0] == -signal.SIGKILL
    killed = the_run().absolute()
    assert not (killed / "model.safetensors").exists()  # it was not over
    assert (
        tiny.start("--resume", killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait()
        == 0
    )
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert (
        tiny.start(*OPTIONS, *COMPILED, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait()
        == 0
    )
    assert_same_run(killed, the_run())
    assert_logged_once(killed)


def test_the_command_that_is_printed_goes_on_wherever_the_script_and_the_run_lie(
    expert, monkeypatch
):
    whole = tiny.run("whole", *OPTIONS, *MODES["value"], "--total-timesteps", 800).rename("whole")
    Path("my repository").symlink_to(tiny.ROOT)
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))  # of tests.tiny
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    options = *OPTIONS, *MODES["value"], "--total-timesteps", 800, "--no-compile"
    command = shlex.join(["python", "my repository/rlif_rlpd.py", *map(str, options)])
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    for signum, after in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
        process = subprocess.Popen(f"exec {command}", shell=True, **output)
        code, line = interrupt(process, signum, after)
        assert code == 128 + signum
        said, command = line.split("; go on with: ")
        assert said == "rlif_rlpd.py: stopped"
        assert (
            command == f"python 'my repository/rlif_rlpd.py' --resume {shlex.quote(str(the_run()))}"
        )
        the_run().rename("runs/my run")  # for the second time
        command = command.replace(str(the_run()), "runs/my run")
        command = shlex.join(["python", "my repository/rlif_rlpd.py", "--resume", "runs/my run"])
    assert (
        subprocess.run(
            command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
        == 0
    )
    assert_same_run(Path("runs/my run"), whole)


# --- in this process -------------------------------------------------------------------------------------------------


def short(name, *options):
    """A run of 120 steps, most of them with updates."""
    return tiny.run(
        name, *OPTIONS, *VALUE, "--total-timesteps", 120, "--eval-frequency", 40, *options
    )


def test_same_seed_same_bits_and_another_seed_another_run(expert):
    a, b, c = short("a"), short("b"), short("c", "--seed", 2)
    assert_same_run(a, b)
    assert evaluations(a) != evaluations(c)
    with pytest.raises(AssertionError):
        assert_same(*(load_checkpoint(run_dir / "checkpoint.pt")["kept"] for run_dir in (a, c)))


def without_times(summary):
    """The text of a summary.json without the lines that are not the same every time."""
    return [line for line in summary.splitlines() if not re.search('seconds"', line)]


@pytest.mark.parametrize("steps", [120, 122])  # the last step ends an episode, or does not
def test_resuming_a_finished_run_changes_none_of_its_results(tmp_path, steps):
    expert = tiny.write_expert("expert.safetensors", [[0.0]], qf=tiny.critics(1, 1))
    options = "--env-id", "Repeats-v0", "--expert", expert, "--reference", expert
    run_dir = tiny.run("a", *OPTIONS, *options, "--total-timesteps", steps)
    args, rows = (run_dir / "args.json").read_bytes(), evaluations(run_dir)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    summary, model = (run_dir / "summary.json").read_text(), run_dir / "model.safetensors"
    digest = Expert(model).sha256
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", run_dir))
    assert (run_dir / "args.json").read_bytes() == args
    assert_same(load_checkpoint(run_dir / "checkpoint.pt"), checkpoint)
    assert evaluations(run_dir) == rows  # the last one was done again
    assert without_times((run_dir / "summary.json").read_text()) == without_times(summary)
    assert Expert(model).sha256 == digest  # its bytes differ: the header has no fixed order


def test_stopped_and_resumed_with_demonstrations_apart(expert, monkeypatch):
    tiny.write_demonstrations("test/point-v0", episodes=3, steps=10)
    options = (
        "--dataset-id", "test/point-v0", "--demo-episodes", 3, "--offline-ratio", 0.5, "--env-id", "Point-v0",
    )  # fmt: skip
    whole = short("whole", *options)
    step, last = tiny.Point.step, tiny.Point.total_steps + 20  # before the first evaluation

    def step_and_stop(self, action):
        if tiny.Point.total_steps == last:
            signal.raise_signal(signal.SIGTERM)
        return step(self, action)

    monkeypatch.setattr(tiny.Point, "step", step_and_stop)
    with pytest.raises(KeyboardInterrupt):
        short("stopped", *options)
    (stopped,) = Path("runs").glob("*__stopped__*")
    steps, episodes, rows, _ = load_checkpoint(stopped / "checkpoint.pt")["progress"]
    assert steps >= 21 and episodes > 0 and rows == []  # at the end of the episode
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", stopped))
    assert_same_run(whole, stopped)
    rb = load_checkpoint(stopped / "checkpoint.pt")["kept"]["rb"]
    assert len(rb["obs"]) == 30 + 120


def test_an_evaluation_depends_on_nothing_but_policy_and_seed_and_leaves_no_trace():
    envs = [rlif_rlpd.make_env("Walled-v0") for _ in range(3)]
    actor, returns = rlif_rlpd.Actor(2, 1, (8,)), []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        stats = rlif_rlpd.evaluate("Walled-v0", actor, envs, len(envs), seed)
        returns.append((stats["return_mean"], stats["stochastic_return_mean"]))
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(7)
        envs[0].reset()
    assert returns[0] == returns[1]
    assert all(a != b for a, b in zip(returns[0], returns[2]))


def test_a_folder_with_options_but_no_checkpoint_starts_over(expert):
    run_dir, whole = short("a"), evaluations(short("b"))
    for name in ("checkpoint.pt", "eval.csv", "model.safetensors", "summary.json"):
        (run_dir / name).unlink()
    # TensorBoard reads event files in the order of the seconds in which they were begun
    time.sleep(1)
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", run_dir))
    assert evaluations(run_dir) == whole
    # what was logged the first time is forgotten
    assert_logged_once(run_dir, steps=120, frequency=40)
