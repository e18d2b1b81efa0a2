"""Networks and updates against plain loops, torch.distributions and sums written out by hand."""

import copy
import functools
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import rlif_rlpd
from experts import load_checkpoint
from tests import tiny

OBS, ACT, BATCH = 3, 2, 5


def single_critics(qf):
    """The members of a QEnsemble as plain sequences of nn.Linear, nn.LayerNorm and ReLU."""
    critics = []
    for n in range(len(qf.weights[0])):
        layers = []
        for i, (weight, bias) in enumerate(zip(qf.weights, qf.biases)):
            linear = nn.Linear(*weight.shape[1:])
            linear.weight.data = weight[n].T.detach().clone()
            linear.bias.data = bias[n, 0].detach().clone()
            layers.append(linear)
            if i < len(qf.weights) - 1:
                layers.append(nn.LayerNorm(weight.shape[2]))
                layers[-1].weight.data = qf.norm_weights[i][n, 0].detach().clone()
                layers[-1].bias.data = qf.norm_biases[i][n, 0].detach().clone()
            layers.append(nn.ReLU())
        critics.append(nn.Sequential(*layers[:-1]))
    return critics


def ensemble(num_qs=4):
    qf = rlif_rlpd.QEnsemble(OBS, ACT, (16, 8), num_qs)
    for parameter in [*qf.norm_weights, *qf.norm_biases]:
        parameter.data += 0.3 * torch.randn_like(parameter)  # at 1 and 0 they could be mixed up
    qf.obs_mean.normal_()
    qf.obs_std.uniform_(0.5, 2)
    return qf


def test_batched_critics_are_a_loop_of_single_ones():
    qf = ensemble()
    critics = single_critics(qf)
    assert len(qf.norm_weights) == 2
    obs = torch.randn(BATCH, OBS, requires_grad=True)
    actions = torch.randn(BATCH, ACT, requires_grad=True)
    weights = torch.randn(4, BATCH)  # every member and sample pulls differently

    batched = qf(obs, actions)
    inputs = torch.cat([(obs - qf.obs_mean) / qf.obs_std, actions], 1)
    looped = torch.stack([critic(inputs).squeeze(1) for critic in critics])
    torch.testing.assert_close(batched, looped)

    slopes = [
        torch.autograd.grad((q * weights).sum(), [obs, actions], retain_graph=True)
        for q in (batched, looped)
    ]
    torch.testing.assert_close(*slopes)
    (batched * weights).sum().backward()
    (looped * weights).sum().backward()
    for n, critic in enumerate(critics):
        linears = [layer for layer in critic if isinstance(layer, nn.Linear)]
        norms = [layer for layer in critic if isinstance(layer, nn.LayerNorm)]
        for i, linear in enumerate(linears):
            torch.testing.assert_close(qf.weights[i].grad[n], linear.weight.grad.T)
            torch.testing.assert_close(qf.biases[i].grad[n, 0], linear.bias.grad)
        for i, norm in enumerate(norms):
            torch.testing.assert_close(qf.norm_weights[i].grad[n, 0], norm.weight.grad)
            torch.testing.assert_close(qf.norm_biases[i].grad[n, 0], norm.bias.grad)


def test_chosen_members_alone():
    qf = ensemble()
    obs, actions, members = torch.randn(BATCH, OBS), torch.randn(BATCH, ACT), torch.tensor([3, 1])
    torch.testing.assert_close(qf(obs, actions, members), qf(obs, actions)[members])


def test_every_network_sees_standardised_observations():
    agent, _ = learner()
    obs = torch.randn(500, OBS) * torch.tensor([5.0, 0.1, 0.0]) + 3  # the last one is constant
    plain = copy.deepcopy(agent)
    agent.standardize(obs)
    seen = (obs - 3) / torch.tensor([5.0, 0.1, 1.0])
    actions = torch.zeros(500, ACT)
    torch.testing.assert_close(agent.actor(obs)[0], plain.actor(seen)[0], atol=0.1, rtol=0)
    torch.testing.assert_close(agent.qf(obs, actions), plain.qf(seen, actions), atol=0.1, rtol=0)
    torch.testing.assert_close(
        agent.qf_target(obs, actions), plain.qf_target(seen, actions), atol=0.1, rtol=0
    )


