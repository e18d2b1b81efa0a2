"""Environments that are not as one would have them."""

import importlib
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import dagger
import hg_dagger
import iwr
import mile
import rlif_rlpd
from experts import InputError, RunError, evaluate, load_checkpoint, policies
from tests import tiny

SCRIPTS = list(tiny.SHORT)


@pytest.fixture(params=SCRIPTS)
def script(request, people, monkeypatch):
    """One after the other, with demonstrations at hand."""
    script = importlib.import_module(request.param)
    if hasattr(script, "load_demonstrations"):
        monkeypatch.setattr(script, "load_demonstrations", tiny.demonstrations)
    return script


def aggregated(folder):
    """The data that a run of dagger.py has at its last checkpoint: obs (n, O), actions (n, A)."""
    return load_checkpoint(folder / "checkpoint.pt")["progress"][-1]


# --- actions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "space"), [
    ("WholeActions-v0", "Box(-2, 2, (1,), int32)"),
    ("HugeActions-v0", "Box(-3.4028235e+38, 3.4028235e+38, (1,), float32)"),
    ("NoChoice-v0", "Box(1.0, 1.0, (1,), float32)"),
    ("MatrixActions-v0", r"Box([[-41. -40."),
    ("ManyChoices-v0", "MultiDiscrete([2 3])"),
])  # fmt: skip
def test_actions_that_are_neither_discrete_nor_a_box_with_a_range_are_refused_in_one_line(
    env_id, space
):
    with pytest.raises(InputError) as caught:
        rlif_rlpd.make_env(env_id)
    said = f"--env-id {env_id}: needs discrete actions, or bounded ones in a flat Box of floats, not {space}"
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize("env_id", ["Walled-v0", "DoubleActions-v0", "rescaled-v0"])
def test_actions_reach_the_limits_of_the_environments_own(env_id):
    env = rlif_rlpd.make_env(env_id)
    assert (env.action_space.low, env.action_space.high, env.action_space.dtype) == (
        -1,
        1,
        np.float32,
    )
    env.reset(seed=0)
    for action, push in ((-1.0, -2.0), (0.0, 0.0), (0.5, 1.0), (1.0, 2.0)):
        # the last push is observed
        assert env.step(np.array([action], dtype=np.float32))[0][1] == push
    assert env.unit(env.action(np.array([0.25], dtype=np.float32))) == 0.25


def test_actions_that_a_constructor_made_discrete(people, monkeypatch):
    env = bc.make_env("discretised-v0")
    assert env.discrete and env.action_space.shape == (3,)
    env.reset(seed=0)
    assert [env.step(one_hot)[0][1] for one_hot in np.eye(3)] == [-2, 0, 2]
    tiny.write_people(Path(".."), discrete=True)
    folder = tiny.short_run(dagger, "--env-id", "discretised-v0")
    actions = aggregated(folder)["actions"]
    assert actions.shape[1] == 3 and (actions.sum(1) == 1).all()


# --- observations ----------------------------------------------------------------------------------------------------


def test_observations_of_several_parts_become_one_row():
    env = rlif_rlpd.make_env("Parts-v0")
    assert env.observation_space.shape == (5,)
    obs, _ = env.reset(seed=0)
    for push in (0.5, -1.0):
        x = obs[0]
        np.testing.assert_array_equal(obs[1:], [x, obs[2], x <= 0, x > 0])
        obs = env.step(np.array([push], dtype=np.float32))[0]
        assert obs[2] == 2 * push


def test_every_script_learns_from_observations_of_several_parts(script):
    weight = [[-5.0, 0, 0, 0, 0]]
    for name in ("expert", "initial", "mental"):
        tiny.write_expert(f"../{name}.safetensors", weight, noise=0.3)
    tiny.write_expert("../reference.safetensors", weight, noise=0.3, qf=tiny.critics(5, 1))
    folder = tiny.short_run(script, "--env-id", "Parts-v0")
    assert json.loads((folder / "summary.json").read_text())["main_metric"] == "return_mean"


def test_a_goal_in_a_dict_of_a_robotics_task(people):
    tiny.write_expert("../expert.safetensors", np.zeros((4, 16)).tolist(), noise=0.3)
    options = [
        *tiny.PERSON.split(),
        "--env-id",
        "FetchReach-v4",
        "--max-episode-steps",
        8,
        "--labels",
        "all",
    ]
    options += [
        "--demo-episodes",
        0,
        "--round-episodes",
        1,
        "--round-updates",
        5,
        "--hidden-sizes",
        8,
    ]
    options += ["--total-timesteps", 150, "--eval-frequency", 50]
    dagger.main(tiny.parsed(dagger, *options))
    (folder,) = Path("runs").iterdir()
    assert aggregated(folder)["obs"].shape[1] == 16  # observation, achieved, desired
    # from is_success
    assert json.loads((folder / "summary.json").read_text())["main_metric"] == "success_rate"


