"""A run that was killed and resumed is, to the bit, the run that was not; so is a run with the same seed."""

import csv
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bc
import dagger
import hg_dagger
import rlif_rlpd
from experts import Expert, load_checkpoint
from tests import tiny

OPTIONS = (
    "--env-id", tiny.POINT, "--total-timesteps", 1_500, "--eval-frequency", 100, "--eval-episodes", 2,
    "--batch-size", 16, "--checkpoint-frequency", 250, "--hidden-sizes", 16, "--num-qs", 2, "--num-threads", 1,
    "--demo-episodes", 0, "--expert", "../expert.safetensors", "--reference", "../expert.safetensors",
)  # fmt: skip
MODES = {
    "value": ("--intervention", "value", "--intervention-beta", 0.9, "--buffer-size", 1_000),  # the ring turns over
    "random": ("--intervention", "random", "--utd-ratio", 2),
    "mile": ("--intervention", "mile", "--human-model", "robot", "--intervention-cost", 1, "--takeover-steps", 3),
    "compiled": ("--compile",),
    "bf16": ("--compile", "--bf16", "--utd-ratio", 2, "--num-threads", 2),
}


def write_files(folder):
    """The expert of OPTIONS in that folder, and in it an empty folder to run in."""
    torch.manual_seed(0)
    tiny.write_expert(folder / "expert.safetensors", [[-1.0, 0.0]], noise=0.5, qf=tiny.critics(2, 1))
    for name in ("whole", "killed"):
        (folder / name).mkdir()


@pytest.fixture(scope="module", params=MODES)
def whole(request, tmp_path_factory):
    """An uninterrupted run: its options and its folder."""
    folder = tmp_path_factory.mktemp("runs")
    write_files(folder)
    options = *OPTIONS, *MODES[request.param]
    assert tiny.start(*options, cwd=folder / "whole", stderr=subprocess.DEVNULL).wait() == 0
    return options, the_run(folder / "whole")


@pytest.fixture
def place(whole, tmp_path):
    """Another place with the same files, to be interrupted in."""
    write_files(tmp_path)
    return tmp_path / "killed"


def the_run(folder):
    (run_dir,) = (folder / "runs").iterdir()
    return run_dir


def evaluations(run_dir):
    """The rows of eval.csv, as strings, without the one column that is not the same every time."""
    if not (run_dir / "eval.csv").exists():
        return []
    rows = list(csv.DictReader((run_dir / "eval.csv").open()))
    return [{name: value for name, value in row.items() if name != "wall_seconds"} for row in rows]


def interrupt(process, folder, signum, after):
    """Send the signal a moment after the run has written so many evaluations."""
    while not any(len(evaluations(run)) >= after for run in folder.glob("runs/*")):
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 0.2))
    process.send_signal(signum)
    return process.wait()


def assert_same(a, b):
    """Equal to the bit, through nested dicts and sequences."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a.keys() - {"wall_seconds", "seconds", "run"}:
            assert_same(a[name], b[name])
        if "run" in a:  # the rows of eval.csv, and the time
            assert_same(a["run"][0], b["run"][0])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    else:
        assert a == b or (a != a and b != b)


def assert_same_run(a, b):
    assert evaluations(a) == evaluations(b) and evaluations(a)
    assert_same(load_checkpoint(a / "checkpoint.pt"), load_checkpoint(b / "checkpoint.pt"))
    assert Expert(a / "model.safetensors").sha256 == Expert(b / "model.safetensors").sha256  # tensors and facts


def assert_logged_once(run_dir, steps=1_500, frequency=100):
    """TensorBoard shows every step of the regular scalars once and in order."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    for tag, every in (("eval/return_mean", frequency), ("losses/qf_loss", 500)):
        logged = events.Scalars(tag) if steps >= every else []
        assert [event.step for event in logged] == list(range(every, steps + 1, every))
    returns = [event.step for event in events.Scalars("charts/episodic_return")]
    assert returns == sorted(set(returns)) and len(returns) >= steps / 50 - 1
    written = [float(row["return_mean"]) for row in evaluations(run_dir)]
    assert [event.value for event in events.Scalars("eval/return_mean")] == pytest.approx(written)


