"""mile.py: when a person takes over, what is learned from it, how well it is foretold; and the person and the rounds
that iwr.py, sirius.py and hg_dagger.py share with it."""

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import gammaln, ndtr

import hg_dagger
import iwr
import mile
import sirius
from experts import InputError, load_checkpoint, load_expert, save_expert
from tests import tiny
from tests.test_resume import assert_same_run

pytestmark = pytest.mark.usefixtures("people")
SETTINGS = [(3.0, 3.0), (0.0, 1.0), (2.0, 1.0), (-1.5, 2.0), (16.0, 5.0)]  # c, scale


# --- when a person takes over (Eq. 1 and 2) --------------------------------------------------------------------------


def random_model(act_dim):
    """Means and log stds (1, A) at a single state."""
    return torch.randn(1, act_dim, dtype=torch.float64), 0.4 * torch.randn(1, act_dim, dtype=torch.float64)


@pytest.mark.parametrize("act_dim", [1, 2, 4])
@pytest.mark.parametrize(("cost", "scale"), SETTINGS)
def test_probability_of_a_takeover_is_that_of_a_million_samples(act_dim, cost, scale):
    models = random_model(act_dim), random_model(act_dim)
    pi, robot = (torch.distributions.Normal(mean[0], log_std[0].exp()) for mean, log_std in models)
    own, expected = (pi.log_prob(who.sample((1_000_000,))).sum(-1) for who in (pi, robot))
    sampled = torch.special.ndtr((own - expected.mean() - cost) / scale).mean().item()
    log_p, log_not_p = mile.intervention_log_probs(*models, cost, scale)
    assert log_p.exp().item() == pytest.approx(sampled, abs=3e-3)
    assert log_not_p.exp().item() == pytest.approx(1 - sampled, abs=3e-3)


def integral(expected, act_dim, cost, scale):
    """Eq. 2 over t, where t^2 is half a chi^2 of A degrees of freedom, and -E[ln pi(a')] without its constants."""

    def integrand(t):
        density = 2 * np.exp((act_dim - 1) * np.log(t) - t * t - gammaln(act_dim / 2))
        return density * ndtr((expected - t * t - cost) / scale)

    return quad(integrand, 0, 12, epsabs=1e-10, limit=200)[0]


@pytest.mark.parametrize("act_dim", [1, 2, 3, 4])
@pytest.mark.parametrize(("cost", "scale"), SETTINGS)
def test_probability_of_a_takeover_is_the_integral(act_dim, cost, scale):
    for _ in range(5):
        policy, robot = random_model(act_dim), random_model(act_dim)
        expected = ((robot[0] - policy[0]) ** 2 + (2 * robot[1]).exp()) / (2 * (2 * policy[1]).exp())
        log_p, log_not_p = mile.intervention_log_probs(policy, robot, cost, scale)
        p = integral(expected.sum().item(), act_dim, cost, scale)
        assert log_p.exp().item() == pytest.approx(p, abs=1e-5)
        assert log_p.exp().item() + log_not_p.exp().item() == pytest.approx(1, abs=1e-6)


def test_with_four_actions_and_the_default_scale_a_large_gap_is_certain_and_its_opposite_finite():
    zeros = torch.zeros(1, 4)
    log_p, log_not_p = mile.intervention_log_probs((zeros, zeros - 3), (zeros + 1, zeros), 11.0, 10.0)
    assert log_p.item() == pytest.approx(0, abs=1e-6) and -math.inf < log_not_p.item() < -1_000


def test_probability_with_three_actions_by_hand():
    pi, robot, cost, scale = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6], 0.4, 1.5
    expected = sum(q * math.log(p) for p, q in zip(pi, robot))
    p = sum(p * 0.5 * (1 + math.erf((math.log(p) - expected - cost) / scale / math.sqrt(2))) for p in pi)
    logits = [torch.tensor([values]).log() + 5 for values in (pi, robot)]  # a constant changes nothing
    log_p, log_not_p = mile.intervention_log_probs(logits[:1], logits[1:], cost, scale)
    assert 0.1 < p < 0.9 and log_p.exp().item() == pytest.approx(p, abs=1e-6)
    assert log_not_p.exp().item() == pytest.approx(1 - p, abs=1e-6)


def person(takeover_steps=1, cost=3.0, draws=None):
    """MILE's person, who judges the robot of the tiny runs; the noise of their decisions, or a seeded generator's."""
    policies = [load_expert("Walled-v0", f"../{name}.safetensors") for name in ("expert", "mental")]
    rng = np.random.default_rng(0)
    if draws:
        left = iter(draws)
        rng = SimpleNamespace(standard_normal=lambda size=None: np.zeros(size) if size else next(left))
    options = mile.Args(intervention_cost=cost, takeover_steps=takeover_steps, intervention_scale=3.0)
    return mile.ProbitHuman(options, *policies, rng)


