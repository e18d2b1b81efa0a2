"""The shipped tasks: what learning and evaluation see of them."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest

import rlif_rlpd
from experts import list_experts, load_checkpoint
from tests import tiny

SCRIPTS = [path.stem for path in sorted(tiny.ROOT.glob("*.py"))]
PEN = "AdroitHandPen-v1"


def episode(env, size):
    """The steps of an episode of random actions of this size: a list of (obs, terminated, truncated)."""
    rng, steps = np.random.default_rng(0), []
    env.reset(seed=0)
    while not steps or not (steps[-1][1] or steps[-1][2]):
        obs, _, *ended, _ = env.step(size * rng.uniform(-1, 1, 24).astype(np.float32))
        steps.append((obs, *ended))
    return steps


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dropped_pen_ends_the_episode_in_training_and_not_in_evaluation(script):
    script = importlib.import_module(script)
    training, evaluation = (episode(make(PEN), size=1) for make in (script.make_training_env, script.make_env))
    assert len(training) < 100 and training[-1][1] is True and not training[-1][2]
    assert all(obs[26] >= 0.075 for obs, *_ in training[:-1]) and training[-1][0][26] < 0.075
    assert len(evaluation) == 200 and not any(terminated for _, terminated, _ in evaluation)
    np.testing.assert_array_equal(training[-1][0], evaluation[len(training) - 1][0])  # the same pen otherwise


def test_a_pen_that_is_held_is_taken_away_after_100_steps_in_training():
    steps = episode(rlif_rlpd.make_training_env(PEN), size=0)  # the hand holds still
    assert len(steps) == 100 and steps[-1][2] and not steps[-1][1] and steps[-1][0][26] > 0.075


def test_other_tasks_are_learned_in_as_they_are_evaluated():
    assert str(rlif_rlpd.make_training_env("Hopper-v5")) == str(rlif_rlpd.make_env("Hopper-v5"))


def test_an_evaluation_is_judged_by_success_then_score_then_return():
    row = {"return_mean": 1.0, "normalized_score": 2.0, "success_rate": 3.0}
    assert rlif_rlpd.headline(row) == "success_rate"
    row["success_rate"] = float("nan")
    assert rlif_rlpd.headline(row) == "normalized_score"
    row["normalized_score"] = float("nan")
    assert rlif_rlpd.headline(row) == "return_mean"


# --- every shipped task, expert and strategy -------------------------------------------------------------------------

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
    return [moment for value in state for moment in first_moments(value)] if isinstance(state, (list, tuple)) else []


@pytest.mark.parametrize(("env_id", "script"), [(env_id, script) for env_id in list_experts() for script in SCRIPTS])
def test_a_short_run_of_every_strategy_takes_gradient_steps(env_id, script, demonstrations, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(demonstrations))
    module, levels = importlib.import_module(script), list_experts()[env_id]
    for i, strategy in enumerate(STRATEGIES[script]):
        options = f"--env-id {env_id} --demo-episodes 2 --eval-episodes 1 --exp-name {i} {SHORT[script]} {strategy}"
        options += f" --expert {levels[i]}" * (script != "bc")
        module.main(module.parse_args(options.split()))
        folder = next(Path("runs").glob(f"*__{i}__*"))
        moments = first_moments(load_checkpoint(folder / "checkpoint.pt"))
        assert moments and all(moment.abs().max() > 0 for moment in moments)
        with open(folder / "eval.csv") as file:
            row = list(csv.DictReader(file))[-1]
        score = "success_rate" if "Pen" in env_id else "normalized_score"
        assert np.isfinite(float(row[score])) and np.isfinite(float(row[f"stochastic_{score}"]))
