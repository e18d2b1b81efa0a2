"""mile.py: when a person takes over, what is learned from it, how well it is foretold; and the person and the rounds
that iwr.py and sirius.py share with it."""

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import chi2

import hg_dagger
import iwr
import mile
import sirius
from experts import InputError, load_checkpoint, load_expert, save_expert, seed_for
from tests import tiny

pytestmark = pytest.mark.usefixtures("people")
SCRIPTS = mile, iwr, sirius
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)


# --- when a person takes over (Eq. 1 and 2) -------------------------------------------------------


def random_model(act_dim):
    """Means and log stds (1, A) at a single state."""
    return torch.randn(1, act_dim, dtype=torch.float64), 0.4 * torch.randn(
        1, act_dim, dtype=torch.float64
    )


@pytest.mark.parametrize("act_dim", [1, 4])
@pytest.mark.parametrize(("cost", "scale"), [(3.0, 3.0), (-1.5, 1.0)])
def test_probability_of_a_takeover_is_that_of_a_million_samples(act_dim, cost, scale):
    models = random_model(act_dim), random_model(act_dim)
    pi, robot = (torch.distributions.Normal(mean[0], log_std[0].exp()) for mean, log_std in models)
    own, expected = (pi.log_prob(who.sample((1_000_000,))).sum(-1) for who in (pi, robot))
    sampled = torch.special.ndtr((own - expected.mean() - cost) / scale).mean().item()
    log_p, log_not_p = mile.intervention_log_probs(False, *models, cost, scale)
    assert log_p.exp().item() == pytest.approx(sampled, abs=3e-3)
    assert log_not_p.exp().item() == pytest.approx(1 - sampled, abs=3e-3)


@pytest.mark.parametrize(
    ("act_dim", "scale"),
    [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (4, 10.0), (8, 1.0), (24, 1.0), (24, 10.0)],
)
def test_probability_of_a_takeover_is_the_integral_of_eq_2(act_dim, scale):
    # -ln pi(a), but for its constants, is half a chi^2: the mean over it, by the midpoints of 100,000 slices
    half_chi2 = chi2.ppf((np.arange(100_000) + 0.5) / 100_000, act_dim) / 2
    cost, zeros = 6 * scale, torch.zeros(50, act_dim, dtype=torch.float64)
    expected = torch.linspace(
        0, 12 * scale + act_dim / 2 + 8 * (act_dim / 2) ** 0.5, 50, dtype=torch.float64
    )
    # a robot so far away surprises by `expected`
    away = (2 * expected / act_dim).sqrt()[:, None].expand(-1, act_dim)
    log_p, log_not_p = mile.intervention_log_probs(
        False, (zeros, zeros), (away, zeros - 20), cost, scale
    )
    exact = [ndtr((surprise - half_chi2 - cost) / scale).mean() for surprise in expected.tolist()]
    assert exact[0] < 1e-3 and exact[-1] > 1 - 1e-3
    np.testing.assert_allclose(log_p.exp(), exact, rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_not_p.exp(), 1 - np.array(exact), rtol=0, atol=1e-5)


def test_with_four_actions_and_the_default_scale_a_large_gap_is_certain_and_its_opposite_finite():
    zeros = torch.zeros(1, 4)
    log_p, log_not_p = mile.intervention_log_probs(
        False, (zeros, zeros - 3), (zeros + 1, zeros), 11.0, 10.0
    )
    assert log_p.item() == pytest.approx(0, abs=1e-6) and -math.inf < log_not_p.item() < -1_000


def test_probability_with_three_actions_by_hand():
    pi, robot, cost, scale = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6], 0.4, 1.5
    expected = sum(q * math.log(p) for p, q in zip(pi, robot))
    p = sum(
        p * 0.5 * (1 + math.erf((math.log(p) - expected - cost) / scale / math.sqrt(2))) for p in pi
    )
    # a constant changes nothing
    logits = [torch.tensor([values]).log() + 5 for values in (pi, robot)]
    log_p, log_not_p = mile.intervention_log_probs(True, *logits, cost, scale)
    assert 0.1 < p < 0.9 and log_p.exp().item() == pytest.approx(p, abs=1e-6)
    assert log_not_p.exp().item() == pytest.approx(1 - p, abs=1e-6)


