"""iwr.py: what steps count for in cloning. (What it shares with mile.py is tested in test_mile.py.)"""

from pathlib import Path

import numpy as np
import pytest
import torch

import iwr
from experts import InputError, load_checkpoint, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("people")


def test_interventions_count_as_much_as_all_the_rest():
    nu = torch.zeros(12)
    nu[[2, 3, 9]] = 1
    weights = iwr.weights(nu)
    assert weights.tolist() == [3.0 if t in (2, 3, 9) else 1.0 for t in range(12)]
    assert weights[nu > 0].sum() == weights[nu == 0].sum()


@pytest.mark.parametrize("nu", [torch.zeros(5), torch.ones(5)])
def test_where_one_kind_is_all_there_is_every_step_counts_the_same(nu):
    assert iwr.weights(nu).tolist() == [1.0] * 5


def test_interventions_count_less_where_they_are_the_most():
    assert iwr.weights(torch.tensor([1.0, 1.0, 1.0, 0.0])).tolist() == pytest.approx([1 / 3] * 3 + [1.0])


def test_a_gradient_step_is_that_of_weighted_cloning(monkeypatch):
    drawn = []  # a minibatch is to be every step once
    monkeypatch.setattr(torch, "randint", lambda high, size: drawn.append((high, size)) or torch.arange(high))
    run_dir = tiny.run_mile(iwr, "a", "--rounds", 1, "--round-updates", 1, "--intervention-cost", 8)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    obs, actions, nu = checkpoint["data"]
    assert drawn == [(len(obs), (1_024,))]  # of all steps, uniformly, with replacement
    actor = iwr.Actor(2, 1, (32,))
    actor.load_state_dict(load_expert("Walled-v0", "../initial.safetensors").state)
    log_pi, by_expert = actor.log_prob(actor(obs), actions), nu > 0
    loss = -(log_pi[~by_expert].sum() + (~by_expert).sum() / by_expert.sum() * log_pi[by_expert].sum()) / len(obs)
    loss.backward()
    assert 0 < by_expert.sum() < len(obs) / 2
    for i, parameter in enumerate(actor.parameters()):
        moment = checkpoint["optimizer"]["state"][i]["exp_avg"]  # Adam's, after its first step
        torch.testing.assert_close(moment, 0.1 * parameter.grad, rtol=1e-3, atol=1e-6)


def test_demonstrations_are_no_interventions_and_stay_at_the_front():
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--rounds", 1
    obs, actions, nu = load_checkpoint(tiny.run_mile(iwr, "a", *demos) / "checkpoint.pt")["data"]
    shown = iwr.load_demonstrations(iwr.make_env("Walled-v0"), "Walled-v0", 2, "test/walled-v0")
    assert np.array_equal(obs[:20].numpy(), shown["obs"]) and np.array_equal(actions[:20].numpy(), shown["actions"])
    assert len(obs) == 120 and not nu[:20].any() and nu[20:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--round-updates", 0), "--round-updates must be positive"),
        (("--demo-episodes", -1), "--demo-episodes must be zero or more"),
        (("--demo-episodes", 2, "--demo-noise", "inf"), "--demo-noise must be zero or more"),
        (("--demo-episodes", 2), "no top expert is shipped for Walled-v0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny.run_mile(iwr, "bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