@pytest.mark.parametrize("x", [-0.2, -0.05, 0.1])
def test_takeovers_are_as_frequent_as_their_probability(x):
    human, obs, robot = person(), np.array([x, 0], dtype=np.float32), np.zeros(1, dtype=np.float32)
    watched = [human.watch(obs, robot) for _ in range(2_000)]
    models = human.expert(obs[None]), human.model(obs[None])
    p = mile.intervention_log_probs(*models, 3.0, 3.0)[0].exp().item()
    assert 0.1 < p < 0.9 and np.mean([started for *_, started, _ in watched]) == pytest.approx(p, abs=0.04)
    assert all((actions is robot) != in_control == started for actions, in_control, started, _ in watched)


@pytest.mark.parametrize("discrete", [False, True])
def test_drawing_an_action_and_a_noise_gives_the_probability_of_eq_2(discrete):
    def fixed(seed):
        torch.manual_seed(seed)
        parameters = (torch.randn(1, 3),) if discrete else tuple(x.float() for x in random_model(3))
        return lambda obs: parameters

    expert, robot, obs = fixed(1), fixed(2), np.zeros(2, np.float32)
    expert.act = lambda obs: torch.zeros(1, 3)
    options = mile.Args(intervention_cost=1.0, intervention_scale=0.8)
    human = mile.ProbitHuman(options, expert, robot, np.random.default_rng(0))
    share = np.mean([human.watch(obs, None)[2] for _ in range(10_000)])
    p = mile.intervention_log_probs(expert(obs), robot(obs), 1.0, 0.8)[0].exp().item()
    assert 0.1 < p < 0.9 and share == pytest.approx(p, abs=0.015)  # three standard deviations


def test_a_takeover_lasts_its_steps_and_an_episodes_end_ends_it():
    human, obs, robot = person(3, draws=[-1e6, 1e6, -1e6, 1e6, -1e6]), np.zeros(2, np.float32), np.zeros(1)
    watched = [human.watch(obs, robot)[1:3] for _ in range(6)]  # while the expert is in control, nothing is drawn
    assert watched == [(False, False), (True, True), (True, False), (True, False), (False, False), (True, True)]
    human.new_episode()
    assert human.watch(obs, robot)[1:3] == (False, False)


# --- episodes --------------------------------------------------------------------------------------------------------


class Scripted:
    """Takes over where the script has a 1, in every episode anew; every 1 after a 0 is a takeover."""

    def __init__(self, *script):
        self.script = (0, *script)

    def new_episode(self):
        self.t = 0

    def watch(self, obs, proposal):
        self.t += 1
        in_control, started = bool(self.script[self.t]), self.script[self.t] > self.script[self.t - 1]
        return np.full(1, 0.5, np.float32) if in_control else proposal, in_control, started, None


@pytest.fixture
def robot():
    """The initial policy of the tiny runs, as an actor."""
    initial = load_expert("Walled-v0", "../initial.safetensors")
    actor = mile.Actor(2, 1, (32,))
    actor.load_state_dict(initial.state)
    return actor


@pytest.mark.parametrize(("budget", "steps"), [(None, 4), (3, 4), (2, 3), (1, 2)])
def test_an_episode_records_who_acts_until_the_budget_is_spent(budget, steps):
    actor = mile.Actor(1, 1, (4,))
    actor.mean.weight.data.zero_()
    actor.mean.bias.data.fill_(math.atanh(-0.25))
    episode = mile.rollout(mile.make_env("Falls-v0"), actor, Scripted(0, 1, 1, 0), 0, budget)
    assert episode["obs"].flatten().tolist() == [0, 1, 2, 3][:steps]
    assert episode["nu"].tolist() == [0, 1, 1, 0][:steps]
    assert episode["actions"].flatten().tolist() == pytest.approx([-0.25, 0.5, 0.5, -0.25][:steps])
    assert episode["takeovers"] == 1 and episode["score"] == sum([10, 20, 30, 40][:steps])


def test_alone_the_robot_does_its_likeliest_actions(robot):
    episode = mile.rollout(mile.make_env("Walled-v0"), robot, None, 0)
    assert len(episode["obs"]) == 50 and not episode["nu"].any() and episode["takeovers"] == 0
    assert episode["actions"].numpy() == pytest.approx(math.tanh(0.6))


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_an_episodes_score_is_its_success_where_that_is_known(robot, monkeypatch, name):
    env, step = mile.make_env("Walled-v0"), tiny.Walled.step
    monkeypatch.setattr(tiny.Walled, "step", lambda env, action: (*step(env, action)[:4], {name: env.steps == 50}))
    assert mile.rollout(env, robot, None, 0)["score"] == 100
    assert mile.rollout(env, robot, None, 0)["score"] == 0  # it has counted on


