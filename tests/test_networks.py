"""Networks and updates of rlif_rlpd.py against a loop in float64, written from RLPD's equations."""

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import rlif_rlpd
from tests import tiny

OBS, ACT, BATCH, HIDDEN = 3, 2, 7, (16, 8)


def learner(**options):
    """An agent, a batch with rewards of -1 and 0, ends and various discounts, noise and members."""
    usual = {"hidden_sizes": HIDDEN, "num_qs": 3, "gamma": 0.9, "tau": 0.1, "precision": "float32"}
    args = rlif_rlpd.Args(**usual | options)
    agent = rlif_rlpd.Agent(OBS, ACT, args, torch.device("cpu"))
    for network in (agent.qf, agent.qf_target):  # at 1 and 0 they could be mixed up
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    for network in (agent.actor, agent.qf, agent.qf_target):
        network.obs_mean.copy_(torch.tensor([0.3, -1.0, 0.5]))
        network.obs_std.copy_(torch.tensor([0.5, 2.0, 1.5]))
    batch = {
        "obs": torch.randn(BATCH, OBS), "actions": torch.rand(BATCH, ACT) * 2 - 1,
        "rewards": torch.tensor([0.0, -1, 0, -1, 0, -1.9, 0]),
        "next_obs": torch.randn(BATCH, OBS), "terminations": torch.tensor([0.0, 0, 1, 1, 0, 0, 0]),
        "discounts": torch.tensor([0.9, 0.9, 0.9, 0.81, 0.81, 0.729, 0.729]),
    }  # fmt: skip
    return agent, batch, torch.randn(BATCH, ACT), torch.tensor([2, 0])


# --- float64, one sample and one critic at a time -------------------------------------------------


def doubles(module):
    """The parameters and buffers of a module as leaves in float64."""
    return {
        name: values.detach().double().requires_grad_(values.is_floating_point())
        for name, values in module.state_dict().items()
    }


def policy(p, obs):
    """Mean and standard deviation before the tanh: (O,) -> (A,) each."""
    x = (obs - p["obs_mean"]) / p["obs_std"]
    for i in range(len(HIDDEN)):
        x = torch.relu(p[f"layers.{i}.weight"] @ x + p[f"layers.{i}.bias"])
    log_std = p["log_std.weight"] @ x + p["log_std.bias"]
    return p["mean.weight"] @ x + p["mean.bias"], log_std.clamp(-20, 2).exp()


def value(p, n, obs, action):
    """Critic number n: (O,), (A,) -> a number."""
    x = torch.cat([(obs - p["obs_mean"]) / p["obs_std"], action])
    for i in range(len(HIDDEN)):
        x = x @ p[f"weights.{i}"][n] + p[f"biases.{i}"][n, 0]
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        x = torch.relu(x * p[f"norm_weights.{i}"][n, 0] + p[f"norm_biases.{i}"][n, 0])
    return (x @ p[f"weights.{len(HIDDEN)}"][n] + p[f"biases.{len(HIDDEN)}"][n, 0])[0]


def expected_gradients(agent, batch, noise, members):
    """All gradients, of critics and actor, the targets, (B,), and the mean loss of a critic."""
    args, batch = agent.args, {name: values.double() for name, values in batch.items()}
    qf, target_qf, actor = (doubles(m) for m in (agent.qf, agent.qf_target, agent.actor))
    log_alpha = agent.log_alpha.detach().double().requires_grad_()
    critic_loss, actor_loss, entropy, held, targets = 0.0, 0.0, 0.0, 0.0, []
    shown = round(args.offline_ratio * BATCH)
    for b in range(BATCH):
        one = {name: values[b] for name, values in batch.items()}
        mean, std = policy(actor, one["next_obs"])
        action = torch.tanh(mean + std * noise[b])
        next_q = min(value(target_qf, n, one["next_obs"], action).item() for n in members)
        target = one["rewards"] + one["discounts"] * (1 - one["terminations"]) * next_q
        if args.reward != "task":
            target = target.clamp(-1 / (1 - args.gamma), 0)
        targets.append(target.item())
        for n in range(args.num_qs):
            error = value(qf, n, one["obs"], one["actions"]) - target.detach()
            critic_loss = critic_loss + error**2 / BATCH
        mean, std = policy(actor, one["obs"])
        tanh = TanhTransform(cache_size=1)
        action = tanh(mean + std * noise[b])
        log_prob = TransformedDistribution(Normal(mean, std), tanh).log_prob(action).sum()
        frozen = {name: values.detach() for name, values in qf.items()}
        q = sum(value(frozen, n, one["obs"], action) for n in range(args.num_qs)) / args.num_qs
        actor_loss = actor_loss + (log_alpha.exp().detach() * log_prob - q) / BATCH
        entropy = entropy - log_prob.detach() / BATCH
        if b < shown:
            held = held + (mean.tanh() - one["actions"]).pow(2).sum() / shown
    loss = actor_loss + args.bc_weight * held + log_alpha.exp()[0] * (entropy + ACT)
    critic = torch.autograd.grad(critic_loss, [qf[n] for n, _ in agent.qf.named_parameters()])
    names = [name for name, _ in agent.actor.named_parameters()]
    rest = torch.autograd.grad(loss, [*(actor[name] for name in names), log_alpha])
    return [*critic, *rest], targets, critic_loss.item() / args.num_qs