def person(script=mile, takeover_steps=1, cost=3.0):
    """MILE's person, who judges the robot of the tiny runs."""
    policies = [load_expert("Walled-v0", f"../{name}.safetensors") for name in ("expert", "mental")]
    options = {"intervention_cost": cost, "intervention_scale": 3.0}
    return script.ProbitHuman(script.Args(**options, takeover_steps=takeover_steps), *policies)


@every_script
@pytest.mark.parametrize("x", [-0.2, -0.05, 0.1])
def test_takeovers_are_as_frequent_as_their_probability(x, script):
    human, obs, rng = person(script), np.array([x, 0], dtype=np.float32), np.random.default_rng(0)
    started = [human.takes_over(obs, rng) for _ in range(2_000)]
    models = human.expert(obs[None]), human.human_model(obs[None])
    p = mile.intervention_log_probs(False, *models, 3.0, 3.0)[0].exp().item()
    assert 0.1 < p < 0.9 and np.mean(started) == pytest.approx(p, abs=0.04)


@every_script
@pytest.mark.parametrize("discrete", [False, True])
def test_drawing_an_action_and_a_noise_gives_the_probability_of_eq_2(discrete, script):
    class Fixed:
        def __init__(self, seed):
            torch.manual_seed(seed)
            gaussian = tuple(x.float() for x in random_model(3))
            self.discrete, self.output = discrete, torch.randn(1, 3) if discrete else gaussian

        def __call__(self, obs):
            return self.output

    expert, robot, obs, rng = Fixed(1), Fixed(2), np.zeros(2, np.float32), np.random.default_rng(0)
    options = script.Args(intervention_cost=1.0, intervention_scale=0.8)
    human = script.ProbitHuman(options, expert, robot)
    share = np.mean([human.takes_over(obs, rng) for _ in range(6_000)])
    models = expert(obs), robot(obs)
    p = mile.intervention_log_probs(discrete, *models, 1.0, 0.8)[0].exp().item()
    assert 0.1 < p < 0.9 and share == pytest.approx(p, abs=0.019)  # three standard deviations


# --- episodes -------------------------------------------------------------------------------------


class Scripted:
    """Takes over at these observations, for so many steps; asked: where there was a choice."""

    def __init__(self, *starts, takeover_steps=1, expert=None):
        self.starts, self.takeover_steps, self.asked = starts, takeover_steps, []
        half = SimpleNamespace(act=lambda *_: torch.full((1, 1), 0.5))
        self.expert, self.began = expert or half, True

    def takes_over(self, obs, rng):
        self.asked.append(obs[0])
        return obs[0] in self.starts


def still():
    """A robot for Falls and TimesOut that does -0.25."""
    actor = mile.Actor(1, 1, (4,))
    actor.mean.weight.data.zero_()
    actor.mean.bias.data.fill_(math.atanh(-0.25))
    return actor


@every_script
def test_a_takeover_lasts_its_steps_and_an_episodes_end_ends_it(script):
    env = script.make_env("TimesOut-v0", 9)  # observes 100 * episode + step
    human = Scripted(1, 4, 8, 101, takeover_steps=3)
    first, second = (script.rollout(env, still(), human, seed) for seed in range(2))
    # while the expert is in control nobody is asked, and right after it somebody is
    assert human.asked == [0, 1, 4, 7, 8, 100, 101, *range(104, 109)]
    assert first["nu"].tolist() == [0, 1, 1, 1, 1, 1, 1, 0, 1] and first["takeovers"] == 3
    assert second["nu"].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0] and second["takeovers"] == 1


@every_script
def test_the_expert_acts_with_what_it_draws(script):
    path = tiny.write_expert("noisy.safetensors", [[0.0]], bias=0.4, noise=0.3)
    human = Scripted(*range(1_000), expert=load_expert("TimesOut-v0", path))
    episode = script.rollout(script.make_env("TimesOut-v0", 1_000), still(), human, 0)
    drawn = episode["actions"].atanh()
    assert episode["nu"].all() and drawn.mean().item() == pytest.approx(0.4, abs=0.04)
    assert drawn.std().item() == pytest.approx(0.3, rel=0.1)


@pytest.fixture
def robot():
    """The initial policy of the tiny runs, as an actor."""
    initial = load_expert("Walled-v0", "../initial.safetensors")
    actor = mile.Actor(2, 1, (32,))
    actor.load_state_dict(initial.state)
    return actor


