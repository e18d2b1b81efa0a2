"""bc.py: it recovers a known policy from all demonstrations, by their likelihood."""

import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import bc
from experts import load_expert
from tests import tiny

OPTIONS = "--env-id Point-v0 --dataset-id test/linear-v0 --demo-episodes 20 --hidden-sizes 32 32"
OPTIONS += " --eval-episodes 2 --eval-frequency 500 --learning-rate 3e-3 --exp-name a"


def linear_expert(obs):
    """Actions of the point's range, [-2, 2]: (n, 2) -> (n, 1)."""
    return 2 * np.tanh(obs @ np.array([[-0.8], [0.3]]) + 0.2)


@pytest.fixture
def demonstrations():
    """20 episodes of 30 steps of a linear expert with a little noise, in a Minari dataset."""
    rng, buffers, last = np.random.default_rng(0), [], np.arange(30) == 29
    for episode in range(20):
        obs = rng.normal(size=(31, 2)).astype(np.float32)
        actions = linear_expert(obs[:-1]) + 0.01 * rng.normal(size=(30, 1))
        columns = obs, actions.clip(-2, 2).astype(np.float32), np.zeros(30), last & False, last
        buffers.append(EpisodeBuffer(episode, episode, None, *columns, infos={}))
    facts = {"env": "Point-v0", "algorithm_name": "linear", "author": "test"}
    minari.create_dataset_from_buffers("test/linear-v0", buffers, **facts)
    return buffers


def test_recovers_a_linear_expert(demonstrations):
    bc.main(tiny.parsed(bc, OPTIONS, "--total-timesteps 2000"))
    folder = tiny.folder_of("a")
    (group,) = tiny.checkpoint(folder)["optimizer"]["param_groups"]
    assert group["decoupled_weight_decay"] and group["weight_decay"] == 1e-3  # AdamW, not Adam
    policy = load_expert("Point-v0", f"{folder}/model.safetensors")
    obs = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    error = 2 * policy.act(obs, deterministic=True).numpy() - linear_expert(obs)
    assert np.abs(error).mean() < 0.05 and np.abs(linear_expert(obs)).mean() > 0.5
    losses = [float(row["train_loss"]) for row in tiny.rows(folder)[1:]]
    assert losses[-1] < losses[0] - 0.5


def test_every_demonstration_is_cloned_by_its_likelihood(demonstrations, monkeypatch):
    pairs, losses, forward = [], [], bc.Actor.forward

    def watched(actor, obs):
        policy = forward(actor, obs)
        log_prob = policy.log_prob

        def watched_log_prob(actions):
            pairs.append(torch.cat([obs, actions], 1))
            losses.append(-log_prob(actions).mean().item())
            return log_prob(actions)

        policy.log_prob = watched_log_prob
        return policy

    monkeypatch.setattr(bc.Actor, "forward", watched)
    bc.main(tiny.parsed(bc, OPTIONS, "--total-timesteps 45 --eval-frequency 20"))
    # 11,520 draws of 600 miss one of them with a probability of 3e-6
    obs = np.concatenate([episode.observations[:-1] for episode in demonstrations])
    actions = np.concatenate([episode.actions / 2 for episode in demonstrations])
    expected = torch.from_numpy(np.concatenate([obs, actions.clip(-0.999, 0.999)], 1))
    torch.testing.assert_close(torch.cat(pairs).unique(dim=0), expected.unique(dim=0))
    # the loss is the mean since the evaluation before
    rows = tiny.rows(tiny.folder_of("a"))[1:]
    rows = {int(row["global_step"]): float(row["train_loss"]) for row in rows}
    parts = {20: losses[:20], 40: losses[20:40], 45: losses[40:]}
    assert rows == {step: pytest.approx(np.mean(part)) for step, part in parts.items()}


@pytest.mark.parametrize("env_id", ["Walled-v0", "Switched-v0"])
def test_likelihood_is_that_of_the_policy_to_the_edges(env_id):
    actor, obs = bc.Actor(bc.make_env(env_id), (16,)), torch.randn(50, 2)
    x = torch.relu(actor.layers[0](obs))
    if actor.discrete:
        actions = torch.eye(3)[torch.arange(50) % 3]
        expected = (actor.logits(x).double().log_softmax(-1) * actions).sum(-1)
    else:
        actions = torch.linspace(-0.999, 0.999, 50)[:, None]
        normal = Normal(actor.mean(x).double(), actor.log_std(x).double().clamp(-20, 2).exp())
        density = TransformedDistribution(normal, TanhTransform(cache_size=1))
        expected = density.log_prob(actions.double()).sum(-1)
        actor.mean.bias.data += 100  # what is executed stays off the edges
        for deterministic in (True, False):
            assert actor.act(obs.numpy(), deterministic) == pytest.approx(0.999)
        actor.mean.bias.data -= 100
    log_prob = actor(obs).log_prob(actions)
    assert log_prob.shape == (50,)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-3, atol=1e-3)
