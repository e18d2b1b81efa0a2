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
from scipy.special import ndtr
from scipy.stats import chi2

import hg_dagger
import iwr
import mile
import sirius
from experts import InputError, load_checkpoint, load_expert, save_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("people")


# --- when a person takes over (Eq. 1 and 2) --------------------------------------------------------------------------


def random_model(act_dim):
    """Means and log stds (1, A) at a single state."""
    return torch.randn(1, act_dim, dtype=torch.float64), 0.4 * torch.randn(1, act_dim, dtype=torch.float64)


@pytest.mark.parametrize("act_dim", [1, 4])
@pytest.mark.parametrize(("cost", "scale"), [(3.0, 3.0), (-1.5, 1.0)])
def test_probability_of_a_takeover_is_that_of_a_million_samples(act_dim, cost, scale):
    models = random_model(act_dim), random_model(act_dim)
    pi, robot = (torch.distributions.Normal(mean[0], log_std[0].exp()) for mean, log_std in models)
    own, expected = (pi.log_prob(who.sample((1_000_000,))).sum(-1) for who in (pi, robot))
    sampled = torch.special.ndtr((own - expected.mean() - cost) / scale).mean().item()
    log_p, log_not_p = mile.intervention_log_probs(*models, cost, scale)
    assert log_p.exp().item() == pytest.approx(sampled, abs=3e-3)
    assert log_not_p.exp().item() == pytest.approx(1 - sampled, abs=3e-3)


@pytest.mark.parametrize(
    ("act_dim", "scale"), [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (4, 10.0), (8, 1.0), (24, 1.0), (24, 10.0)]
)
def test_probability_of_a_takeover_is_the_integral_of_eq_2(act_dim, scale):
    # -ln pi(a), but for its constants, is half a chi^2: the mean over it, by the midpoints of 100,000 slices
    half_chi2 = chi2.ppf((np.arange(100_000) + 0.5) / 100_000, act_dim) / 2
    cost, zeros = 6 * scale, torch.zeros(50, act_dim, dtype=torch.float64)
    expected = torch.linspace(0, 12 * scale + act_dim / 2 + 8 * (act_dim / 2) ** 0.5, 50, dtype=torch.float64)
    away = (2 * expected / act_dim).sqrt()[:, None].expand(-1, act_dim)  # a robot so far away surprises by `expected`
    log_p, log_not_p = mile.intervention_log_probs((zeros, zeros), (away, zeros - 20), cost, scale)
    exact = [ndtr((surprise - half_chi2 - cost) / scale).mean() for surprise in expected.tolist()]
    assert exact[0] < 1e-3 and exact[-1] > 1 - 1e-3
    np.testing.assert_allclose(log_p.exp(), exact, rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_not_p.exp(), 1 - np.array(exact), rtol=0, atol=1e-5)


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
    share = np.mean([human.watch(obs, None)[2] for _ in range(6_000)])
    p = mile.intervention_log_probs(expert(obs), robot(obs), 1.0, 0.8)[0].exp().item()
    assert 0.1 < p < 0.9 and share == pytest.approx(p, abs=0.019)  # three standard deviations


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
    assert episode["takeovers"] == 1 and episode["return"] == sum([10, 20, 30, 40][:steps])


def test_alone_the_robot_does_its_likeliest_actions(robot):
    episode = mile.rollout(mile.make_env("Walled-v0"), robot, None, 0)
    assert len(episode["obs"]) == 50 and not episode["nu"].any() and episode["takeovers"] == 0
    assert episode["actions"].numpy() == pytest.approx(math.tanh(0.6))


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_an_episodes_success_is_that_of_its_last_step_where_that_is_known(robot, monkeypatch, name):
    env, step = mile.make_env("Walled-v0"), tiny.Walled.step
    monkeypatch.setattr(tiny.Walled, "step", lambda env, action: (*step(env, action)[:4], {name: env.steps == 50}))
    assert mile.rollout(env, robot, None, 0)["success"] == 1
    assert mile.rollout(env, robot, None, 0)["success"] == 0  # it has counted on


