"""A run that is stopped or killed and resumed is to the bit the run that was not."""

import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import bc
import rlif_rlpd
from tests import tiny
from tests.tiny import SCRIPTS, folder_of


class Killed(BaseException):
    """What nothing catches: on the disk there is afterwards what there is after a SIGKILL."""


class Events:
    """Steps of the environment, and in bc.py of learning, each "learning" or "evaluation".

    At the event number moment something is raised.
    """

    def __init__(self, script, monkeypatch):
        self.begin()
        learning = {(script.Actor, "forward")} if script.__name__ == "bc" else set()
        for place, name in {(tiny.Walled, "step")} | learning:
            monkeypatch.setattr(place, name, self.watched(getattr(place, name)))
        evaluate = script.evaluate

        def marked(*args):
            self.kind = "evaluation"
            row = evaluate(*args)
            self.kind = "learning"
            return row

        monkeypatch.setattr(script, "evaluate", marked)

    def watched(self, function):
        def watching(*args):
            self.kinds.append(self.kind)
            if len(self.kinds) - 1 == self.moment:
                raise self.error
            return function(*args)

        return watching

    def begin(self, moment=None, error=None):
        self.kinds, self.kind, self.moment, self.error = [], "learning", moment, error

    def numbers(self, kind):
        return np.flatnonzero(np.array(self.kinds) == kind)


@pytest.fixture
def events(script, monkeypatch):
    add, clock = SummaryWriter.add_scalar, itertools.count(2_000_000_000)
    # what is logged is on the disk at once, in files whose names tell their order
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda *args: (add(*args), args[0].flush()))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    return Events(script, monkeypatch)


def logged(folder):
    """What TensorBoard shows that is the same every time: {name: [(step, value), ...]}."""
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = set(shown.Tags()["scalars"]) - {"charts/steps_per_second", "eval/wall_seconds"}
    return {name: [(event.step, event.value) for event in shown.Scalars(name)] for name in names}


