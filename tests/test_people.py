"""The person who takes over or labels where actions differ, in dagger.py and hg_dagger.py."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

import dagger
import hg_dagger
from experts import load_demonstrations, load_expert
from tests import tiny


class Policy:
    """Does `mean` with some noise."""

    discrete = False

    def __init__(self, *mean, noise=0.0):
        self.mean, self.noise = torch.tensor(mean), noise

    def act(self, obs):
        return self.mean + self.noise * torch.randn(len(obs), len(self.mean))


def person(policy, **options):
    """A person with this expert; the threshold is 1 unless options say otherwise."""
    args = hg_dagger.Args(**{"threshold": 1.0} | options)
    return hg_dagger.ThresholdHuman(args, policy, np.random.default_rng(0))


def flags(human, *proposal):
    """Is it flagged, does a takeover start, for how many steps?"""
    return human.check(np.zeros(1, np.float32), np.array(proposal, dtype=np.float32))


def test_a_proposal_is_flagged_if_it_is_far_from_what_the_expert_draws():
    human = person(Policy(0.0, noise=1.0), threshold=0.5)
    flagged = np.mean([flags(human, 0.0)[0] for _ in range(4_000)])
    assert flagged == pytest.approx(2 * norm.cdf(-0.5), abs=0.03)
    human = person(Policy(0.0, 0.0))  # the distance is the sum over components
    assert flags(human, 0.6, -0.6)[0] and flags(human, 0.5, 0.5)[0]
    assert not flags(human, 0.6, -0.3)[0] and not flags(human, 0.9, 0.0)[0]
    human = person(Policy(0.0), intervention_beta=0.9)
    for proposal, rate in ((2.0, 0.9), (0.5, 0.1)):  # taken over with probability beta or 1 - beta
        flagged, started, steps = zip(*(flags(human, proposal) for _ in range(4_000)))
        assert set(flagged) == {rate > 0.5} and human.grace_steps == 1
        assert set(zip(started, steps)) == {(True, 4), (False, 0)}
        assert np.mean(started) == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("act_dim", [1, 2])
def test_own_spread_is_the_quantile_of_the_distance_of_two_gaussian_actions(act_dim):
    expert = Policy(*[0.3] * act_dim, noise=0.2)
    # a difference of two has standard deviation 0.2 * 2^0.5; of two of these, |x| + |y| <= t is a
    # square on its corner
    standard = norm.ppf(0.975) if act_dim == 1 else 2**0.5 * norm.ppf((1 + 0.95**0.5) / 2)
    spread, state = hg_dagger.own_spread(expert, torch.zeros(40_000, 1)), torch.get_rng_state()
    assert spread == pytest.approx(0.2 * 2**0.5 * standard, rel=0.02)
    # whatever was drawn before it, and after it all is drawn as if it were not there
    assert hg_dagger.own_spread(expert, torch.zeros(40_000, 1)) == spread
    assert torch.equal(torch.get_rng_state(), state)


def test_a_discrete_action_is_flagged_where_it_is_another_one():
    bias = [50.0 * (i == 1) for i in range(5)]  # always does action 1
    path = tiny.write_expert("expert.safetensors", [[0.0]] * 5, bias=bias, discrete=True)
    expert, one_hot = load_expert("x", path), np.eye(5, dtype=np.float32)
    threshold = hg_dagger.own_spread(expert, torch.zeros(3, 1))
    human = person(expert, threshold=threshold)
    assert [flags(human, *proposal)[0] for proposal in one_hot] == [i != 1 for i in range(5)]
    proposals, labels = one_hot[np.arange(10_000) % 5], np.tile(one_hot[1], (10_000, 1))
    args, differ = dagger.Args(threshold=threshold), proposals[:, 1] == 0
    chosen = dagger.choose_labels(args, proposals, labels, np.random.default_rng(0))
    assert chosen[differ].mean() == pytest.approx(0.95, abs=0.02)
    assert chosen[~differ].mean() == pytest.approx(0.05, abs=0.04)


def test_hoppers_default_threshold_lets_the_expert_pass_and_a_beginner_not():
    env, expert = hg_dagger.make_env("Hopper-v5"), load_expert("Hopper-v5", "low")
    obs = torch.from_numpy(load_demonstrations("Hopper-v5", env, 1, 1)["obs"])
    human, shares = person(expert, threshold=hg_dagger.own_spread(expert, obs)), []
    for policy in (expert, hg_dagger.Actor(env, (64, 64))):
        pairs = zip(obs.numpy(), np.asarray(policy.act(obs)))
        shares.append(np.mean([human.check(one, own)[0] for one, own in pairs]))
    assert shares[0] == pytest.approx(0.05, abs=0.03) and shares[1] > 0.5