def test_an_episode_depends_on_its_seed_alone_and_leaves_no_trace(robot):
    env, human, episodes = mile.make_env("Walled-v0"), person(takeover_steps=3), []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        episodes.append(mile.rollout(env, robot, human, seed))
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(7)
        env.reset()
        human.takeover_left = 2
    assert 0 < episodes[0]["nu"].sum() < 50
    for name in ("obs", "actions", "nu"):
        assert torch.equal(episodes[0][name], episodes[1][name])
        assert not torch.equal(episodes[0][name], episodes[2][name])
    assert episodes[0]["takeovers"] == episodes[1]["takeovers"]


# --- before the first round ------------------------------------------------------------------------------------------


@pytest.fixture
def short_env():
    """Walled with episodes of ten steps."""
    return gym.wrappers.TimeLimit(mile.make_env("Walled-v0"), 10)


@pytest.mark.parametrize("target", [0.64, 0.5, 0.38])
def test_calibration_takes_the_first_cost_below_the_target(robot, short_env, target):
    human = person(cost=None)
    cost, tried = mile.calibrate(mile.Args(target_intervention_rate=target), short_env, robot, human)
    rates = [one["intervention_rate"] for one in tried]
    costs = [one["cost"] for one in tried]
    assert cost == human.cost == costs[-1] and len(costs) > 2
    assert costs == [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 16.0, 22.0, 32.0, 45.0, 64.0, 90.0, 128.0][: len(costs)]
    assert all(rate >= target for rate in rates[:-1]) and rates[-1] < target
    seeds = [mile.seed_for(0, 3, i) for i in range(15)]
    assert mile.rate_and_score(short_env, robot, person(cost=cost), seeds) == (rates[-1], tried[-1]["score"])


def test_a_target_that_no_cost_reaches_is_refused_in_one_line(robot, short_env):
    args = mile.Args(target_intervention_rate=0.02)
    with pytest.raises(InputError, match="rate 0.02: the lowest rate of the grid is 0") as caught:
        mile.calibrate(args, short_env, robot, person(cost=None))
    assert "\n" not in str(caught.value)


def test_the_default_cost_is_calibrated_and_kept_in_the_summary(monkeypatch):
    monkeypatch.setattr(mile, "calibrate", lambda args, env, actor, human: (11.0, [{"cost": 11.0}]))
    args = mile.Args(env_id="Walled-v0", eval_episodes=2)
    policies = [load_expert("Walled-v0", f"../{name}.safetensors") for name in ("expert", "initial", "mental")]
    env = mile.make_env("Walled-v0")
    actor = mile.make_actor(env, (32,))
    actor.load_state_dict(policies[1].state)
    setting = mile.measure(args, env, [env], actor, mile.ProbitHuman(args, policies[0], policies[2], None))
    assert (setting["intervention_cost"], setting["calibration"]) == (11.0, [{"cost": 11.0}])
    assert 0 < setting["intervention_rate"] < 1
    assert setting["assisted_score"] > 20 and setting["expert_score"] > 45  # of 50; the robot alone gets about 5


@pytest.mark.parametrize("env_id", ["Walled-v0", "Switched-v0"])
def test_the_robot_as_it_acts_is_its_likeliest_action_without_noise(env_id):
    env, obs = mile.make_env(env_id), torch.randn(50, 2)
    actor = mile.make_actor(env, (32,))
    first, *log_std = mile.likeliest(actor)(obs)
    if log_std:
        assert log_std[0].exp().max() < 1e-8
        done = first.tanh()
    else:
        done = first.softmax(-1)
    np.testing.assert_allclose(done.detach(), actor.act(obs, deterministic=True), atol=1e-6)


def test_the_mental_model_begins_as_what_the_robot_does(robot):
    env, args = mile.make_env("Walled-v0"), mile.Args(warm_up_episodes=3, warm_up_updates=200)
    mental_model = mile.make_actor(env, (32,))
    mental_model.mean.bias.data.fill_(-1.0)
    obs, errors = mile.rollout(env, robot, None, seed=99)["obs"], []
    for _ in range(2):
        errors.append(np.abs(mental_model.act(obs, True) - robot.act(obs, True)).mean())
        mile.warm_start(args, env, robot, mental_model)
    assert errors[0] > 0.5 and errors[1] < 0.05


