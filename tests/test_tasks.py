"""The shipped tasks: what learning and evaluation see of them."""

import importlib
import math

import numpy as np
import pytest

import bc
import rlif_rlpd
from experts import TRAINING_TASKS, normalized_score
from tests import tiny

PEN = "AdroitHandPen-v1"


def test_scores_are_those_of_d4rl():
    """0 is its random policy, 100 its expert; all versions of a task have the same."""
    for env_id, low, high in (
        ("Hopper-v5", -20.272305, 3234.3),
        ("Walker2d-v4", 1.629008, 4592.3),
        ("HalfCheetah-v5", -280.178953, 12135.0),
        (PEN, 96.262799, 3076.8331),
    ):
        assert normalized_score(env_id, [low, high, (low + high) / 2]) == pytest.approx(
            [0, 100, 50]
        )
    assert math.isnan(normalized_score("Hopperette-v5", 1.0))


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
    # the same pen otherwise
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
    goals = set()
    for seed in range(3):
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
