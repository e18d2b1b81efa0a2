"""mile.py: who takes over, what is learned from it, how well it is foretold; and whole runs."""

import math
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import gammaln, log_ndtr, logsumexp, ndtr
from scipy.stats import chi2
from torch.distributions import Independent, Normal, OneHotCategorical

import iwr
import mile
import sirius
from experts import load_expert, save_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("people")


# --- when a person takes over (Eq. 1 and 2) -------------------------------------------------------
def gaussian(mean, log_std):
    """What an actor returns where these are mean and log standard deviation before the tanh."""
    return mile.Transformed(Independent(Normal(mean, log_std.exp()), 1), mile.TanhTransform())


def random_parameters(act_dim):
    """Mean and log standard deviation (1, A) at a single state."""
    mean, log_std = torch.randn(2, 1, act_dim, dtype=torch.float64)
    return mean, 0.4 * log_std


@pytest.mark.parametrize(("act_dim", "cost", "scale"), [(1, 3.0, 3.0), (4, -1.5, 1.0)])
def test_probability_of_a_takeover_is_that_of_a_million_samples(act_dim, cost, scale):
    policies = gaussian(*random_parameters(act_dim)), gaussian(*random_parameters(act_dim))
    pi, robot = (policy.base_dist for policy in policies)
    own, expected = (pi.log_prob(who.sample((1_000_000,))) for who in (pi, robot))
    sampled = torch.special.ndtr((own - expected.mean() - cost) / scale).mean().item()
    log_p, log_not_p = mile.intervention_log_probs(*policies, cost, scale)
    assert log_p.exp().item() == pytest.approx(sampled, abs=3e-3)
    assert log_not_p.exp().item() == pytest.approx(1 - sampled, abs=3e-3)


SIZES = [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (4, 10.0), (8, 1.0), (24, 1.0), (24, 10.0)]


@pytest.mark.parametrize(("act_dim", "scale"), SIZES)
def test_probability_of_a_takeover_is_the_integral_of_eq_2(act_dim, scale):
    # -ln pi(a), but for its constants, is half a chi^2: here 100,000 slices, by their midpoints
    half_chi2 = chi2.ppf((np.arange(100_000) + 0.5) / 100_000, act_dim) / 2
    cost, zeros = 6 * scale, torch.zeros(50, act_dim, dtype=torch.float64)
    most = 12 * scale + act_dim / 2 + 8 * (act_dim / 2) ** 0.5
    expected = torch.linspace(0, most, 50, dtype=torch.float64)
    # a robot so far away surprises by `expected`
    away = (2 * expected / act_dim).sqrt()[:, None].expand(-1, act_dim)
    policies = gaussian(zeros, zeros), gaussian(away, zeros - 20)
    log_p, log_not_p = mile.intervention_log_probs(*policies, cost, scale)
    exact = [ndtr((surprise - half_chi2 - cost) / scale).mean() for surprise in expected.tolist()]
    assert exact[0] < 1e-3 and exact[-1] > 1 - 1e-3
    np.testing.assert_allclose(log_p.exp(), exact, rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_not_p.exp(), 1 - np.array(exact), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("act_dim", "scale"), [(1, 1.0), (4, 1.0), (4, 10.0), (4, 20.0), (24, 3)])