def test_success_and_return_are_not_averaged_together_where_only_some_episodes_tell(robot, monkeypatch):
    step = tiny.Walled.step

    def told_once(env, action):
        return *step(env, action)[:4], {"success": True} if env.steps == 50 else {}

    monkeypatch.setattr(tiny.Walled, "step", told_once)
    env = mile.make_env("Walled-v0")
    assert mile.rate_and_score(env, robot, None, [0, 1, 2, 3])[1] == 25  # the others have not succeeded
    silent = mile.rate_and_score(env, robot, None, [0, 1])[1]
    assert silent == np.mean([mile.rollout(env, robot, None, seed)["return"] for seed in (0, 1)])


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


GRID = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 16.0, 22.0, 32.0, 45.0, 64.0, 90.0, 128.0]


def test_calibration_takes_the_first_cost_below_the_target(robot, short_env):
    human, target = person(cost=None), 0.5
    cost, tried = mile.calibrate(mile.Args(target_intervention_rate=target), short_env, robot, human)
    costs, rates = ([one[name] for one in tried] for name in ("cost", "intervention_rate"))
    assert cost == human.cost == costs[-2] == costs[-1] and max(rates[-2:]) < target
    below = GRID[: GRID.index(cost)]
    assert list(dict.fromkeys(costs[:-2])) == below and len(below) > 1
    assert all(max(rate for one, rate in zip(costs, rates) if one == tried_cost) >= target for tried_cost in below)
    seeds = [mile.seed_for(0, 3, i) for i in range(15, 30)]
    assert mile.rate_and_score(short_env, robot, person(cost=cost), seeds) == (rates[-1], tried[-1]["score"])


def scripted_rates(monkeypatch, script):
    """Let calibration measure the rates script[cost], one after the other; returns what is asked for."""
    asked = []

    def rate_and_score(env, actor, human, seeds):
        asked.append((human.cost, seeds))
        return script[human.cost].pop(0), 7.0

    monkeypatch.setattr(mile, "rate_and_score", rate_and_score)
    return asked


def test_calibration_goes_on_where_fresh_episodes_are_above_the_target(monkeypatch):
    script = {0.0: [0.5], 1.0: [0.2, 0.35], 2.0: [0.3], 3.0: [0.1, 0.29]}
    asked = scripted_rates(monkeypatch, script)
    args, human = mile.Args(target_intervention_rate=0.3), SimpleNamespace(cost=None)
    cost, tried = mile.calibrate(args, None, None, human)
    assert cost == human.cost == 3.0 and not any(script.values())
    assert [one["intervention_rate"] for one in tried] == [0.5, 0.2, 0.35, 0.3, 0.1, 0.29]
    first, fresh = ([mile.seed_for(0, 3, i) for i in episodes] for episodes in (range(15), range(15, 30)))
    assert asked == [(0.0, first), (1.0, first), (1.0, fresh), (2.0, first), (3.0, first), (3.0, fresh)]


def test_a_target_that_no_cost_reaches_is_refused_in_one_line(monkeypatch):
    asked = scripted_rates(monkeypatch, {cost: [0.5 - cost / 1_000] for cost in GRID})
    with pytest.raises(InputError, match="rate 0.3: the lowest rate of the grid is 0.37") as caught:
        mile.calibrate(mile.Args(), None, None, SimpleNamespace())
    assert "\n" not in str(caught.value) and [cost for cost, _ in asked] == GRID


@pytest.fixture
def calibrated(monkeypatch):
    """Calibration that finds 3 at once."""

    def calibrate(args, env, actor, human):
        human.cost = 3.0
        return 3.0, [{"cost": 3.0}]

    monkeypatch.setattr(mile, "calibrate", calibrate)


def measured(expert="../expert.safetensors"):
    """What is measured before the first round, in episodes of Walled."""
    args, env = mile.Args(env_id="Walled-v0", eval_episodes=2, intervention_scale=3.0), mile.make_env("Walled-v0")
    names = expert, "../initial.safetensors", "../mental.safetensors"
    expert, initial, mental = (load_expert("Walled-v0", name) for name in names)
    human = mile.ProbitHuman(args, expert, mental, None)
    return mile.measure(args, env, [env], mile.copy_of(env, initial), human)


