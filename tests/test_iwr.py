"""iwr.py: what steps count for in cloning. (What it shares with mile.py is tested in test_mile.py.)"""

from pathlib import Path

import numpy as np
import pytest
import torch

import iwr
from experts import InputError, load_checkpoint, load_demonstrations, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("people")


def data_of(checkpoint):
    """Observations, actions and who acted, of all steps that a run learns from: (n, O), (n, A), (n,)."""
    *_, data = checkpoint["progress"]
    return data["obs"], data["actions"], data["nu"]


def test_interventions_count_as_much_as_all_the_rest():
    nu = torch.zeros(12)
    nu[[2, 3, 9]] = 1
    weights = iwr.weights(nu, False)
    assert weights.tolist() == [3.0 if t in (2, 3, 9) else 1.0 for t in range(12)]
    assert weights[nu > 0].sum() == weights[nu == 0].sum()


@pytest.mark.parametrize("nu", [torch.zeros(5), torch.ones(5)])
def test_where_one_kind_is_all_there_is_every_step_counts_the_same(nu):
    assert iwr.weights(nu, False).tolist() == [1.0] * 5


def test_interventions_count_less_where_they_are_the_most():
    weights = iwr.weights(torch.tensor([1.0, 1.0, 1.0, 0.0]), False)
    assert weights.tolist() == pytest.approx([1 / 3] * 3 + [1.0])


def test_where_only_interventions_are_cloned_every_step_counts_the_same():
    assert iwr.weights(torch.tensor([0.0, 0.0, 0.0, 1.0]), True).tolist() == [1.0] * 4


def test_a_gradient_step_is_that_of_weighted_cloning(monkeypatch):
    drawn = []  # a minibatch is to be every step once
    monkeypatch.setattr(
        torch, "randint", lambda high, size: drawn.append((high, size)) or torch.arange(high)
    )
    run_dir = tiny.run_mile(iwr, "a", "--rounds", 1, "--round-updates", 1, "--intervention-cost", 8)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    obs, actions, nu = data_of(checkpoint)
    assert drawn == [(len(obs), (1_024,))]  # of all steps, uniformly, with replacement
    actor = iwr.Actor(2, 1, (32,))
    actor.load_state_dict(load_expert("Walled-v0", "../initial.safetensors").state)
    log_pi, by_expert = actor.log_prob(actor(obs), actions), nu > 0
    loss = -(
        log_pi[~by_expert].sum() + (~by_expert).sum() / by_expert.sum() * log_pi[by_expert].sum()
    ) / len(obs)
    loss.backward()
    assert 0 < by_expert.sum() < len(obs) / 2
    for i, parameter in enumerate(actor.parameters()):
        # Adam's, after its first step
        moment = checkpoint["kept"]["optimizer"]["state"][i]["exp_avg"]
        torch.testing.assert_close(moment, 0.1 * parameter.grad, rtol=1e-3, atol=1e-6)


def test_demonstrations_are_no_interventions_and_stay_at_the_front():
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--rounds", 1
    run_dir = tiny.run_mile(iwr, "a", *demos)
    obs, actions, nu = data_of(load_checkpoint(run_dir / "checkpoint.pt"))
    shown = load_demonstrations(iwr.make_env("Walled-v0"), "Walled-v0", 2, "test/walled-v0")
    assert np.array_equal(obs[:20].numpy(), shown["obs"]) and np.array_equal(
        actions[:20].numpy(), shown["actions"]
    )
    assert len(obs) == 120 and not nu[:20].any() and nu[20:].any()


@pytest.mark.parametrize("demonstrations", [True, False])
def test_hg_dagger_is_cloning_of_interventions_and_demonstrations_alone_all_alike(
    monkeypatch, demonstrations
):
    options = "--rounds", 1, "--round-updates", 1, "--intervention-cost", 8
    if demonstrations:
        facts = {"episodes": 2, "steps": 10, "env_id": "Walled-v0"}
        tiny.write_demonstrations("test/walled-v0", **facts)
        options = *options, "--demo-episodes", 2, "--dataset-id", "test/walled-v0"
    drawn = []  # a minibatch is to be every step once
    monkeypatch.setattr(
        torch, "randint", lambda high, size: drawn.append(high) or torch.arange(high)
    )
    everything = load_checkpoint(tiny.run_mile(iwr, "all", *options) / "checkpoint.pt")
    run_dir = tiny.run_mile(iwr, "only", *options, "--interventions-only")
    checkpoint, first = load_checkpoint(run_dir / "checkpoint.pt"), 20 * demonstrations
    # the same episodes without the robot's steps
    obs, actions, nu = data_of(everything)
    kept = (nu > 0) | (torch.arange(len(nu)) < first)
    tiny.assert_same(data_of(checkpoint), (obs[kept], actions[kept], nu[kept]))
    assert first < kept.sum() < len(kept) == first + 100
    assert drawn == [len(kept), kept.sum()]
    (row,), (other) = tiny.evaluations(run_dir), everything["progress"]
    assert row["global_step"] == "100" and int(row["expert_steps"]) == kept.sum() - first
    assert float(row["intervention_rate"]) == pytest.approx((kept.sum().item() - first) / 100)
    assert other[3] == checkpoint["progress"][3]  # the counts of both
    # its first gradient step
    actor = iwr.Actor(2, 1, (32,))
    actor.load_state_dict(load_expert("Walled-v0", "../initial.safetensors").state)
    (-actor.log_prob(actor(obs[kept]), actions[kept]).mean()).backward()
    for i, parameter in enumerate(actor.parameters()):
        moment = checkpoint["kept"]["optimizer"]["state"][i]["exp_avg"]
        torch.testing.assert_close(moment, 0.1 * parameter.grad, rtol=1e-3, atol=1e-6)


def test_hg_dagger_learns_nothing_where_nobody_has_intervened():
    options = "--interventions-only", "--intervention-cost", 1e9
    run_dir = tiny.run_mile(iwr, "a", *options)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    assert [len(values) for values in data_of(checkpoint)] == [0, 0, 0]
    rows = tiny.rows(run_dir)
    assert [row["global_step"] for row in rows] == ["100", "200", "300"]
    assert {(row["takeovers"], float(row["intervention_rate"])) for row in rows} == {("0", 0.0)}
    initial = load_expert("Walled-v0", "../initial.safetensors").state
    tiny.assert_same(load_expert("Walled-v0", str(run_dir / "model.safetensors")).state, initial)
    assert not checkpoint["kept"]["optimizer"]["state"]


def test_hg_dagger_clones_demonstrations_before_somebody_intervenes():
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--intervention-cost", 1e9
    run_dir = tiny.run_mile(iwr, "a", *demos, "--rounds", 1, "--interventions-only")
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    assert [len(values) for values in data_of(checkpoint)] == [20] * 3
    steps = {state["step"].item() for state in checkpoint["kept"]["optimizer"]["state"].values()}
    assert steps == {20}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--round-updates", 0), "--round-updates must be positive"),
        (("--demo-episodes", -1), "--demo-episodes must be zero or more"),
        (("--demo-episodes", 2, "--demo-noise", "inf"), "--demo-noise must be zero or more"),
        (("--demo-noise", 0.1), "--demo-noise would do nothing here: there are no demonstrations"),
        (("--demo-episodes", 2), "no top expert is shipped for Walled-v0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny.run_mile(iwr, "bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
