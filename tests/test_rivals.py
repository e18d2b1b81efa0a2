"""pvp.py and hil_serl.py: their losses in float64, what their buffers hold, and that they learn."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

import hil_serl
import pvp
import rlif_rlpd
from experts import InputError
from tests import tiny
from tests.test_learning import analytic_critics
from tests.test_networks import ACT, BATCH, HIDDEN, OBS, doubles, learner

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import pvp_published

LEARN = "--demo-episodes 0 --eval-episodes 10 --batch-size 64 --hidden-sizes 32 32 --gamma 0.9"
LEARN += " --eval-frequency 500"


def point(folder):
    """Options of a good person who judges well, on a point that runs away from 0."""
    qf = analytic_critics()
    good = tiny.write_expert(folder / "good.safetensors", [[-5.0, 0.0]], noise=0.1, qf=qf)
    return f"--expert {good} --reference {good} --intervention-alpha 1 --intervention-delta 0.3"


# --- pvp.py ---------------------------------------------------------------------------------------
def mlp(p, x, layers):
    """A network's hidden layers on one (input,)."""
    for layer in layers:
        x = torch.relu(p[f"{layer}.weight"] @ x + p[f"{layer}.bias"])
    return x


def proxy_losses(agent, batch, noise):
    """PVP's losses of critics and actor, one sample at a time; gradients of both."""
    args, batch = agent.args, {name: values.double() for name, values in batch.items()}
    qf, qf_target, actor, actor_target = (
        doubles(x) for x in (agent.qf, agent.qf_target, agent.actor, agent.actor_target)
    )

    def standard(obs):
        return (obs - actor["obs_mean"]) / actor["obs_std"]

    def act(p, obs):
        x = mlp(p, standard(obs), [f"layers.{i}" for i in range(len(HIDDEN))])
        return torch.tanh(p["mean.weight"] @ x + p["mean.bias"])

    def q(p, k, obs, action):
        *hidden, last = *(f"{k}.{i}.0" for i in range(len(HIDDEN))), f"{k}.{len(HIDDEN)}"
        x = mlp(p, torch.cat([standard(obs), action]), hidden)
        return (p[f"{last}.weight"] @ x + p[f"{last}.bias"])[0]

    critics, climbed, imitated = 0.0, 0.0, 0.0
    for b in range(BATCH):
        one = {name: values[b] for name, values in batch.items()}
        wiggle = (0.2 * noise[b].double()).clamp(-0.5, 0.5)
        action = (act(actor_target, one["next_obs"]) + wiggle).clamp(-1, 1)
        target = min(q(qf_target, k, one["next_obs"], action) for k in (0, 1)).detach()
        target = one["end_values"] if one["terminations"] else args.gamma * target
        for k in (0, 1):
            done, proposed = (q(qf, k, one["obs"], one[x]) for x in ("actions", "proposals"))
            critics = critics + (done - target) ** 2 / BATCH
            critics = critics + one["by_person"] * (done - 1) ** 2 / BATCH
            critics = critics + one["refused"] * (proposed + 1) ** 2 / BATCH
        frozen = {name: values.detach() for name, values in qf.items()}
        action = act(actor, one["obs"])
        climbed = climbed - q(frozen, 0, one["obs"], action) / BATCH
        distance = (action - one["actions"]).pow(2).sum() / ACT
        imitated = imitated + one["by_person"] * distance / (batch["by_person"].sum() + 1e-5)
    names = [name for name, x in agent.actor.named_parameters() if x.requires_grad]
    parts = (critics, [qf[name] for name, _ in agent.qf.named_parameters()])
    rest = (climbed + args.bc_weight * imitated, [actor[name] for name in names])
    return [(loss, torch.autograd.grad(loss, leaves)) for loss, leaves in (parts, rest)]


