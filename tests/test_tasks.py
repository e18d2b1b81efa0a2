"""Tasks: what learning and evaluation see of the shipped ones, and of what others have made."""

import importlib
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import bc
import rlif_rlpd
from experts import TRAINING_TASKS, InputError, Task, normalized_score
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import train_experts

PEN, NAN = "AdroitHandPen-v1", math.nan


def test_scores_are_those_of_d4rl():
    """0 is its random policy, 100 its expert; all versions of a task have the same."""
    returns = {"Hopper-v5": (-20.272305, 3234.3), "Walker2d-v4": (1.629008, 4592.3)}
    returns |= {"HalfCheetah-v5": (-280.178953, 12135.0), PEN: (96.262799, 3076.8331)}
    for env_id, (low, high) in returns.items():
        scores = normalized_score(env_id, [low, high, (low + high) / 2])
        assert scores == pytest.approx([0, 100, 50])
    assert math.isnan(normalized_score("Hopperette-v5", 1.0))


# --- what authors leave open ----------------------------------------------------------------------


class Odd(tiny.Shown):
    """Answers an action with itself; draws from the global generators."""

    metadata, first = {"render_fps": None}, 0.0

    def reset(self, seed=None, options=None):
        return np.array([self.first, np.random.rand() + random.random()]), {}

    def step(self, action):
        return action


for name in ("Odd-v0", "AdroitHandPenOdd-v0"):
    gym.register(name, Odd, max_episode_steps=99)
SEEN = np.zeros(2)


@pytest.mark.parametrize(("env_id", "infos", "told", "now"), [
    ("Odd-v0", [{"success": x} for x in ({"a": 1, "b": 0}, np.True_, 0.0)], [0, 1, 1], [0, 1, 0]),
    ("Odd-v0", [None, {"is_success": False}, {"is_success": np.ones(1)}], [NAN, 0, 1], [NAN, 0, 1]),
    ("Odd-v0", [{"success": None}, {"succeed": True}, {}], [NAN, 1, 1], [NAN, 1, NAN]),
    ("AdroitHandPenOdd-v0", [{"success": held} for held in (0, 1, 0)], [0, 1, 0], [0, 1, 0]),
])  # fmt: skip
def test_a_success_at_any_step_is_one_but_for_the_pen(env_id, infos, told, now):
    env = Task(env_id)
    for _ in range(2):  # episodes
        env.reset(seed=0)
        found = [[*env.step((SEEN, 0.0, False, False, info))[4].values()] for info in infos]
        np.testing.assert_array_equal(found, [*zip(told, now)])


def test_what_is_seen_and_earned_is_of_this_episode_and_sound(monkeypatch):
    env = Task("Odd-v0", render_mode="rgb_array")
    starts = [env.reset(seed=seed)[0][1] for seed in (3, 3, 4)]
    assert starts[0] == starts[1] != starts[2]
    env.reset(seed=3)
    assert env.reset()[0][1] != starts[0]
    np.random.seed(3), random.seed(3)
    assert env.reset()[0][1] == starts[0]  # without a seed it leaves the generators as they are
    for reward in (1, True, np.float32(1), np.array([1])):
        assert str(env.step((SEEN, reward, False, False, {}))[1]) == "1.0"
    for end in (True, False):  # some reset themselves at an end
        assert env.step((SEEN, 0.0, end, False, {"final_obs": SEEN + 1}))[0].tolist() == [end] * 2
    for picture in (np.ones((2, 2, 3)), np.full((2, 2, 3), 255, np.uint8)):
        monkeypatch.setattr(Odd, "render", lambda _: picture)
        assert env.render().tobytes() == b"\xff" * 12 and env.metadata == {"render_fps": 30}
    monkeypatch.setattr(Odd, "render", lambda _: None)
    with pytest.raises(InputError, match="there is no picture of Odd-v0 .it draws nothing"):
        env.render()
    with pytest.raises(InputError, match="Odd-v0: 2 rewards a step, it must be one"):
        env.step((SEEN, np.array([5.0, -5.0]), False, False, {}))
    for number in (1.7e308, -2e38, math.inf, NAN):
        said = f"Odd-v0 shows {str(abs(number))[:3]}.*float32"
        with pytest.raises(InputError, match=said):
            env.step((np.array([0, number]), 0.0, False, False, {}))
        monkeypatch.setattr(Odd, "first", number)
        with pytest.raises(InputError, match=said):
            env.reset(seed=0)