CASES = [
    ({}, -2.0),  # targets within [-10, 0]
    ({}, 2.0), ({"reward": "none"}, -20.0),  # some are clipped to 0, some to -1 / (1 - gamma)
    ({"reward": "task"}, 2.0),  # never
    ({"bc_weight": 3.0, "offline_ratio": 0.4}, -2.0), ({"num_min_qs": 1, "num_qs": 5}, -2.0),
]  # fmt: skip


@pytest.mark.parametrize(("options", "shift"), CASES, ids=str)
def test_gradients_are_those_of_a_loop_in_float64(options, shift):
    agent, batch, noise, members = learner(**options)
    agent.qf_target.biases[-1].data += shift
    agent.log_alpha.data.fill_(math.log(0.5))
    members = members[: agent.args.num_min_qs]
    expected, targets, loss = expected_gradients(agent, batch, noise, members)
    inside = [-10 < target < 0 for target in targets]
    assert all(inside) if shift == -2.0 and not targets.count(0.0) else not all(inside)
    losses, found = agent.critic_gradients(batch, noise, members)
    assert losses["qf_loss"].item() == pytest.approx(loss, rel=1e-4)
    found = [*found, *agent.actor_gradients(batch, noise)[1]]
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6


def test_an_update_draws_noise_and_members_anew_and_the_actor_learns_on_the_last_batch():
    agent, batch, *_ = learner()
    seen = {"critics": [], "actor": []}
    critics, actor = agent.critic_gradients, agent.actor_gradients
    agent.critic_gradients = lambda *x: seen["critics"].append(x) or critics(*x)
    agent.actor_gradients = lambda *x: seen["actor"].append(x) or actor(*x)
    batches = {name: torch.stack([v, v.flip(0), v.roll(1, 0)]) for name, v in batch.items()}
    for _ in range(100):
        agent.update(batches, 0.0)
    assert (len(seen["critics"]), len(seen["actor"])) == (300, 100)
    for i, (given, *_) in enumerate(seen["critics"]):
        assert all(torch.equal(given[name], batches[name][i % 3]) for name in batches)
    for given, _ in seen["actor"]:
        assert all(torch.equal(given[name], batches[name][2]) for name in batches)
    for calls in seen.values():
        noise = torch.stack([call[1] for call in calls])
        assert abs(noise.mean()) < 0.1 and noise.std().item() == pytest.approx(1, abs=0.1)
    drawn = [tuple(sorted(call[2].tolist())) for call in seen["critics"]]
    assert {drawn.count(pair) > 60 for pair in ((0, 1), (0, 2), (1, 2))} == {True}
    assert len(set(drawn)) == 3  # pairs of two different members


def test_the_target_of_a_hand_made_batch_is_distributed_as_the_policy_at_next_obs():
    """The policy's mean is the observation's, its deviation 1 / e; Q(s, a) is a_0, or 0 of now."""
    agent, batch, *_ = learner(reward="task", num_qs=1, num_min_qs=1)
    agent.actor.forward = lambda obs, *_: (obs[:, :2], obs[:, :2] * 0 - 1)
    agent.qf_target.forward = lambda obs, actions, *_: actions[None, :, 0]
    nothing = sum(parameter.sum() * 0 for parameter in agent.qf.parameters())
    agent.qf.forward = lambda obs, actions, **_: nothing + actions[None, :, 0] * 0
    n = 20_000
    batch = {name: values[:1].expand(n, *values.shape[1:]) for name, values in batch.items()}
    batch |= {"obs": torch.full((n, OBS), 5.0), "next_obs": torch.full((n, OBS), -0.5)}
    draws = torch.tanh(-0.5 + math.exp(-1) * torch.randn(100_000))
    expected = (0.9 * draws).pow(2).mean().item()
    assert expected > 1.15 * (0.9 * math.tanh(0.5)) ** 2  # of mean actions
    assert agent.update_critics(batch)["qf_loss"].item() == pytest.approx(expected, rel=0.04)


# --- networks -------------------------------------------------------------------------------------