@pytest.mark.parametrize("bc_weight", [0.0, 2.0])
def test_proxy_values_are_masked_within_the_mean(bc_weight):
    args = pvp.Args(hidden_sizes=HIDDEN, gamma=0.9, bc_weight=bc_weight)
    agent, (_, batch, noise, _) = pvp.Agent(OBS, ACT, args, torch.device("cpu")), learner()
    agent.actor.obs_mean += 0.5
    agent.actor.obs_std *= 2
    agent.actor_target.load_state_dict(agent.actor.state_dict())
    for network in (agent.qf_target, agent.actor_target):
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    batch |= {"proposals": torch.rand(BATCH, ACT) * 2 - 1, "end_values": torch.rand(BATCH)}
    batch |= {"by_person": torch.tensor([1.0, 1, 0, 0, 1, 0, 0])}
    batch |= {"refused": torch.tensor([1.0, 0, 0, 0, 1, 0, 0])}
    found = agent.critic_loss(batch, noise), agent.actor_loss(batch)
    learned = [x for x in agent.actor.parameters() if x.requires_grad]
    for loss, leaves, (expected, gradients) in zip(
        found, (list(agent.qf.parameters()), learned), proxy_losses(agent, batch, noise)
    ):
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for a, b in zip(torch.autograd.grad(loss, leaves), gradients):
            assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6


def test_actor_and_targets_move_at_every_second_update():
    agent, (_, batch, *_) = pvp.Agent(OBS, ACT, pvp.Args(), torch.device("cpu")), learner()
    batch |= {"proposals": batch["actions"], "end_values": torch.zeros(BATCH)}
    batch |= {"by_person": torch.ones(BATCH), "refused": torch.zeros(BATCH)}
    pairs = (agent.actor, agent.actor_target), (agent.qf, agent.qf_target)
    for number in (1, 2):
        before = [doubles(target) for _, target in pairs]
        actor = doubles(agent.actor)
        agent.update(batch, number)
        moved = {name for name, x in doubles(agent.actor).items() if not x.equal(actor[name])}
        assert bool(moved) == (number == 2)
        for (network, target), old in zip(pairs, before):
            now, own = doubles(target), doubles(network)
            for name, x in old.items():
                expected = x + agent.args.tau * (own[name] - x) if number == 2 else x
                torch.testing.assert_close(now[name], expected, rtol=1e-5, atol=1e-7)


def test_the_published_mask_only_scales_the_means():
    args, (_, batch, noise, _) = pvp.Args(hidden_sizes=HIDDEN), learner()
    torch.manual_seed(0)
    own, agent = (x.Agent(OBS, ACT, args, torch.device("cpu")) for x in (pvp, pvp_published))
    agent.load_state_dict(own.state_dict())
    batch |= {"proposals": torch.rand(BATCH, ACT) * 2 - 1, "end_values": torch.rand(BATCH)}

    def losses(mask):
        told = batch | {"by_person": mask, "refused": mask}
        return [x.critic_loss(told, noise).item() for x in (own, agent)]

    half = (torch.arange(BATCH) % 2).float()
    nobody, everybody, some = map(losses, (torch.zeros(BATCH), torch.ones(BATCH), half))
    assert nobody[0] == nobody[1] and everybody[0] == pytest.approx(everybody[1])
    expected = nobody[1] + half.mean().item() * (everybody[1] - nobody[1])
    assert some[1] == pytest.approx(expected, rel=1e-5) and abs(some[0] / some[1] - 1) > 1e-3
    # the person's own steps are all that counts, of which nothing may have been refused
    batch["proposals"], told = batch["actions"], {"by_person": half, "refused": 0 * half}
    assert agent.critic_loss(batch | told, noise).item() == pytest.approx(losses(half)[1])


def test_half_a_batch_is_the_robots_half_the_persons_and_demonstrations_fill_in():
    rb, rng = pvp.ReplayBuffer(30, 1, 1), np.random.default_rng(0)
    kinds = [(1, 0), (1, 1), (0, 1), (0, 0)]  # demonstrations, takeovers, said to be bad, others
    for i in range(26):
        assert (rb.sample(rng, 8, "cpu") is None) == (i < 1)  # even one demonstration is drawn
        by_person, refused = kinds[(i > 5) + (i > 11) + (i > 19)]
        rb.add({"obs": i, "by_person": by_person, "refused": refused})

    def drawn(rb):
        rows = np.array([rb.sample(rng, 8, "cpu")["obs"][:, 0].tolist() for _ in range(50)])
        return [set(part.flat) for part in np.split(rows, 4, axis=1)]

    demos, taken, others = set(range(6)), set(range(6, 20)), set(range(20, 26))
    assert drawn(rb) == [demos, taken, others, others]
    rb.size = 23  # too few of the others
    assert drawn(rb) == [demos, taken, demos, demos]
    rb.size, rb.data["by_person"][:6] = 26, 0  # no demonstrations: they are others
    assert drawn(rb) == [taken, taken, demos | others, demos | others]