def test_killed_at_several_moments_and_resumed_is_the_uninterrupted_run_to_the_bit(whole, place):
    options, expected = whole
    command = options
    for after in (1, 5, 10):  # evaluations written, one in 100 steps; the first checkpoint comes at 250
        process = tiny.start(*command, cwd=place, stderr=subprocess.DEVNULL)
        assert interrupt(process, place, signal.SIGKILL, after) == -signal.SIGKILL
        command = "--resume", the_run(place).relative_to(place)
    assert not (the_run(place) / "model.safetensors").exists()  # it was not over
    assert tiny.start(*command, cwd=place, stderr=subprocess.DEVNULL).wait() == 0
    assert_same_run(the_run(place), expected)
    assert_logged_once(the_run(place))


@pytest.mark.parametrize("whole", ["value"], indirect=True)
def test_sigterm_and_sigint_leave_a_checkpoint_and_resume_to_the_bit(whole, place):
    options, expected = whole
    command = options
    for signum, after in ((signal.SIGTERM, 4), (signal.SIGINT, 10)):
        process = tiny.start(*command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert interrupt(process, place, signum, after) == 128 + signum
        assert "go on with: python rlif_rlpd.py --resume runs" in process.stdout.read()
        command = "--resume", the_run(place).relative_to(place)
        load_checkpoint(the_run(place) / "checkpoint.pt")
    assert tiny.start(*command, cwd=place, stderr=subprocess.DEVNULL).wait() == 0
    assert_same_run(the_run(place), expected)
    assert_logged_once(the_run(place))


def test_a_second_signal_would_end_a_run_at_once(capfd):
    run = SimpleNamespace(signals=[])
    rlif_rlpd.Run.hear(run, signal.SIGTERM, None)
    assert run.signals == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "stopping at the next checkpoint" in capfd.readouterr().err


CLONING = "--env-id", tiny.POINT, "--hidden-sizes", 16, "--eval-episodes", 2, "--num-threads", 1, "--demo-episodes", 4
ROUNDS = "--round-episodes", 2, "--round-updates", 100, "--eval-frequency", 100, "--total-timesteps", 2_000
STEPS = "--eval-frequency", 200, "--total-timesteps", 3_000, "--checkpoint-frequency", 150


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (bc, STEPS),
        (dagger, (*ROUNDS, "--expert", "../expert.safetensors", "--mixture-decay", 0.9)),
        (hg_dagger, (*ROUNDS, "--expert", "../expert.safetensors", "--doubt-novices", 1)),
    ],
)
def test_the_cloning_scripts_resume_to_the_bit_as_well(script, options, tmp_path, monkeypatch):
    write_files(tmp_path)
    tiny.write_demonstrations("test/point-v0", episodes=4, steps=30)
    options = [str(option) for option in (*CLONING, "--dataset-id", "test/point-v0", *options)]
    run_dirs = {}
    for name, interruptions in (("whole", ()), ("killed", ((signal.SIGKILL, 1), (signal.SIGTERM, 6)))):
        monkeypatch.chdir(tmp_path / name)
        command = options
        for signum, after in interruptions:
            process = tiny.start(
                *command, script=f"{script.__name__}.py", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            assert interrupt(process, Path.cwd(), signum, after) in (-signal.SIGKILL, 128 + signal.SIGTERM)
            command = ["--resume", str(the_run(Path()))]
        script.main(script.parse_args(command))
        run_dirs[name] = the_run(tmp_path / name)
    assert_same(*(load_checkpoint(run_dir / "checkpoint.pt") for run_dir in run_dirs.values()))
    assert evaluations(run_dirs["whole"]) == evaluations(run_dirs["killed"])


# --- in this process -------------------------------------------------------------------------------------------------


def short(name, *options):
    """A run of 120 steps, most of them with updates."""
    return tiny.run(name, *OPTIONS, "--total-timesteps", 120, "--eval-frequency", 40, *options)


@pytest.fixture
def expert(tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path / "killed")


def test_same_seed_same_bits_and_another_seed_another_run(expert):
    a, b, c = short("a"), short("b"), short("c", "--seed", 2)
    checkpoints = [load_checkpoint(run_dir / "checkpoint.pt") for run_dir in (a, b, c)]
    for checkpoint in checkpoints:
        del checkpoint["args"]  # the names differ
    assert evaluations(a) == evaluations(b) != evaluations(c)
    assert_same(checkpoints[0], checkpoints[1])
    with pytest.raises(AssertionError):
        assert_same(checkpoints[0]["agent"], checkpoints[2]["agent"])


@pytest.mark.parametrize("steps", [120, 122])  # the last step ends an episode, or does not
def test_resuming_a_finished_run_changes_none_of_its_results(tmp_path, steps):
    expert = tiny.write_expert("expert.safetensors", [[0.0]], qf=tiny.critics(1, 1))
    options = "--env-id", "Repeats-v0", "--expert", expert, "--reference", expert, "--total-timesteps", steps
    run_dir = tiny.run("a", *OPTIONS, *options)
    names = "args.json", "checkpoint.pt", "eval.csv", "summary.json"
    before, model = [(run_dir / name).read_bytes() for name in names], Expert(run_dir / "model.safetensors").sha256
    rlif_rlpd.main(rlif_rlpd.parse_args(["--resume", str(run_dir)]))
    assert [(run_dir / name).read_bytes() for name in names] == before
    assert Expert(run_dir / "model.safetensors").sha256 == model  # its bytes differ: the header has no fixed order


def test_stopped_and_resumed_with_demonstrations_apart(expert, monkeypatch):
    tiny.write_demonstrations("test/point-v0", episodes=3, steps=10)
    options = "--dataset-id", "test/point-v0", "--demo-episodes", 3, "--offline-ratio", 0.5, "--env-id", "Point-v0"
    whole = short("whole", *options)
    step, last = tiny.Point.step, tiny.Point.total_steps + 30  # before the first evaluation

    def step_and_stop(self, action):
        if tiny.Point.total_steps == last:
            signal.raise_signal(signal.SIGTERM)
        return step(self, action)

    monkeypatch.setattr(tiny.Point, "step", step_and_stop)
    with pytest.raises(SystemExit) as caught:
        short("stopped", *options)
    assert caught.value.code == 128 + signal.SIGTERM
    (stopped,) = Path("runs").glob("*__stopped__*")
    rlif_rlpd.main(rlif_rlpd.parse_args(["--resume", str(stopped)]))
    checkpoints = [load_checkpoint(run_dir / "checkpoint.pt") for run_dir in (whole, stopped)]
    for checkpoint in checkpoints:
        del checkpoint["args"]  # the names differ
    assert_same(*checkpoints)
    assert checkpoints[0]["rb"]["first"] == 30


def test_an_evaluation_depends_on_nothing_but_policy_and_seed_and_leaves_no_trace():
    envs = [rlif_rlpd.make_env("Walled-v0") for _ in range(3)]
    actor, args = rlif_rlpd.Actor(2, 1, (8,)), rlif_rlpd.Args(env_id="Walled-v0")
    stats = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        stats.append(rlif_rlpd.evaluate(args.env_id, actor, envs, len(envs), seed, deterministic=False)["return_mean"])
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(7)
        envs[0].reset()
    assert stats[0] == stats[1] != stats[2]


def test_a_folder_with_options_but_no_checkpoint_starts_over(expert):
    run_dir, whole = short("a"), evaluations(short("b"))
    for name in ("checkpoint.pt", "eval.csv", "model.safetensors", "summary.json"):
        (run_dir / name).unlink()
    time.sleep(1)  # TensorBoard reads event files in the order of the seconds in which they were begun
    rlif_rlpd.main(rlif_rlpd.parse_args(["--resume", str(run_dir)]))
    assert evaluations(run_dir) == whole
    assert_logged_once(run_dir, steps=120, frequency=40)  # what was logged the first time is forgotten
