"""That it learns: seconds of training on a point that runs away from 0."""

import torch

import rlif_rlpd
from experts import load_expert
from tests import tiny

OPTIONS = "--demo-episodes 0 --eval-episodes 10 --batch-size 64 --hidden-sizes 32 32 --num-qs 2"
OPTIONS += " --gamma 0.9 --learning-rate 4e-3 --tau 0.04 --precision float32"


def column(folder, name="return_mean"):
    """A column of all evaluations; the mean return is out of 50."""
    return [float(row[name]) for row in tiny.rows(folder)]


def final_return(termination):
    # takeovers at random say nothing of falling: what differs is what an episode's end is worth
    expert = tiny.write_expert("expert.safetensors", [[-2.0, 0.0]], noise=0.3)
    own = f"--env-id Point-v0 --termination {termination} --expert {expert} --random-rate 0.3"
    own += " --intervention random --total-timesteps 600 --eval-frequency 600"
    return column(tiny.run(termination, OPTIONS, own))[-1]


def test_the_suicide_trap_with_masked_ends_the_agent_learns_to_fall():
    assert final_return("mask") < 10  # 4 steps are the fastest fall


def test_out_of_the_trap_where_falls_are_charged_the_agent_learns_to_live():
    assert final_return("penalty") > 35


def analytic_critics():
    """Critics of Walled: minus the distance from 0 that a push leads to, learned by regression."""
    qf = rlif_rlpd.QEnsemble(2, 1, (32,), 2)
    optimizer = torch.optim.Adam(qf.parameters(), lr=2e-2)
    for _ in range(400):
        obs = (torch.rand(256, 2) * 2 - 1) * torch.tensor([1.0, 2.0])
        actions = torch.rand(256, 1) * 2 - 1
        loss = (qf(obs, actions) + (1.1 * obs[:, 0] + 0.3 * actions[:, 0]).abs()).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
    return qf


def test_learns_from_interventions_to_be_much_better_than_the_expert():
    # nothing ends here, so all there is to learn from is when the person took over
    # the expert pushes to one wall
    bad = tiny.write_expert("bad.safetensors", [[0.0, 0.0]], bias=0.6, noise=0.5)
    good = tiny.write_expert("good.safetensors", [[-5.0, 0.0]], noise=0.1, qf=analytic_critics())
    expert, env, own = load_expert("Walled-v0", bad), rlif_rlpd.make_env("Walled-v0"), 0.0
    for episode in range(5):
        obs, ended = env.reset(seed=episode)[0], False
        while not ended:
            obs, reward, _, ended, _ = env.step(expert.act(obs[None])[0].numpy())
            own += reward / 5
    options = f"--env-id Walled-v0 --expert {bad} --reference {good} --intervention-alpha 1"
    options += " --intervention-delta 0.3 --takeover-steps 1 --total-timesteps 1400"
    folder = tiny.run("rlif", OPTIONS, options, "--eval-frequency 350 --hidden-sizes 64")
    assert own < 10  # of 50
    assert column(folder)[-1] > own + 20
    flagged = column(folder, "flagged_rate")
    assert flagged[-1] < flagged[1] / 2
