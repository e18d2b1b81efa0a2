"""What an evaluation measures, in which episodes, by whose actions, and how a row of eval.csv names it."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bc
import dagger
import rlif_rlpd
from experts import evaluate, main_metric, seed_for, write_rows
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

    # number of the episode, step
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, seed, begun):
        self.numbers = {seed_for(seed, i): i for i in range(len(EPISODES))}
        self.begun = begun

    def reset(self, seed=None, options=None):
        self.i, self.t = self.numbers[seed], 0
        self.begun.append(self.i)
        return self.observation(), {}

    def observation(self):
        return np.array([self.i, self.t], dtype=np.float32)

    def step(self, action):
        # the answer to this environment's observation
        assert np.array_equal(action, self.observation())
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
    row = evaluate("Scripted-v0", actor, envs, 5, 7)
    assert begun == [0, 1, 2, 3, 4] * 2  # each once with mean actions, and once with sampled ones
    half = len(actor.asked) // 2
    assert actor.asked == [True] * half + [False] * half
    deviations = [(x - 15.6) ** 2 for x in RETURNS]
    for kind in ("", "stochastic_"):
        assert row[f"{kind}return_mean"] == np.mean(RETURNS) == 15.6
        assert row[f"{kind}return_std"] == pytest.approx(math.sqrt(sum(deviations) / 4))
        assert row[f"{kind}success_rate"] == 40  # at the last steps: 0, 1, not said, 1, not known
        assert math.isnan(row[f"{kind}normalized_score"])
    assert len(row) == 8 and all(type(value) is float for value in row.values())


class Worth(gym.Env):
    """One step, worth its action; a success if that is 2 or more."""

    observation_space = action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, seed=None, options=None):
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        return (
            np.zeros(1, dtype=np.float32),
            float(action[0]),
            True,
            False,
            {"success": action[0] >= 2},
        )


class OneOrTwo:
    """Means to do 1, and samples 2."""

    def act(self, obs, deterministic=False):
        return np.full((len(obs), 1), 1.0 if deterministic else 2.0)


def test_mean_actions_are_under_the_plain_names_and_sampled_ones_under_stochastic():
    row = evaluate("Hopper-v5", OneOrTwo(), [Worth(), Worth()], 3, 0)
    assert (row["return_mean"], row["success_rate"]) == (1.0, 0.0)
    assert (row["stochastic_return_mean"], row["stochastic_success_rate"]) == (2.0, 100.0)
    width = 3234.3 + 20.272305
    assert row["normalized_score"] == pytest.approx(100 * 21.272305 / width)
    assert row["stochastic_normalized_score"] == pytest.approx(100 * 22.272305 / width)


def test_an_evaluation_depends_on_its_seed_alone_and_leaves_the_generator_as_it_was():
    actor = bc.Actor(2, 1, (8,))
    rows, states = [], []
    for seed, before in ((3, 10), (3, 11), (4, 11)):
        torch.manual_seed(before)
        states.append(torch.get_rng_state())
        rows.append(evaluate("Walled-v0", actor, [bc.make_env("Walled-v0")], 2, seed))
        assert torch.equal(torch.get_rng_state(), states[-1])
    assert rows[0] == pytest.approx(rows[1], nan_ok=True, rel=0, abs=0)
    for name in ("return_mean", "stochastic_return_mean"):
        assert rows[0][name] != rows[2][name]


@pytest.mark.parametrize("last", [None, math.nan])
def test_success_is_unknown_where_no_episode_tells_and_one_episode_has_no_deviation(
    monkeypatch, last
):
    monkeypatch.setattr("tests.test_evaluation.EPISODES", [([1.0, 2.0], [1.0, last])])
    row = evaluate("Scripted-v0", Echo(), [Scripted(7, [])], 1, 7)
    for kind in ("", "stochastic_"):
        assert math.isnan(row[f"{kind}success_rate"])
        assert (row[f"{kind}return_mean"], row[f"{kind}return_std"]) == (3.0, 0.0)


def test_every_episode_is_scored_and_then_averaged():
    row = evaluate("Hopper-v5", Echo(), [Scripted(7, [])], 5, 7)
    score = pytest.approx(100 * (15.6 + 20.272305) / (3234.3 + 20.272305))
    assert row["normalized_score"] == score and row["stochastic_normalized_score"] == score


# --- a row of eval.csv -----------------------------------------------------------------------------------------------


class Writer:
    """Keeps what TensorBoard is told."""

    def __init__(self):
        self.told, self.flushed = [], False

    def add_scalar(self, name, value, step):
        self.told.append((name, value, step))

    def flush(self):
        self.flushed = True


def test_all_rows_are_in_the_file_and_the_last_one_in_tensorboard_without_what_is_not_known(
    tmp_path,
):
    rows = [
        {"global_step": 20, "labels": 3, "flagged_rate": 0.5, "return_mean": 15.6},
        {"global_step": 40, "labels": 4, "flagged_rate": math.nan, "return_mean": 1e-7},
    ]
    writer = Writer()
    write_rows(tmp_path, writer, rows)
    lines = (tmp_path / "eval.csv").read_text().splitlines()
    assert lines == ["global_step,labels,flagged_rate,return_mean", "20,3,0.5,15.6", "40,4,,1e-07"]
    assert (
        writer.told == [("eval/labels", 4, 40), ("eval/return_mean", 1e-7, 40)] and writer.flushed
    )


def test_tensorboard_has_the_options_of_the_run(people):
    folder = tiny.short_run(rlif_rlpd)
    events = EventAccumulator(str(folder))
    events.Reload()
    (text,) = events.Tensors("hyperparameters/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert "|batch_size|8|" in shown and "|termination|penalty|" in shown


@pytest.fixture
def scripts(people, monkeypatch):
    """Runs bc.py with random demonstrations, dagger.py and rlif_rlpd.py: run(script, ...) returns the rows."""
    monkeypatch.setattr(bc, "load_demonstrations", tiny.demonstrations)
    return lambda script, *options: tiny.rows(tiny.short_run(script, *options))


@pytest.mark.parametrize("script", [bc, dagger, rlif_rlpd])
def test_a_run_writes_what_its_evaluation_says_of_its_policy_in_fresh_episodes(
    script, scripts, monkeypatch
):
    said, told = [], script.evaluate

    def watched(env_id, actor, envs, episodes, seed):
        said.append((seed, told(env_id, actor, envs, episodes, seed)))
        return said[-1][1]

    monkeypatch.setattr(script, "evaluate", watched)
    rows = scripts(script, "--seed", 3)
    assert len(rows) == len(said) >= 2
    for row, (seed, stats) in zip(rows, said):
        assert seed == seed_for(3, 1, int(row["global_step"]))
        assert {name: row[name] for name in stats} == {
            name: "" if math.isnan(value) else str(value) for name, value in stats.items()
        }
        assert (
            list(row)[0] == "global_step"
            and list(row)[-1] == "wall_seconds"
            and float(row["wall_seconds"]) > 0
        )


class Asked(tiny.Walled):
    """Walled, which remembers the seeds of all resets: {environment: [seed, ...]}."""

    seeds = {}

    def reset(self, seed=None, options=None):
        Asked.seeds.setdefault(self, []).append(seed)
        return super().reset(seed=seed)


gym.register("Asked-v0", "tests.test_evaluation:Asked", max_episode_steps=50)


def test_every_evaluation_has_episodes_of_its_own_none_of_them_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Asked, "seeds", {})
    expert = tiny.write_expert(tmp_path / "expert.safetensors", [[-5.0, 0.0]])
    tiny.run(
        "a", "--env-id", "Asked-v0", "--intervention", "random", "--demo-episodes", 0, "--total-timesteps", 200,
        "--eval-frequency", 100, "--eval-episodes", 3, "--hidden-sizes", 8, "--num-threads", 1, "--expert", expert,
    )  # fmt: skip
    trained, *evaluated = Asked.seeds.values()
    assert trained == [seed_for(1, 0, i) for i in range(4)]
    evaluated = [seed for seeds in evaluated for seed in seeds]
    expected = {seed_for(seed_for(1, 1, step), i) for step in (100, 200) for i in range(3)}
    # each with both kinds of action
    assert len(evaluated) == 12 and set(evaluated) == expected and len(expected) == 6
    assert not expected & set(trained)


# --- the column that counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        ([], "success_rate"),
        (["normalized_score"], "success_rate"),
        (["success_rate"], "normalized_score"),
        # an evaluation where no episode told of it
        (
            ["stochastic_success_rate"],
            "normalized_score",
        ),
        (["success_rate", "normalized_score"], "return_mean"),
    ],
)
@pytest.mark.parametrize("where", ["everywhere", "first", "last"])
def test_a_run_is_judged_by_what_is_known_in_every_evaluation(unknown, expected, where):
    columns = "return_mean", "normalized_score", "success_rate"
    known = {f"{kind}{name}": 1.0 for kind in ("", "stochastic_") for name in columns}
    some = known | dict.fromkeys(unknown, math.nan)
    rows = {"everywhere": [some, some], "first": [some, known], "last": [known, some]}[where]
    assert main_metric(rows) == expected


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "frequency", "total", "steps"), [
    (bc, 20, 60, [20, 40, 60]),
    (bc, 20, 50, [20, 40, 50]),  # at the end as well
    (bc, 20, 7, [7]),  # over before the first
    (rlif_rlpd, 50, 150, [50, 100, 150]),  # an episode has 50 steps
    (rlif_rlpd, 50, 130, [50, 100, 130]),
    (rlif_rlpd, 60, 200, [100, 150, 200]),  # after the episode that took it past a multiple
    (rlif_rlpd, 110, 350, [150, 250, 350]),
    (rlif_rlpd, 20, 100, [50, 100]),  # once, however many multiples
    (rlif_rlpd, 1_000, 70, [70]),
    (dagger, 110, 300, [150, 250, 300]),  # rounds of 50 steps
    (dagger, 50, 120, [50, 100, 150]),  # rounds end where they end
])  # fmt: skip
def test_an_evaluation_comes_after_every_multiple_that_was_passed_and_at_the_end(
    script, frequency, total, steps, scripts
):
    options = "--eval-frequency", frequency, "--total-timesteps", total, "--batch-size", 8
    rows = scripts(script, *options)
    assert [int(row["global_step"]) for row in rows] == steps