def test_critics_are_batched_chosen_and_begin_different():
    agent, batch, _, members = learner()
    obs, actions = batch["obs"], batch["actions"]
    q, p = agent.qf(obs, actions), doubles(agent.qf)
    for n in range(3):
        looped = [value(p, n, o, a).item() for o, a in zip(obs.double(), actions.double())]
        assert q[n].tolist() == pytest.approx(looped, abs=1e-4)
    torch.testing.assert_close(agent.qf(obs, actions, members), q[members])
    fresh = rlif_rlpd.Agent(OBS, ACT, rlif_rlpd.Args(), torch.device("cpu"))
    assert (fresh.qf(obs, actions).std(0) > 1e-3).all()
    for target, parameter in zip(fresh.qf_target.parameters(), fresh.qf.parameters()):
        assert torch.equal(target, parameter) and target.data_ptr() != parameter.data_ptr()


@pytest.mark.parametrize("mean", [0.0, 2.0, 10.0, -10.0, 50.0])
def test_log_probabilities_of_the_tanh_gaussian(mean):
    actor = rlif_rlpd.Actor(OBS, ACT, (16,))
    actor.mean.bias.data += mean
    obs, noise = torch.randn(200, OBS), torch.randn(200, ACT)
    actions, log_prob = actor.sample(obs, noise)
    means, log_stds, noise = (x.double() for x in (*actor(obs), noise))
    tanh = TanhTransform(cache_size=1)  # remembers u, which tanh(u) = 1.0 would not give back
    expected_actions = tanh(means + log_stds.exp() * noise)
    density = TransformedDistribution(Normal(means, log_stds.exp()), tanh)
    expected = density.log_prob(expected_actions).sum(-1)
    torch.testing.assert_close(actions.double(), expected_actions, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_prob.double(), expected, atol=1e-4, rtol=1e-5)
    actor.mean.bias.data += 1e3  # far out all stays finite
    _, log_prob = actor.sample(obs, noise.float())
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in actor.parameters())


def test_executed_actions_are_samples_or_the_mean_kept_off_the_edges():
    actor, obs = rlif_rlpd.Actor(OBS, ACT, (16,)), torch.randn(BATCH, OBS)
    mean = actor(obs)[0].tanh().detach()
    torch.testing.assert_close(torch.from_numpy(actor.act(obs.numpy(), deterministic=True)), mean)
    one = obs[:1].expand(4_000, OBS)
    means, log_stds = (x[0].detach() for x in actor(one))
    drawn = torch.from_numpy(actor.act(one.numpy())).atanh()
    torch.testing.assert_close(drawn.mean(0), means, atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), log_stds.exp(), atol=0, rtol=0.1)
    actor.mean.bias.data += 100
    for deterministic in (True, False):
        assert actor.act(obs.numpy(), deterministic) == pytest.approx(0.999)


# --- steps ----------------------------------------------------------------------------------------


def test_a_step_moves_what_it_should_and_nothing_else():
    agent, batch, *_ = learner(tau=0.1)
    before = {name: values.clone() for name, values in agent.state_dict().items()}
    agent.update_critics(batch)
    for name, values in agent.state_dict().items():
        moved = not torch.equal(values, before[name])
        assert moved == (name.startswith("qf") and "obs_" not in name), name
        if name.startswith("qf_target") and moved:
            new = agent.state_dict()[name.replace("qf_target", "qf")]
            torch.testing.assert_close(values, 0.9 * before[name] + 0.1 * new)
    agent.update({name: values[None] for name, values in batch.items()}, 0.0)
    for name, values in agent.state_dict().items():
        assert torch.equal(values, before[name]) == ("obs_" in name), name


def test_every_update_has_the_learning_rate_of_its_step(monkeypatch, people):
    """It falls linearly over the second half."""
    rates, update = {}, rlif_rlpd.Agent.update

    def watched_update(agent, *args):
        losses = update(agent, *args)
        optimizers = agent.actor_optimizer, agent.qf_optimizer
        rates[20 + len(rates)] = [float(x.param_groups[0]["lr"]) for x in optimizers]
        return losses

    monkeypatch.setattr(rlif_rlpd.Agent, "update", watched_update)
    options = "--learning-rate 1e-3 --final-lr-fraction 0.2 --batch-size 19 --max-episode-steps 50"
    tiny.short_run(rlif_rlpd, options)
    # by step: its own transition has no label yet, and 19 others are a batch
    assert list(rates) == list(range(20, 101))
    for step, rate in rates.items():
        expected = 1e-3 if step <= 50 else 1e-3 * (1 - 0.8 * (step - 50) / 50)
        assert rate == pytest.approx([expected] * 2)


def test_descending_is_a_plain_adams_step_however_a_gradient_lies_in_memory():
    weight, gradient = torch.randn(5, 3), torch.randn(3, 5).T
    fused, plain = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    optimizer = torch.optim.Adam([fused], lr=1e-2, fused=True)
    reference = torch.optim.Adam([plain], lr=1e-2, foreach=False)
    for _ in range(3):
        rlif_rlpd.descend(optimizer, [gradient])
        plain.grad = gradient
        reference.step()
    torch.testing.assert_close(fused, plain)