def test_an_episode_records_who_acts():
    human = Scripted(1, takeover_steps=2)
    episode = mile.rollout(mile.make_env("Falls-v0"), still(), human, 0)
    assert episode["obs"].flatten().tolist() == [0, 1, 2, 3]
    assert episode["nu"].tolist() == [0, 1, 1, 0]
    assert episode["actions"].flatten().tolist() == pytest.approx([-0.25, 0.5, 0.5, -0.25])
    assert episode["takeovers"] == 1 and episode["return"] == sum([10, 20, 30, 40])


def test_alone_the_robot_does_its_likeliest_actions(robot):
    episode = mile.rollout(mile.make_env("Walled-v0"), robot, None, 0)
    assert len(episode["obs"]) == 50 and not episode["nu"].any() and episode["takeovers"] == 0
    assert episode["actions"].numpy() == pytest.approx(math.tanh(0.6))


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_an_episodes_success_is_that_of_its_last_step_where_that_is_known(robot, monkeypatch, name):
    env, step = mile.make_env("Walled-v0"), tiny.Walled.step
    monkeypatch.setattr(
        tiny.Walled, "step", lambda env, action: (*step(env, action)[:4], {name: env.steps == 50})
    )
    assert mile.rollout(env, robot, None, 0)["success"] == 1
    assert mile.rollout(env, robot, None, 0)["success"] == 0  # it has counted on


def test_an_episode_depends_on_its_seed_alone_and_leaves_no_trace(robot):
    env, human, episodes = mile.make_env("Walled-v0"), person(takeover_steps=3), []
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
    options = (
        "--rounds",
        1,
        "--learning-rate",
        1e-9,
        "--warm-up-episodes",
        3,
        "--warm-up-updates",
        200,
    )
    checkpoint = load_checkpoint(tiny.run_mile(mile, "a", *options) / "checkpoint.pt")
    mental_model = mile.Actor(2, 1, (16,))
    mental_model.load_state_dict(checkpoint["kept"]["mental_model"])
    obs = mile.rollout(mile.make_env("Walled-v0"), robot, None, seed=99)["obs"]
    assert np.abs(mental_model.act(obs, True) - robot.act(obs, True)).mean() < 0.05


# --- what is learned (Eq. 3 to 5) -----------------------------------------------------------------


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
    args = mile.Args(intervention_cost=1.0, intervention_weight=0.3, intervention_scale=2.0)
    mile.losses(args, *actors, *batch)[2].backward()
    for parameter in (p for actor in actors for p in actor.parameters()):
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


@pytest.mark.parametrize("discrete", [False, True])
def test_cloning_leaves_the_mental_model_alone_and_the_likelihood_of_takeovers_does_not(discrete):
    actors, batch = small(discrete)
    j1, j2, _ = mile.losses(mile.Args(), *actors, *batch)
    expected_of = list(actors[1].parameters())
    assert all(
        g is None
        for g in torch.autograd.grad(j2, expected_of, allow_unused=True, retain_graph=True)
    )
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(j1, expected_of, retain_graph=True))
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(j1, list(actors[0].parameters())))


@pytest.mark.parametrize("discrete", [False, True])
def test_losses_by_hand(discrete):
    (actor, mental_model), (obs, actions, nu) = small(discrete)
    policy = actor(obs)
    log_pi = actor.log_prob(policy, actions)
    log_p, log_not_p = mile.intervention_log_probs(discrete, policy, mental_model(obs), 1.0, 10.0)
    taken = nu > 0
    args = mile.Args(intervention_cost=1.0, intervention_weight=0.3)
    j1, j2, j = mile.losses(args, actor, mental_model, obs, actions, nu)
    torch.testing.assert_close(j1, -(log_p[taken].sum() + log_not_p[~taken].sum()) / 10)
    torch.testing.assert_close(j2, -log_pi[taken].mean())
    torch.testing.assert_close(
        j, j1 - log_pi[taken].sum() / 10 if discrete else 0.3 * j1 + 0.7 * j2
    )


def test_without_interventions_nothing_is_cloned():
    actors, (obs, actions, _) = small()
    j1, j2, j = mile.losses(mile.Args(), *actors, obs, actions, torch.zeros(10))
    assert j2 == 0 and j == 0.5 * j1 > 0


