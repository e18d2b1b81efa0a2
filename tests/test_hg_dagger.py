"""hg_dagger.py: who acts, what is stored, doubt, and that it learns."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import hg_dagger
import rlif_rlpd
from experts import InputError, load_checkpoint, load_demonstrations, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("centring_expert")


def run(name, *options):
    """Without demonstrations, so the threshold has to be given; a single novice."""
    own = () if {"--threshold", "--intervention"} & set(options) else ("--threshold", 1)
    return tiny.run_rounds(hg_dagger, name, "--doubt-novices", 0, *own, *options)


def scripted(monkeypatch, starts, grace_steps=0):
    """Let the expert take over at these observations of Falls; returns those that were checked."""
    checked = []

    def check(self, obs, proposal):
        checked.append(int(obs[0]))
        started = checked[-1] in starts
        return started, started, self.args.takeover_steps if started else 0

    monkeypatch.setattr(hg_dagger.ThresholdHuman, "check", check)
    monkeypatch.setattr(hg_dagger.ThresholdHuman, "grace_steps", grace_steps)
    return checked


def counting(tmp_path, episodes=2):
    """Episodes of 4 steps in Falls, whose observations are 100 * episode + step; the expert does 0.5."""
    path = tiny.write_expert(tmp_path / "count.safetensors", [[0.0]], bias=math.atanh(0.5))
    return "--env-id", "Falls-v0", "--expert", path, "--total-timesteps", 4 * episodes


def data_of(run_dir):
    """Observations and actions that a run has learned from by its end: (n, O), (n, A)."""
    *_, data = load_checkpoint(run_dir / "checkpoint.pt")["progress"]
    return data["obs"], data["actions"]


@pytest.mark.parametrize("grace_steps", [0, 1])
def test_the_data_are_the_steps_under_expert_control(tmp_path, monkeypatch, grace_steps):
    checked = scripted(monkeypatch, [1, 101], grace_steps)
    run_dir = run("a", *counting(tmp_path), "--takeover-steps", 2)
    obs, actions = data_of(run_dir)
    assert obs.tolist() == [[1.0], [2.0], [101.0], [102.0]]
    assert actions.flatten().tolist() == pytest.approx([0.5] * 4, abs=1e-4)
    after = [] if grace_steps else [3]
    assert checked == [0, 1, *after, 100, 101, *(100 + t for t in after)]
    (row,) = tiny.rows(run_dir)
    assert (row["expert_steps"], row["takeovers"], row["labels"]) == ("4", "2", "4")
    assert (row["checks"], row["flags"]) == (str(len(checked)), "2")
    assert float(row["intervention_rate"]) == 0.5
    assert float(row["flagged_rate"]) == pytest.approx(2 / len(checked))


def test_a_takeover_and_its_grace_end_with_the_episode(tmp_path, monkeypatch):
    checked = scripted(monkeypatch, [2, 101], grace_steps=5)
    run_dir = run("a", *counting(tmp_path, 4), "--takeover-steps", 5)
    assert checked == [0, 1, 2, 100, 101, *range(200, 204), *range(300, 304)]
    assert data_of(run_dir)[0].flatten().tolist() == [2, 3, 101, 102, 103]


def test_the_usual_people_give_a_step_of_grace_and_none():
    people = hg_dagger.ThresholdHuman, hg_dagger.ValueHuman, hg_dagger.RandomHuman
    assert [human.grace_steps for human in people] == [1, 1, 0]


@pytest.mark.parametrize("kind", ["value", "random"])
def test_two_of_the_people_are_those_of_rlif(kind):
    people, options = [], {"intervention_alpha": 0.95, "takeover_steps": 2}
    qf = tiny.critics(2, 1)
    qf.biases[-1].data.sub_(1.0)  # values below 0, where a margin must not turn round
    path = tiny.write_expert("judge.safetensors", [[-5.0, 0.0]], noise=0.5, qf=qf)
    for script in (hg_dagger, rlif_rlpd):
        args, rng = script.Args(intervention=kind, **options), np.random.default_rng(0)
        if kind == "value":
            people.append(script.ValueHuman(args, load_expert("Walled-v0", path), rng))
        else:
            people.append(script.RandomHuman(args, rng))
    outcomes = []
    for human in people:
        rng = np.random.default_rng(1)
        torch.manual_seed(1)
        steps = [(rng.normal(size=2), rng.uniform(-1, 1, 1)) for _ in range(300)]
        steps = [[x.astype(np.float32) for x in step] for step in steps]
        outcomes.append([human.check(*step) for step in steps])
    assert outcomes[0] == outcomes[1] and len(set(outcomes[0])) == (4 if kind == "value" else 2)


def test_rates_are_those_since_the_last_evaluation(tmp_path, monkeypatch):
    # rounds of 8 steps; five takeovers of one step until the first evaluation, one after it
    scripted(monkeypatch, [0, 2, 103, 201, 303, 501])
    run_dir = run("a", *counting(tmp_path, 6), "--takeover-steps", 1, "--eval-frequency", 16)
    rows = tiny.rows(run_dir)
    assert [int(row["global_step"]) for row in rows] == [16, 24]
    assert [int(row["takeovers"]) for row in rows] == [5, 6]
    assert [float(row["intervention_rate"]) for row in rows] == pytest.approx([5 / 16, 1 / 8])
    assert [float(row["flagged_rate"]) for row in rows] == pytest.approx([5 / 16, 1 / 8])


def test_without_a_takeover_nothing_is_stored_and_nothing_learned(tmp_path, monkeypatch):
    scripted(monkeypatch, [])
    run_dir = run("a", *counting(tmp_path))
    kept = load_checkpoint(run_dir / "checkpoint.pt")["kept"]
    assert len(data_of(run_dir)[0]) == 0 and not kept["optimizer_0"]["state"]


def test_demonstrations_stay_at_the_front_of_the_data():
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--pretrain-updates", 5
    run_dir = run("a", *demos, "--total-timesteps", 100)
    obs, actions = data_of(run_dir)
    shown = load_demonstrations(hg_dagger.make_env("Walled-v0"), "Walled-v0", 2, "test/walled-v0")
    assert np.array_equal(obs[:20].numpy(), shown["obs"])
    assert np.array_equal(actions[:20].numpy(), shown["actions"])
    (row,) = tiny.rows(run_dir)
    assert len(obs) == len(actions) == 20 + int(row["expert_steps"]) == 20 + int(row["labels"]) > 20


def test_a_run_with_an_initial_policy_begins_as_that(monkeypatch):
    path = tiny.write_expert("initial.safetensors", [[0.0, 0.0]], bias=0.6, noise=0.3)
    proposals = []
    monkeypatch.setattr(
        hg_dagger.ThresholdHuman,
        "check",
        lambda *what: proposals.append(what[2]) or (False, False, 0),
    )
    options = list(tiny.ROUNDS)
    own = "--initial-policy", path, "--threshold", 1, "--total-timesteps", 300
    first = options.index("--hidden-sizes")  # it has its own
    del options[first : first + 2]
    hg_dagger.main(tiny.parsed(hg_dagger, *options, *own))
    (run_dir,) = Path("runs").iterdir()
    drawn = np.arctanh(np.array(proposals))
    assert len(drawn) == 300 and drawn.mean() == pytest.approx(0.6, abs=0.06)
    assert drawn.std() == pytest.approx(0.3, rel=0.15)
    initial = load_expert("Walled-v0", path)
    # there was nothing to learn
    model = load_expert("Walled-v0", str(run_dir / "model.safetensors"))
    tiny.assert_same(model.state, initial.state)


def test_with_an_expert_that_always_acts_it_is_behavioural_cloning_of_its_data(monkeypatch):
    fit, before = hg_dagger.fit, {}

    def remember(actor, optimizer, obs, actions, updates, batch_size):
        before.update(actor=copy.deepcopy(actor), rng=torch.get_rng_state())
        return fit(actor, optimizer, obs, actions, updates, batch_size)

    monkeypatch.setattr(hg_dagger, "fit", remember)
    monkeypatch.setattr(hg_dagger.ThresholdHuman, "grace_steps", 0)
    always = "--threshold", 0, "--intervention-beta", 1
    run_dir = run("a", *always, "--total-timesteps", 100)
    (row,) = tiny.rows(run_dir)
    obs, actions = data_of(run_dir)
    learned = load_checkpoint(run_dir / "checkpoint.pt")["kept"]["novice_0"]
    assert float(row["intervention_rate"]) == 1 and len(obs) == 100
    policy = load_expert("Walled-v0", "../expert.safetensors")
    torch.testing.assert_close(actions, policy.act(obs, deterministic=True), atol=1e-3, rtol=0)
    # the lines of bc.py on these data
    clone = bc.Actor(2, 1, (16,))
    clone.load_state_dict(before["actor"].state_dict())
    optimizer = torch.optim.AdamW(clone.parameters(), 3e-3, weight_decay=1e-3, fused=True)
    torch.set_rng_state(before["rng"])
    for _ in range(50):
        i = torch.randint(len(obs), (256,))
        loss = bc.nll(clone, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in clone.state_dict().items():
        assert torch.equal(value, learned[name])


@pytest.mark.parametrize(
    ("options", "share"),
    [
        (("--intervention", "random", "--random-rate", 30), 0.3),
        (("--intervention", "random", "--random-rate", 85), 0.85),
        (
            (
                "--intervention",
                "value",
                "--reference",
                "../expert.safetensors",
                "--intervention-alpha",
                1,
            ),
            None,
        ),
    ],
)
def test_every_strategy_lends_the_expert_the_control_for_a_while(options, share):
    run_dir = run("a", *options, "--round-updates", 5, "--total-timesteps", 600)
    rows = tiny.rows(run_dir)
    assert all(0 < float(row["intervention_rate"]) < 1 for row in rows)
    stored, by_expert = len(data_of(run_dir)[0]), int(rows[-1]["expert_steps"])
    assert stored == by_expert > int(rows[-1]["takeovers"]) > 0
    if share:
        # exactly, in the long run: see test_people.py
        assert by_expert / 600 == pytest.approx(share, abs=0.1)


def test_doubt_by_hand():
    novices = [hg_dagger.Actor(2, 2, (4,)) for _ in range(3)]
    for novice, bias in zip(novices, ([0.0, 0.1], [0.3, 0.6], [0.6, 0.1])):
        for parameter in novice.parameters():
            parameter.data.zero_()
        novice.mean.bias.data = torch.tensor(bias)
    actions = np.tanh([[0.0, 0.3, 0.6], [0.1, 0.6, 0.1]])
    # the diagonal of the covariance
    variances = ((actions - actions.mean(1, keepdims=True)) ** 2).mean(1)
    assert variances.min() > 0.02  # they disagree about both actions, so one norm is not another
    assert hg_dagger.doubt(novices, np.zeros(2)) == pytest.approx(math.hypot(*variances), rel=1e-4)


def test_risk_threshold_is_the_mean_of_the_last_quarter():
    assert np.isnan(hg_dagger.risk_threshold([]))
    assert hg_dagger.risk_threshold([3.0]) == 3
    assert hg_dagger.risk_threshold([1.0, 2, 3, 4, 5, 6, 7, 9]) == 8


def test_doubts_are_logged_at_takeovers():
    run_dir = run("a", "--doubt-novices", 2, "--intervention", "random", "--round-updates", 5)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    doubts = checkpoint["progress"][4]
    assert len(doubts) == int(tiny.rows(run_dir)[-1]["takeovers"]) and min(doubts) > 0
    assert float(tiny.rows(run_dir)[-1]["risk_threshold"]) == pytest.approx(
        hg_dagger.risk_threshold(doubts)
    )
    weights = [checkpoint["kept"][f"novice_{m}"]["mean.weight"] for m in range(3)]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


def test_learns_what_the_expert_can():
    run_dir = run("a", "--threshold", 0.3, *tiny.LEARNS)
    returns = [float(row["return_mean"]) for row in tiny.rows(run_dir)]
    assert returns[-1] > 45  # of 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--intervention-beta", 1.5), r"--intervention-beta must be in \[0, 1\], not 1.5"),
        (("--takeover-steps", 0), "--takeover-steps must be positive"),
        (("--doubt-novices", -1), "--doubt-novices must be zero or more"),
        (("--threshold", "None"), "--threshold is needed where no demonstrations are there"),
        (("--expert", "nobody"), "no expert 'nobody'"),
        (("--intervention", "value", "--reference", "nobody"), "no expert 'nobody'"),
        (("--intervention", "value", "--threshold", 1), "--threshold would do nothing here"),
        (("--intervention", "random", "--intervention-beta", 1), "it belongs to --intervention"),
        (("--random-rate", 30), "--random-rate would do nothing here: it belongs to --interven"),
        (("--intervention-delta", 1), "--intervention-delta would do nothing here: it belongs to"),
        (("--pretrain-updates", 5), "--pretrain-updates would do nothing here: there are no demo"),
        (("--initial-policy", "../expert.safetensors"), "--hidden-sizes would do nothing here: an"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        run("bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
