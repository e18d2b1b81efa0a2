"""What an evaluation measures, in which episodes, by whose actions, and how a row of eval.csv names it."""

import math

import gymnasium as gym
import numpy as np
import pytest

import rlif_rlpd
from tests import tiny

# episodes: rewards of the steps, and what info says of success at each: nothing (None), or a value
EPISODES = [
    ([1.0, 2.0, 3.0], [0.0, 1.0, 0.0]),  # success on the way, but not in the end
    ([4.0], [1.0]),
    ([5.0, 6.0], [None, None]),  # says nothing
    ([7.0, 8.0, 9.0, 10.0], [0.0, 0.0, 0.0, 1.0]),
    ([11.0, 12.0], [1.0, math.nan]),  # does not know in the end
]
RETURNS = [6.0, 4.0, 11.0, 34.0, 23.0]


class Scripted(gym.Env):
    """Episode i of EPISODES where reset gets the seed that evaluation number `seed` is to give it."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)  # number of the episode, step
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, seed, begun):
        self.numbers = {rlif_rlpd.seed_for(seed, i): i for i in range(len(EPISODES))}
        self.begun = begun

    def reset(self, seed=None, options=None):
        self.i, self.t = self.numbers[seed], 0
        self.begun.append(self.i)
        return self.observation(), {}

    def observation(self):
        return np.array([self.i, self.t], dtype=np.float32)

    def step(self, action):
        assert np.array_equal(action, self.observation())  # the answer to this environment's observation
        rewards, successes = EPISODES[self.i]
        reward, success = rewards[self.t], successes[self.t]
        self.t += 1
        over = self.t == len(rewards)
        info = {} if success is None else {"success": success}
        return self.observation(), reward, over and self.i % 2 == 0, over and self.i % 2 == 1, info


class Echo:
    """Does what it observes, and remembers how it was asked."""

    def __init__(self):
        self.asked = []

    def act(self, obs, deterministic=False):
        self.asked.append(deterministic)
        return obs.copy()


@pytest.mark.parametrize("environments", [1, 2, 3, 5])
def test_statistics_by_hand_however_many_environments_share_the_episodes(environments):
    begun, actor = [], Echo()
    envs = [Scripted(7, begun) for _ in range(environments)]
    row = rlif_rlpd.evaluate("Scripted-v0", actor, envs, 5, 7, deterministic=True)
    assert begun == [0, 1, 2, 3, 4]  # each once
    assert set(actor.asked) == {True}
    assert row["return_mean"] == np.mean(RETURNS) == 15.6
    deviations = [(x - 15.6) ** 2 for x in RETURNS]
    assert row["return_std"] == pytest.approx(math.sqrt(sum(deviations) / 4))
    assert row["success_rate"] == 40  # at the last steps: 0, 1, not said, 1, not known
    assert math.isnan(row["normalized_score"])


def test_sampled_actions_are_asked_for_where_they_are_to_be():
    actor = Echo()
    rlif_rlpd.evaluate("Scripted-v0", actor, [Scripted(7, [])], 5, 7, deterministic=False)
    assert set(actor.asked) == {False}


@pytest.mark.parametrize("last", [None, math.nan])
def test_success_is_unknown_where_no_episode_tells_and_one_episode_has_no_deviation(monkeypatch, last):
    monkeypatch.setattr("tests.test_evaluation.EPISODES", [([1.0, 2.0], [1.0, last])])
    row = rlif_rlpd.evaluate("Scripted-v0", Echo(), [Scripted(7, [])], 1, 7, deterministic=True)
    assert math.isnan(row["success_rate"])
    assert (row["return_mean"], row["return_std"]) == (3.0, 0.0)


def test_every_episode_is_scored_and_then_averaged():
    row = rlif_rlpd.evaluate("Hopper-v5", Echo(), [Scripted(7, [])], 5, 7, deterministic=True)
    assert row["normalized_score"] == pytest.approx(100 * (15.6 + 20.272305) / (3234.3 + 20.272305))


# --- a row of eval.csv -----------------------------------------------------------------------------------------------


def test_a_row_has_the_mean_action_under_the_plain_names_and_sampled_ones_under_stochastic(monkeypatch):
    run = rlif_rlpd.Run(rlif_rlpd.Args(env_id="Scripted-v0", seed=3, eval_episodes=5), None, 0, total=1)
    actor, begun = Echo(), []
    seed = rlif_rlpd.seed_for(3, 1, 500)
    evaluate, stats = rlif_rlpd.evaluate, []

    def watched_evaluate(*what, deterministic):
        stats.append(evaluate(*what, deterministic=deterministic))
        stats[-1]["return_mean"] += 1_000 * (not deterministic)  # to tell them apart
        return stats[-1]

    monkeypatch.setattr(rlif_rlpd, "evaluate", watched_evaluate)
    run.evaluate(actor, [Scripted(seed, begun)], 500, {"labels": 4, "flagged_rate": math.nan})
    assert begun == [0, 1, 2, 3, 4] * 2  # both in the same episodes, those of seed_for(seed, 1, step)
    (row,) = run.rows
    assert row["return_mean"] == 15.6 and row["stochastic_return_mean"] == 1_015.6
    assert row["success_rate"] == row["stochastic_success_rate"] == 40
    assert (row["global_step"], row["labels"]) == (500, 4) and row["wall_seconds"] > 0
    (written,) = tiny.rows(run.folder)
    assert list(written) == list(row)
    assert written["return_mean"] == "15.6" and written["flagged_rate"] == written["normalized_score"] == ""


class Asked(tiny.Walled):
    """Walled, which remembers the seeds of all resets: {environment: [seed, ...]}."""

    seeds = {}

    def reset(self, seed=None, options=None):
        Asked.seeds.setdefault(self, []).append(seed)
        return super().reset(seed=seed)


gym.register("Asked-v0", "tests.test_evaluation:Asked", max_episode_steps=50)


def test_every_evaluation_has_episodes_of_its_own_none_of_them_trained_on(tmp_path):
    Asked.seeds = {}
    expert = tiny.write_expert(tmp_path / "expert.safetensors", [[-5.0, 0.0]])
    tiny.run(
        "a", "--env-id", "Asked-v0", "--intervention", "random", "--demo-episodes", 0, "--total-timesteps", 200,
        "--eval-frequency", 100, "--eval-episodes", 3, "--hidden-sizes", 8, "--num-threads", 1, "--expert", expert,
    )  # fmt: skip
    trained, *evaluated = Asked.seeds.values()
    assert trained == [rlif_rlpd.seed_for(1, 0, i) for i in range(5)]  # the last is begun, and not gone on with
    evaluated = [seed for seeds in evaluated for seed in seeds]
    expected = {rlif_rlpd.seed_for(rlif_rlpd.seed_for(1, 1, step), i) for step in (100, 200) for i in range(3)}
    assert len(evaluated) == 12 and set(evaluated) == expected and len(expected) == 6  # each with both kinds of action
    assert not expected & set(trained)


# --- the column that counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        ([], "success_rate"),
        (["normalized_score"], "success_rate"),
        (["success_rate"], "normalized_score"),
        (["stochastic_success_rate"], "normalized_score"),  # an evaluation where no episode told of it
        (["success_rate", "normalized_score"], "return_mean"),
    ],
)
@pytest.mark.parametrize("where", ["everywhere", "first", "last"])
def test_a_run_is_judged_by_what_is_known_in_every_evaluation(unknown, expected, where):
    columns = "return_mean", "normalized_score", "success_rate"
    known = {f"{kind}{name}": 1.0 for kind in ("", "stochastic_") for name in columns}
    some = known | dict.fromkeys(unknown, math.nan)
    rows = {"everywhere": [some, some], "first": [some, known], "last": [known, some]}[where]
    assert rlif_rlpd.main_metric(rows) == expected


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "now", "over", "due"),
    [
        (None, 0, False, False),
        (None, 99, False, False),
        (None, 100, False, True),
        (None, 7, True, True),  # over before the first
        (None, 0, True, False),  # nothing was learned
        (100, 199, False, False),
        (130, 199, False, False),  # rounds end where they end
        (130, 205, False, True),
        (130, 150, True, True),
        (200, 200, True, False),  # that one is there
    ],
)
def test_an_evaluation_is_due_at_every_multiple_that_was_passed_and_at_the_end(last, now, over, due):
    run = rlif_rlpd.Run(rlif_rlpd.Args(env_id="Walled-v0", eval_frequency=100), None, 0, total=1)
    run.rows = [] if last is None else [{"global_step": last}]
    assert run.due("global_step", now, over) == due
