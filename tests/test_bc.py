"""bc.py: it recovers a known policy from all demonstrations, by their likelihood."""

import json
import math
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import bc
from experts import InputError, load_expert
from tests import tiny

OPTIONS = (
    "--env-id", "Point-v0", "--dataset-id", "test/linear-v0", "--demo-episodes", 20,
    "--hidden-sizes", 32, 32, "--eval-episodes", 2, "--eval-frequency", 200,
    "--total-timesteps", 1_000, "--learning-rate", 3e-3, "--num-threads", 1,
)  # fmt: skip


def linear_expert(obs):
    """Actions of the point's range, [-2, 2]: (n, 2) -> (n, 1)."""
    return 2 * np.tanh(obs @ np.array([[-0.8], [0.3]]) + 0.2)


@pytest.fixture
def demonstrations():
    """20 episodes of 30 steps of a linear expert with a little noise, in a Minari dataset."""
    rng, buffers = np.random.default_rng(0), []
    for episode in range(20):
        obs = rng.normal(size=(31, 2)).astype(np.float32)
        actions = linear_expert(obs[:-1]) + 0.01 * rng.normal(size=(30, 1))
        actions = actions.clip(-2, 2).astype(np.float32)
        last = np.arange(30) == 29
        ends = {"terminations": last & False, "truncations": last}
        columns = episode, episode, None, obs, actions, np.zeros(30)
        buffers.append(EpisodeBuffer(*columns, infos={}, **ends))
    facts = {"env": "Point-v0", "algorithm_name": "linear", "author": "test"}
    minari.create_dataset_from_buffers("test/linear-v0", buffers, **facts)


def run(name, *options):
    bc.main(tiny.parsed(bc, *OPTIONS, *options, "--exp-name", name))
    return next(Path("runs").glob(f"*__{name}__*"))


def test_recovers_a_linear_expert(demonstrations):
    run_dir = run("a", "--total-timesteps", 2_000)
    policy = load_expert("Point-v0", str(run_dir / "model.safetensors"))
    obs = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    error = 2 * policy.act(obs, deterministic=True).numpy() - linear_expert(obs)
    assert np.abs(error).mean() < 0.05 and np.abs(linear_expert(obs)).mean() > 0.5
    losses = [float(row["train_loss"]) for row in tiny.rows(run_dir)]
    assert losses[-1] < losses[0] - 0.5
    steps = [int(row["global_step"]) for row in tiny.rows(run_dir)]
    assert steps == list(range(200, 2_001, 200))
    assert json.loads((run_dir / "summary.json").read_text())["gradient_steps"] == 2_000


@pytest.mark.parametrize(("episodes", "steps"), [(20, 600), (7, 210)])
def test_every_demonstration_is_cloned_and_no_other(demonstrations, monkeypatch, episodes, steps):
    seen, nll = [], bc.nll

    def watched_nll(actor, obs, actions):
        seen.append(torch.cat([obs, actions], 1))
        return nll(actor, obs, actions)

    monkeypatch.setattr(bc, "nll", watched_nll)
    run_dir = run("a", "--total-timesteps", 40, "--demo-episodes", episodes)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["demo_transitions"], summary["demo_episodes"]) == (steps, episodes)
    assert all(batch.shape == (256, 3) for batch in seen) and len(seen) == 40
    stored = minari.load_dataset("test/linear-v0").iterate_episodes(range(episodes))
    units = ((e.observations[:-1], (e.actions / 2).clip(-0.999, 0.999)) for e in stored)
    pairs = [np.concatenate(unit, 1) for unit in units]
    expected = torch.from_numpy(np.concatenate(pairs)).unique(dim=0)
    # 10,240 draws of 600 miss one of them with a probability of 2e-5
    torch.testing.assert_close(torch.cat(seen).unique(dim=0), expected)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_policy_sees_observations_as_the_demonstrations_say(demonstrations, standardize):
    option = "--standardize-obs" if standardize else "--no-standardize-obs"
    model = load_expert(
        "Point-v0", str(run("a", "--total-timesteps", 1, option) / "model.safetensors")
    )
    stored = minari.load_dataset("test/linear-v0").iterate_episodes()
    obs = torch.from_numpy(np.concatenate([episode.observations[:-1] for episode in stored]))
    torch.testing.assert_close(model.obs_mean, obs.mean(0) if standardize else torch.zeros(2))
    torch.testing.assert_close(model.obs_std, obs.std(0) if standardize else torch.ones(2))


def test_train_loss_is_the_mean_since_the_last_evaluation(demonstrations, monkeypatch):
    losses, nll = [], bc.nll

    def watched_nll(*what):
        loss = nll(*what)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(bc, "nll", watched_nll)
    run_dir = run("a", "--total-timesteps", 25, "--eval-frequency", 10)
    rows = [(int(row["global_step"]), float(row["train_loss"])) for row in tiny.rows(run_dir)]
    parts = {10: losses[:10], 20: losses[10:20], 25: losses[20:]}
    assert rows == [(step, pytest.approx(np.mean(part))) for step, part in parts.items()]


def test_likelihood_is_that_of_the_tanh_gaussian():
    actor, obs = bc.Actor(3, 2, (16,)), torch.randn(50, 3)
    actions = (torch.rand(50, 2) * 2 - 1) * 0.999
    mean, log_std = (x.double() for x in actor(obs))
    density = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    expected = -density.log_prob(actions.double()).sum(-1).mean()
    torch.testing.assert_close(bc.nll(actor, obs, actions).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--demo-episodes", 0), "--demo-episodes must be positive"),
        (("--weight-decay", math.nan), "--weight-decay must be zero or more, not nan"),
        (("--learning-rate", 0), "--learning-rate must be positive"),
        (("--demo-noise", 0.1), "--demo-noise would do nothing here: a dataset is taken as it is"),
        (("--dataset-id", "no/such-v0"), "no Minari dataset 'no/such-v0'"),
        (("--env-id", "NoSuchEnv-v0"), "--env-id NoSuchEnv-v0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(demonstrations, options, message):
    with pytest.raises(InputError, match=message) as caught:
        run("bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