@pytest.mark.parametrize("env_id", ["OneArray-v0", "Loose-v0"])
def test_the_same_is_learned_whatever_form_observations_and_rewards_have(script, env_id):
    folders = [tiny.short_run(script, "--env-id", name) for name in ("Walled-v0", env_id)]
    plain, other = (load_checkpoint(folder / "checkpoint.pt") for folder in folders)
    assert plain.pop("args") != other.pop("args")  # the environment's name is another
    tiny.assert_same(plain, other)
    assert tiny.evaluations(folders[0]) == tiny.evaluations(folders[1])


def test_an_observation_that_is_not_as_its_space_says(monkeypatch):
    env = rlif_rlpd.make_env("Walled-v0")
    monkeypatch.setattr(
        tiny.Walled, "step", lambda self, action: (np.zeros(3), 0.0, False, False, {})
    )
    env.reset(seed=0)
    with pytest.raises(
        RunError,
        match=r"Walled-v0: step 1 of an episode gives an observation of shape \(3,\), not \(2,\)",
    ):
        env.step(np.zeros(1, dtype=np.float32))


# --- episodes --------------------------------------------------------------------------------------------------------


def test_an_environment_without_time_limit_needs_one(script, ending):
    code, line = ending(script, *tiny.short(script, "--env-id", "Endless-v0"))
    assert code == 2 and not list(Path().glob("runs/*"))
    said = "--env-id Endless-v0 has no time limit, so an episode may never end: give one in steps, e.g. "
    assert line == f"{script.__name__}.py: {said}--max-episode-steps 1000"
    folder = tiny.short_run(script, "--env-id", "Endless-v0", "--max-episode-steps", 10)
    # a step is worth 1 at most
    assert all(float(row["return_mean"]) <= 10 for row in tiny.rows(folder))


def test_the_time_limit_can_be_made_shorter_and_longer():
    for limit in (20, 80):
        env = rlif_rlpd.make_env("Walled-v0", limit)
        env.reset(seed=0)
        ends = [env.step(np.zeros(1, dtype=np.float32))[2:4] for _ in range(limit)]
        assert ends == [(False, False)] * (limit - 1) + [(False, True)]


def test_what_an_environment_raises_is_said_kept_and_survived(script, ending, monkeypatch):
    whole = tiny.short_run(script, "--exp-name", "whole")
    step, begun, broken = tiny.Walled.step, tiny.Walled.total_steps, [True]
    # after the first checkpoint: in the evaluation of bc.py, in the eleventh step of the second round of most others
    at, number = {"bc": (130, 16), "mile": (310, 11)}.get(script.__name__, (260, 11))

    def failing(self, action):
        if broken and tiny.Walled.total_steps == begun + at:
            raise ValueError("no answer from the motor\nsince a while")
        return step(self, action)

    monkeypatch.setattr(tiny.Walled, "step", failing)
    code, line = ending(script, *tiny.short(script, "--exp-name", "broken"))
    (folder,) = Path("runs").glob("*__broken__*")
    assert code == 1
    said = f"Walled-v0: step {number} of an episode raised ValueError: no answer from the motor"
    go_on = f"go on with: python {script.__name__}.py --resume {folder} (what was raised: {folder}/error.log)"
    assert line == f"{script.__name__}.py: {said}; {go_on}"
    log = (folder / "error.log").read_text()
    assert log.startswith("Traceback") and "in failing" in log and "since a while" in log
    broken.clear()
    assert ending(script, "--resume", folder)[0] == 0
    tiny.assert_same_run(folder, whole)


def test_a_reset_that_takes_no_seed(people, ending):
    code, line = ending(dagger, *tiny.short(dagger, "--env-id", "NoSeed-v0"))
    assert code == 1
    assert line.startswith(
        "dagger.py: NoSeed-v0: reset() raised TypeError: NoSeed.reset() got an unexpected keyword argument"
    )
    assert "there is no checkpoint yet: start it again" in line