def test_what_robot_and_person_do_alone_and_together_is_measured(calibrated):
    before = measured()
    assert (before["intervention_cost"], before["calibration"]) == (3.0, [{"cost": 3.0}])
    assert 0 < before["intervention_rate"] < 1
    scores = [before[f"{name}_score"] for name in ("initial", "assisted", "expert")]
    assert scores[0] < 10 < 20 < scores[1] < scores[2] and scores[2] > 45  # of 50


def test_the_expert_is_measured_alone_with_the_noise_that_they_act_with(calibrated, monkeypatch):
    noisy = tiny.write_expert("noisy.safetensors", [[-1.0, 0.0]], noise=1e-3, min_log_std=math.log(0.5))
    seen, evaluate = [], mile.evaluate

    def watched_evaluate(env_id, actor, envs, episodes, seed, deterministic):
        seen.append((actor(np.zeros((1, 2)))[1].exp().item(), deterministic))
        return evaluate(env_id, actor, envs, episodes, seed, deterministic)

    monkeypatch.setattr(mile, "evaluate", watched_evaluate)
    measured(noisy)
    assert seen == [(pytest.approx(0.3), True), (pytest.approx(0.5), False)]  # the robot, then the expert


def test_with_the_cost_given_nothing_is_measured_and_the_summary_says_the_cost_alone(monkeypatch):
    monkeypatch.setattr(mile, "measure", None)
    run_dir = tiny.run_mile(mile, "a", "--rounds", 1, "--round-updates", 1)
    assert json.loads((run_dir / "summary.json").read_text())["before"] == {"intervention_cost": 3.0}


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
    assert not any(rows[0][name] for name in names)
    assert all(np.isfinite(float(row[name])) for row in rows[1:] for name in names)
    nu = load_checkpoint(run_dir / "checkpoint.pt")["data"][2].numpy()  # three rounds of 100 steps
    for row, steps in zip(rows[1:], (100, 200)):  # the majority's probability is the share until then
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
            assert float(tiny.rows(whole)[1][f"{name}_{what}"]) == pytest.approx(value, rel=1e-4)


def test_without_a_mental_model_the_network_foretells():
    row = tiny.rows(run("no_mental_model", "a", "--rounds", 2))[-1]
    for what in ("accuracy", "balanced_accuracy", "log_loss"):
        assert row[f"model_{what}"] == row[f"network_{what}"] != ""


# --- whole runs of all that use this person --------------------------------------------------------------------------

RUNS = {"mile": mile, "no_mental_model": mile, "iwr": iwr, "sirius": sirius}
ALL = RUNS | {"hg_dagger": hg_dagger}
LEARNING = "--rounds", 4, "--round-updates", 150, "--batch-size", 256


def run(which, name, *options):
    """One of ALL in this process, as runs/*__<name>__*; returns that folder."""
    if which != "no_mental_model":
        return tiny.run_mile(ALL[which], name, *options)
    own = "--no-mental-model", "--hidden-sizes", 16, "--round-updates", 20
    mile.main(mile.parse_args([*map(str, (*tiny.MILE_ROUNDS, *own, *options)), "--exp-name", name]))
    return next(Path("runs").glob(f"*__{name}__*"))


@pytest.mark.parametrize("options", [(), ("--rounds", 1, "--round-episodes", 3)])
@pytest.mark.parametrize("which", RUNS)
def test_every_round_has_a_row_and_the_counts_add_up(which, options):
    script = RUNS[which]
    run_dir = run(which, "a", "--takeover-steps", 2, *options)
    files = "args.json", "checkpoint.pt", "eval.csv", "model.safetensors", "summary.json"
    assert all((run_dir / name).exists() for name in files)
    rows = tiny.rows(run_dir)
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
    run_dir = run(which, "a", "--rounds", 9, "--max-interventions", 70)
    rows = tiny.rows(run_dir)
    assert [row["expert_steps"] == "70" for row in rows] == [False] * (len(rows) - 1) + [True]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["expert_steps"] == 70 and 1 < summary["rounds"] < 9
    assert summary["env_steps"] % 50  # it ended within an episode