@pytest.mark.parametrize("standardize", ["--standardize-obs", "--no-standardize-obs"])
def test_in_a_run_all_networks_see_observations_as_the_demonstrations_say(standardize, tmp_path):
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    expert = tiny.write_expert(tmp_path / "expert.safetensors", [[-5.0, 0.0]])
    folder = tiny.run(
        "a", "--env-id", "Walled-v0", "--intervention", "random", "--dataset-id", "test/walled-v0",
        "--demo-episodes", 2, "--total-timesteps", 10, "--eval-episodes", 1, "--hidden-sizes", 8,
        "--num-threads", 1, "--batch-size", 8, "--expert", expert, standardize,
    )  # fmt: skip
    kept = load_checkpoint(folder / "checkpoint.pt")["kept"]
    obs, plain = kept["rb"]["obs"][:20], standardize == "--no-standardize-obs"
    mean, std = (torch.zeros(2), torch.ones(2)) if plain else (obs.mean(0), obs.std(0))
    for network in ("actor", "qf", "qf_target"):
        torch.testing.assert_close(kept["agent"][f"{network}.obs_mean"], mean)
        torch.testing.assert_close(kept["agent"][f"{network}.obs_std"], std)


def test_members_begin_different():
    q = ensemble()(torch.randn(BATCH, OBS), torch.randn(BATCH, ACT))
    assert (q.std(0) > 1e-3).all()


@pytest.mark.parametrize("mean", [0.0, 2.0, 10.0, -10.0, 50.0])
def test_log_probabilities_of_the_tanh_gaussian(mean):
    actor = rlif_rlpd.Actor(OBS, ACT, (16,))
    actor.mean.bias.data += mean
    obs = torch.randn(200, OBS)
    noise = torch.randn(200, ACT)
    actions, log_prob = actor.sample(obs, noise)
    means, log_stds, noise = (x.double() for x in (*actor(obs), noise))
    tanh = TanhTransform(cache_size=1)  # remembers u, which tanh(u) = 1.0 would not give back
    expected_actions = tanh(means + log_stds.exp() * noise)
    density = TransformedDistribution(Normal(means, log_stds.exp()), tanh)
    expected = density.log_prob(expected_actions).sum(-1)
    torch.testing.assert_close(actions.double(), expected_actions, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_prob.double(), expected, atol=1e-4, rtol=1e-5)


def test_log_probabilities_and_their_gradients_stay_finite_far_out():
    actor = rlif_rlpd.Actor(OBS, ACT, (16,))
    actor.mean.bias.data += 1e3
    _, log_prob = actor.sample(torch.randn(BATCH, OBS), torch.randn(BATCH, ACT))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in actor.parameters())


def test_executed_actions_are_samples_or_the_mean_kept_off_the_edges():
    actor = rlif_rlpd.Actor(OBS, ACT, (16,))
    obs = torch.randn(BATCH, OBS)
    mean = actor(obs)[0].tanh().detach()
    torch.testing.assert_close(torch.from_numpy(actor.act(obs.numpy(), deterministic=True)), mean)
    torch.manual_seed(3)
    executed = actor.act(obs.numpy())
    torch.manual_seed(3)
    sampled = actor.sample(obs, torch.randn(BATCH, ACT))[0].detach()
    torch.testing.assert_close(torch.from_numpy(executed), sampled)
    actor.mean.bias.data += 100
    assert actor.act(obs.numpy()) == pytest.approx(0.999)
    assert actor.act(obs.numpy(), True) == pytest.approx(0.999)


# --- updates --------------------------------------------------------------------------------------