def test_however_sure_a_takeover_is_none_has_its_probability(act_dim, scale):
    surprise, zeros = torch.tensor([50.0, 200, 500, 1000, 3000]), torch.zeros(5, act_dim)
    surprise.requires_grad_()
    away = (2 * surprise / act_dim).sqrt()[:, None].expand(-1, act_dim)
    policies = gaussian(zeros, zeros), gaussian(away, zeros - 20)
    log_p, log_not_p = mile.intervention_log_probs(*policies, 11.0, scale)
    (slope,) = torch.autograd.grad(log_not_p.sum(), surprise)
    u = np.linspace(1e-9, 60, 200_001)[:, None]  # half chi^2 = u^2, whose density times 2 u is:
    density = np.log(2) + (act_dim - 1) * np.log(u) - u**2 - gammaln(act_dim / 2)
    chance = log_ndtr((11 - surprise.detach().numpy() + u**2) / scale)  # of no takeover
    exact = logsumexp(density + chance, 0) + np.log(u[1] - u[0])
    np.testing.assert_allclose(log_not_p.detach(), exact, rtol=0, atol=0.25)
    if scale < 20:  # long before 500 the tail of chi^2 alone decides
        tail = (act_dim / 2 - 1) / (surprise[2:].detach() - 11 - scale**2) - 1
        np.testing.assert_allclose(slope[2:], tail, rtol=0, atol=0.01)
    assert (log_p[1:].abs() < 1e-5).all()


def test_probability_with_three_actions_by_hand():
    pi, robot, cost, scale = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6], 0.4, 1.5
    expected, p = sum(q * math.log(p) for p, q in zip(pi, robot)), 0.0
    for probability in pi:
        z = (math.log(probability) - expected - cost) / scale
        p += probability * 0.5 * (1 + math.erf(z / math.sqrt(2)))
    # a constant that is added to logits changes nothing
    policies = [OneHotCategorical(logits=torch.tensor([x]).log() + 5) for x in (pi, robot)]
    log_p, log_not_p = mile.intervention_log_probs(*policies, cost, scale)
    assert 0.1 < p < 0.9 and log_p.exp().item() == pytest.approx(p, abs=1e-6)
    assert log_not_p.exp().item() == pytest.approx(1 - p, abs=1e-6)


@pytest.mark.parametrize("discrete", [False, True])
def test_drawing_an_action_and_a_noise_gives_the_probability_of_eq_2(discrete):
    torch.manual_seed(1)
    outputs, policies = [], []  # of a policy file, and of an actor
    for _ in range(2):
        output = torch.randn(1, 3) if discrete else tuple(x.float() for x in random_parameters(3))
        policies.append(OneHotCategorical(logits=output) if discrete else gaussian(*output))
        outputs.append(output)
    expert, robot = (lambda obs, output=output: output for output in outputs)
    expert.discrete, rng = discrete, np.random.default_rng(0)
    args = mile.Args(intervention_cost=1.0, intervention_scale=0.8)
    human = mile.ProbitHuman(args, expert, robot)
    share = np.mean([human.takes_over(np.zeros(2), rng) for _ in range(6_000)])
    p = mile.intervention_log_probs(*policies, 1.0, 0.8)[0].exp().item()
    assert 0.1 < p < 0.9 and share == pytest.approx(p, abs=0.019)  # three standard deviations


# --- episodes -------------------------------------------------------------------------------------
def actor(obs_dim, act_dim, hidden, discrete=False):
    """An actor for observations and actions of these sizes."""
    box, one_hot = gym.spaces.Box(-1, 1, (act_dim,)), gym.spaces.MultiBinary(act_dim)
    spaces = {"observation_space": gym.spaces.Box(-1, 1, (obs_dim,))}
    env = SimpleNamespace(**spaces, action_space=one_hot if discrete else box)
    return mile.Actor(env, (hidden,))


def still():
    """A robot for Falls and TimesOut that does -0.25."""
    robot = actor(1, 1, 4)
    robot.mean.weight.data.zero_()
    robot.mean.bias.data.fill_(math.atanh(-0.25))
    return robot


class Scripted:
    """Takes over at these observations, for so many steps; asked: where there was a choice."""

    def __init__(self, *starts, takeover_steps=1, expert=None):
        half = SimpleNamespace(act=lambda *_: torch.full((1, 1), 0.5))
        self.starts, self.takeover_steps, self.expert = starts, takeover_steps, expert or half
        self.asked, self.drawn, self.began = [], [], True

    def takes_over(self, obs, rng):
        self.asked.append(obs[0])
        self.drawn.append(rng.random())
        return obs[0] in self.starts


