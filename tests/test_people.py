"""The simulated people: how often they take over and for how long, by which measure, and what a fall is charged."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

import dagger
import hg_dagger
import rlif_rlpd
from experts import load_checkpoint, load_demonstrations, load_expert
from tests import tiny

OBS = np.zeros(1, dtype=np.float32)


class Policy:
    """Does `mean` with some noise, and is thought to do it with standard deviation 1; actions far from 0 are bad."""

    discrete = False

    def __init__(self, *mean, noise=0.0):
        self.mean, self.noise = torch.tensor(mean), noise

    def __call__(self, obs):
        mean = self.mean.expand(len(obs), -1)  # (B, A)
        return mean, torch.zeros_like(mean)

    def act(self, obs, deterministic=False):
        if deterministic or not self.noise:
            return self.mean[None].expand(len(obs), -1)  # (B, A)
        return self.mean + self.noise * torch.randn(len(obs), len(self.mean))

    def q(self, obs, actions):
        return -actions.abs().sum(-1)  # (B,)


def person(kind, policy=None, **options):
    """One of three people; policy is the reference of a value person, the expert of a threshold person.

    The threshold is 1 unless options say otherwise.
    """
    rng, threshold = np.random.default_rng(0), options.pop("threshold", 1.0)
    args = (hg_dagger.Args if kind == "threshold" else rlif_rlpd.Args)(intervention=kind, **options)
    if kind == "value":
        return rlif_rlpd.ValueHuman(args, policy or Policy(0.0), rng)
    if kind == "threshold":
        return hg_dagger.ThresholdHuman(args, policy, threshold, rng)
    return rlif_rlpd.RandomHuman(args, rng)


def episode(human, takeover_steps, steps):
    """So many steps of an episode as main() has them: under expert control?, does a takeover start?"""
    proposal, expert_until, next_check = np.array([0.5], dtype=np.float32), 0, 0
    in_control, started = np.zeros(steps, dtype=bool), np.zeros(steps, dtype=bool)
    for t in range(steps):
        steps = 0
        if t >= next_check:
            _, started[t], steps = human.check(OBS, proposal)
        if steps:
            expert_until, next_check = t + steps, t + steps + human.grace_steps
        in_control[t] = t < expert_until
    return in_control, started


def run_with_expert(env_id, kind, *options, bias=0.0, noise=1e-6):
    """A run that learns nothing, with an expert that does tanh(bias + noise); folder and buffer."""
    expert = tiny.write_expert("expert.safetensors", [[0.0]], bias, noise, qf=tiny.critics(1, 1))
    judge = ("--reference", expert) if kind == "value" else ()
    folder = tiny.run(
        "a", "--env-id", env_id, "--intervention", kind, *judge, "--expert", expert, "--num-threads", 1,
        "--demo-episodes", 0, "--eval-episodes", 1, "--hidden-sizes", 8, "--batch-size", 100_000, *options,
    )  # fmt: skip
    return folder, load_checkpoint(folder / "checkpoint.pt")["kept"]["rb"]


# --- how often and for how long -------------------------------------------------------------------


@functools.cache
def random_takeovers(rate, takeover_steps):
    """A hundred thousand steps of one episode: under expert control?, does a takeover start?"""
    human = person("random", random_rate=rate, takeover_steps=takeover_steps)
    return episode(human, takeover_steps, 100_000)


def chance_of(rate, takeover_steps):
    """Of a takeover in a step of the novice: there are k (1 - p) / p of them to a takeover."""
    share = rate / 100
    return 1 / (1 + takeover_steps * (1 - share) / share)


@pytest.mark.parametrize("rate", [30, 50, 85])
@pytest.mark.parametrize("takeover_steps", [1, 4])
def test_random_takeovers_hold_their_share_of_the_steps_and_last_their_steps(rate, takeover_steps):
    in_control, started = random_takeovers(rate, takeover_steps)
    assert in_control.mean() == pytest.approx(rate / 100, abs=0.01)
    assert in_control.sum() == pytest.approx(takeover_steps * started.sum(), abs=takeover_steps)
    # no memory: the novice's steps between two takeovers are as many as they are by chance alone
    novices_steps = np.diff(np.flatnonzero(started)) - takeover_steps
    chance = chance_of(rate, takeover_steps)
    assert np.mean(novices_steps == 0) == pytest.approx(chance, abs=0.015)
    assert np.mean(novices_steps[novices_steps > 0] == 1) == pytest.approx(chance, abs=0.015)


def test_an_episode_under_random_takeovers_begins_like_any_step_of_the_novice():
    steps = "--total-timesteps", 4_000, "--max-episode-steps", 2
    options = "--random-rate", 85, "--takeover-steps", 4, *steps
    _, rb = run_with_expert("TimesOut-v0", "random", *options, bias=np.arctanh(0.5))
    by_expert = ((rb["actions"] - 0.5).abs() < 1e-4).reshape(2_000, 2)
    chance = chance_of(85, 4)
    assert by_expert[:, 0].float().mean().item() == pytest.approx(chance, abs=0.045)  # 4 sigma
    assert by_expert[by_expert[:, 0], 1].all()
    second = by_expert[~by_expert[:, 0], 1].float().mean().item()
    assert second == pytest.approx(chance, abs=0.07)


@pytest.mark.parametrize(("grace_steps", "steps"), [(0, 4), (1, 5), (3, 7)])
def test_a_robot_that_always_needs_one_is_taken_over_this_often(monkeypatch, grace_steps, steps):
    monkeypatch.setattr(rlif_rlpd.ValueHuman, "grace_steps", grace_steps)
    options = {"intervention_beta": 1.0, "intervention_alpha": 1.0, "takeover_steps": 4}
    human = person("value", **options)
    in_control, started = episode(human, 4, 70)
    assert np.flatnonzero(started).tolist() == list(range(0, 70, steps))
    assert np.array_equal(in_control, np.arange(70) % steps < 4)
    assert human.discount == pytest.approx(0.99**steps)  # which is what a fall is charged by


# --- what a fall is charged -----------------------------------------------------------------------


def charge(kind="value", **options):
    """What a fall is stored with."""
    args, human = rlif_rlpd.Args(termination="penalty", **options), person(kind, **options)
    last = {"obs": OBS, "next_obs": OBS + 1, "actions": OBS, "rewards": 0.0, "terminations": 0.0}
    stored = rlif_rlpd.end_of_episode(args, human, last, True)
    assert stored == last | {"rewards": stored["rewards"], "terminations": 1.0}
    return stored["rewards"]


@pytest.mark.parametrize(("takeover_steps", "grace_steps", "m"), [(4, 1, 5), (2, 3, 5), (2, 0, 2)])
def test_a_fall_costs_what_being_taken_over_again_and_again_does(
    monkeypatch, takeover_steps, grace_steps, m
):
    monkeypatch.setattr(rlif_rlpd.ValueHuman, "grace_steps", grace_steps)
    for_ever = -sum(0.99**t for t in range(0, 5_000, m))  # -1 now, in m steps, in 2 m steps, ...
    assert charge(gamma=0.99, takeover_steps=takeover_steps) == pytest.approx(for_ever, rel=1e-5)


def test_the_default_charge():
    assert charge() == pytest.approx(-20.40, abs=0.01)  # m = 4 + 1


@pytest.mark.parametrize(("rate", "expected"), [(30, -8.237), (50, -13.098), (85, -21.675)])
def test_under_random_takeovers_a_fall_costs_the_mean_over_their_schedule(rate, expected):
    starts = np.flatnonzero(random_takeovers(rate, 4)[1])
    discount = np.mean(0.99 ** np.diff(starts))  # E[gamma^m]
    charged = charge("random", gamma=0.99, random_rate=rate, takeover_steps=4)
    assert charged == pytest.approx(expected, abs=1e-3)
    assert charged == pytest.approx(-1 / (1 - discount), rel=0.02)


@pytest.mark.parametrize(("reward", "label"), [("intervention", -1.0), ("none", 0.0)])
def test_without_labels_a_falls_charge_stays_as_it_is(reward, label):
    options = "--takeover-steps", 1, "--total-timesteps", 80, "--termination", "penalty"
    folder, rb = run_with_expert("Falls-v0", "random", *options, "--reward", reward)
    rewards = rb["rewards"].reshape(20, 4)  # every fourth step is a fall
    assert rewards[:, 3].tolist() == pytest.approx([charge("random", takeover_steps=1)] * 20)
    row, labelled = tiny.rows(folder)[-1], rewards[:, :3]
    assert int(row["takeovers"]) > 20 and set(labelled.unique().tolist()) == {label, 0.0}
    labels = int(row["labels"])
    assert labels == (labelled == -1).sum()
    assert 10 < labels < 50 if label else labels == 0


# --- by which actions and which measure -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["value", "random"])
def test_who_takes_over_does_not_their_mean_but_what_they_draw(monkeypatch, kind):
    human = rlif_rlpd.ValueHuman if kind == "value" else rlif_rlpd.RandomHuman
    monkeypatch.setattr(human, "check", lambda *_: (True, True, 4))
    steps = "--total-timesteps", 1_000, "--max-episode-steps", 1_000
    _, rb = run_with_expert("TimesOut-v0", kind, *steps, bias=0.5, noise=0.1)
    by_expert = np.arange(1_000) % 5 < 4 if kind == "value" else np.ones(1_000, dtype=bool)
    drawn = rb["actions"][:, 0].numpy()[by_expert]
    assert np.arctanh(drawn).mean() == pytest.approx(0.5, abs=0.02)
    assert np.arctanh(drawn).std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("kind", ["threshold", "value", "random"])
def test_who_takes_over_in_hg_dagger_does_not_their_mean_but_what_they_draw(monkeypatch, kind):
    human = {"threshold": hg_dagger.ThresholdHuman, "value": hg_dagger.ValueHuman}
    human = human.get(kind, hg_dagger.RandomHuman)
    monkeypatch.setattr(human, "check", lambda *_: (True, True, 4))
    expert = tiny.write_expert("expert.safetensors", [[0.0]], 0.5, 0.1, qf=tiny.critics(1, 1))
    own = {"threshold": ("--threshold", 1), "value": ("--reference", expert)}.get(kind, ())
    options = (
        "--env-id", "TimesOut-v0", "--expert", expert, "--intervention", kind, "--num-threads", 1, *own,
        "--demo-episodes", 0, "--eval-episodes", 1, "--hidden-sizes", 8, "--round-updates", 1, "--doubt-novices", 0,
        "--round-episodes", 1, "--max-episode-steps", 1_000, "--total-timesteps", 1_000,
    )  # fmt: skip
    hg_dagger.main(tiny.parsed(hg_dagger, *options))
    (folder,) = Path("runs").iterdir()
    *_, data = load_checkpoint(folder / "checkpoint.pt")["progress"]
    by_expert = np.arange(1_000) % 5 < 4 if kind != "random" else np.ones(1_000, dtype=bool)
    assert data["obs"].flatten().tolist() == np.flatnonzero(by_expert).tolist()
    drawn = np.arctanh(data["actions"].numpy())
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.std() == pytest.approx(0.1, rel=0.1)


def test_a_proposal_is_judged_by_what_the_reference_draws():
    human = person("value", Policy(0.0, noise=1.0), intervention_alpha=1.0)
    proposal = np.array([0.5], dtype=np.float32)
    flagged = np.mean([human.check(OBS, proposal)[0] for _ in range(4_000)])
    assert flagged == pytest.approx(norm.cdf(0.5) - norm.cdf(-0.5), abs=0.03)  # it draws better


def test_a_proposal_is_compared_with_what_the_expert_draws():
    human = person("threshold", Policy(0.0, noise=1.0), threshold=0.5)
    flagged = np.mean([human.check(OBS, np.zeros(1, dtype=np.float32))[0] for _ in range(4_000)])
    assert flagged == pytest.approx(2 * norm.cdf(-0.5), abs=0.03)


@pytest.mark.parametrize(("proposal", "rate"), [(2.0, 0.9), (0.5, 0.1)])
def test_takeover_with_probability_beta_if_far_and_one_minus_beta_if_near(proposal, rate):
    human = person("threshold", Policy(0.0), threshold=1.0, intervention_beta=0.9)
    proposal = np.array([proposal], dtype=np.float32)
    outcomes = np.array([human.check(OBS, proposal) for _ in range(4_000)])
    assert outcomes[:, 0].all() == outcomes[:, 0].any() == (rate > 0.5)
    assert outcomes[:, 1].mean() == pytest.approx(rate, abs=0.02)


def test_the_distance_of_two_actions_is_the_sum_over_their_components():
    human = person("threshold", Policy(0.0, 0.0), threshold=1.0)
    for proposal, flagged in (
        ([0.6, -0.6], True),
        ([0.6, -0.3], False),
        ([0.9, 0.0], False),
        ([0.5, 0.5], True),
    ):
        assert human.check(OBS, np.array(proposal, dtype=np.float32))[0] == flagged


# --- the default threshold ------------------------------------------------------------------------


@pytest.mark.parametrize("act_dim", [1, 2])
def test_own_spread_is_the_quantile_of_the_distance_of_two_gaussian_actions(act_dim):
    expert = Policy(*[0.3] * act_dim, noise=0.2)
    # a difference of two has standard deviation 0.2 * 2^0.5; of two of these, |x| + |y| <= t is a square on its corner
    standard = norm.ppf(0.975) if act_dim == 1 else 2**0.5 * norm.ppf((1 + 0.95**0.5) / 2)
    spread = hg_dagger.own_spread(expert, torch.zeros(40_000, 1))
    assert spread == pytest.approx(0.2 * 2**0.5 * standard, rel=0.02)
    state = torch.get_rng_state()
    # whatever was drawn before it
    assert hg_dagger.own_spread(expert, torch.zeros(40_000, 1)) == spread
    assert torch.equal(torch.get_rng_state(), state)


def test_the_expert_itself_is_flagged_in_five_percent_of_the_steps():
    expert = load_expert(
        "Walled-v0", tiny.write_expert("expert.safetensors", [[-2.0, 0.0], [1.0, 1.0]], noise=0.4)
    )
    obs = torch.randn(4_000, 2)
    human = person("threshold", expert, threshold=hg_dagger.own_spread(expert, obs))
    flagged = [human.check(one.numpy(), own)[0] for one, own in zip(obs, expert.act(obs).numpy())]
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("actions", [2, 5, 18])
def test_a_discrete_action_is_flagged_where_it_is_another_one(actions):
    weight = torch.eye(actions)[:, :1].mul(0).tolist()
    bias = [50.0 * (i == 1) for i in range(actions)]  # always does action 1
    expert = load_expert(
        "x", tiny.write_expert("expert.safetensors", weight, bias=bias, discrete=True)
    )
    threshold = hg_dagger.own_spread(expert, torch.zeros(3, 1))
    human = person("threshold", expert, threshold=threshold)
    one_hot = np.eye(actions, dtype=np.float32)
    assert [human.check(OBS, proposal)[0] for proposal in one_hot] == [
        i != 1 for i in range(actions)
    ]
    proposals = one_hot[np.arange(10_000) % actions]
    labels, differ = np.tile(one_hot[1], (10_000, 1)), proposals[:, 1] == 0
    rng = np.random.default_rng(0)
    chosen = dagger.choose_labels(dagger.Args(), threshold, proposals, labels, rng)
    assert chosen[differ].mean() == pytest.approx(0.95, abs=0.02)
    assert chosen[~differ].mean() == pytest.approx(0.05, abs=0.04)


def test_hoppers_default_threshold_lets_the_expert_pass_and_a_beginner_not():
    env, expert = hg_dagger.make_env("Hopper-v5"), load_expert("Hopper-v5", "low")
    obs = torch.from_numpy(load_demonstrations(env, "Hopper-v5", 1, noise=0.09)["obs"])
    human = person("threshold", expert, threshold=hg_dagger.own_spread(expert, obs))
    beginner = hg_dagger.make_actor(env, (64, 64))
    shares = []
    for proposals in (expert.act(obs).numpy(), beginner.act(obs)):
        flagged = [human.check(one.numpy(), own)[0] for one, own in zip(obs, proposals)]
        shares.append(np.mean(flagged))
    assert shares[0] == pytest.approx(0.05, abs=0.03) and shares[1] > 0.5
