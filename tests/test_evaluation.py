"""What an evaluation measures, in which episodes, by whose actions, and when there is one."""

import importlib
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

import bc
from tests import tiny
from tests.tiny import SCRIPTS

# episodes: rewards of the steps, and info's success at each, by tasks.Task
EPISODES = [
    ([1.0, 2.0, 3.0], [0.0, 1.0, 0.0]),  # as Task has the pen: in the end counts
    ([4.0], [1.0]),
    ([5.0, 6.0], [math.nan, math.nan]),  # nobody says it
    ([7.0, 8.0, 9.0, 10.0], [0.0, 0.0, 0.0, 1.0]),
    ([11.0, 12.0], [1.0, 1.0]),
]
RETURNS = np.array([6.0, 4.0, 11.0, 34.0, 23.0])


class Scripted(gym.Env):
    """Episode number i of EPISODES; what is sampled is worth 100 more a step."""

    # number of the episode, step
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, i, seeds):
        self.i, self.seeds = i, seeds

    def reset(self, seed=None, options=None):
        self.t = 0
        self.seeds.append(seed)
        return np.array([self.i, 0], dtype=np.float32), {}

    def step(self, action):
        assert action[0] == self.i and action[1] in (self.t, self.t + 0.5)  # answers this one
        rewards, successes = EPISODES[self.i]
        reward, success = rewards[self.t] + 200 * (action[1] - self.t), successes[self.t]
        self.t += 1
        over, odd = self.t == len(rewards), self.i % 2 == 1
        info = {"success": success}
        return np.array([self.i, self.t], np.float32), reward, over and not odd, over and odd, info


class Echo:
    """Does what it observes, and half a step more where it samples."""

    def act(self, obs, deterministic=False):
        return obs + np.array([0, 0.0 if deterministic else 0.5])


def test_statistics_by_hand_of_episodes_of_any_length():
    seeds = []
    row = bc.evaluate("Hopper-v5", Echo(), [Scripted(i, seeds) for i in range(5)], 7, 1)
    # the same episodes with mean actions and then with sampled ones
    assert seeds[:5] == seeds[5:] and len(set(seeds)) == 5
    steps = np.array([len(rewards) for rewards, _ in EPISODES])
    for kind, returns in (("", RETURNS), ("stochastic_", RETURNS + 100 * steps)):
        assert row[f"{kind}return_mean"] == returns.mean()
        assert row[f"{kind}success_rate"] == 60  # at the last steps: 0, 1, not said, 1, 1
        score = 100 * (returns.mean() + 20.272305) / (3234.3 + 20.272305)
        assert row[f"{kind}normalized_score"] == pytest.approx(score)
    assert all(type(value) is float for value in row.values())
    # unknown where no episode tells
    assert math.isnan(bc.evaluate("a", Echo(), [Scripted(2, [])], 7)["success_rate"])


def test_an_evaluation_depends_on_its_key_alone_and_leaves_the_generator_as_it_was():
    env = bc.make_env("Walled-v0")
    actor, rows = bc.Actor(env, (8,)), []
    for key, before in (((3, 1, 40), 10), ((3, 1, 40), 11), ((3, 1, 60), 11), ((4, 1, 40), 11)):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        rows.append(bc.evaluate("Walled-v0", actor, [env, bc.make_env("Walled-v0")], *key))
        assert torch.equal(torch.get_rng_state(), state)
    for name in ("return_mean", "stochastic_return_mean"):
        assert rows[0][name] == rows[1][name]
        assert len({row[name] for row in rows}) == 3


# --- of runs --------------------------------------------------------------------------------------


class Asked(tiny.Walled):
    """Walled, which remembers the seeds of all resets: {environment: [seed, ...]}."""

    seeds = {}

    def reset(self, seed=None, options=None):
        Asked.seeds.setdefault(self, []).append(seed)
        return super().reset(seed=seed)


gym.register("Asked-v0", "tests.test_evaluation:Asked", max_episode_steps=50)


def test_every_evaluation_has_episodes_of_its_own_none_of_them_trained_on(script, monkeypatch):
    monkeypatch.setattr(Asked, "seeds", {})
    evaluate, evaluated = script.evaluate, []

    def watched(env_id, actor, envs, *key):
        trained.extend(seed for seeds in Asked.seeds.values() for seed in seeds)
        Asked.seeds.clear()
        row = evaluate(env_id, actor, envs, *key)
        assert key[:2] == (3, 1)
        # in each environment a fresh episode with both kinds of action
        assert all(len(seeds) == 2 and seeds[0] == seeds[1] for seeds in Asked.seeds.values())
        evaluated.append({seeds[0] for seeds in Asked.seeds.values()})
        Asked.seeds.clear()
        said.append(row)
        return row

    trained, said = [], []
    monkeypatch.setattr(script, "evaluate", watched)
    folder = tiny.short_run(script, "--env-id Asked-v0 --eval-episodes 3 --seed 3")
    rows = tiny.rows(folder)
    assert len(rows) == len(evaluated) > 2 and all(len(seeds) == 3 for seeds in evaluated)
    seeds = [seed for seeds in evaluated for seed in seeds]
    assert len(set(seeds + trained)) == len(seeds + trained)
    if SCRIPTS[script.__name__].kind != "clone":
        expected = [int(np.random.SeedSequence((3, 0, e)).generate_state(1)[0]) for e in range(5)]
        assert [seed for seed in trained if seed in expected] == expected
    for row, told in zip(rows, said):  # what was measured is what is written
        for name, value in told.items():
            assert row[name] == str(value) or (math.isnan(value) and row[name] in ("", "nan"))


SCHEDULES = [
    ("bc", 20, 60, [0, 20, 40, 60]), ("bc", 20, 50, [0, 20, 40, 50]),  # at the end as well
    ("bc", 20, 7, [0, 7]), ("rlif_rlpd", 10, 30, [0, 10, 20, 30]),  # an episode has 10 steps
    ("rlif_rlpd", 10, 26, [0, 10, 20, 26]), ("rlif_rlpd", 22, 70, [0, 30, 50, 70]),  # after the
    ("rlif_rlpd", 4, 20, [0, 10, 20]),  # episode that passes a multiple; once, however many
    ("dagger", 22, 60, [0, 30, 50, 60]),  # rounds of 10 steps
    ("dagger", 10, 24, [0, 10, 20, 30]),  # rounds end where they end
]  # fmt: skip


@pytest.mark.parametrize(("name", "frequency", "total", "steps"), SCHEDULES)
def test_an_evaluation_comes_after_every_multiple_that_was_passed_and_at_the_end(
    name, frequency, total, steps, people, monkeypatch
):
    monkeypatch.setattr(bc, "load_demonstrations", tiny.demonstrations)
    options = f"--eval-frequency {frequency} --total-timesteps {total} --eval-episodes 1"
    rows = tiny.rows(tiny.short_run(importlib.import_module(name), options))
    assert [int(row["global_step"]) for row in rows] == steps