def test_a_takeover_lasts_its_steps_and_an_episodes_end_ends_it():
    env = mile.make_env("TimesOut-v0", 9)  # observes 100 * episode + step
    human = Scripted(1, 4, 8, 101, takeover_steps=3)
    first, second = (mile.rollout(env, still(), human, seed) for seed in range(2))
    # while the expert is in control nobody is asked, and right after it somebody is
    assert human.asked == [0, 1, 4, 7, 8, 100, 101, *range(104, 109)]
    assert first["nu"].tolist() == [0, 1, 1, 1, 1, 1, 1, 0, 1] and first["takeovers"] == 3
    assert second["nu"].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0] and second["takeovers"] == 1


def test_the_expert_acts_with_what_it_draws():
    path = tiny.write_expert("noisy.safetensors", [[0.0]], bias=0.4, noise=0.3)
    human = Scripted(*range(1_000), expert=load_expert("TimesOut-v0", path))
    episode = mile.rollout(mile.make_env("TimesOut-v0", 1_000), still(), human, 0)
    drawn = episode["actions"].atanh()
    assert episode["nu"].all() and drawn.mean().item() == pytest.approx(0.4, abs=0.04)
    assert drawn.std().item() == pytest.approx(0.3, rel=0.1)


def test_an_episode_records_who_acts():
    env, human = mile.make_env("Falls-v0"), Scripted(1, 101, takeover_steps=2)
    episode = mile.rollout(env, still(), human, 0)
    assert episode["obs"].flatten().tolist() == [0, 1, 2, 3]
    assert episode["nu"].tolist() == [0, 1, 1, 0]
    assert episode["actions"].flatten().tolist() == pytest.approx([-0.25, 0.5, 0.5, -0.25])
    assert episode["takeovers"] == 1 and episode["return"] == sum([10, 20, 30, 40])
    assert math.isnan(episode["success"])  # it does not tell
    human.began = False  # at the keys a takeover may only go on
    assert mile.rollout(env, still(), human, 0)["takeovers"] == 0


def test_person_and_environment_draw_from_two_generators():
    """With one for both, the person would know what the environment is about to do."""
    env, human = mile.make_env("Walled-v0"), Scripted()
    for seed in (7, 7, 8):
        mile.rollout(env, actor(2, 1, 4), human, seed)
        assert env.unwrapped.np_random_seed == seed
    first, again, other = np.split(np.array(human.drawn), 3)
    assert np.array_equal(first, again) and not np.isin(other, first).any()
    assert not np.isin(first, np.random.default_rng(7).random(1_000)).any()


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_an_episode_is_a_success_if_there_is_one_at_any_step(monkeypatch, name):
    env, step, steps = mile.make_env("Walled-v0"), tiny.Walled.step, []

    def told(env, action):
        steps.append(action)
        return *step(env, action)[:4], {name: [len(steps) == 30]}

    monkeypatch.setattr(tiny.Walled, "step", told)
    assert mile.rollout(env, actor(2, 1, 4), None, 0)["success"] == 1
    assert mile.rollout(env, actor(2, 1, 4), None, 0)["success"] == 0


def test_an_episode_depends_on_its_seed_alone_and_leaves_no_trace():
    policies = [load_expert("Walled-v0", f"../{name}.safetensors") for name in ("expert", "mental")]
    options = {"intervention_cost": 3.0, "intervention_scale": 3.0, "takeover_steps": 3}
    human = mile.ProbitHuman(mile.Args(**options), *policies)
    env, robot, episodes = mile.make_env("Walled-v0"), actor(2, 1, 4), []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        episodes.append(mile.rollout(env, robot, human, seed))
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(7)
        env.reset()
    assert 0 < episodes[0]["nu"].sum() < 50
    for name in ("obs", "actions", "nu"):
        assert torch.equal(episodes[0][name], episodes[1][name])
        assert not torch.equal(episodes[0][name], episodes[2][name])
    assert episodes[0]["takeovers"] == episodes[1]["takeovers"]