def test_what_the_person_did_and_refused_is_stored(people, monkeypatch):
    monkeypatch.setattr(pvp, "load_demonstrations", tiny.demonstrations)
    folder = tiny.short_run(pvp, "--demo-episodes 2 --takeover-steps 2 --random-steps 0")
    rb = tiny.checkpoint(folder)["rb"]
    last = tiny.rows(folder)[-1]
    demos = int(last["demo_transitions"])
    assert not rb["refused"][:demos].any() and rb["by_person"][:demos].all()
    acted = rb["by_person"][demos:] > 0
    assert torch.equal(rb["refused"][demos:] > 0, acted) and 0 < acted.sum() < len(acted)
    assert acted.sum() == int(last["labels"]) == int(last["expert_steps"])
    same = (rb["actions"] == rb["proposals"])[demos:].all(1)
    assert torch.equal(same, ~acted)


def returns(script, name, *options):
    """The mean returns of all evaluations of a run, out of 50."""
    own = f"{LEARN} --total-timesteps 1000 --tau 0.04 --exp-name {name}"
    script.main(tiny.parsed(script, own, *options))
    return [float(row["return_mean"]) for row in tiny.rows(tiny.folder_of(name))]


def test_pvp_learns_from_takeovers_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = f"{point(tmp_path)} --env-id Walled-v0 --end-value 0 --learning-rate 3e-3"
    first, *_, last = returns(pvp, "pvp", options)
    assert last > 40 > first + 10


def test_where_nobody_takes_over_pvp_does_with_an_end_what_it_is_worth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nobody = "--intervention-beta 1 --intervention-delta 1000 --learning-rate 3e-3"
    options = f"{point(tmp_path)} --env-id Point-v0 {nobody}"
    assert returns(pvp, "falls", options, "--end-value 1")[-1] < 10
    assert returns(pvp, "lives", options, "--end-value -1")[-1] > 35


# --- hil_serl.py ----------------------------------------------------------------------------------
def test_hil_serl_learns_by_the_gradients_of_rlpd():
    agent, batch, noise, members = learner(reward="task")
    own = {name: getattr(agent.args, name) for name in vars(hil_serl.Args())}
    other = hil_serl.Agent(OBS, ACT, hil_serl.Args(**own), torch.device("cpu"))
    other.load_state_dict(agent.state_dict())
    for a, b in (
        (agent.critic_gradients, other.critic_gradients),
        (agent.actor_gradients, other.actor_gradients),
    ):
        given = (batch, noise, members) if a == agent.critic_gradients else (batch, noise)
        assert all(torch.equal(x, y) for x, y in zip(a(*given)[1], b(*given)[1]))


@pytest.mark.parametrize("demo_episodes", [0, 2])
def test_what_the_person_did_is_in_both_buffers_and_halves_are_drawn(
    demo_episodes, people, monkeypatch
):
    monkeypatch.setattr(hil_serl, "load_demonstrations", tiny.demonstrations)
    drawn, sample = [], hil_serl.ReplayBuffer.sample

    def watched(rb, rng, args, n, device):
        drawn.append((rb, n))
        return sample(rb, rng, args, n, device)

    monkeypatch.setattr(hil_serl.ReplayBuffer, "sample", watched)
    options = f"--demo-episodes {demo_episodes} --takeover-steps 3 --batch-size 10"
    folder = tiny.short_run(hil_serl, options)
    state, last = tiny.checkpoint(folder), tiny.rows(folder)[-1]
    rb, own, demos = state["rb"], state["human_rb"], int(last["demo_transitions"])
    assert len(own["obs"]) - demos == int(last["expert_steps"]) > 0
    assert len(rb["obs"]) == int(last["global_step"])
    rows = [(rb["obs"] == obs).all(1).nonzero().min().item() for obs in own["obs"][demos:]]
    for name in set(rb) - {"ends"}:
        assert torch.equal(own[name][demos:], rb[name][rows])
    # a row of another time never follows within an n-step return
    following = [row + 1 == after for row, after in zip(rows[:-1], rows[1:])]
    assert all(own["ends"][demos:-1][i] for i, joined in enumerate(following) if not joined)
    assert {n for _, n in drawn} == {5} and len({id(rb) for rb, _ in drawn}) == 2