def test_stopped_killed_or_broken_and_resumed_is_the_whole_run_to_the_bit(script, events, ending):
    whole = tiny.short_run(script)
    learning, evaluation = events.numbers("learning"), events.numbers("evaluation")
    moments = {
        "stopped": (learning[len(learning) // 3], KeyboardInterrupt()),
        "killed": (learning[len(learning) * 2 // 3], Killed()),
        "midst": (evaluation[len(evaluation) // 2], Killed()),
        "broken": (evaluation[-1], ValueError("no answer from the motor")),
    }
    for name, (moment, error) in moments.items():
        events.begin(moment, error)
        options = (tiny.SHORT[script.__name__], "--exp-name", name)
        if name == "stopped":  # by Ctrl-C
            code, line = ending(script, *options)
            assert code == 130 and line.endswith(f"--resume {folder_of(name)}")
        else:  # what an environment raises is not hidden
            with pytest.raises(type(error)):
                ending(script, *options)
        error.__traceback__ = None  # it has hold of the lock on the folder
        folder = folder_of(name)
        assert not (folder / "model.safetensors").exists()  # that would say that it is over
        assert len(tiny.evaluations(folder)) < len(tiny.evaluations(whole))
        events.begin()
        assert ending(script, "--resume", folder)[0] == 0
        tiny.assert_same_run(folder, whole)
        tiny.assert_same(logged(folder), logged(whole))
    other = tiny.short_run(script, "--seed 2")
    assert tiny.evaluations(other) != tiny.evaluations(whole)


@pytest.mark.filterwarnings("error:The field")  # tyro warns of a list where a tuple is meant
def test_a_finished_run_stays_as_it_is_or_goes_on_longer(script, events, ending):
    folder = tiny.short_run(script)
    shutil.copytree(folder, "before")
    events.begin()
    assert ending(script, "--resume", folder)[0] == 0
    # mile.py knows its mental model from its own steps
    assert events.kinds.count("learning") <= (10 if script.__name__ == "mile" else 0)
    tiny.assert_same_run(folder, Path("before"))
    own = json.loads(Path("before/args.json").read_text())
    assert json.loads((folder / "args.json").read_text()) == own and own["resume"] is None

    count = "rounds" if SCRIPTS[script.__name__].kind == "rounds" else "total_timesteps"
    more = own[count] * 3 // 2
    options = [f"--{count.replace('_', '-')}", more, "--eval-episodes", 1]
    files = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with FileLock(folder / "in_use.lock"):  # another process
        code, line = ending(script, "--resume", folder, *options)
        assert code == 2 and "in_use.lock" in line
    code, line = ending(script, "--resume", folder, "--eval-episodes 0")
    assert code == 2 and "--eval-episodes" in line
    fixed = "env_id seed hidden_sizes num_qs demo_episodes dataset_id doubt_novices initial_policy"
    names = [name for name in (*fixed.split(), "round_episodes") if name in own]
    fixed = {f"--{name.replace('_', '-')}": 7 for name in names}
    fixed |= {"--reward": "task", "--termination": "mask"} if script is rlif_rlpd else {}
    for option, value in fixed.items():
        code, line = ending(script, "--resume", folder, option, value)
        assert code == 2 and f"{option} must stay " in line
    flags = {"mental_model": "--no-mental-model", "interventions_only": "--interventions-only"}
    for name in set(flags) & set(own):
        code, line = ending(script, "--resume", folder, flags[name])
        assert code == 2 and f"--{name.replace('_', '-')} must stay " in line
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == files
    assert ending(script, "--resume", folder, *options)[0] == 0
    rows, before = tiny.evaluations(folder), tiny.evaluations(Path("before"))
    assert rows[: len(before) - 1] == before[:-1] and len(rows) > len(before)
    assert int(rows[-1]["round" if count == "rounds" else "global_step"]) >= more
    args = json.loads((folder / "args.json").read_text())
    assert args == own | {count: more, "eval_episodes": 1}


def test_a_learning_rate_that_is_typed_is_that_of_the_run_that_goes_on(script, ending):
    folder = tiny.short_run(script)
    count = "rounds 8" if SCRIPTS[script.__name__].kind == "rounds" else "total-timesteps 150"
    before = load_file(folder / "model.safetensors")
    assert ending(script, "--resume", folder, f"--{count} --learning-rate 1e-9")[0] == 0
    after = load_file(folder / "model.safetensors")
    assert all((after[name] - before[name]).abs().max() < 1e-6 for name in before)


def test_an_evaluation_frequency_that_is_typed_holds_at_once(script, ending):
    folder, kind = tiny.short_run(script, "--eval-frequency 1000"), SCRIPTS[script.__name__].kind
    count = "rounds 8" if kind == "rounds" else "total-timesteps 150"
    before = len(tiny.evaluations(folder))
    assert ending(script, "--resume", folder, f"--{count} --eval-frequency 1")[0] == 0
    passed = "round" if kind == "rounds" else "global_step"
    times = np.array([int(row[passed]) for row in tiny.evaluations(folder)[before - 1 :]])
    assert len(times) > 3 and np.diff(times).max() <= (10 if kind == "steps" else 1)  # an episode


def test_killed_while_it_writes_a_run_has_the_files_from_before(script, ending, monkeypatch):
    folder, kind = tiny.short_run(script), SCRIPTS[script.__name__].kind
    more = "--resume", folder, "--rounds 8" if kind == "rounds" else "--total-timesteps 150"
    names, write = ("args.json", "checkpoint.pt"), Path.write_text
    before = [(folder / name).read_bytes() for name in names]

    def half_write(what, where):
        path, text = (what, where) if isinstance(what, Path) else (Path(where), "half")
        write(path, text[: len(text) // 2])
        raise Killed

    for owner, function in ((Path, "write_text"), (torch, "save")):
        with monkeypatch.context() as patch, pytest.raises(Killed) as killed:
            patch.setattr(owner, function, half_write)
            ending(script, *more)
        killed.value.__traceback__ = None  # it has hold of the lock on the folder
        if owner is Path:
            assert [(folder / name).read_bytes() for name in names] == before
    assert (folder / "checkpoint.pt").read_bytes() == before[1]


def test_options_are_judged_with_those_of_the_run_that_goes_on(people, ending, monkeypatch):
    monkeypatch.setattr(rlif_rlpd, "load_demonstrations", tiny.demonstrations)
    folder = tiny.short_run(rlif_rlpd, "--demo-episodes 2 --offline-ratio 0.25")
    again = "--resume", folder, "--total-timesteps 110"
    assert ending(rlif_rlpd, *again, "--bc-weight 0.1")[0] == 0
    for options, said in ("--offline-ratio 0", "give both"), ("--total-timesteps 5", "above 110"):
        code, line = ending(rlif_rlpd, *again, options)
        assert code == 2 and said in line


def test_what_a_run_leaves(script):
    folder = tiny.short_run(script, "--env-id tests.tiny:Walled-v0 --exp-name a")
    acts = SCRIPTS[script.__name__].kind != "clone"
    assert folder.name.startswith("tests.tiny-Walled-v0__a__1__")
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert names == {"args", "eval", "checkpoint", "events", "model", "in_use"}
    rows = tiny.rows(folder)
    assert list(rows[0])[0] == "global_step" and rows[0]["global_step"] == "0"
    measured = ["return_mean", "normalized_score", "success_rate"]
    measured += [f"stochastic_{name}" for name in measured]
    if hasattr(script.Args, "demo_episodes"):
        measured += ["demo_transitions", "demo_hash"]
    assert {*measured, "wall_seconds"} <= set(rows[0])
    assert all(value == "" or float(value) != math.inf for row in rows for value in row.values())
    assert {rows[0]["normalized_score"], rows[0]["success_rate"]} <= {"", "nan"}
    wall = [float(row["wall_seconds"]) for row in rows]
    assert wall == sorted(wall) and wall[0] > 0
    for before, row in zip(rows, rows[1:]) if acts else ():  # shares are since the one before
        helped, steps = (int(row[x]) - int(before[x]) for x in ("expert_steps", "global_step"))
        assert float(row["intervention_rate"]) == pytest.approx(helped / steps)
    shown = logged(folder)
    for name in ("return_mean", "stochastic_return_mean"):
        written = {int(row["global_step"]): float(row[name]) for row in rows}
        assert dict(shown[f"eval/{name}"]) == pytest.approx(written, rel=1e-5)
    if acts:
        assert int(rows[-1]["expert_steps"]) > 0
        steps = [step for step, _ in shown["charts/episodic_return"]]
        assert steps == sorted(set(steps))
        assert {length for _, length in shown["charts/episodic_length"]} == {10.0}
        if script.__name__ != "dagger":  # there nobody takes over
            assert len(shown["charts/takeovers"]) == len(steps)


def test_killed_as_a_process_and_resumed_is_the_whole_run_to_the_bit(people):
    options = tiny.SHORT["rlif_rlpd"] + " --env-id tests.tiny:Walled-v0 --total-timesteps 400"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    quiet["env"] = {"PYTHONPATH": str(tiny.ROOT), "PATH": "/usr/bin:/bin"}
    process = tiny.start(options, **quiet)
    while not any(len(tiny.evaluations(folder)) >= 3 for folder in Path().glob("runs/*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (folder,) = Path("runs").iterdir()
    assert not (folder / "model.safetensors").exists()
    assert tiny.start("--resume", folder, **quiet).wait() == 0
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, options, "--exp-name", "whole"))
    tiny.assert_same_run(folder, folder_of("whole"))


def test_a_checkpoint_that_is_a_pickle_is_not_run(people, ending, monkeypatch):
    class Run:
        def __reduce__(self):
            return Path.touch, (Path("it_was_run"),)

    monkeypatch.setattr(bc, "load_demonstrations", tiny.demonstrations)
    folder = tiny.short_run(bc)
    torch.save(tiny.checkpoint(folder) | {"actor": Run()}, folder / "checkpoint.pt")
    with pytest.raises(Exception, match="weights_only|Weights only"):
        ending(bc, "--resume", folder)
    assert not Path("it_was_run").exists()


# --- films and Weights & Biases -------------------------------------------------------------------

FILM = """
class ImageSequenceClip:
    def __init__(self, frames, fps):
        self.frames = frames[: fps * 1_000]

    def write_videofile(self, path, **_):
        open(path, "w").write(repr([float(frame.mean()) for frame in self.frames]))
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """What is used of moviepy and wandb; a film is the list of its frames' means."""
    folder = tmp_path / "packages" / "moviepy" / "video" / "io"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "ImageSequenceClip.py").write_text(FILM)
    wandb = "import json\ndef init(**options):\n    json.dump(options, open('wandb.json', 'w'))\n"
    (tmp_path / "packages" / "wandb.py").write_text(wandb)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("moviepy", "wandb")]:
        del sys.modules[name]


def test_a_finished_run_is_filmed_and_tracked_afterwards(script, ending, packages, monkeypatch):
    monkeypatch.setattr(tiny.Robot, "in_use", False)
    folder = tiny.short_run(script, "--env-id Robot-v0 --single-env")
    tiny.Robot.in_use = False
    shutil.copytree(folder, "before")
    assert ending(script, "--resume", folder, "--capture-video", "--track")[0] == 0
    tiny.assert_same_run(folder, Path("before"))
    films = [json.loads(path.read_text()) for path in (folder / "videos").glob("*.mp4")]
    assert films and all(len(frames) == 11 for frames in films)  # 10 steps, and how it began
    assert min(map(min, films)) > 1  # of 255
    tracked = json.loads(Path("wandb.json").read_text())
    assert tracked["id"] == folder.name and tracked["sync_tensorboard"]


def test_a_robot_is_learned_in_and_evaluated_in_by_turns_and_resumed_to_the_bit(
    script, events, ending, monkeypatch
):
    monkeypatch.setattr(tiny.Robot, "in_use", False)
    robot = "--env-id Robot-v0 --single-env"
    whole, learning = tiny.short_run(script, robot), events.numbers("learning")
    tiny.Robot.in_use = False
    events.begin(learning[len(learning) * 2 // 3], killed := Killed())
    with pytest.raises(Killed):
        tiny.short_run(script, robot, "--exp-name killed")
    killed.__traceback__ = None  # it has hold of the lock on the folder
    tiny.Robot.in_use = False
    events.begin()
    assert ending(script, "--resume", folder_of("killed"))[0] == 0
    tiny.assert_same_run(folder_of("killed"), whole)


def test_evaluated_by_turns_a_run_is_what_it_is_beside_other_environments(script):
    folders = [tiny.short_run(script, option) for option in ("--single-env", "--no-single-env")]
    returns = [[float(row["return_mean"]) for row in tiny.rows(folder)] for folder in folders]
    assert returns[0] == pytest.approx(returns[1], rel=1e-5)
    for state in (states := [tiny.checkpoint(folder) for folder in folders]):
        state.pop("rows")
    tiny.assert_same(*states)