def test_what_is_raised_before_there_is_a_run_is_kept_as_well(own_folder, ending, monkeypatch):
    monkeypatch.setattr(policies, "FOLDER", own_folder / "experts")
    (own_folder / "experts" / "NoSeed-v0").mkdir(parents=True)
    tiny.write_expert(own_folder / "experts" / "NoSeed-v0" / "top.safetensors", [[-5.0, 0.0]])
    # it is to record demonstrations
    code, line = ending(bc, *tiny.short(bc, "--env-id", "NoSeed-v0"))
    assert code == 1 and line.endswith(
        "there is no checkpoint yet: start it again (what was raised: runs/error.log)"
    )
    assert "TypeError" in Path("runs/error.log").read_text()
    assert list(Path("runs").iterdir()) == [Path("runs/error.log")]


def test_a_reward_that_is_no_number(people, ending):
    code, line = ending(dagger, *tiny.short(dagger, "--env-id", "NanReward-v0"))
    assert code == 1
    assert line.startswith(
        "dagger.py: NanReward-v0: step 10 of an episode gives a reward that is not finite (nan); "
    )


def stop_after(monkeypatch, steps):
    """SIGTERM comes once, after so many steps of all points."""
    step, left = tiny.Walled.step, [steps]

    def stopping(self, action):
        left[0] -= 1
        if left[0] == -1:
            signal.raise_signal(signal.SIGTERM)
        return step(self, action)

    monkeypatch.setattr(tiny.Walled, "step", stopping)


def test_where_no_seed_settles_what_happens_rlif_goes_on_with_a_new_episode(
    people, ending, monkeypatch
):
    stop_after(monkeypatch, 30)
    assert (
        ending(rlif_rlpd, *tiny.short(rlif_rlpd, "--env-id", "Unseeded-v0"))[0]
        == 128 + signal.SIGTERM
    )
    (folder,) = Path("runs").iterdir()
    before = load_checkpoint(folder / "checkpoint.pt")
    loaded, load = [], rlif_rlpd.Agent.load_state_dict

    def watched(agent, state):
        loaded.append(state)
        return load(agent, state)

    monkeypatch.setattr(rlif_rlpd.Agent, "load_state_dict", watched)
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", folder))
    after = load_checkpoint(folder / "checkpoint.pt")
    (steps, episodes, *_), (all_steps, all_episodes, *_) = before["progress"], after["progress"]
    # the episode was played to its end
    assert (steps, episodes, all_steps, all_episodes) == (
        50,
        1,
        80,
        2,
    )
    tiny.assert_same(loaded, [before["kept"]["agent"]])
    for name, values in before["kept"]["rb"].items():
        assert len(values) == 50 and torch.equal(after["kept"]["rb"][name][:50], values)


@pytest.mark.parametrize(
    "steps", [30, 130]
)  # in the first episode, where there is one, and in an evaluation
def test_where_no_seed_settles_what_happens_all_resume(script, steps, ending, monkeypatch):
    stop_after(monkeypatch, steps)
    options = tiny.short(script, "--env-id", "Unseeded-v0")
    assert ending(script, *options)[0] == 128 + signal.SIGTERM
    (folder,) = Path("runs").iterdir()
    assert not (folder / "summary.json").exists()
    assert ending(script, "--resume", folder)[0] == 0
    assert (folder / "summary.json").exists() and list(Path("runs").iterdir()) == [folder]


# --- success ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script_name", ["rlif_rlpd", "mile"])
def test_a_success_that_is_reported_only_where_there_is_one(script_name, people, monkeypatch):
    script = importlib.import_module(script_name)
    evaluated = []

    def sometimes(*args):
        monkeypatch.setattr(tiny.Reports, "successful", -1 if evaluated else np.inf)
        evaluated.append(evaluate(*args))
        return evaluated[-1]

    monkeypatch.setattr(script, "evaluate", sometimes)
    folder = tiny.short_run(script, "--env-id", "Reports-v0")
    rows = tiny.rows(folder)
    assert [row["success_rate"] for row in rows] == [""] + ["100.0"] * (len(rows) - 1) and len(
        rows
    ) > 1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["main_metric"] == "return_mean" and "success_rate" in summary["final"]
    assert summary["best"]["return_mean"] == max(float(row["return_mean"]) for row in rows)
    assert len({line.count(",") for line in (folder / "eval.csv").read_text().splitlines()}) == 1