def test_hil_serl_learns_from_the_tasks_reward(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = "--num-qs 2 --learning-rate 4e-3 --precision float32 --no-compile"
    first, *_, last = returns(hil_serl, "hil", options, point(tmp_path), "--env-id Point-v0")
    assert last > 40 > first + 10


def test_a_success_is_the_only_reward_where_it_is_asked_for(people, monkeypatch, capsys):
    def step(env, action):
        obs, *others, _ = tiny.Point.step(env, action)
        return obs, *others, {"success": obs[0] > 0.3}

    monkeypatch.setattr(tiny.Walled, "step", step)
    rb = tiny.checkpoint(tiny.short_run(hil_serl, "--reward success"))["rb"]
    assert torch.equal(rb["rewards"] > 0, rb["next_obs"][:, 0] > 0.3)
    assert torch.equal(rb["rewards"], rb["terminations"]) and 0 < rb["rewards"].mean() < 1
    monkeypatch.setattr(hil_serl, "load_demonstrations", tiny.demonstrations)
    assert "says no info" not in capsys.readouterr().out
    rb = tiny.checkpoint(tiny.short_run(hil_serl, "--reward success --env-id Point-v0"))["rb"]
    assert (
        capsys.readouterr().out.count("says no info['success'] yet") == 1
        and not rb["rewards"].any()
    )
    with pytest.raises(InputError, match="do not tell"):
        tiny.short_run(hil_serl, "--reward success --demo-episodes 2")


def test_a_success_is_worth_what_a_fall_costs(people, monkeypatch):
    def step(env, action):
        obs, reward, *_ = tiny.Point.step(env, action)
        return obs, reward, True, False, {"success": obs[0] > 0}

    monkeypatch.setattr(tiny.Walled, "step", step)
    for value in (-0.5, 0.0):
        rb = tiny.checkpoint(tiny.short_run(pvp, f"--end-value {value}"))["rb"]
        worth = torch.where(rb["next_obs"][:, 0] > 0, -value, value)
        assert torch.equal(rb["end_values"], worth) and len(set(worth.tolist())) == 1 + bool(value)


def test_a_fall_after_a_success_is_a_fall(people, monkeypatch):
    def step(env, action):
        obs, reward, *_ = tiny.Point.step(env, action)
        fell = bool(abs(obs[0]) > 0.3)
        return obs, reward, fell, False, {"success": not fell}

    monkeypatch.setattr(tiny.Walled, "step", step)
    for script, name in ((rlif_rlpd, "rewards"), (pvp, "end_values")):
        rb = tiny.checkpoint(tiny.short_run(script))["rb"]
        worth = rb[name][rb["terminations"] > 0]
        assert len(worth) and (worth <= -1).all()


# --- demonstrations -------------------------------------------------------------------------------
@pytest.mark.parametrize("lost", [False, True])
def test_a_demonstrated_success_is_no_fall_and_no_other_end_a_success(lost, people, monkeypatch):
    def load(*given):  # a success; and one whose time was up, or where the cube was lost
        demos = tiny.demonstrations(*given)
        demos["rewards"][9] = demos["terminations"][9] = 1.0
        demos["rewards"][19], demos["terminations"][19] = 0.5, lost
        return demos

    task = EnvSpec("gym_hil/Walled-v0", gym.spec("Walled-v0").entry_point, max_episode_steps=50)
    monkeypatch.setitem(gym.registry, task.id, task)
    for script, own in ((rlif_rlpd, ""), (pvp, ""), (hil_serl, "--reward success")):
        monkeypatch.setattr(script, "load_demonstrations", load)
        folder = tiny.short_run(script, f"--demo-episodes 2 --env-id {task.id} {own}")
        state = tiny.checkpoint(folder)
        rb = {name: x[:20] for name, x in (state.get("human_rb") or state["rb"]).items()}
        assert rb["terminations"].nonzero().tolist() == [[9], [19]][: 1 + lost]
        if script == pvp:
            assert rb["end_values"].tolist() == [*[-1] * 9, 1, *[-1] * 10]
        elif script == hil_serl:
            assert rb["rewards"].nonzero().tolist() == [[9]]
        else:
            assert rb["rewards"].nonzero().tolist() == [[19]] * lost
