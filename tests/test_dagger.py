"""dagger.py: which steps are labelled, what is aggregated, and that it learns."""

import numpy as np
import pytest
import torch

import dagger
from experts import load_demonstrations, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("centring_expert")

# of novice and expert for two actions, and whether their L1 distance is 1 or more
PROPOSALS = np.array([[0, 0], [0.9, 0], [0.5, -0.5], [-0.4, 0.5], [0.9, 0.9]], dtype=np.float32)
ANSWERS = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [-0.9, 0.9]], dtype=np.float32)
DIFFER = [False, False, True, False, True]


def run(name, *options):
    """Without demonstrations, so the threshold has to be given."""
    return tiny.run_rounds(dagger, name, "--threshold", 1, *options)


def data_of(folder):
    """Observations and actions that a run has learned from by its end: (n, O), (n, A)."""
    data = tiny.checkpoint(folder)["data"]
    return data["obs"], data["actions"]


def since_before(folder, name):
    """What a count grew by between the rows of eval.csv."""
    return np.diff([int(row[name]) for row in tiny.rows(folder)])


def choices(draws=2_000, threshold=1.0, **options):
    """How often each of the five steps gets a label."""
    args, rng = dagger.Args(threshold=threshold, **options), np.random.default_rng(0)
    return np.mean([dagger.choose_labels(args, PROPOSALS, ANSWERS, rng) for _ in range(draws)], 0)


def test_labels_where_the_actions_differ():
    np.testing.assert_allclose(choices(), np.where(DIFFER, 0.95, 0.05), atol=0.02)
    assert choices(label_beta=1.0).tolist() == DIFFER
    assert choices(label_beta=1.0, threshold=1.01).tolist() == [False, False, False, False, True]


def test_labels_at_random_and_labels_everywhere():
    for rate in (0.3, 0.5, 0.85):
        np.testing.assert_allclose(choices(labels="random", random_rate=rate), rate, atol=0.04)
    assert choices(labels="all").tolist() == [1.0] * 5


def test_the_data_are_the_visited_states_with_the_experts_actions():
    # two rounds of two episodes of 50 steps
    steady = tiny.write_expert("steady.safetensors", [[-5.0, 0.0]])
    folder = run("a", "--labels", "all", "--total-timesteps", 200, "--expert", steady)
    obs, actions = data_of(folder)
    assert obs.shape == (200, 2) and actions.shape == (200, 1)
    policy = load_expert("Walled-v0", steady)
    torch.testing.assert_close(actions, policy.act(obs, deterministic=True), atol=1e-4, rtol=0)
    # each begins where its seed says, and each step's push is what the novice did, not this
    env = dagger.make_env("Walled-v0")
    for e in range(4):
        seed = np.random.SeedSequence((1, 0, e)).generate_state(1)[0]
        assert np.array_equal(obs[50 * e].numpy(), env.reset(seed=int(seed))[0])
    pushes = obs[1:50, 1]  # of the novice, in the environment's units
    assert (pushes - 2 * actions[:49, 0]).abs().max() > 0.1
    assert [float(row["label_rate"]) for row in tiny.rows(folder)] == [0.0, 1.0, 1.0]
    assert [int(row["labels"]) for row in tiny.rows(folder)] == [0, 100, 200]
    assert {row["expert_steps"] for row in tiny.rows(folder)} == {"0"}


def test_the_expert_answers_and_acts_with_what_they_draw():
    expert = tiny.write_expert("noisy.safetensors", [[-1.0, 0.0]], noise=0.3)
    options = "--labels", "all", "--mixture-decay", 1, "--round-updates", 1
    obs, answers = data_of(run("a", *options, "--total-timesteps", 500, "--expert", expert))
    meant = -obs[:, 0]  # before the tanh
    goes_on = torch.arange(len(obs)) % 50 > 0  # after a step, whose push is observed in [-2, 2]
    acted = (obs[goes_on, 1] / 2).clamp(-0.999, 0.999).atanh() - meant[goes_on.roll(-1)]
    assert acted.std().item() == pytest.approx(0.3, rel=0.15)
    assert (answers[:, 0].atanh() - meant).std().item() == pytest.approx(0.3, rel=0.15)


def test_the_distance_is_that_of_what_the_novice_would_have_done():
    # the expert acts in every step, and always alike: between what it does and says there is none
    steady = tiny.write_expert("steady.safetensors", [[0.0, 0.0]])
    options = "--mixture-decay", 1, "--label-beta", 1, "--round-updates", 1, "--expert", steady
    last = tiny.rows(run("a", *options, "--threshold", 0.3, "--total-timesteps", 200))[-1]
    assert int(last["expert_steps"]) == 200 and 80 < int(last["labels"]) < 180


def test_it_learns_from_all_data_and_the_demonstrations_stay_at_their_front(monkeypatch):
    sizes, fit = [], dagger.fit

    def watched_fit(actor, optimizer, data, updates, batch_size):
        sizes.append((len(data["obs"]), updates))
        return fit(actor, optimizer, data, updates, batch_size)

    monkeypatch.setattr(dagger, "fit", watched_fit)
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--pretrain-updates", 5
    folder = run("a", *demos, "--labels", "all", "--total-timesteps", 200)
    assert sizes == [(20, 5), (120, 50), (220, 50)]
    obs, actions = data_of(folder)
    shown = load_demonstrations("Walled-v0", dagger.make_env("Walled-v0"), 2, 1, "test/walled-v0")
    assert np.array_equal(obs[:20].numpy(), shown["obs"]) and len(obs) == 220
    assert np.array_equal(actions[:20].numpy(), shown["actions"])


def test_mixture_lets_the_expert_act_less_and_less():
    options = "--mixture-decay", 0.5, "--labels", "random", "--random-rate", 0.3
    folder = run("a", *options, "--total-timesteps", 300)
    steps, labels = since_before(folder, "expert_steps"), since_before(folder, "labels")
    # of 100 steps each
    assert 60 < labels.sum() < 120 and (labels != steps).any()
    assert steps[0] == 100 and 30 < steps[1] < 70 and 10 < steps[2] < 45


def test_rates_are_those_since_the_last_evaluation():
    options = "--mixture-decay", 0.5, "--labels", "random", "--total-timesteps", 300
    folder = run("a", *options, "--eval-frequency", 200)  # rounds of 100 steps
    assert [int(row["global_step"]) for row in tiny.rows(folder)] == [0, 200, 300]
    for name, rate in (("expert_steps", "intervention_rate"), ("labels", "label_rate")):
        rates = [float(row[rate]) for row in tiny.rows(folder)[1:]]
        assert rates == pytest.approx(since_before(folder, name) / [200, 100])


def test_learns_what_the_expert_can():
    folder = run("a", "--labels", "all", *tiny.LEARNS)
    returns = [float(row["return_mean"]) for row in tiny.rows(folder)]
    assert returns[0] < 40 < 45 < returns[-1]  # of 50