def test_a_run_begins_with_a_mental_model_of_the_initial_policy(robot):
    options = "--rounds", 1, "--learning-rate", 1e-9, "--warm-up-episodes", 3, "--warm-up-updates", 200
    checkpoint = load_checkpoint(tiny.run_mile(mile, "a", *options) / "checkpoint.pt")
    mental_model = mile.Actor(2, 1, (16,))
    mental_model.load_state_dict(checkpoint["states"][2])
    obs = mile.rollout(mile.make_env("Walled-v0"), robot, None, seed=99)["obs"]
    assert np.abs(mental_model.act(obs, True) - robot.act(obs, True)).mean() < 0.05


# --- what is learned (Eq. 3 to 5) ------------------------------------------------------------------------------------


def small(discrete=False):
    """A policy and a mental model in double precision, and ten steps, four of them interventions: obs, actions, nu."""
    kind = mile.CategoricalActor if discrete else mile.Actor
    actors = [kind(2, 3, (4,)).double() for _ in range(2)]
    actions = torch.eye(3)[torch.randint(3, (10,))] if discrete else torch.rand(10, 3) * 1.8 - 0.9
    nu = torch.zeros(10)
    nu[[1, 4, 5, 8]] = 1
    return actors, (torch.randn(10, 2), actions.double(), nu.double())


@pytest.mark.parametrize("discrete", [False, True])
def test_gradients_are_those_of_finite_differences(discrete):
    actors, batch = small(discrete)
    args = mile.Args(intervention_weight=0.3, intervention_scale=2.0)
    mile.losses(args, 1.0, *actors, *batch)[2].backward()
    for parameter in (p for actor in actors for p in actor.parameters()):
        numeric, values = torch.zeros_like(parameter), parameter.detach().view(-1)
        for i in range(len(values)):
            value, j = values[i].item(), []
            for step in (1e-6, -1e-6):
                values[i] = value + step
                j.append(mile.losses(args, 1.0, *actors, *batch)[2].item())
            values[i] = value
            numeric.view(-1)[i] = (j[0] - j[1]) / 2e-6
        assert numeric.abs().max() > 1e-4
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("discrete", [False, True])
def test_cloning_leaves_the_mental_model_alone_and_the_likelihood_of_takeovers_does_not(discrete):
    actors, batch = small(discrete)
    j1, j2, _ = mile.losses(mile.Args(), 1.0, *actors, *batch)
    expected_of = list(actors[1].parameters())
    assert all(g is None for g in torch.autograd.grad(j2, expected_of, allow_unused=True, retain_graph=True))
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(j1, expected_of, retain_graph=True))
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(j1, list(actors[0].parameters())))


@pytest.mark.parametrize("discrete", [False, True])
def test_losses_by_hand(discrete):
    (actor, mental_model), (obs, actions, nu) = small(discrete)
    policy = actor(obs)
    log_pi = actor.log_prob(policy, actions)
    log_p, log_not_p = mile.intervention_log_probs(policy, mental_model(obs), 1.0, 10.0)
    taken = nu > 0
    j1, j2, j = mile.losses(mile.Args(intervention_weight=0.3), 1.0, actor, mental_model, obs, actions, nu)
    torch.testing.assert_close(j1, -(log_p[taken].sum() + log_not_p[~taken].sum()) / 10)
    torch.testing.assert_close(j2, -log_pi[taken].mean())
    torch.testing.assert_close(j, j1 - log_pi[taken].sum() / 10 if discrete else 0.3 * j1 + 0.7 * j2)


def test_without_interventions_nothing_is_cloned():
    actors, (obs, actions, _) = small()
    j1, j2, j = mile.losses(mile.Args(), 1.0, *actors, obs, actions, torch.zeros(10))
    assert j2 == 0 and j == 0.5 * j1 > 0


def gradients(loss, actor):
    return torch.autograd.grad(loss, list(actor.parameters()))