@pytest.mark.parametrize("which", ALL)
def test_a_round_is_so_many_gradient_steps_and_the_standard_deviation_has_a_lower_limit(which):
    run_dir = run(which, "a", "--rounds", 2, "--round-updates", 7, "--min-std", 0.5)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    if which == "hg_dagger":
        optimizers = [optimizer for _, optimizer in checkpoint["novices"]]
    elif ALL[which] is mile:
        optimizers = checkpoint["states"][-2:]  # of policy and mental model, and of the network that guesses
    else:
        optimizers = [checkpoint["optimizer"]]
    steps = [state["step"].item() for optimizer in optimizers for state in optimizer["state"].values()]
    assert set(steps) == {14}
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    log_std = load_expert("Walled-v0", str(run_dir / "model.safetensors"))(obs)[1]
    assert log_std.exp().numpy() == pytest.approx(0.5)  # it was 0.3 in the initial policy's file


@pytest.mark.parametrize("which", ALL)
def test_learns_what_the_expert_can(which, robot):
    run_dir = run(which, "a", *LEARNING, "--eval-frequency", 4)
    alone = [mile.rollout(mile.make_env("Walled-v0"), robot, None, seed)["return"] for seed in range(3)]
    assert max(alone) < 10 and float(tiny.rows(run_dir)[-1]["return_mean"]) > 35  # of 50


@pytest.mark.parametrize("which", ["iwr", "hg_dagger"])
def test_who_expects_what_the_robot_would_do_by_now_takes_over_less_and_less(which):
    rates = {}
    for model in ("robot", "../mental.safetensors"):
        run_dir = run(which, Path(model).stem, *LEARNING, "--human-model", model)
        rates[model] = [float(row["intervention_rate"]) for row in tiny.rows(run_dir)]
    assert len(rates["robot"]) == 4 and rates["robot"][0] > rates["robot"][-1] + 0.2
    assert rates["robot"][-1] < rates["../mental.safetensors"][-1] - 0.1


@pytest.mark.parametrize("which", ALL)
def test_the_model_of_a_run_has_the_sizes_of_the_initial_policy(which):
    run_dir = run(which, "a", "--rounds", 1)
    model = load_expert("Walled-v0", str(run_dir / "model.safetensors"), mile.make_env("Walled-v0"))
    assert model.facts["hidden_sizes"] == [32]
    assert model.facts["min_log_std"] == pytest.approx(-20 if which == "hg_dagger" else math.log(0.1))  # by default
    trained = ALL[which].Actor(2, 1, (32,))
    trained.load_state_dict(model.state)
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.testing.assert_allclose(model.act(obs, True), trained.act(obs, True), atol=1e-6)
    noisy = "noisy.safetensors"
    save_expert(noisy, {f"actor.{name}": x for name, x in model.state.items()}, **model.facts | {"min_log_std": 0.5})
    again = run(which, "b", "--rounds", 1, "--initial-policy", noisy)
    again = load_expert("Walled-v0", str(again / "model.safetensors"))
    assert again.facts["min_log_std"] == 0.5 and (again(obs)[1] >= 0.5).all() and (model(obs)[1] < 0.5).any()


RLIF = (
    "--env-id", "Walled-v0", "--demo-episodes", 0, "--total-timesteps", 200, "--eval-frequency", 100, "--num-qs", 2,
    "--eval-episodes", 1, "--batch-size", 16, "--num-threads", 1, "--intervention", "mile",
    "--expert", "../expert.safetensors", "--human-model", "../mental.safetensors", "--takeover-steps", 1,
)  # fmt: skip
SMALL = "--hidden-sizes", 32


@pytest.mark.parametrize("model", ["../mental.safetensors", "robot"])
def test_rlif_with_miles_person_stops_at_its_interventions(model):
    run_dir = tiny.run("a", *RLIF, *SMALL, "--human-model", model, "--max-interventions", 30)
    rows, summary = tiny.rows(run_dir), json.loads((run_dir / "summary.json").read_text())
    assert rows[-1]["expert_steps"] == "30" and summary["expert_steps"] == 30 and summary["env_steps"] < 200
    assert int(rows[-1]["global_step"]) == summary["env_steps"]


