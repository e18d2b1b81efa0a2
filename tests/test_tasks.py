"""The shipped tasks: what learning and evaluation see of them."""

import csv
import importlib
import math
from pathlib import Path

import numpy as np
import pytest

import bc
import rlif_rlpd
from experts import TRAINING_TASKS, InputError, end_is, list_experts, load_checkpoint, main_metric
from tests import tiny

PEN = "AdroitHandPen-v1"


def episode(env, size):
    """The steps of an episode of random actions of this size: a list of (obs, terminated, truncated)."""
    rng, steps = np.random.default_rng(0), []
    env.reset(seed=0)
    while not steps or not (steps[-1][1] or steps[-1][2]):
        obs, _, *ended, _ = env.step(size * rng.uniform(-1, 1, 24).astype(np.float32))
        steps.append((obs, *ended))
    return steps


def test_a_dropped_pen_ends_the_episode_in_training_and_not_in_evaluation():
    training, evaluation = (
        episode(rlif_rlpd.make_env(name), size=1) for name in (TRAINING_TASKS[PEN], PEN)
    )
    assert len(training) < 100 and training[-1][1] is True and not training[-1][2]
    assert all(obs[26] >= 0.075 for obs, *_ in training[:-1]) and training[-1][0][26] < 0.075
    assert len(evaluation) == 200 and not any(terminated for _, terminated, _ in evaluation)
    # the same pen otherwise
    np.testing.assert_array_equal(training[-1][0], evaluation[len(training) - 1][0])


def test_a_pen_that_is_held_is_taken_away_after_100_steps_in_training():
    steps = episode(rlif_rlpd.make_env(TRAINING_TASKS[PEN]), size=0)  # the hand holds still
    assert len(steps) == 100 and steps[-1][2] and not steps[-1][1] and steps[-1][0][26] > 0.075


def test_other_tasks_are_learned_in_as_they_are_evaluated():
    assert set(TRAINING_TASKS) == {PEN}


@pytest.mark.parametrize(("env_id", "end"), [
    ("Hopper-v5", "fall"),
    ("Hopper-v4", "fall"),
    ("HalfCheetah-v5", "fall"),
    (PEN, "fall"),
    ("Meta-World/drawer-open-v3", "success"),
    ("LunarLander-v3", "either"),
    ("Hopperette-v5", None),
    ("Walled-v0", None),
])  # fmt: skip
def test_what_an_end_before_the_time_limit_means_where_that_is_known(env_id, end):
    assert end_is(env_id) == end


# --- the column by which a run is judged -----------------------------------------------------------------------------


def row(success=math.nan, score=math.nan, **columns):
    row = {"return_mean": 1.0, "normalized_score": score, "success_rate": success}
    return row | {f"stochastic_{name}": value for name, value in row.items()} | columns


def test_a_run_is_judged_by_success_then_score_then_return():
    assert main_metric([row(success=3.0, score=2.0)]) == "success_rate"
    assert main_metric([row(score=2.0)]) == "normalized_score"
    assert main_metric([row()]) == "return_mean"


def test_it_is_judged_by_what_is_known_in_all_its_evaluations():
    assert main_metric([row(success=3.0), row()]) == "return_mean"
    assert main_metric([row(success=3.0, score=2.0), row(score=2.0)]) == "normalized_score"
    assert main_metric([row(success=3.0, stochastic_success_rate=math.nan)]) == "return_mean"


# --- Meta-World ------------------------------------------------------------------------------------------------------

DRAWER = "Meta-World/drawer-open-v3"


@pytest.fixture(scope="module")
def drawer():
    return bc.make_env(DRAWER)


def random_episode(env, seed, steps=20):
    """Observations (steps + 1, O) of random actions, always the same ones."""
    rng, obs = np.random.default_rng(0), [env.reset(seed=seed)[0]]
    for _ in range(steps):
        obs.append(env.step(rng.uniform(-1, 1, 4).astype(np.float32))[0])
    return np.array(obs)


def test_the_last_four_observations_are_seen_and_actions_are_those_of_the_arm(drawer):
    assert drawer.observation_space.shape == (156,) and drawer.action_space.shape == (4,)
    assert (drawer.action_space.low == -1).all() and (drawer.action_space.high == 1).all()
    frames = random_episode(drawer, seed=0).reshape(-1, 4, 39)
    assert (frames[0] == frames[0, :1]).all()  # at first, the first one four times
    np.testing.assert_array_equal(frames[1:, :-1], frames[:-1, 1:])
    assert (frames[4:, 0] != frames[4:, -1]).any(-1).all()