ENDS = {"sys.exit(3)": 3, "raise KeyboardInterrupt": -signal.SIGINT, "1 / 0": 1, "env.close()": 0}
MINE = "import gymnasium.envs.classic_control as c; c.PendulumEnv.close = lambda _: print('off')"


def test_a_robot_is_switched_off_once_however_python_ends():
    Path("mine.py").write_text(MINE)  # found in the user's folder by a script that lies elsewhere
    code = "import sys; del sys.path[0]; from experts import Task; env = Task('mine:Pendulum-v1'); "
    environ = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    for end, exit_code in ENDS.items():
        command = [sys.executable, "-c", code + end]
        run = subprocess.run(command, capture_output=True, text=True, env=environ)
        assert (run.stdout, run.returncode) == ("off\n", exit_code)


# --- the pen --------------------------------------------------------------------------------------


def episode(env, size):
    """The steps of an episode of random actions of this size: (obs, terminated, truncated) each."""
    rng, steps = np.random.default_rng(0), []
    env.reset(seed=0)
    while not steps or not (steps[-1][1] or steps[-1][2]):
        obs, _, *ended, _ = env.step(size * rng.uniform(-1, 1, 24).astype(np.float32))
        steps.append((obs, *ended))
    return steps


def test_a_dropped_pen_ends_the_episode_in_training_and_not_in_evaluation():
    names = TRAINING_TASKS[PEN], PEN
    training, evaluation = (episode(rlif_rlpd.make_env(name), size=1) for name in names)
    assert len(training) < 100 and training[-1][1] is True and not training[-1][2]
    assert all(obs[26] >= 0.075 for obs, *_ in training[:-1]) and training[-1][0][26] < 0.075
    assert len(evaluation) == 200 and not any(terminated for _, terminated, _ in evaluation)
    np.testing.assert_array_equal(training[-1][0], evaluation[len(training) - 1][0])
    assert set(TRAINING_TASKS) == {PEN}  # others are learned in as they are evaluated


@pytest.mark.parametrize("limit", [None, 230])
def test_a_pen_that_is_held_is_taken_away_after_the_time_limit_of_training(limit):
    env = rlif_rlpd.make_env(TRAINING_TASKS[PEN], limit)
    steps = episode(env, size=0)  # the hand holds still
    assert len(steps) == (limit or 100) and steps[-1][2] and not steps[-1][1]


# --- Meta-World -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawer():
    return bc.make_env("Meta-World/drawer-open-v3")


def random_episode(env, seed, steps=20):
    """Observations (steps + 1, O) of random actions, always the same ones."""
    rng, obs = np.random.default_rng(0), [env.reset(seed=seed)[0]]
    for _ in range(steps):
        obs.append(env.step(rng.uniform(-1, 1, 4).astype(np.float32))[0])
    return np.array(obs)


def test_the_last_four_observations_are_seen_with_a_goal_that_the_seed_draws(drawer):
    assert drawer.observation_space.shape == (156,) and drawer.action_space.shape == (4,)
    goals, task, sweep = set(), drawer.unwrapped, bc.make_env("Meta-World/sweep-v3")
    for seed in range(3):  # the first picture shows all where it is
        for env in (drawer, sweep):
            env.reset(seed=seed)
            assert (env.unwrapped.data.site("goal").xpos == env.unwrapped._target_pos).all()
        assert (task.data.body("drawer").xpos == task.model.body("drawer").pos).all()
        frames = random_episode(drawer, seed).reshape(-1, 4, 39)
        assert (frames[0] == frames[0, :1]).all()  # at first, the first one four times
        np.testing.assert_array_equal(frames[1:, :-1], frames[:-1, 1:])
        assert (frames[4:, 0] != frames[4:, -1]).any(-1).all()
        assert (frames[:, :, -3:] == drawer.unwrapped._target_pos).all()
        goals.add(tuple(frames[0, 0, -3:]))
    assert len(goals) == 3 and all(np.any(goal) for goal in goals)