@pytest.mark.parametrize("mental_model", [True, False])
def test_without_weight_or_mental_model_it_is_hg_dagger(mental_model):
    (actor, model), (obs, actions, nu) = small()
    novice = hg_dagger.Actor(2, 3, (4,)).double()
    novice.load_state_dict(actor.state_dict())
    args = mile.Args(intervention_weight=0.0 if mental_model else 0.5)
    j1, j2, j = mile.losses(args, 1.0, actor, model if mental_model else None, obs, actions, nu)
    nll = hg_dagger.nll(novice, obs[nu > 0], actions[nu > 0])
    assert j == j2 and j.item() == pytest.approx(nll.item()) and (j1 > 0) == mental_model
    for ours, theirs in zip(gradients(j, actor), gradients(nll, novice)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_policys_standard_deviation_has_a_lower_limit(robot, monkeypatch):
    seen, evaluate = [], mile.evaluate
    monkeypatch.setattr(mile, "evaluate", lambda env_id, actor, *what, **how: (
        seen.append(actor(np.zeros((1, 2)))[1].exp().item()), evaluate(env_id, actor, *what, **how))[1]
    )  # fmt: skip
    tiny.run_mile(mile, "a", "--rounds", 1, "--min-std", 0.5)
    assert seen == pytest.approx([0.3] + [0.5] * 2 + [max(0.5, seen[-1])] * 2)  # the expert, then the robot


def test_the_expert_is_judged_alone_with_the_noise_that_they_act_with(monkeypatch):
    weight = json.loads("[[-1.0, 0.0]]")
    noisy = tiny.write_expert("noisy.safetensors", weight, noise=1e-3, min_log_std=math.log(0.5))
    seen, evaluate = [], mile.evaluate
    monkeypatch.setattr(mile, "evaluate", lambda env_id, actor, *what, **how: (
        seen.append(actor(np.zeros((1, 2)))[1].exp().item()), evaluate(env_id, actor, *what, **how))[1]
    )  # fmt: skip
    tiny.run_mile(mile, "a", "--rounds", 1, "--expert", noisy)
    assert seen[0] == pytest.approx(0.5)


def test_a_round_trains_the_policy_the_network_that_guesses_and_the_mental_model():
    states = []
    for name, rate in (("as_before", 1e-12), ("learned", 1e-2)):
        run_dir = tiny.run_mile(mile, name, "--rounds", 1, "--learning-rate", rate)
        states.append(load_checkpoint(run_dir / "checkpoint.pt")["states"][:3])
    for before, after in zip(*states):
        weights = [name for name in before if name.endswith("weight")]
        assert weights and all((before[name] - after[name]).abs().max() > 1e-3 for name in weights)


# --- foretelling -----------------------------------------------------------------------------------------------------


def test_prediction_quality_by_hand():
    p, nu = torch.tensor([0.9, 0.6, 0.4, 0.2]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    quality = mile.prediction_quality(p.log(), (1 - p).log(), nu)
    assert quality["accuracy"] == quality["balanced_accuracy"] == 0.5
    assert quality["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8]).mean())
    p, nu = torch.tensor([0.9, 0.6, 0.4, 0.2]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    quality = mile.prediction_quality(p.log(), (1 - p).log(), nu)
    assert quality["accuracy"] == 0.75 and quality["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("nu", [0.0, 1.0])
def test_prediction_quality_with_a_class_missing(nu):
    p = torch.tensor([0.9, 0.2])
    quality = mile.prediction_quality(p.log(), (1 - p).log(), torch.full((2,), nu))
    assert quality["accuracy"] == 0.5 and math.isnan(quality["balanced_accuracy"])
    assert quality["log_loss"] == pytest.approx(-np.log([0.9, 0.2] if nu else [0.1, 0.8]).mean())


def test_prediction_quality_of_nothing_is_unknown():
    assert all(math.isnan(value) for value in mile.prediction_quality(*torch.empty(3, 0)).values())


def test_interventions_are_foretold_from_the_second_round_on():
    run_dir = tiny.run_mile(mile, "a")
    whats = "accuracy", "balanced_accuracy", "log_loss"
    names = [f"{who}_{what}" for who in ("model", "network", "majority") for what in whats]
    rows = tiny.rows(run_dir)
    assert not any(row[name] for row in rows[:2] for name in names)
    assert all(np.isfinite(float(row[name])) for row in rows[2:] for name in names)
    nu = load_checkpoint(run_dir / "checkpoint.pt")["data"][2].numpy()  # three rounds of 100 steps
    for row, steps in zip(rows[2:], (100, 200)):  # the majority's probability is the share until then
        share, new = nu[:steps].mean(), nu[steps : steps + 100]
        log_loss = -np.where(new > 0, np.log(share), np.log(1 - share)).mean()
        assert float(row["majority_log_loss"]) == pytest.approx(log_loss, rel=1e-5)
        assert float(row["majority_accuracy"]) == pytest.approx(np.mean((share > 0.5) == (new > 0)))
        assert float(row["majority_balanced_accuracy"]) == 0.5


def test_interventions_are_foretold_by_the_networks_of_the_round_before():
    short, whole = (tiny.run_mile(mile, f"rounds_{rounds}", "--rounds", rounds) for rounds in (1, 2))
    obs, _, nu = (values[100:] for values in load_checkpoint(whole / "checkpoint.pt")["data"])  # of the second round
    actor, mental_model = mile.Actor(2, 1, (32,)), mile.Actor(2, 1, (16,))
    actor.min_log_std = math.log(0.1)
    networks = actor, mile.Estimator(actor, (16,)), mental_model
    for network, state in zip(networks, load_checkpoint(short / "checkpoint.pt")["states"]):
        network.load_state_dict(state)
    with torch.no_grad():
        logit = networks[1](obs)
        foretold = {
            "model": mile.intervention_log_probs(actor(obs), mental_model(obs), 3.0, 3.0),
            "network": (logit.sigmoid().log(), (-logit).sigmoid().log()),
        }
    for name, log_probs in foretold.items():
        for what, value in mile.prediction_quality(*log_probs, nu).items():
            assert float(tiny.rows(whole)[2][f"{name}_{what}"]) == pytest.approx(value, rel=1e-4)


def test_without_a_mental_model_the_network_foretells():
    row = tiny.rows(tiny.run_mile(mile, "a", "--rounds", 2, "--no-mental-model"))[-1]
    for what in ("accuracy", "balanced_accuracy", "log_loss"):
        assert row[f"model_{what}"] == row[f"network_{what}"] != ""


# --- whole runs of all that use this person --------------------------------------------------------------------------

RUNS = {"mile": (mile,), "no_mental_model": (mile, "--no-mental-model"), "iwr": (iwr,), "sirius": (sirius,)}
ALL = RUNS | {"hg_dagger": (hg_dagger,)}


@pytest.mark.parametrize("options", [(), ("--rounds", 1, "--round-episodes", 3)])
@pytest.mark.parametrize("which", RUNS)
def test_a_run_begins_with_round_0_and_its_counts_add_up(which, options):
    script, *own = RUNS[which]
    run_dir = tiny.run_mile(script, "a", "--takeover-steps", 2, *own, *options)
    files = "args.json", "checkpoint.pt", "eval.csv", "model.safetensors", "summary.json"
    assert all((run_dir / name).exists() for name in files)
    first, *rows = tiny.rows(run_dir)
    assert (first["round"], first["global_step"], first["expert_steps"], first["takeovers"]) == ("0", "0", "0", "0")
    assert first["intervention_rate"] == ""
    rounds, steps = (1, 150) if options else (3, 100)  # of 50 steps each
    assert [int(row["round"]) for row in rows] == list(range(1, rounds + 1))
    assert [int(row["global_step"]) for row in rows] == [steps * (i + 1) for i in range(rounds)]
    by_expert = np.diff([0] + [int(row["expert_steps"]) for row in rows])
    assert [float(row["intervention_rate"]) for row in rows] == pytest.approx(by_expert / steps)
    takeovers = np.diff([0] + [int(row["takeovers"]) for row in rows])
    assert all(0 < takeovers) and all(takeovers <= by_expert) and all(by_expert <= 2 * takeovers)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["env_steps"], summary["rounds"]) == (steps * rounds, rounds)
    assert (summary["expert_steps"], summary["takeovers"]) == (by_expert.sum(), takeovers.sum())
    if script is mile:
        assert summary["before"]["intervention_cost"] == 3 and summary["before"]["calibration"] == []
    obs, actions, kinds = load_checkpoint(run_dir / "checkpoint.pt")["data"]
    starts = [script.make_env("Walled-v0").reset(seed=script.seed_for(1, 0, i))[0] for i in range(steps * rounds // 50)]
    assert np.array_equal(obs[::50], starts)  # each episode begins where its seed says
    taken = kinds == sirius.INTERVENTION if script is sirius else kinds > 0
    assert len(obs) == steps * rounds and taken.sum() == by_expert.sum()
    assert actions[:steps][~taken[:steps]].numpy() == pytest.approx(math.tanh(0.6))  # what the robot does at first


def test_hg_daggers_robot_begins_as_the_initial_policy_and_does_its_likeliest_action_under_miles_person():
    run_dir = tiny.run_mile(hg_dagger, "a", "--rounds", 1, "--store-novice-steps")
    actions = load_checkpoint(run_dir / "checkpoint.pt")["data"][1]
    by_robot = (actions - math.tanh(0.6)).abs() < 1e-6
    assert len(actions) == 100 and (~by_robot).sum() == int(tiny.rows(run_dir)[0]["expert_steps"]) > 0


@pytest.mark.parametrize("which", ALL)
def test_max_interventions_is_met_exactly(which):
    script, *own = ALL[which]
    run_dir = tiny.run_mile(script, "a", "--rounds", 9, "--max-interventions", 70, *own)
    rows = tiny.rows(run_dir)
    assert [row["expert_steps"] == "70" for row in rows] == [False] * (len(rows) - 1) + [True]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["expert_steps"] == 70 and 1 < summary["rounds"] < 9
    assert summary["env_steps"] % 50  # it ended within an episode


@pytest.mark.parametrize("which", ALL)
def test_learns_what_the_expert_can(which, robot):
    script, *own = ALL[which]
    updates = ("--round-updates", 150) if script is hg_dagger else ("--round-epochs", 150)
    run_dir = tiny.run_mile(script, "a", "--rounds", 4, "--eval-frequency", 4, *updates, *own)
    alone = [mile.rollout(mile.make_env("Walled-v0"), robot, None, seed)["score"] for seed in range(3)]
    returns = [float(row["return_mean"]) for row in tiny.rows(run_dir)]
    assert max(alone) < 10 and returns[-1] > 35  # of 50
    if script is not hg_dagger:
        assert returns[0] < 10


@pytest.mark.parametrize("script", [iwr, hg_dagger], ids=lambda script: script.__name__)
def test_who_expects_what_the_robot_would_do_by_now_takes_over_less_and_less(script):
    updates = ("--round-updates", 150) if script is hg_dagger else ("--round-epochs", 150)
    rates = {}
    for model in ("robot", "../mental.safetensors"):
        run_dir = tiny.run_mile(script, Path(model).stem, "--rounds", 4, "--human-model", model, *updates)
        rates[model] = [float(row["intervention_rate"]) for row in tiny.rows(run_dir) if row["intervention_rate"]]
    assert len(rates["robot"]) == 4 and rates["robot"][0] > rates["robot"][-1] + 0.2
    assert rates["robot"][-1] < rates["../mental.safetensors"][-1] - 0.1


@pytest.mark.parametrize("which", ALL)
def test_the_model_of_a_run_has_the_sizes_of_the_initial_policy(which):
    script, *own = ALL[which]
    run_dir = tiny.run_mile(script, "a", "--rounds", 1, *own)
    model = load_expert("Walled-v0", str(run_dir / "model.safetensors"), mile.make_env("Walled-v0"))
    assert model.facts["hidden_sizes"] == [32]
    trained = script.Actor(2, 1, (32,))
    trained.load_state_dict(model.state)
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.testing.assert_allclose(model.act(obs, True), trained.act(obs, True), atol=1e-6)
    noisy = "noisy.safetensors"
    save_expert(noisy, {f"actor.{name}": x for name, x in model.state.items()}, **model.facts | {"min_log_std": 0.5})
    again = tiny.run_mile(script, "b", "--rounds", 1, "--initial-policy", noisy, *own)
    again = load_expert("Walled-v0", str(again / "model.safetensors"))
    assert again.facts["min_log_std"] == 0.5 and (again(obs)[1] >= 0.5).all() and (model(obs)[1] < 0.5).any()


RLIF = (
    "--env-id", "Walled-v0", "--demo-episodes", 0, "--total-timesteps", 200, "--eval-frequency", 100, "--num-qs", 2,
    "--eval-episodes", 1, "--batch-size", 16, "--num-threads", 1, "--hidden-sizes", 32, "--intervention", "mile",
    "--expert", "../expert.safetensors", "--human-model", "../mental.safetensors", "--takeover-steps", 1,
)  # fmt: skip


@pytest.mark.parametrize("model", ["../mental.safetensors", "robot"])
def test_rlif_with_miles_person_stops_at_its_interventions(model):
    run_dir = tiny.run("a", *RLIF, "--human-model", model, "--max-interventions", 30)
    rows, summary = tiny.rows(run_dir), json.loads((run_dir / "summary.json").read_text())
    assert rows[-1]["expert_steps"] == "30" and summary["expert_steps"] == 30 and summary["env_steps"] < 200
    assert int(rows[-1]["global_step"]) == summary["env_steps"]


def test_rlif_rewards_the_takeovers_of_miles_person():
    rb = load_checkpoint(tiny.run("a", *RLIF, "--batch-size", 500) / "checkpoint.pt")["rb"]  # it never learns
    rewards = rb["data"]["rewards"][: rb["size"]].flatten()
    assert set(rewards.tolist()) == {0.0, -1.0} and 20 < (rewards == -1).sum() < 190


def test_rlif_begins_with_the_initial_policy(robot):
    initial = "--initial-policy", "../initial.safetensors"
    agent = load_checkpoint(tiny.run("a", *RLIF, *initial, "--batch-size", 500) / "checkpoint.pt")["agent"]
    for name, value in robot.state_dict().items():
        assert torch.equal(agent[f"actor.{name}"], value)
    with pytest.raises(InputError, match="--initial-policy ../initial.safetensors needs --hidden-sizes 32"):
        tiny.run("b", *RLIF, *initial, "--hidden-sizes", 16)


class Killed(BaseException):
    pass


WATCHED = {
    "robot": (sirius, "--human-model", "robot"),
    "calibrated": (mile, "--intervention-cost", "None", "--target-intervention-rate", 0.6),
}


@pytest.mark.parametrize("which", [*ALL, *WATCHED])
def test_stopped_then_killed_then_resumed_is_the_uninterrupted_run_to_the_bit(which, tmp_path, monkeypatch):
    script, *own = (ALL | WATCHED)[which]
    own += ["--eval-frequency", 300 if script is hg_dagger else 3]  # in steps or in rounds: the last round alone
    save, evaluate = script.Run.save, script.Run.evaluate

    def stop(run, global_step, state):
        if global_step == 200:
            signal.raise_signal(signal.SIGTERM)
        save(run, global_step, state)

    def evaluate_and_die(*what, **shown):
        evaluate(*what, **shown)
        raise Killed

    run_dirs = []
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "broken":
            with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:  # after the second round
                patch.setattr(script.Run, "save", stop)
                tiny.run_mile(script, "a", *own)
            assert caught.value.code == 128 + signal.SIGTERM
            resume = script.parse_args(["--resume", str(next(Path("runs").iterdir()))])
            with monkeypatch.context() as patch, pytest.raises(Killed):  # when the third is evaluated, but not kept
                patch.setattr(script.Run, "evaluate", evaluate_and_die)
                script.main(resume)
            assert len(tiny.rows(Path(resume.resume))) == 1 + (script is not hg_dagger)
            script.main(resume)
        else:
            tiny.run_mile(script, "a", *own)
        run_dirs += (tmp_path / name / "runs").iterdir()
    assert_same_run(*run_dirs)
    if which == "calibrated":
        before = [json.loads((run_dir / "summary.json").read_text())["before"] for run_dir in run_dirs]
        assert before[0] == before[1] and before[0]["calibration"][-1]["cost"] == before[0]["intervention_cost"]
    assert len(tiny.rows(run_dirs[0])) == 1 + (script is not hg_dagger)


@pytest.mark.parametrize("script", [mile, iwr, sirius, hg_dagger], ids=lambda script: script.__name__)
def test_another_seed_is_another_run(script):
    runs = [tiny.run_mile(script, f"seed_{seed}", "--seed", seed, "--rounds", 1) for seed in (1, 2)]
    biases = [load_expert("Walled-v0", str(run_dir / "model.safetensors")).state["mean.bias"] for run_dir in runs]
    assert not torch.equal(*biases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--intervention-scale", -1), "--intervention-scale must be positive, not -1"),
        (("--intervention-scale", "inf"), "--intervention-scale must be positive, not inf"),
        (("--intervention-cost", "nan"), "--intervention-cost must be finite, not nan"),
        (("--rounds", 0), "--rounds must be positive, not 0"),
        (("--max-interventions", 0), "--max-interventions must be positive, not 0"),
        (("--takeover-steps", 0), "--takeover-steps must be positive"),
        (("--learning-rate", 0), "--learning-rate must be positive"),
        (("--expert", "nobody"), "no expert 'nobody' for Walled-v0"),
        (("--initial-policy", "nobody"), "no expert 'nobody'"),
        (("--human-model", "nobody.safetensors"), "cannot read nobody.safetensors"),
        (("--env-id", "Falls-v0"), "is for 2 observations and 1 actions, Falls-v0 has 1 and 1"),
        (("--env-id", "NoSuchEnv-v0"), "--env-id NoSuchEnv-v0"),
    ],
)
@pytest.mark.parametrize("script", [mile, iwr, sirius, hg_dagger], ids=lambda script: script.__name__)
def test_bad_input_is_one_line_before_any_work(script, options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny.run_mile(script, "bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target-intervention-rate", 0), r"--target-intervention-rate must be in \(0, 1\], not 0"),
        (("--intervention-weight", 1.5), r"--intervention-weight must be in \[0, 1\], not 1.5"),
        (("--min-std", 0), "--min-std must be positive"),
        (("--warm-up-episodes", 0), "--warm-up-episodes must be positive"),
        (("--warm-up-updates", -1), "--warm-up-updates must be zero or more"),
        (("--hidden-sizes", 0), "--hidden-sizes needs positive sizes"),
    ],
)
def test_bad_input_of_miles_own_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny.run_mile(mile, "bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
