"""dagger.py: which steps are labelled, what is aggregated, and that it learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dagger
from experts import InputError, load_checkpoint, load_demonstrations, load_expert, seed_for
from tests import tiny

pytestmark = pytest.mark.usefixtures("centring_expert")


def run(name, *options):
    """Without demonstrations, so the threshold has to be given."""
    own = () if {"--threshold", "--labels"} & set(options) else ("--threshold", 1)
    return tiny.run_rounds(dagger, name, *own, *options)


def data_of(run_dir):
    """Observations and actions that a run has learned from by its end: (n, O), (n, A)."""
    *_, data = load_checkpoint(run_dir / "checkpoint.pt")["progress"]
    return data["obs"], data["actions"]


# proposals of novice and expert for two actions, and whether their L1 distance is 1 or more
PROPOSALS = np.array(
    [[0.0, 0.0], [0.9, 0.0], [0.5, -0.5], [-0.4, 0.5], [0.9, 0.9]], dtype=np.float32
)
ANSWERS = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [-0.9, 0.9]], dtype=np.float32)
DIFFER = [False, False, True, False, True]


def choices(draws=2_000, threshold=1.0, **options):
    """How often each of the five steps gets a label."""
    what = dagger.Args(**options), threshold, PROPOSALS, ANSWERS, np.random.default_rng(0)
    return np.mean([dagger.choose_labels(*what) for _ in range(draws)], axis=0)


def test_labels_where_the_actions_differ():
    np.testing.assert_allclose(choices(), np.where(DIFFER, 0.95, 0.05), atol=0.02)
    assert choices(label_beta=1.0).tolist() == DIFFER
    assert choices(label_beta=1.0, threshold=1.01).tolist() == [False, False, False, False, True]


def test_labels_at_random_and_labels_everywhere():
    for rate in (30, 50, 85):
        np.testing.assert_allclose(
            choices(labels="random", random_rate=rate), rate / 100, atol=0.04
        )
    assert choices(labels="all").tolist() == [1.0] * 5


def test_the_data_are_the_visited_states_with_the_experts_actions():
    # two rounds of two episodes of 50 steps of Walled
    tiny.write_expert("steady.safetensors", [[-5.0, 0.0]], noise=1e-6)
    run_dir = run(
        "a", "--labels", "all", "--total-timesteps", 200, "--expert", "steady.safetensors"
    )
    obs, actions = data_of(run_dir)
    assert obs.shape == (200, 2) and actions.shape == (200, 1)
    policy = load_expert("Walled-v0", "steady.safetensors")
    torch.testing.assert_close(actions, policy.act(obs, deterministic=True), atol=1e-4, rtol=0)
    env = dagger.make_env("Walled-v0")
    # each begins where its seed says, and each step's push is what the novice did, not this
    for episode in range(4):
        first, _ = env.reset(seed=seed_for(1, 0, episode))
        assert np.array_equal(obs[50 * episode].numpy(), first)
    pushes = obs[1:50, 1]  # of the novice, in the environment's units
    assert (pushes - 2 * actions[:49, 0]).abs().max() > 0.1
    assert [float(row["label_rate"]) for row in tiny.rows(run_dir)] == [1.0, 1.0]
    assert [int(row["labels"]) for row in tiny.rows(run_dir)] == [100, 200]
    assert {row[name] for row in tiny.rows(run_dir) for name in ("expert_steps", "takeovers")} == {
        "0"
    }


def test_the_expert_answers_and_acts_with_what_they_draw():
    expert = tiny.write_expert("noisy.safetensors", [[-1.0, 0.0]], noise=0.3)
    options = (
        "--labels",
        "all",
        "--mixture-decay",
        1,
        "--round-updates",
        1,
        "--total-timesteps",
        500,
    )
    obs, answers = data_of(run("a", *options, "--expert", expert))
    meant = -obs[:, 0]  # before the tanh
    # from the step before, whose push is observed in [-2, 2]
    goes_on = torch.arange(len(obs)) % 50 > 0
    acted = (obs[goes_on, 1] / 2).clamp(-0.999, 0.999).atanh() - meant[goes_on.roll(-1)]
    assert acted.std().item() == pytest.approx(0.3, rel=0.15)
    assert (answers[:, 0].atanh() - meant).std().item() == pytest.approx(0.3, rel=0.15)


def test_demonstrations_stay_at_the_front_of_the_data():
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--pretrain-updates", 5
    obs, actions = data_of(run("a", *demos, "--labels", "all", "--total-timesteps", 100))
    shown = load_demonstrations(dagger.make_env("Walled-v0"), "Walled-v0", 2, "test/walled-v0")
    assert np.array_equal(obs[:20].numpy(), shown["obs"])
    assert np.array_equal(actions[:20].numpy(), shown["actions"])
    assert len(obs) == 120


def test_mixture_lets_the_expert_act_less_and_less():
    run_dir = run(
        "a",
        "--mixture-decay",
        0.5,
        "--labels",
        "random",
        "--random-rate",
        30,
        "--total-timesteps",
        300,
    )
    rows = tiny.rows(run_dir)
    # of 100 in each of three rounds
    steps = np.diff([0] + [int(row["expert_steps"]) for row in rows])
    labels = np.diff([0] + [int(row["labels"]) for row in rows])
    assert [float(row["intervention_rate"]) for row in rows] == pytest.approx(steps / 100)
    assert [float(row["label_rate"]) for row in rows] == pytest.approx(labels / 100)
    assert 60 < labels.sum() < 120 and (labels != steps).any()
    assert steps[0] == 100 and 30 < steps[1] < 70 and 10 < steps[2] < 45
    assert json.loads((run_dir / "summary.json").read_text())["expert_steps"] == steps.sum()


def test_rates_are_those_since_the_last_evaluation():
    options = "--mixture-decay", 0.5, "--labels", "random", "--total-timesteps", 300
    rows = tiny.rows(run("a", *options, "--eval-frequency", 200))  # rounds of 100 steps
    assert [int(row["global_step"]) for row in rows] == [200, 300]
    for name, rate in (("expert_steps", "intervention_rate"), ("labels", "label_rate")):
        first, both = (int(row[name]) for row in rows)
        assert float(rows[0][rate]) == pytest.approx(first / 200)
        assert float(rows[1][rate]) == pytest.approx((both - first) / 100)


def test_learns_what_the_expert_can():
    run_dir = run("a", "--labels", "all", *tiny.LEARNS)
    returns = [float(row["return_mean"]) for row in tiny.rows(run_dir)]
    assert returns[-1] > 45  # of 50, where pushing at random reaches about 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label-beta", 1.5), r"--label-beta must be in \[0, 1\], not 1.5"),
        (("--mixture-decay", -1), "--mixture-decay must be"),
        (("--threshold", -1), "--threshold must be zero or more"),
        (("--threshold", "None"), "--threshold is needed where no demonstrations are there"),
        (("--round-episodes", 0), "--round-episodes must be positive"),
        (("--labels", "all", "--threshold", 1), "--threshold would do nothing here: --labels all"),
        (("--labels", "random", "--label-beta", 1), "--label-beta would do nothing here: --labels"),
        (("--random-rate", 30), "--random-rate would do nothing here: --labels threshold does not"),
        (("--pretrain-updates", 5), "--pretrain-updates would do nothing here: there are no demo"),
        (("--demo-episodes", 1, "--dataset-id", "x", "--demo-noise", 0), "--demo-noise would do"),
        (("--expert", "nobody"), "no expert 'nobody'"),
        (("--env-id", "NoSuchEnv-v0"), "--env-id NoSuchEnv-v0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        run("bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