def gradients(loss, actor):
    return torch.autograd.grad(loss, list(actor.parameters()))


@pytest.mark.parametrize("mental_model", [True, False])
def test_without_weight_or_mental_model_it_is_hg_dagger(mental_model):
    (actor, model), (obs, actions, nu) = small()
    novice = hg_dagger.Actor(2, 3, (4,)).double()
    novice.load_state_dict(actor.state_dict())
    args = mile.Args(intervention_weight=0.0 if mental_model else 0.5)
    j1, j2, j = mile.losses(args, actor, model if mental_model else None, obs, actions, nu)
    nll = hg_dagger.nll(novice, obs[nu > 0], actions[nu > 0])
    assert j == j2 and j.item() == pytest.approx(nll.item()) and (j1 > 0) == mental_model
    for ours, theirs in zip(gradients(j, actor), gradients(nll, novice)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_round_trains_the_policy_the_network_that_guesses_and_the_mental_model():
    states = []
    for name, rate in (("as_before", 1e-12), ("learned", 1e-2)):
        run_dir = tiny.run_mile(mile, name, "--rounds", 1, "--learning-rate", rate)
        kept = load_checkpoint(run_dir / "checkpoint.pt")["kept"]
        states.append([kept[network] for network in ("actor", "estimator", "mental_model")])
    for before, after in zip(*states):
        weights = [name for name in before if name.endswith("weight")]
        assert weights and all((before[name] - after[name]).abs().max() > 1e-3 for name in weights)


# --- foretelling ----------------------------------------------------------------------------------


WHATS = "accuracy", "balanced_accuracy", "log_loss"
WHOS = "model", "network", "majority"


def qualities(p, nu):
    """Of what model, network and majority think of these interventions: probabilities p, one column each."""
    p, nu = torch.tensor(p), torch.tensor(nu)
    columns = [nu] + [column for one in p.T for column in (one.log(), (1 - one).log())]
    return mile.prediction_quality(torch.stack(columns, 1))


def test_prediction_quality_by_hand():
    p = [[0.9, 0.4, 0.7], [0.6, 0.3, 0.7], [0.4, 0.8, 0.7], [0.2, 0.9, 0.7]]
    quality = qualities(p, [1.0, 0.0, 1.0, 0.0])
    assert list(quality) == [f"{who}_{what}" for who in WHOS for what in WHATS]
    assert [quality[f"{who}_accuracy"] for who in WHOS] == [0.5, 0.5, 0.5]
    assert [quality[f"{who}_balanced_accuracy"] for who in WHOS] == [0.5, 0.5, 0.5]
    losses = [
        -np.log(x).mean()
        for x in ([0.9, 0.4, 0.4, 0.8], [0.4, 0.7, 0.8, 0.1], [0.7, 0.3, 0.7, 0.3])
    ]
    assert [quality[f"{who}_log_loss"] for who in WHOS] == pytest.approx(losses)
    quality = qualities(p, [1.0, 0.0, 0.0, 0.0])
    assert [quality[f"{who}_accuracy"] for who in WHOS] == [0.75, 0.25, 0.25]
    balanced = [(1 + 2 / 3) / 2, (0 + 1 / 3) / 2, (1 + 0) / 2]
    assert [quality[f"{who}_balanced_accuracy"] for who in WHOS] == pytest.approx(balanced)


@pytest.mark.parametrize("nu", [0.0, 1.0])
def test_prediction_quality_with_a_class_missing(nu):
    quality = qualities([[0.9] * 3, [0.2] * 3], [nu, nu])
    for who in WHOS:
        assert quality[f"{who}_accuracy"] == 0.5 and math.isnan(quality[f"{who}_balanced_accuracy"])
        expected = -np.log([0.9, 0.2] if nu else [0.1, 0.8]).mean()
        assert quality[f"{who}_log_loss"] == pytest.approx(expected)


def test_prediction_quality_of_nothing_is_unknown():
    quality = mile.prediction_quality(torch.empty(0, 7))
    assert len(quality) == 9 and all(math.isnan(value) for value in quality.values())


@pytest.mark.parametrize("eval_frequency", [1, 3])
def test_interventions_are_foretold_from_the_second_round_on(eval_frequency):
    run_dir = tiny.run_mile(mile, "a", "--eval-frequency", eval_frequency)
    names = [f"{who}_{what}" for who in WHOS for what in WHATS]
    rows = tiny.rows(run_dir)
    if eval_frequency == 1:
        assert not any(rows[0][name] for name in names)
        rows = rows[1:]
    assert all(np.isfinite(float(row[name])) for row in rows for name in names)
    data = load_checkpoint(run_dir / "checkpoint.pt")["progress"][4]
    nu = data["nu"].numpy()  # three rounds of 100 steps
    shares = [nu[:100].mean()] * 100 + [nu[:200].mean()] * 100  # of interventions until then
    likelihoods = np.where(nu[100:] > 0, shares, 1 - np.array(shares))
    hits = (np.array(shares) > 0.5) == (nu[100:] > 0)
    rounds = [slice(0, 100), slice(100, 200)] if eval_frequency == 1 else [slice(0, 200)]
    for row, new in zip(rows, rounds, strict=True):
        loss = -np.log(likelihoods[new]).mean()
        assert float(row["majority_log_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(row["majority_accuracy"]) == pytest.approx(hits[new].mean())
        if eval_frequency == 1:
            assert float(row["majority_balanced_accuracy"]) == 0.5


def test_interventions_are_foretold_by_the_networks_of_the_round_before():
    short, whole = (
        tiny.run_mile(mile, f"rounds_{rounds}", "--rounds", rounds) for rounds in (1, 2)
    )
    data = load_checkpoint(whole / "checkpoint.pt")["progress"][4]
    obs, nu = (data[name][100:] for name in ("obs", "nu"))  # of the second round
    actor, mental_model = mile.Actor(2, 1, (32,)), mile.Actor(2, 1, (16,))
    actor.min_log_std = math.log(0.1)
    networks = {
        "actor": actor,
        "mental_model": mental_model,
        "estimator": mile.Estimator(actor, (16,)),
    }
    for name, network in networks.items():
        network.load_state_dict(load_checkpoint(short / "checkpoint.pt")["kept"][name])
    with torch.no_grad():
        by_model = mile.intervention_log_probs(False, actor(obs), mental_model(obs), 3.0, 3.0)
        p = [by_model[0].exp(), networks["estimator"](obs).sigmoid()]
    quality = qualities(torch.stack([*p, torch.full_like(nu, 0.5)], 1).tolist(), nu.tolist())
    for who in ("model", "network"):
        for what in WHATS:
            found = float(tiny.rows(whole)[1][f"{who}_{what}"])
            assert found == pytest.approx(quality[f"{who}_{what}"], rel=1e-4)


def test_without_a_mental_model_the_network_foretells():
    row = tiny.rows(run("no_mental_model", "a", "--rounds", 2))[-1]
    for what in WHATS:
        assert row[f"model_{what}"] == row[f"network_{what}"] != ""


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_majority_that_was_everybody_is_not_certain_of_the_next_one(share):
    networks = mile.Actor(2, 1, (4,)), None, mile.Estimator(mile.Actor(2, 1, (4,)), (4,))
    nu = torch.tensor([0.0, 1.0])
    predictions = mile.predict(
        mile.Args(), *networks, torch.zeros(2, 2), nu, torch.full((9,), share)
    )
    assert torch.equal(predictions[:, 0], nu)
    p = [0.999, 0.001] if share else [0.001, 0.999]
    np.testing.assert_allclose(predictions[:, 5:].exp(), [p, p], rtol=1e-3)


# --- whole runs of all that use this person -------------------------------------------------------

ALL = {
    "mile": mile,
    "no_mental_model": mile,
    "iwr": iwr,
    "interventions_only": iwr,
    "sirius": sirius,
}
LEARNING = "--rounds", 4, "--round-updates", 150, "--batch-size", 256


def run(which, name, *options):
    """One of ALL in this process, as runs/*__<name>__*; returns that folder."""
    if which == "interventions_only":
        options = "--interventions-only", *options
    if which != "no_mental_model":
        return tiny.run_mile(ALL[which], name, *options)
    own = "--no-mental-model", "--hidden-sizes", 16, "--round-updates", 20
    mile.main(tiny.parsed(mile, *tiny.MILE_ROUNDS, *own, *options, "--exp-name", name))
    return next(Path("runs").glob(f"*__{name}__*"))


@pytest.mark.parametrize("options", [(), ("--rounds", 1, "--round-episodes", 3)])
@pytest.mark.parametrize("which", ALL)
def test_every_round_has_a_row_and_the_counts_add_up(which, options):
    script = ALL[which]
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
    assert all(takeovers > 0) and all(takeovers <= by_expert) and all(by_expert <= 2 * takeovers)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["env_steps"], summary["rounds"]) == (steps * rounds, rounds)
    assert (summary["expert_steps"], summary["takeovers"]) == (by_expert.sum(), takeovers.sum())
    data = load_checkpoint(run_dir / "checkpoint.pt")["progress"][4]
    obs, actions = data["obs"], data["actions"]
    if which == "interventions_only":
        assert len(obs) == len(actions) == by_expert.sum() and data["nu"].all()
        return
    starts = [
        script.make_env("Walled-v0").reset(seed=seed_for(1, 0, i))[0]
        for i in range(steps * rounds // 50)
    ]
    assert np.array_equal(obs[::50], starts)  # each episode begins where its seed says
    taken = data["labels"] == sirius.INTERVENTION if script is sirius else data["nu"] > 0
    assert len(obs) == steps * rounds and taken.sum() == by_expert.sum()
    # what the robot does at first
    assert actions[:steps][~taken[:steps]].numpy() == pytest.approx(math.tanh(0.6))


@pytest.mark.parametrize("which", ALL)
def test_rates_are_those_since_the_last_evaluation(which):
    rows = tiny.rows(run(which, "a", "--eval-frequency", 2))
    assert [(row["round"], row["global_step"]) for row in rows] == [("2", "200"), ("3", "300")]
    first, all_ = (int(row["expert_steps"]) for row in rows)
    rates = [float(row["intervention_rate"]) for row in rows]
    assert rates == pytest.approx([first / 200, (all_ - first) / 100]) and rates[0] != rates[1]


@pytest.mark.parametrize("which", ALL)
def test_a_round_is_so_many_gradient_steps_and_the_standard_deviation_has_a_lower_limit(which):
    run_dir = run(which, "a", "--rounds", 2, "--round-updates", 7, "--min-std", 0.5)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    optimizers = [state for name, state in checkpoint["kept"].items() if "optimizer" in name]
    steps = [state["step"].item() for one in optimizers for state in one["state"].values()]
    assert set(steps) == {14} and len(optimizers) == (2 if ALL[which] is mile else 1)
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    log_std = load_expert("Walled-v0", str(run_dir / "model.safetensors"))(obs)[1]
    assert log_std.exp().numpy() == pytest.approx(0.5)  # it was 0.3 in the initial policy's file


@pytest.mark.parametrize("which", ALL)
def test_learns_what_the_expert_can(which, robot):
    run_dir = run(which, "a", *LEARNING, "--eval-frequency", 4)
    alone = [
        mile.rollout(mile.make_env("Walled-v0"), robot, None, seed)["return"] for seed in range(3)
    ]
    assert max(alone) < 10 and float(tiny.rows(run_dir)[-1]["return_mean"]) > 35  # of 50


@pytest.mark.parametrize("which", ALL)
def test_the_model_of_a_run_has_the_sizes_of_the_initial_policy(which):
    run_dir = run(which, "a", "--rounds", 1)
    model = load_expert("Walled-v0", str(run_dir / "model.safetensors"), mile.make_env("Walled-v0"))
    assert model.facts["hidden_sizes"] == [32]
    assert model.facts["min_log_std"] == pytest.approx(math.log(0.1))  # by default
    trained = ALL[which].Actor(2, 1, (32,))
    trained.load_state_dict(model.state)
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.testing.assert_allclose(model.act(obs, True), trained.act(obs, True), atol=1e-6)
    noisy = "noisy.safetensors"
    save_expert(
        noisy,
        {f"actor.{name}": x for name, x in model.state.items()},
        **model.facts | {"min_log_std": 0.5},
    )
    again = run(which, "b", "--rounds", 1, "--initial-policy", noisy)
    again = load_expert("Walled-v0", str(again / "model.safetensors"))
    assert (
        again.facts["min_log_std"] == 0.5
        and (again(obs)[1] >= 0.5).all()
        and (model(obs)[1] < 0.5).any()
    )


class Killed(BaseException):
    pass


def interrupt_at(patch, script, number, what):
    """Let what() happen in this process's so-manieth watched episode."""
    rollout, watched = script.rollout, []

    def interrupted(env, actor, human, seed):
        if human:
            watched.append(seed)
            if len(watched) == number:
                what()
        return rollout(env, actor, human, seed)

    patch.setattr(script, "rollout", interrupted)


def die():
    raise Killed


@pytest.mark.parametrize("which", ALL)
def test_stopped_and_killed_and_resumed_is_the_uninterrupted_run_to_the_bit(
    which, tmp_path, monkeypatch
):
    script, own = ALL[which], ("--eval-frequency", 3)  # rounds of two episodes: the last one alone
    folders = []
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "whole":
            folders.append(run(which, "a", *own).absolute())
            continue
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
            interrupt_at(patch, script, 3, lambda: signal.raise_signal(signal.SIGTERM))
            run(which, "a", *own)
        assert caught.value.args == (signal.SIGTERM,)
        (folder,) = Path("runs").iterdir()
        folders.append(folder.absolute())
        resumed = tiny.parsed(script, "--resume", folder)
        # the round is finished
        assert load_checkpoint(folder / "checkpoint.pt")["progress"][1] == 2
        with monkeypatch.context() as patch, pytest.raises(Killed):  # in the third round
            interrupt_at(patch, script, 2, die)
            script.main(resumed)
        assert not (folder / "eval.csv").exists()
        write_rows = script.write_rows
        with monkeypatch.context() as patch, pytest.raises(Killed):  # when it has been evaluated
            patch.setattr(script, "write_rows", lambda *what: [write_rows(*what), die()])
            script.main(resumed)
        assert len(tiny.rows(folder)) == 1
        script.main(resumed)
    tiny.assert_same_run(*folders)
    assert len(tiny.rows(folders[0])) == 1


@every_script
def test_another_seed_is_another_run(script):
    runs = [tiny.run_mile(script, f"seed_{seed}", "--seed", seed, "--rounds", 1) for seed in (1, 2)]
    biases = [
        load_expert("Walled-v0", str(run_dir / "model.safetensors")).state["mean.bias"]
        for run_dir in runs
    ]
    assert not torch.equal(*biases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--intervention-scale", -1), "--intervention-scale must be positive, not -1"),
        (("--intervention-scale", "inf"), "--intervention-scale must be positive, not inf"),
        (("--intervention-cost", "nan"), "--intervention-cost must be finite, not nan"),
        (("--rounds", 0), "--rounds must be positive, not 0"),
        (("--takeover-steps", 0), "--takeover-steps must be positive"),
        (("--learning-rate", 0), "--learning-rate must be positive"),
        (("--expert", "nobody"), "no expert 'nobody' for Walled-v0"),
        (("--initial-policy", "nobody"), "no expert 'nobody'"),
        (("--human-model", "nobody.safetensors"), "cannot read nobody.safetensors"),
        (("--env-id", "Falls-v0"), "is for 2 observations and 1 actions, Falls-v0 has 1 and 1"),
        (("--env-id", "NoSuchEnv-v0"), "--env-id NoSuchEnv-v0"),
    ],
)
@every_script
def test_bad_input_is_one_line_before_any_work(script, options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny.run_mile(script, "bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--intervention-scale", 0.9),
            "--intervention-scale 0.9: with continuous actions it must be 1 or more",
        ),
        (("--intervention-weight", 1.5), r"--intervention-weight must be in \[0, 1\], not 1.5"),
        (("--min-std", 0), "--min-std must be positive"),
        (("--warm-up-episodes", 0), "--warm-up-episodes must be positive"),
        (("--warm-up-updates", -1), "--warm-up-updates must be zero or more"),
        (("--warm-up-updates", 0), "--warm-up-episodes would do nothing here: with --warm-up-upda"),
        (("--no-mental-model",), "--warm-up-episodes would do nothing here: there is no mental"),
        (("--hidden-sizes", 0), "--hidden-sizes must be positive, not 0"),
    ],
)
def test_bad_input_of_miles_own_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny.run_mile(mile, "bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
