"""hg_dagger.py: who acts, what is stored, doubt, and that it learns."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bc
import hg_dagger
import rlif_rlpd
from experts import load_demonstrations, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("centring_expert")


def run(name, *options):
    """Without demonstrations, so the threshold has to be given; a single novice."""
    return tiny.run_rounds(hg_dagger, name, "--doubt-novices", 0, "--threshold", 1, *options)


def falls(monkeypatch, answers, episodes, *options, grace_steps=0):
    """Of 4 steps, which observe 100 * episode + step; answers: {obs: (started, for how long)}."""
    checks = []

    def check(self, obs, proposal):
        checks.append(int(obs[0]))
        return checks[-1] % 2 == 0, *answers.get(checks[-1], (False, 0))  # even ones are flagged

    monkeypatch.setattr(hg_dagger.ThresholdHuman, "check", check)
    monkeypatch.setattr(hg_dagger.ThresholdHuman, "grace_steps", grace_steps)
    expert = tiny.write_expert("count.safetensors", [[0.0]], bias=math.atanh(0.5))
    own = "--env-id", "Falls-v0", "--expert", expert, "--total-timesteps", 4 * episodes
    return run("a", *own, *options), checks


@pytest.fixture
def fits(monkeypatch):
    """Each call of fit: novice and generator, as they were before; data, updates; the loss."""
    calls, fit = [], hg_dagger.fit

    def watched_fit(actor, optimizer, data, updates, batch_size):
        calls.append([copy.deepcopy(actor), torch.get_rng_state(), len(data["obs"]), updates])
        calls[-1].append(fit(actor, optimizer, data, updates, batch_size))
        return calls[-1][-1]

    monkeypatch.setattr(hg_dagger, "fit", watched_fit)
    return calls


@pytest.fixture
def demos():
    """Options of a run with two demonstrations of ten steps."""
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    return "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--pretrain-updates", 5


def data_of(folder):
    """Observations and actions that a run has learned from by its end: (n, O), (n, A)."""
    return tuple(tiny.checkpoint(folder)["data"].values())


@pytest.mark.parametrize("grace", [0, 1])
def test_the_data_are_the_steps_under_expert_control(monkeypatch, grace):
    folder, checks = falls(monkeypatch, {1: (True, 2), 101: (True, 2)}, 2, grace_steps=grace)
    obs, actions = data_of(folder)
    assert obs.tolist() == [[1.0], [2.0], [101.0], [102.0]]
    assert actions.flatten().tolist() == pytest.approx([0.5] * 4, abs=1e-4)
    assert checks == ([0, 1, 100, 101] if grace else [0, 1, 3, 100, 101, 103])
    row = tiny.rows(folder)[-1]
    assert (row["expert_steps"], row["takeovers"], row["labels"]) == ("4", "2", "4")
    assert (row["checks"], row["flags"]) == (str(len(checks)), "2")  # 0 and 100
    assert float(row["intervention_rate"]) == 0.5
    assert float(row["flagged_rate"]) == pytest.approx(2 / len(checks))


def test_a_takeover_and_its_grace_end_with_the_episode(monkeypatch):
    folder, checks = falls(monkeypatch, {2: (True, 5), 101: (True, 5)}, 4, grace_steps=5)
    assert checks == [0, 1, 2, 100, 101, *range(200, 204), *range(300, 304)]
    assert data_of(folder)[0].flatten().tolist() == [2, 3, 101, 102, 103]


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_whoever_judges_by_distance_flags_what_is_far(beta):
    args = hg_dagger.Args(threshold=0.5, intervention_beta=beta, takeover_steps=3)
    expert, rng = load_expert("Walled-v0", "../expert.safetensors"), np.random.default_rng(0)
    human = hg_dagger.ThresholdHuman(args, expert, rng)
    for x, flagged in ((0.6, True), (-0.6, True), (0.4, False)):  # the expert does 0
        started = flagged == (beta == 1)
        assert human.check(np.zeros(2), np.array([x])) == (flagged, started, 3 * started)
    assert human.grace_steps == 1


@pytest.mark.parametrize("name", ["ValueHuman", "RandomHuman"])
def test_two_of_the_people_are_those_of_rlif(name):
    reference = SimpleNamespace(
        act=lambda obs: torch.randn(1, 1), q=lambda obs, actions: actions[:, 0]
    )
    proposals, found = np.random.default_rng(1).normal(size=(2_000, 1)).astype(np.float32), []
    for script, step in ((hg_dagger, []), (rlif_rlpd, [1])):
        torch.manual_seed(0)
        given = [reference] * (name == "ValueHuman")
        human = getattr(script, name)(script.Args(), *given, np.random.default_rng(0))
        found.append([human.check(np.zeros(1), proposal, *step) for proposal in proposals])
    assert found[0] == found[1] and len(set(found[0])) == (4 if given else 2)


def test_counts_are_in_all_and_rates_since_the_last_evaluation(monkeypatch):
    answers = dict.fromkeys([0, 2, 103, 201, 303, 501], (True, 1))  # five of 16 steps, one of 8
    answers |= {3: (False, 1), 102: (True, 0)}  # a takeover goes on; a person only complains
    rows = tiny.rows(falls(monkeypatch, answers, 6, "--eval-frequency", 16)[0])
    assert [int(row["global_step"]) for row in rows] == [0, 16, 24]
    assert [int(row["takeovers"]) for row in rows] == [0, 5, 6]
    assert [float(row["intervention_rate"]) for row in rows] == pytest.approx([0, 6 / 16, 1 / 8])
    assert [float(row["flagged_rate"]) for row in rows] == pytest.approx([0, 1 / 2, 1 / 2])


def test_without_a_takeover_nothing_is_stored_and_nothing_learned(monkeypatch, fits):
    folder, _ = falls(monkeypatch, {}, 2)
    assert len(data_of(folder)[0]) == len(fits) == 0


def test_all_novices_begin_with_the_demonstrations_which_stay_in_the_data(fits, demos):
    folder = run("a", *demos, "--total-timesteps", 200, "--doubt-novices", 2)
    (obs, actions), env = data_of(folder), hg_dagger.make_env("Walled-v0")
    shown = load_demonstrations("Walled-v0", env, 2, 1, "test/walled-v0")
    for values, name in ((obs, "obs"), (actions, "actions")):
        assert np.array_equal(values[:20].numpy(), shown[name])
    rows = tiny.rows(folder)
    assert all(len(obs) == 20 + int(rows[-1][x]) > 20 for x in ("expert_steps", "labels"))
    sizes = [20 + int(row["labels"]) for row in rows]
    expected = [(size, updates) for size, updates in zip(sizes, (5, 50, 50)) for _ in range(3)]
    assert [tuple(call[2:4]) for call in fits] == expected


def test_a_run_with_an_initial_policy_begins_as_that(fits, demos):
    path = tiny.write_expert("initial.safetensors", [[0.0, 0.0]], bias=0.6, noise=0.3)
    run("a", *demos, "--initial-policy", path, "--doubt-novices", 1)
    for novice, *_, updates, _ in fits[:2]:
        tiny.assert_same(dict(novice.state_dict()), load_expert("Walled-v0", path).state)
        assert updates == 50  # after the first round


def test_with_an_expert_that_always_acts_it_is_behavioural_cloning_of_its_data(fits, monkeypatch):
    monkeypatch.setattr(hg_dagger.ThresholdHuman, "grace_steps", 0)
    folder = run("a", "--threshold", 0, "--intervention-beta", 1, "--total-timesteps", 100)
    obs, actions = data_of(folder)
    assert float(tiny.rows(folder)[-1]["intervention_rate"]) == 1 and len(obs) == 100
    # the lines of bc.py on these data
    ((before, rng, *_),) = fits
    clone = bc.Actor(hg_dagger.make_env("Walled-v0"), (16,))
    clone.load_state_dict(before.state_dict())
    optimizer = torch.optim.AdamW(clone.parameters(), 3e-3, weight_decay=1e-3, fused=True)
    torch.set_rng_state(rng)
    for _ in range(50):
        i = torch.randint(len(obs), (256,))
        loss = -clone(obs[i]).log_prob(actions[i]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tiny.assert_same(dict(clone.state_dict()), dict(tiny.checkpoint(folder)["novices"][0]))


@pytest.mark.parametrize("kind", ["value", "random"])
def test_the_other_people_lend_the_expert_the_control_for_a_while(kind):
    judge = ("--reference", "../expert.safetensors") if kind == "value" else ()
    folder = run("a", "--intervention", kind, *judge, "--round-updates", 5)
    steps, takeovers = (int(tiny.rows(folder)[-1][x]) for x in ("expert_steps", "takeovers"))
    assert 300 > steps == len(data_of(folder)[0]) > takeovers > 0


def test_doubt_and_risk_threshold_by_hand():
    actions = np.array([[0.0, 0.1], [0.3, 0.6], [0.6, 0.1]])  # of three novices
    novices = [SimpleNamespace(act=lambda obs, deterministic, a=a: a[None]) for a in actions]
    variances = ((actions - actions.mean(0)) ** 2).mean(0)  # the diagonal of the covariance
    assert hg_dagger.doubt(novices, np.zeros(2)) == pytest.approx(math.hypot(*variances))
    assert np.isnan(hg_dagger.risk_threshold([])) and hg_dagger.risk_threshold([3.0]) == 3
    assert hg_dagger.risk_threshold([1.0, 2, 3, 4, 5, 6, 7, 9]) == 8  # of the last quarter


def test_doubts_and_the_loss_of_the_policy_that_acts_are_logged(fits, monkeypatch):
    logged, add_scalar = [], hg_dagger.SummaryWriter.add_scalar

    def watched(self, name, value, step):
        logged.append((name, value))
        return add_scalar(self, name, value, step)

    monkeypatch.setattr(hg_dagger.SummaryWriter, "add_scalar", watched)
    folder = run("a", "--doubt-novices", 2, "--intervention", "random", "--round-updates", 5)
    state, row = tiny.checkpoint(folder), tiny.rows(folder)[-1]
    doubts, model = state["doubts"], load_expert("Walled-v0", f"{folder}/model.safetensors")
    tiny.assert_same(model.state, dict(state["novices"][0]))
    assert len(doubts) == int(row["takeovers"]) and min(doubts) > 0
    assert float(row["risk_threshold"]) == pytest.approx(hg_dagger.risk_threshold(doubts))
    # of three novices, three times
    losses = [value for name, value in logged if name == "losses/nll"]
    assert losses == [call[-1] for call in fits[::3]] and len(fits) == 9
    assert sum(value for name, value in logged if name == "charts/takeovers") == len(doubts)
    alone = run("b", "--doubt-novices", 0, "--intervention", "random", "--round-updates", 5)
    assert tiny.rows(alone)[-1]["risk_threshold"] == "nan"  # one novice cannot doubt


def test_learns_what_the_expert_can():
    rows = tiny.rows(run("a", "--threshold", 0.3, *tiny.LEARNS))
    assert float(rows[-1]["return_mean"]) > 45  # of 50