def test_the_goal_is_in_sight_and_drawn_by_the_seed(drawer):
    goals = []
    for seed in range(3):
        obs = random_episode(drawer, seed).reshape(-1, 39)
        np.testing.assert_array_equal(
            obs[:, -3:], np.tile(drawer.unwrapped._target_pos, (len(obs), 1))
        )
        goals.append(tuple(obs[0, -3:]))
    assert len(set(goals)) == 3 and all(np.any(goal) for goal in goals)


def test_a_seed_is_an_episode_to_the_bit_whatever_came_before(drawer):
    first = random_episode(drawer, seed=5)
    other = random_episode(drawer, seed=6)
    drawer.step(np.ones(4, dtype=np.float32))
    drawer.reset()
    assert np.array_equal(random_episode(drawer, seed=5), first)
    assert np.array_equal(random_episode(bc.make_env(DRAWER), seed=5), first)
    assert not np.array_equal(first, other)


def test_an_episode_ends_with_success_or_after_500_steps(drawer, monkeypatch):
    drawer.reset(seed=0)
    still = np.zeros(4, dtype=np.float32)
    ends = [drawer.step(still)[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]
    drawer.reset(seed=0)
    evaluate_state = drawer.unwrapped.evaluate_state
    monkeypatch.setattr(
        drawer.unwrapped,
        "evaluate_state",
        lambda *what: (0.0, evaluate_state(*what)[1] | {"success": 1.0}),
    )
    assert drawer.step(still)[2:4] == (True, False)


def test_an_unknown_task_is_answered_in_one_line_with_the_known_ones():
    said = (
        "--env-id Meta-World/fly-v3: no such task, Meta-World has assembly-v3, .*, drawer-open-v3, "
    )
    with pytest.raises(InputError, match=said) as caught:
        rlif_rlpd.make_env("Meta-World/fly-v3")
    assert "\n" not in str(caught.value)


# --- every task, expert and strategy of RLIF's paper -----------------------------------------------------------------

SHORT = {
    "rlif_rlpd": "--no-compile --total-timesteps 30 --batch-size 16",
    "hg_dagger": "--total-timesteps 30 --round-episodes 1 --round-updates 5 --pretrain-updates 5 --doubt-novices 0",
    "dagger": "--total-timesteps 30 --round-episodes 1 --round-updates 5 --pretrain-updates 5",
    "bc": "--total-timesteps 10",
}
STRATEGIES = {
    "rlif_rlpd": ("--intervention value", "--intervention random"),
    "hg_dagger": ("--intervention threshold", "--intervention value", "--intervention random"),
    "dagger": ("--labels threshold", "--labels random", "--labels all"),
    "bc": ("",),
}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """A folder for what the first run of a task records."""
    return tmp_path_factory.mktemp("demonstrations")


def first_moments(state):
    """Adam's moving averages of the gradients, wherever they lie in a checkpoint."""
    if isinstance(state, dict):
        own = [state["exp_avg"]] if "exp_avg" in state else []
        return own + [moment for value in state.values() for moment in first_moments(value)]
    return (
        [moment for value in state for moment in first_moments(value)]
        if isinstance(state, (list, tuple))
        else []
    )


@pytest.mark.parametrize(
    ("env_id", "script"), [(env_id, script) for env_id in tiny.RLIF_TASKS for script in SHORT]
)
def test_a_short_run_of_every_strategy_takes_gradient_steps(
    env_id, script, demonstrations, monkeypatch
):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(demonstrations))
    module, levels = importlib.import_module(script), list_experts()[env_id]
    for i, strategy in enumerate(STRATEGIES[script]):
        options = f"--env-id {env_id} --demo-episodes 2 --eval-episodes 1 --exp-name {i} {SHORT[script]} {strategy}"
        options += " --max-episode-steps 50 --num-threads 1"
        options += f" --expert {levels[i]}" * (script != "bc")
        module.main(tiny.parsed(module, *options.split()))
        folder = next(Path("runs").glob(f"*__{i}__*"))
        moments = first_moments(load_checkpoint(folder / "checkpoint.pt"))
        assert moments and all(moment.abs().max() > 0 for moment in moments)
        with open(folder / "eval.csv") as file:
            row = list(csv.DictReader(file))[-1]
        score = "success_rate" if "Pen" in env_id else "normalized_score"
        assert np.isfinite(float(row[score])) and np.isfinite(float(row[f"stochastic_{score}"]))