def learner(**options):
    """An agent and a batch with rewards -1 and 0 and one termination."""
    usual = {"hidden_sizes": (16,), "num_qs": 3, "num_min_qs": 3, "gamma": 0.9, "tau": 0.1}
    options = usual | options
    agent = rlif_rlpd.Agent(OBS, ACT, rlif_rlpd.Args(**options), torch.device("cpu"))
    agent.set_learning_rate(0.0)
    for parameter in agent.qf_target.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # its own values, not the critics'
    batch = {
        "obs": torch.randn(BATCH, OBS),
        "actions": torch.rand(BATCH, ACT) * 2 - 1,
        "rewards": torch.tensor([0.0, -1.0, 0.0, -1.0, 0.0]),
        "next_obs": torch.randn(BATCH, OBS),
        "terminations": torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]),
    }
    return agent, batch


def fix_next_actions(agent, monkeypatch):
    """Let the actor draw the same actions with the same log-probabilities every time."""
    actions, log_prob = torch.rand(BATCH, ACT) * 2 - 1, torch.randn(BATCH)
    monkeypatch.setattr(agent.actor, "sample", lambda obs, noise, bf16: (actions, log_prob))
    return actions, log_prob


def check_critic_update(agent, batch, target):
    """The gradient and the loss are those of the squared error to this target."""
    qf = copy.deepcopy(agent.qf)
    error = (qf(batch["obs"], batch["actions"]) - target).pow(2).mean(1)  # (N,)
    error.sum().backward()
    losses = agent.update_critics(batch)
    for parameter, expected in zip(agent.qf.parameters(), qf.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad)
    torch.testing.assert_close(losses["qf_loss"], error.mean().detach())


@pytest.mark.parametrize("reward", ["intervention", "none", "task"])
def test_critic_target_by_hand(monkeypatch, reward):
    agent, batch = learner(reward=reward)
    agent.qf_target.biases[-1].data -= 1  # into [-10, 0], where nothing is clipped
    next_actions, _ = fix_next_actions(agent, monkeypatch)
    target = []
    for b in range(BATCH):
        next_obs, action = batch["next_obs"][b : b + 1], next_actions[b : b + 1]
        value = min(agent.qf_target(next_obs, action)[:, 0].tolist())  # without an entropy bonus
        assert -10 < value < 0
        ended = b in (2, 3)
        target.append(batch["rewards"][b].item() + (0 if ended else 0.9 * value))
    check_critic_update(agent, batch, torch.tensor(target))


@pytest.mark.parametrize("reward", ["intervention", "none"])
@pytest.mark.parametrize(("shift", "clipped_to"), [(100.0, 0.0), (-100.0, -10.0)])
def test_targets_lie_in_what_intervention_rewards_can_sum_to(
    monkeypatch, reward, shift, clipped_to
):
    agent, batch = learner(reward=reward)
    fix_next_actions(agent, monkeypatch)
    agent.qf_target.biases[-1].data += shift
    target = torch.full((BATCH,), clipped_to)
    target[2], target[3] = 0.0, -1.0  # the terminated ones are worth their reward
    check_critic_update(agent, batch, target)


@pytest.mark.parametrize("shift", [100.0, -100.0])
def test_targets_of_task_rewards_are_not_clipped(monkeypatch, shift):
    agent, batch = learner(reward="task")
    next_actions, _ = fix_next_actions(agent, monkeypatch)
    agent.qf_target.biases[-1].data += shift
    next_q = agent.qf_target(batch["next_obs"], next_actions).min(0).values
    target = batch["rewards"] + 0.9 * (1 - batch["terminations"]) * next_q
    check_critic_update(agent, batch, target)