def test_rlif_rewards_the_takeovers_of_miles_person():
    run_dir = tiny.run("a", *RLIF, *SMALL, "--batch-size", 500)  # it never learns
    rb = load_checkpoint(run_dir / "checkpoint.pt")["rb"]
    rewards = rb["data"]["rewards"][: rb["size"]].flatten()
    assert set(rewards.tolist()) == {0.0, -1.0} and 20 < (rewards == -1).sum() < 190


def test_rlif_begins_with_the_initial_policy_and_all_networks_see_what_it_sees():
    initial = load_expert("Walled-v0", "../initial.safetensors")
    state = initial.state | {"obs_mean": torch.tensor([0.3, -0.2]), "obs_std": torch.tensor([2.0, 0.5])}
    save_expert("shifted.safetensors", {f"actor.{name}": x for name, x in state.items()}, **initial.facts)
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")  # they change none of it
    options = *RLIF, "--initial-policy", "shifted.safetensors", "--demo-episodes", 2, "--dataset-id", "test/walled-v0"
    agent = load_checkpoint(tiny.run("a", *options, "--batch-size", 500) / "checkpoint.pt")["agent"]  # it never learns
    for name, value in state.items():
        assert torch.equal(agent[f"actor.{name}"], value)
    for network in ("qf", "qf_target"):
        assert all(torch.equal(agent[f"{network}.{name}"], state[name]) for name in ("obs_mean", "obs_std"))
    with pytest.raises(InputError, match="--hidden-sizes would do nothing here: an --initial-policy has its own"):
        tiny.run("b", *options, *SMALL)


class Killed(BaseException):
    pass


STOPPED = {  # what the runs of test_stopping.py are not
    "mile": (mile,),
    "calibrated": (
        mile, "--intervention-cost", "None", "--target-intervention-rate", 0.7, "--max-episode-steps", 15,
    ),
    "robot": (sirius, "--human-model", "robot"),
    "hg_dagger": (hg_dagger,),
}  # fmt: skip


@pytest.mark.parametrize("which", STOPPED)
def test_stopped_then_killed_then_resumed_is_the_uninterrupted_run_to_the_bit(which, tmp_path, monkeypatch):
    script, *own = STOPPED[which]
    own += ["--eval-frequency", 300 if script is hg_dagger else 3]  # in steps or in rounds: the last round alone
    save, evaluate, saved = script.Run.save, script.Run.evaluate, []

    def stop(run, global_step, state):
        saved.append(global_step)
        if len(saved) == 2:
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
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:  # after the second round
                patch.setattr(script.Run, "save", stop)
                tiny.run_mile(script, "a", *own)
            assert caught.value.args == (signal.SIGTERM,)
            resume = script.parse_args(["--resume", str(next(Path("runs").iterdir()))])
            with monkeypatch.context() as patch, pytest.raises(Killed):  # when the third is evaluated, but not kept
                patch.setattr(script.Run, "evaluate", evaluate_and_die)
                script.main(resume)
            assert len(tiny.rows(Path(resume.resume))) == 1
            script.main(resume)
        else:
            tiny.run_mile(script, "a", *own)
        run_dirs += (tmp_path / name / "runs").iterdir()
    tiny.assert_same_run(*run_dirs)
    if which == "calibrated":
        before = [json.loads((run_dir / "summary.json").read_text())["before"] for run_dir in run_dirs]
        assert before[0] == before[1] and before[0]["calibration"][-1]["cost"] == before[0]["intervention_cost"]
        assert {"initial_score", "assisted_score", "expert_score"} < before[0].keys()
    assert len(tiny.rows(run_dirs[0])) == 1


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
        (
            ("--intervention-cost", "None", "--target-intervention-rate", 0),
            r"--target-intervention-rate must be in \(0, 1\], not 0",
        ),
        (("--intervention-scale", 0.9), "--intervention-scale 0.9: with continuous actions it must be 1 or more"),
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