def test_an_episode_without_report_has_no_success_where_others_report_one(monkeypatch):
    monkeypatch.setattr(tiny.Reports, "episodes", 0)
    monkeypatch.setattr(tiny.Reports, "successful", 4)
    env, actor = bc.make_env("Reports-v0"), bc.Actor(2, 1, (8,))
    # of two episodes, and two more
    rows = [evaluate("Reports-v0", actor, [env], 2, 0) for _ in range(2)]
    rates = [row[name] for row in rows for name in ("success_rate", "stochastic_success_rate")]
    assert rates == pytest.approx([np.nan, 50.0, 100.0, 100.0], nan_ok=True)


# --- films -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def moviepy(tmp_path, monkeypatch):
    """What gymnasium uses of moviepy; a film is the list of its frames' means."""
    folder = tmp_path / "packages" / "moviepy" / "video" / "io"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "ImageSequenceClip.py").write_text("""
class ImageSequenceClip:
    def __init__(self, frames, fps):
        self.frames = frames

    def write_videofile(self, path, **_):
        open(path, "w").write(repr([float(frame.mean()) for frame in self.frames]))
""")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "moviepy"]:
        del sys.modules[name]


def test_a_constructor_without_render_mode(people):
    assert tiny.short_run(iwr, "--env-id", "NoRenderMode-v0").exists()


def test_a_film_shows_the_last_policy(people, moviepy):
    folder = tiny.short_run(hg_dagger, "--env-id", "Filmed-v0", "--capture-video")
    names = sorted(path.name.split("-episode")[0] for path in (folder / "videos").glob("*.mp4"))
    assert names == ["alone", "with-the-person"]
    for film in (folder / "videos").glob("*.mp4"):
        assert len(json.loads(film.read_text())) == 51


@pytest.mark.parametrize("script", [rlif_rlpd, hg_dagger, mile])
def test_a_film_has_a_red_edge_where_the_expert_acts(people, moviepy, monkeypatch, script):
    """The picture is black; an edge is 12 of its 16 pixels, with a mean of 100."""
    monkeypatch.setattr(tiny.Filmed, "render", lambda self: np.zeros((4, 4, 3), dtype=np.uint8))
    asked = []

    def every_tenth(self, obs, _):
        asked.append(len(asked) % 10 == 0)
        steps = 4 if asked[-1] else 0
        return asked[-1] if script is mile else (asked[-1], asked[-1], steps)

    person = {rlif_rlpd: "ValueHuman", hg_dagger: "ThresholdHuman", mile: "ProbitHuman"}[script]
    name = "takes_over" if script is mile else "check"
    monkeypatch.setattr(getattr(script, person), name, every_tenth)
    folder = tiny.short_run(script, "--env-id", "Filmed-v0", "--capture-video")
    films = {path.name[:5]: json.loads(path.read_text()) for path in folder.glob("videos/*.mp4")}
    assert set(films["alone"]) == {0} and len(films["with-"]) == 51
    shown = np.array(films["with-"][1:]) > 0  # the first is that of reset
    length, grace = (1, 0) if script is mile else (4, 1)
    starts = [t for t in range(50) if shown[t] and not shown[t - 1]]
    assert len(starts) >= 2 and set(np.diff(starts)) == {
        10 + (length - 1 + grace if length > 1 else 0)
    }
    assert np.array(films["with-"]).max() == pytest.approx(12 / 16 * 100, abs=1)


def test_a_film_that_fails_costs_nothing_else(people, moviepy, ending, monkeypatch):
    def write(self, path, **_):
        raise OSError("no ffmpeg here")

    clip = importlib.import_module("moviepy.video.io.ImageSequenceClip").ImageSequenceClip
    monkeypatch.setattr(clip, "write_videofile", write)
    code, line = ending(iwr, *tiny.short(iwr, "--env-id", "Filmed-v0", "--capture-video"))
    (folder,) = Path("runs").iterdir()
    assert (
        code == 1 and line == f"iwr.py: no ffmpeg here; go on with: python iwr.py --resume {folder}"
    )
    assert (folder / "summary.json").exists() and (folder / "model.safetensors").exists()


@pytest.mark.parametrize(("env_id", "said"), [
    ("NoRenderMode-v0", "got an unexpected keyword argument 'render_mode'"),
    ("Walled-v0", "NotImplementedError"),
    ("NoSuch-v0", "Environment `NoSuch` doesn't exist"),
])  # fmt: skip
def test_what_cannot_be_filmed_is_found_out_at_once(people, moviepy, ending, env_id, said):
    code, line = ending(iwr, *tiny.short(iwr, "--env-id", env_id, "--capture-video"))
    assert (
        code == 2
        and line.startswith(f"iwr.py: no film: {env_id} cannot be rendered here: ")
        and said in line
    )
    assert not list(Path().glob("runs/*"))