def test_target_takes_the_minimum_of_a_random_subset(monkeypatch):
    agent, batch = learner(num_qs=3, num_min_qs=2, reward="task")
    shifts = torch.tensor([0.0, 5.0, 10.0])  # a known order
    agent.qf_target.biases[-1].data += shifts[:, None, None]
    batch = {name: values[:1] for name, values in batch.items()}
    next_actions = torch.zeros(1, ACT)
    drawn = next_actions, torch.zeros(1)
    monkeypatch.setattr(agent.actor, "sample", lambda obs, noise, bf16: drawn)
    seen = []
    for _ in range(60):
        q = agent.qf(batch["obs"], batch["actions"]).detach()
        next_q = agent.qf_target(batch["next_obs"], next_actions)
        # one loss for each member that may have been the minimum
        losses = (q - 0.9 * next_q.T).pow(2).mean(0)
        seen.append((losses - agent.update_critics(batch)["qf_loss"]).abs().argmin().item())
    # of the three pairs two hold the lowest member and one the middle one
    assert set(seen) == {0, 1} and seen.count(0) > seen.count(1)


def test_target_network_moves_by_tau():
    agent, batch = learner(tau=0.1)
    before = [parameter.clone() for parameter in agent.qf_target.parameters()]
    agent.update_critics(batch)
    assert all(parameter.grad is None for parameter in agent.qf_target.parameters())
    for target, old, new in zip(agent.qf_target.parameters(), before, agent.qf.parameters()):
        torch.testing.assert_close(target, 0.9 * old + 0.1 * new.detach())


def test_target_network_begins_as_a_copy():
    agent = rlif_rlpd.Agent(OBS, ACT, rlif_rlpd.Args(), torch.device("cpu"))
    for target, parameter in zip(agent.qf_target.parameters(), agent.qf.parameters()):
        assert torch.equal(target, parameter) and target.data_ptr() != parameter.data_ptr()


def test_actor_update_climbs_the_mean_critic_and_leaves_the_critics_alone():
    agent, batch = learner()
    agent.log_alpha.data.fill_(math.log(0.5))
    before, actor = copy.deepcopy(agent.qf.state_dict()), copy.deepcopy(agent.actor)
    torch.manual_seed(5)
    actions, log_prob = actor.sample(batch["obs"], torch.randn(BATCH, ACT))
    (0.5 * log_prob - agent.qf(batch["obs"], actions).mean(0)).mean().backward()
    agent.qf.zero_grad()
    torch.manual_seed(5)
    agent.update_actor(batch)
    for parameter, expected in zip(agent.actor.parameters(), actor.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad)
        assert not torch.equal(parameter, expected)  # and a step was taken
    assert all(torch.equal(value, before[name]) for name, value in agent.qf.state_dict().items())
    gradients = [parameter.grad for parameter in agent.qf.parameters()]
    assert not any(gradient is not None and gradient.any() for gradient in gradients)
    agent.update_critics(batch)  # which still learn after it
    assert not torch.equal(agent.qf.weights[0], before["weights.0"])


def test_the_actor_is_held_to_the_demonstrations_alone():
    gradients = []
    for weight in (0.0, 3.0):
        torch.manual_seed(5)  # the same learner, batch and noise
        agent, batch = learner(bc_weight=weight, offline_ratio=0.4)
        gradients.append(agent.actor_gradients(batch, torch.randn(BATCH, ACT))[1])
    n = 2  # of 5
    distances = agent.actor(batch["obs"][:n])[0].tanh() - batch["actions"][:n]
    (3.0 * distances.pow(2).sum() / n).backward()
    for parameter, without, held in zip(agent.actor.parameters(), *gradients):
        expected = torch.zeros_like(without) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(held - without, expected, atol=1e-5, rtol=1e-4)


def test_the_critics_learn_on_every_minibatch_and_the_actor_on_the_last_alone(monkeypatch):
    agent, batch = learner()
    three = {name: [values, values.flip(0), values.roll(1, 0)] for name, values in batch.items()}
    batches = {name: torch.stack(values) for name, values in three.items()}
    seen = []

    def update(name, batch):
        seen.append((name, batch))
        return {name: len(seen)}

    for name in ("critics", "actor"):
        monkeypatch.setattr(agent, f"update_{name}", functools.partial(update, name))
    assert agent.update(batches) == {"critics": 3, "actor": 4}
    assert [name for name, _ in seen] == ["critics"] * 3 + ["actor"]
    for (_, given), g in zip(seen, (0, 1, 2, 2)):
        assert all(torch.equal(given[name], values[g]) for name, values in batches.items())


