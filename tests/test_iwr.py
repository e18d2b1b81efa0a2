"""iwr.py: what steps count for in cloning. (What it shares with mile.py is in test_mile.py.)"""

import numpy as np
import pytest
import torch

import iwr
from experts import load_demonstrations, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("people")
STEP = "--round-updates", 1, "--intervention-cost", 8  # a gradient step a round


def test_interventions_count_as_much_as_all_the_rest_where_there_are_both_and_both_are_cloned():
    few, most = torch.zeros(12), torch.tensor([1.0, 1.0, 1.0, 0.0])
    few[[2, 3, 9]] = 1
    assert iwr.weights(few, False).tolist() == [3.0 if t in (2, 3, 9) else 1.0 for t in range(12)]
    assert iwr.weights(most, False).tolist() == pytest.approx([1 / 3] * 3 + [1.0])
    for nu, interventions_only in ((0 * most, False), (0 * most + 1, False), (most, True)):
        assert iwr.weights(nu, interventions_only).tolist() == [1.0] * 4


def draw_everything(monkeypatch):
    """A minibatch is every step once; returns of how many steps how many were to be drawn."""
    drawn = []

    def randint(high, size):
        drawn.append((high, *size))
        return torch.arange(high)

    monkeypatch.setattr(torch, "randint", randint)
    return drawn


def assert_gradient(state, file, loss, before=None):
    """The last step, after before, was one of loss(log_pi, data) by the policy in this file."""
    actor = iwr.Actor(iwr.make_env("Walled-v0"), (32,))
    actor.load_state_dict(load_expert("Walled-v0", str(file)).state)
    actor.min_log_std = np.log(0.1)
    data = state["data"]
    loss(actor(data["obs"]).log_prob(data["actions"]), data).backward()
    for i, parameter in enumerate(actor.parameters()):
        moment = state["optimizer"]["state"][i]["exp_avg"]  # Adam's: a tenth is new
        if before:
            moment = moment - 0.9 * before["optimizer"]["state"][i]["exp_avg"]
        torch.testing.assert_close(moment, 0.1 * parameter.grad, rtol=1e-3, atol=1e-6)


def half_and_half(log_pi, data):
    by_expert = data["nu"] > 0
    assert 0 < by_expert.sum() < len(by_expert) / 2
    ratio = (~by_expert).sum() / by_expert.sum()
    return -(log_pi[~by_expert].sum() + ratio * log_pi[by_expert].sum()) / len(log_pi)


def test_a_gradient_step_is_that_of_cloning_weighted_by_the_shares_of_all_rounds(monkeypatch):
    drawn = draw_everything(monkeypatch)
    folders = [tiny.run_mile(iwr, f"of_{n}", *STEP, "--rounds", n) for n in (1, 2)]
    first, second = (tiny.checkpoint(folder) for folder in folders)
    assert drawn == [(100, 256), (100, 256), (200, 256)]  # of all steps, with replacement
    assert second["data"]["nu"][:100].mean() != second["data"]["nu"][100:].mean()
    assert_gradient(first, "../initial.safetensors", half_and_half)
    assert_gradient(second, folders[0] / "model.safetensors", half_and_half, first)


@pytest.mark.parametrize("demonstrations", [True, False])
def test_hg_dagger_clones_interventions_and_demonstrations_alone(monkeypatch, demonstrations):
    options, first = [*STEP, "--rounds", 1], 20 * demonstrations
    drawn = draw_everything(monkeypatch)
    if demonstrations:
        tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
        options += ["--demo-episodes", 2, "--dataset-id", "test/walled-v0"]
    everything = tiny.checkpoint(tiny.run_mile(iwr, "all", *options))
    folder = tiny.run_mile(iwr, "only", *options, "--interventions-only")
    alone = tiny.checkpoint(folder)
    nu = everything["data"]["nu"]
    assert len(nu) == first + 100 and not nu[:first].any()  # nobody took over in them
    kept = (nu > 0) | (torch.arange(len(nu)) < first)
    tiny.assert_same(alone["data"], {name: x[kept] for name, x in everything["data"].items()})
    assert first < kept.sum() < len(kept) and alone["counts"] == everything["counts"]
    assert [high for high, _ in drawn] == [len(kept), kept.sum()]
    assert_gradient(alone, "../initial.safetensors", lambda log_pi, data: -log_pi.mean())
    env, row = iwr.make_env("Walled-v0"), tiny.rows(folder)[-1]
    shown = load_demonstrations("Walled-v0", env, 2 * demonstrations, 1, "test/walled-v0")
    for name in ("obs", "actions"):
        assert np.array_equal(alone["data"][name][:first].numpy(), shown[name])
    assert row["global_step"] == "100" and int(row["demo_transitions"]) == first
    assert float(row["intervention_rate"]) == pytest.approx((kept.sum().item() - first) / 100)


def test_hg_dagger_learns_nothing_where_nobody_has_intervened():
    folder = tiny.run_mile(iwr, "a", "--interventions-only", "--intervention-cost", 1e9)
    state, rows = tiny.checkpoint(folder), tiny.rows(folder)
    assert [len(values) for values in state["data"].values()] == [0, 0, 0]
    assert [row["global_step"] for row in rows] == ["0", "100", "200", "300"]
    assert {(row["takeovers"], float(row["intervention_rate"])) for row in rows} == {("0", 0.0)}
    tiny.assert_same(dict(state["actor"]), load_expert("Walled-v0", "../initial.safetensors").state)
    assert not state["optimizer"]["state"]