# --- before the first round -----------------------------------------------------------------------
def part(folder, name):
    """The tensors of one of mile.py's networks in a run's last checkpoint, by name."""
    networks = tiny.checkpoint(folder)["networks"].items()
    return {key.removeprefix(f"{name}."): x for key, x in networks if key.startswith(f"{name}.")}


def test_a_run_begins_with_a_mental_model_of_the_initial_policy_that_sees_what_it_sees():
    state = load_expert("Walled-v0", "../initial.safetensors").state
    state |= {"obs_mean": torch.tensor([0.5, -1.0]), "obs_std": torch.tensor([0.3, 2.0])}
    file = SimpleNamespace(state_dict=lambda: state, min_log_std=-20.0)
    save_expert("standardized.safetensors", file)
    few = "--rounds 1 --learning-rate 1e-9 --warm-up-episodes 3 --warm-up-updates 200"
    options = f"{few} --initial-policy standardized.safetensors"
    folder = tiny.run_mile(mile, "a", *options.split())
    for name in ("mental_model", "estimator"):
        assert torch.equal(part(folder, name)["obs_mean"], state["obs_mean"])
        assert torch.equal(part(folder, name)["obs_std"], state["obs_std"])
    robot, mental_model = actor(2, 1, 32), actor(2, 1, 16)
    robot.load_state_dict(state)
    mental_model.load_state_dict(part(folder, "mental_model"))
    obs = mile.rollout(mile.make_env("Walled-v0"), robot, None, seed=99)["obs"]
    assert np.abs(mental_model.act(obs, True) - robot.act(obs, True)).mean() < 0.05


# --- what is learned (Eq. 3 to 5) -----------------------------------------------------------------
def small(discrete=False):
    """Policy and mental model in float64; ten steps, four of them a person's: obs, actions, nu."""
    actors = [actor(2, 3, 4, discrete).double() for _ in range(2)]
    actions = torch.eye(3)[torch.randint(3, (10,))] if discrete else torch.rand(10, 3) * 1.8 - 0.9
    nu = torch.zeros(10, dtype=torch.float64)
    nu[[1, 4, 5, 8]] = 1
    return actors, (torch.randn(10, 2, dtype=torch.float64), actions.double(), nu)


@pytest.mark.parametrize("discrete", [False, True])
def test_gradients_are_those_of_finite_differences(discrete):
    actors, batch = small(discrete)
    args = mile.Args(intervention_cost=1.0, intervention_weight=0.3, intervention_scale=2.0)
    mile.losses(args, *actors, *batch)[2].backward()
    for parameter in (p for one in actors for p in one.parameters()):
        numeric, values = torch.zeros_like(parameter), parameter.detach().view(-1)
        for i in range(len(values)):
            value, j = values[i].item(), []
            for step in (1e-6, -1e-6):
                values[i] = value + step
                j.append(mile.losses(args, *actors, *batch)[2].item())
            values[i] = value
            numeric.view(-1)[i] = (j[0] - j[1]) / 2e-6
        assert numeric.abs().max() > 1e-4
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-5, atol=1e-7)


def gradients(loss, network):
    options = {"allow_unused": True, "retain_graph": True}
    return torch.autograd.grad(loss, list(network.parameters()), **options)


@pytest.mark.parametrize("discrete", [False, True])
def test_cloning_leaves_the_mental_model_alone_and_the_likelihood_of_takeovers_does_not(discrete):
    actors, batch = small(discrete)
    j1, j2, _ = mile.losses(mile.Args(), *actors, *batch)
    assert all(gradient is None for gradient in gradients(j2, actors[1]))
    for network in actors:
        assert all(gradient.abs().max() > 0 for gradient in gradients(j1, network))