def test_a_seed_is_an_episode_to_the_bit_whatever_came_before(drawer):
    first, other = (random_episode(drawer, seed) for seed in (5, 6))
    drawer.step(np.ones(4, dtype=np.float32))
    drawer.reset()
    assert np.array_equal(random_episode(drawer, seed=5), first)
    assert np.array_equal(random_episode(bc.make_env("Meta-World/drawer-open-v3"), 5), first)
    assert not np.array_equal(first, other)


def test_an_episode_ends_with_success_or_after_500_steps(drawer, monkeypatch):
    drawer.reset(seed=0)
    still = np.zeros(4, dtype=np.float32)
    ends = [drawer.step(still)[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]
    drawer.reset(seed=0)
    evaluate = drawer.unwrapped.evaluate_state
    success = lambda *what: (0.0, evaluate(*what)[1] | {"success": 1.0})  # noqa: E731
    monkeypatch.setattr(drawer.unwrapped, "evaluate_state", success)
    assert drawer.step(still)[2:4] == (True, False)


def test_an_unknown_task_is_refused_in_one_line(ending):
    assert ending(bc, "--env-id Meta-World/fly-v3") == (2, "bc.py: Meta-World has no task fly-v3")


# --- gym-hil --------------------------------------------------------------------------------------


@tiny.draws
def test_a_hand_picks_up_a_cube_that_the_seed_has_put_anywhere():
    pytest.importorskip("gym_hil")
    env, starts = bc.make_env("gym_hil/PandaPickCube-v0"), []
    act = train_experts.teacher("gym_hil/PandaPickCube-v0", "scripted", env)
    for seed in (1, 2, 1):
        (obs, _), ended, before = env.reset(seed=seed), False, None
        starts.append(obs)
        while not ended:
            before, action = obs, np.float32(act(obs))
            obs, reward, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        assert terminated and reward == info["success"] == 1 and obs[20] > before[20] > 0.05
    assert np.array_equal(starts[0], starts[2]) and not np.array_equal(starts[0], starts[1])
    moved = env.reset(seed=1)[0][15:18]
    for _ in range(5):
        obs, *_ = env.step(np.float32([0, 1, 0, -1]))
    assert 0.08 < obs[16] - moved[1] < 0.13  # five steps of 25 mm to the side
    assert env.render().shape == (128, 256, 3)  # two cameras
    robot = bc.make_env("Pixels/gym_hil/PandaPickCube-v0")
    assert robot.reset(seed=1)[0].shape in ((2 * 64 + 4,), (2 * 448 + 4,))


# --- every task and strategy ----------------------------------------------------------------------


@pytest.mark.parametrize("env_id", tiny.RLIF_TASKS)
def test_short_runs_on_the_tasks_of_rlifs_paper_take_gradient_steps(env_id):
    for name in ("rlif_rlpd", "hg_dagger", "dagger", "bc"):
        script = importlib.import_module(name)
        own = f"{tiny.SCRIPTS[name].options} --env-id {env_id} --demo-episodes 2 --eval-episodes 1"
        own = own.replace("../expert.safetensors", "low").replace("../reference.safetensors", "top")
        own += f" --max-episode-steps 30 --total-timesteps 30 --exp-name {name}"
        script.main(tiny.parsed(script, own))
        folder = tiny.folder_of(name)
        assert "exp_avg" in str(tiny.checkpoint(folder))
        score = "success_rate" if "Pen" in env_id else "normalized_score"
        assert np.isfinite(float(tiny.rows(folder)[-1][f"stochastic_{score}"]))