@pytest.mark.parametrize(("target_entropy", "sign"), [(-100.0, -1), (100.0, 1)])
def test_temperature_moves_towards_the_target_entropy(target_entropy, sign):
    agent, batch = learner(target_entropy=target_entropy)
    before = agent.log_alpha.item()
    agent.update_actor(batch)
    assert sign * (agent.log_alpha.item() - before) > 0


def test_default_target_entropy_is_minus_half_the_action_size():
    agent, batch = learner()
    agent.log_alpha.data.fill_(math.log(0.5))
    entropy = agent.update_actor(batch)["entropy"]
    # d/d log_alpha of alpha * (entropy - target)
    torch.testing.assert_close(agent.log_alpha.grad.sum(), 0.5 * (entropy + ACT / 2))


def learning_rates(agent):
    """Those of actor and critics."""
    optimizers = agent.actor_optimizer, agent.qf_optimizer
    return [optimizer.param_groups[0]["lr"].item() for optimizer in optimizers]


def test_learning_rate_falls_linearly_over_the_second_half():
    agent, _ = learner(learning_rate=1e-3, final_lr_fraction=0.1)
    rates = []
    for progress in (0, 0.5, 0.75, 1):
        agent.set_learning_rate(progress)
        rates.append(learning_rates(agent))
    expected = [[rate, rate] for rate in (1e-3, 1e-3, 0.55e-3, 0.1e-3)]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor(expected))


def test_a_loaded_optimizer_still_has_the_learning_rate_that_is_set():
    agent, _ = learner(learning_rate=1e-3, final_lr_fraction=0.1)
    for optimizer in (agent.actor_optimizer, agent.qf_optimizer):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    agent.set_learning_rate(1)
    assert learning_rates(agent) == pytest.approx([0.1e-3] * 2)


def test_every_update_of_a_run_has_the_learning_rate_of_its_step(monkeypatch, tmp_path):
    rates, update = {}, rlif_rlpd.Agent.update

    def watched_update(agent, batches):
        rates[20 + len(rates)] = learning_rates(agent)
        return update(agent, batches)

    monkeypatch.setattr(rlif_rlpd.Agent, "update", watched_update)
    expert = tiny.write_expert(tmp_path / "expert.safetensors", [[-5.0, 0.0]])
    tiny.run(
        "a", "--env-id", "Walled-v0", "--intervention", "random", "--demo-episodes", 0,
        "--total-timesteps", 100, "--eval-episodes", 1, "--hidden-sizes", 8, "--batch-size", 19,
        "--num-threads", 1, "--expert", expert, "--learning-rate", 1e-3, "--final-lr-fraction", 0.2,
    )  # fmt: skip
    # by step: its own transition has no label yet, and 19 others are a batch
    assert list(rates) == list(range(20, 101))
    for step, rate in rates.items():
        expected = 1e-3 if step <= 50 else 1e-3 * (1 - 0.8 * (step - 50) / 50)
        assert rate == pytest.approx([expected] * 2)


def test_entropy_of_the_log_probabilities():
    # the mean of -log p over many draws of N(0, 1) before the tanh, against numerical integration
    actor = rlif_rlpd.Actor(1, 1, (4,))
    for parameter in actor.parameters():
        parameter.data.zero_()
    _, log_prob = actor.sample(torch.zeros(200_000, 1), torch.randn(200_000, 1))
    u = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    density = torch.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
    entropy = torch.trapezoid(density * (-density.log() + log_slope), u)
    assert -log_prob.mean().item() == pytest.approx(entropy.item(), abs=0.01)