@pytest.mark.parametrize("discrete", [False, True])
def test_losses_by_hand(discrete):
    (robot, mental_model), (obs, actions, nu) = small(discrete)
    log_pi, taken = robot(obs).log_prob(actions), nu > 0
    log_p, log_not_p = mile.intervention_log_probs(robot(obs), mental_model(obs), 1.0, 10.0)
    args = mile.Args(intervention_cost=1.0, intervention_weight=0.3)
    j1, j2, j = mile.losses(args, robot, mental_model, obs, actions, nu)
    torch.testing.assert_close(j1, -(log_p[taken].sum() + log_not_p[~taken].sum()) / 10)
    torch.testing.assert_close(j2, -log_pi[taken].mean())
    whole = j1 - log_pi[taken].sum() / 10 if discrete else 0.3 * j1 + 0.7 * j2
    torch.testing.assert_close(j, whole)
    j1, j2, j = mile.losses(args, robot, mental_model, obs, actions, 0 * nu)
    assert j2 == 0 and (j == j1 if discrete else j == 0.3 * j1)  # nobody says what to do


@pytest.mark.parametrize("mental_model", [True, False])
def test_without_weight_or_mental_model_it_is_hg_dagger(mental_model):
    (robot, model), (obs, actions, nu) = small()
    args = mile.Args(intervention_weight=0.0 if mental_model else 0.5)
    j1, j2, j = mile.losses(args, robot, model if mental_model else None, obs, actions, nu)
    cloning = -robot(obs[nu > 0]).log_prob(actions[nu > 0]).mean()  # of what the person did
    assert j == j2 and j.item() == pytest.approx(cloning.item()) and (j1 > 0) == mental_model
    for ours, theirs in zip(gradients(j, robot), gradients(cloning, robot)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_round_trains_policy_mental_model_and_the_network_that_guesses():
    folders = []
    for name, rate in (("as_before", 1e-12), ("learned", 1e-2)):
        folders.append(tiny.run_mile(mile, name, "--rounds", 1, "--learning-rate", rate))
    for name in ("actor", "mental_model", "estimator"):
        before, after = (part(folder, name) for folder in folders)
        weights = [key for key in before if key.endswith("weight")]
        assert weights and all((before[key] - after[key]).abs().max() > 1e-3 for key in weights)


# --- foretelling ----------------------------------------------------------------------------------
WHATS = "accuracy", "balanced_accuracy", "log_loss"
WHOS = "model", "network", "majority"


def qualities(p, nu):
    """Of what model, network and majority think of these interventions: p, (n, 3)."""
    p = torch.as_tensor(p)
    both = {who: torch.stack([1 - p[:, i], p[:, i]], -1).log() for i, who in enumerate(WHOS)}
    return mile.prediction_quality({"nu": torch.as_tensor(nu)} | both)


def test_prediction_quality_by_hand():
    p = [[0.9, 0.4, 0.7], [0.6, 0.3, 0.7], [0.4, 0.8, 0.7], [0.2, 0.9, 0.7]]
    quality = qualities(p, [1.0, 0.0, 1.0, 0.0])
    assert list(quality) == [f"{who}_{what}" for who in WHOS for what in WHATS]
    assert [quality[f"{who}_accuracy"] for who in WHOS] == [0.5, 0.5, 0.5]
    assert [quality[f"{who}_balanced_accuracy"] for who in WHOS] == [0.5, 0.5, 0.5]
    likelihoods = [0.9, 0.4, 0.4, 0.8], [0.4, 0.7, 0.8, 0.1], [0.7, 0.3, 0.7, 0.3]
    losses = [-np.log(x).mean() for x in likelihoods]
    assert [quality[f"{who}_log_loss"] for who in WHOS] == pytest.approx(losses)
    quality = qualities(p, [1.0, 0.0, 0.0, 0.0])
    assert [quality[f"{who}_accuracy"] for who in WHOS] == [0.75, 0.25, 0.25]
    balanced = [(1 + 2 / 3) / 2, (0 + 1 / 3) / 2, (1 + 0) / 2]
    assert [quality[f"{who}_balanced_accuracy"] for who in WHOS] == pytest.approx(balanced)
    for nu in (0.0, 1.0):  # one of the two classes alone
        quality, expected = qualities(p[:1], [nu]), math.log(0.9 if nu else 0.1)
        assert math.isnan(quality["model_balanced_accuracy"]) and quality["model_accuracy"] == nu
        assert quality["model_log_loss"] == pytest.approx(-expected)


def test_interventions_are_foretold_from_the_second_round_on():
    folder = tiny.run_mile(mile, "a", "--rounds", 5, "--eval-frequency", 2)
    (first, *rows), names = tiny.rows(folder), [f"{who}_{what}" for who in WHOS for what in WHATS]
    assert all(math.isnan(float(first[name])) for name in names)
    assert all(math.isfinite(float(row[name])) for row in rows for name in names)
    nu = tiny.checkpoint(folder)["data"]["nu"].numpy()  # five rounds of 100 steps
    # the share of interventions until then
    shares = np.repeat([nu[: 100 * i].mean() for i in range(1, 5)], 100)
    likelihoods, hits = np.where(nu[100:] > 0, shares, 1 - shares), (shares > 0.5) == (nu[100:] > 0)
    # rounds 2, 3 and 4, 5
    for row, new in zip(rows, (slice(100), slice(100, 300), slice(300, 400)), strict=True):
        loss = -np.log(likelihoods[new]).mean()
        assert float(row["majority_log_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(row["majority_accuracy"]) == pytest.approx(hits[new].mean())


def test_interventions_are_foretold_by_the_networks_of_the_round_before():
    short, whole = (tiny.run_mile(mile, f"of_{n}", "--rounds", n) for n in (1, 2))
    data = tiny.checkpoint(whole)["data"]
    obs, nu = (data[name][100:] for name in ("obs", "nu"))  # of the second round
    robot, mental_model = actor(2, 1, 32), actor(2, 1, 16)
    robot.min_log_std, estimator = math.log(0.1), mile.Estimator(robot, (16,))
    networks = {"actor": robot, "mental_model": mental_model, "estimator": estimator}
    for name, network in networks.items():
        network.load_state_dict(part(short, name))
    with torch.no_grad():
        by_model = mile.intervention_log_probs(robot(obs), mental_model(obs), 3.0, 3.0)
        p = torch.stack([by_model[0].exp(), estimator(obs).sigmoid(), 0.5 + 0 * nu], 1)
    quality, (*_, row) = qualities(p, nu), tiny.rows(whole)
    for name in (f"{who}_{what}" for who in ("model", "network") for what in WHATS):
        assert float(row[name]) == pytest.approx(quality[name], rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_majority_that_was_everybody_is_not_certain_of_the_next_one(share):
    robot, nu, earlier = actor(2, 1, 4), torch.tensor([0.0, 1.0]), torch.full((9,), share)
    estimator, obs = mile.Estimator(robot, (4,)), torch.zeros(2, 2)
    seen = mile.predict(mile.Args(), robot, None, estimator, obs, nu, earlier)
    guess = -F.softplus(torch.stack([estimator(obs), -estimator(obs)], -1))
    torch.testing.assert_close(seen["network"], guess)
    torch.testing.assert_close(seen["model"], guess)  # without a mental model
    p = [0.001, 0.999] if share else [0.999, 0.001]  # of nu = 0 and of nu = 1
    np.testing.assert_allclose(seen["majority"].exp(), [p, p], rtol=1e-3)


# --- whole runs of all that use this person -------------------------------------------------------
ALL = {  # name: script and options
    "mile": (mile, ()),
    "no_mental_model": (mile, ("--no-mental-model",)),
    "iwr": (iwr, ()),
    "interventions_only": (iwr, ("--interventions-only",)),
    "sirius": (sirius, ()),
}


def run(which, name, *options):
    """One of ALL in this process, as runs/*__<name>__*; returns that folder."""
    script, own = ALL[which]
    return tiny.run_mile(script, name, *own, *options)


def seed_of(*key):
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@pytest.mark.parametrize("options", ["--rounds 3", "--eval-frequency 2", "--round-episodes 3"])
@pytest.mark.parametrize("which", ALL)
def test_every_evaluation_has_a_row_and_the_counts_add_up(which, options):
    folder = run(which, "a", "--takeover-steps", 2, *options.split())
    rows, data = tiny.rows(folder), tiny.checkpoint(folder)["data"]
    steps = 150 if "episodes" in options else 100  # of a round
    rounds = [int(row["round"]) for row in rows]
    assert rounds == ([0, 2, 3] if "frequency" in options else [0, 1, 2, 3])
    assert [int(row["global_step"]) for row in rows] == [steps * i for i in rounds]
    by_expert = np.diff([int(row["expert_steps"]) for row in rows])
    takeovers = np.diff([int(row["takeovers"]) for row in rows])
    rates = [float(row["intervention_rate"]) for row in rows]
    assert rates == pytest.approx([0, *(by_expert / np.diff(rounds) / steps)])
    assert all(takeovers > 0) and all(takeovers <= by_expert) and all(by_expert <= 2 * takeovers)
    obs, actions = data["obs"], data["actions"]
    if which == "interventions_only":
        assert len(obs) == len(actions) == by_expert.sum() and data["nu"].all()
        return
    env = mile.make_env("Walled-v0")
    starts = [env.reset(seed=seed_of(1, 0, i))[0] for i in range(3 * steps // 50)]
    assert np.array_equal(obs[::50], starts)  # each episode begins where its seed says
    taken = data["labels"] == sirius.INTERVENTION if which == "sirius" else data["nu"] > 0
    assert len(obs) == 3 * steps and taken.sum() == by_expert.sum()
    # what the robot does at first
    assert actions[:steps][~taken[:steps]].numpy() == pytest.approx(math.tanh(0.6))


@pytest.mark.parametrize("which", ALL)
def test_a_round_is_so_many_gradient_steps_and_the_standard_deviation_has_a_lower_limit(which):
    folder = run(which, "a", "--rounds", 2, "--round-updates", 7, "--min-std", 0.5)
    states = tiny.checkpoint(folder)["optimizer"]["state"].values()
    assert {state["step"].item() for state in states} == {14}
    log_std = load_expert("Walled-v0", str(folder / "model.safetensors"))(np.ones((1, 2)))[1]
    assert log_std.exp().numpy() == pytest.approx(0.5)  # it was 0.3 in the initial policy's file


@pytest.mark.parametrize("which", ALL)
def test_learns_what_the_expert_can(which):
    folder = run(which, "a", "--rounds", 4, "--round-updates", 150, "--eval-frequency", 4)
    before, after = (float(row["return_mean"]) for row in tiny.rows(folder))
    assert before < 10 and after > 35  # of 50


@pytest.mark.parametrize("which", ALL)
def test_the_lower_limit_in_the_initial_policys_file_counts_if_it_is_higher(which):
    state = load_expert("Walled-v0", "../initial.safetensors").state
    save_expert("noisy.safetensors", SimpleNamespace(state_dict=lambda: state, min_log_std=0.5))
    folder = run(which, "a", "--rounds", 1, "--initial-policy", "noisy.safetensors")
    facts = load_expert("Walled-v0", str(folder / "model.safetensors")).facts
    assert facts["min_log_std"] == 0.5 and facts["hidden_sizes"] == [32]
