"""benchmark/sharpen.py: what critics are fitted to, and that they learn it."""

import sys

import numpy as np
import pytest
import torch

from experts import load_expert
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import sharpen


@pytest.fixture
def reference():
    return load_expert(sharpen.ENV_ID, sharpen.LEVEL, with_q=True)


def test_critics_begin_as_those_of_the_file(reference):
    obs, actions = torch.randn(9, reference.obs_dim), torch.rand(9, reference.act_dim)
    qf = sharpen.critics(reference, sharpen.Attempt("any"))
    got = qf(obs, actions).mean(0).detach() / sharpen.SCALE
    torch.testing.assert_close(got, reference.q(obs, actions), rtol=1e-4, atol=1e-2)


def test_comparisons_are_of_actions_in_one_state(monkeypatch):
    monkeypatch.setattr(sharpen, "STATES", 5)
    monkeypatch.setattr(sharpen, "HORIZON", 3)
    data = sharpen.comparisons(seed=1)
    assert {name: tuple(values.shape) for name, values in data.items()} == {
        "obs": (5, 17), "actions": (5, 4, 6), "returns": (5, 4)
    }  # fmt: skip
    assert data["actions"].abs().max() <= 0.9991 and data["returns"].std() > 0
    again = sharpen.comparisons(seed=1)
    assert all(torch.equal(values, again[name]) for name, values in data.items())


def test_a_gap_is_what_is_lost_against_the_first_action():
    values = torch.tensor([[5.0, 3.0, 6.0]])
    assert sharpen.gaps_of(values).tolist() == [[2.0, -1.0]]


@pytest.mark.parametrize("attempt", sharpen.ATTEMPTS[2:])
def test_critics_learn_a_gap_that_can_be_learned(attempt, reference, monkeypatch):
    torch.manual_seed(0)
    obs = reference.obs_mean + reference.obs_std * torch.randn(600, reference.obs_dim)
    actions = torch.rand(600, 4, reference.act_dim) * 2 - 1
    data = {"obs": obs, "actions": actions, "returns": actions[..., 0]}
    qf = sharpen.critics(reference, attempt)
    before = sharpen.rank_correlation(qf, data)
    attempt = sharpen.replace(attempt, states=500)
    sharpen.fit(qf, data, attempt, steps=150)
    held_out = {name: values[500:] for name, values in data.items()}
    after = sharpen.rank_correlation(qf, held_out)
    assert abs(before) < 0.5 < 0.8 < after
    assert np.isfinite(after)
